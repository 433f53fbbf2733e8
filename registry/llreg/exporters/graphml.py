"""Export of nearest neighbours and declared bases as GraphML, for NetworkX, Gephi, Cytoscape or igraph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

from llreg.atomic import output_file
from llreg.exporters.columns import Column, Kind
from llreg.geometry.kl.distance import kl_plain
from llreg.maps.nearest import nearest_rows
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.geometry.kl.rows import Rows

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES: dict[Kind, str] = {
    "text": "string",
    "list": "string",
    "integer": "long",
    "number": "double",
    "flag": "boolean",
}
NEIGHBOUR, BASE = "neighbour", "declared base"


@dataclass(frozen=True)
class Edge:
    """From a row to another.

    Attributes
    ----------
    start, end : int
        Positions of the rows.
    kind : str
        "neighbour": `end` is one of the nearest of `start`; "declared base": `start` declares it as its base.
    kl, kl_se : float
        KL divergence and its standard error, bits per byte; NaN where they share fewer than two texts.
    rank : int or None
        Of a neighbour, 1 for the nearest.
    relation : str or None
        To a base, as declared, such as "finetune".
    """

    start: int
    end: int
    kind: str
    kl: float
    kl_se: float
    rank: int | None = None
    relation: str | None = None


def find_edges(rows: Rows, k: int, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Edge]:
    """The k nearest of each row, nearest first, then the rows of the base models that it declares.

    Parameters
    ----------
    rows : Rows
    k : int
    progress : callable, optional
        Called with (done, rows).
    """
    nearest = nearest_rows(rows, None, k).index
    places: dict[str, list[int]] = {}
    for position, name in enumerate(rows.names):
        places.setdefault(name, []).append(position)
    for start, record in enumerate(rows.records):
        near = [int(end) for end in nearest[start] if end >= 0]
        declared = dict.fromkeys(record.base_models)
        bases = [end for name in declared for end in places.get(name, ()) if end != start]
        found = _distances(rows, start, [*near, *bases])
        for rank, (end, (kl, kl_se)) in enumerate(zip(near, found, strict=False), 1):
            yield Edge(start, end, NEIGHBOUR, kl, kl_se, rank=rank)
        for end, (kl, kl_se) in zip(bases, found[len(near) :], strict=True):
            yield Edge(start, end, BASE, kl, kl_se, relation=record.declared.get("relation"))
        if progress:
            progress(start + 1, len(rows))


def write_graphml(
    rows: Rows,
    columns: Sequence[Column],
    path: Path,
    stamp: Mapping[str, str],
    *,
    k: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the directed graph of nearest rows.

    Parameters
    ----------
    rows : Rows
        At least two.
    columns : sequence of Column
        Of the nodes.
    path : Path
    stamp : mapping of str to str
        Data of the graph.
    k : int
        Neighbours of each row.
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    InputError
        If there are fewer than two rows or k is not above 0.
    StorageError
        If it cannot be written.

    Notes
    -----
    Nodes carry `label` (the model's name where it is unique) and the columns; edges carry what `Edge` says, distances
    in bits per byte. Unknown values are left out. Control characters, which XML forbids, are escaped.
    """
    if len(rows) < 2:
        raise InputError(f"a neighbour graph needs two rows; got {len(rows)}")
    if k < 1:
        raise InputError(f"k: expected at least 1 neighbour; got {k}")
    root = ET.Element("graphml", xmlns=_NAMESPACE)
    keys = _Keys(root)
    graph = ET.Element("graph", edgedefault="directed")
    for name, value in stamp.items():
        keys.add(graph, Column(name, "text", [value]))
    labelled = [Column("label", "text", rows.labels), *columns]
    for position in range(len(rows)):
        node = ET.SubElement(graph, "node", id=f"n{position}")
        for column in labelled:
            keys.add(node, column, position)
    for edge in find_edges(rows, k, progress=progress):
        element = ET.SubElement(graph, "edge", source=f"n{edge.start}", target=f"n{edge.end}")
        for column in _of_edge(edge):
            keys.add(element, column)
    root.append(graph)  # after the keys
    ET.indent(root)
    with output_file(path) as temp:
        ET.ElementTree(root).write(temp, encoding="utf-8", xml_declaration=True)


def _distances(rows: Rows, start: int, others: Sequence[int]) -> list[tuple[float, float]]:
    """KL and its standard error from a row to others, bit/byte."""
    if not others:
        return []
    result = kl_plain(rows.take([start]), rows.take(others), tail_share=False)
    kl, kl_se = (result[name].values[0] for name in ("kl_bits_per_byte", "kl_bits_per_byte_se"))
    return list(zip(kl.tolist(), kl_se.tolist(), strict=True))


def _of_edge(edge: Edge) -> list[Column]:
    numbers = {name: None if np.isnan(value) else value for name, value in (("kl", edge.kl), ("kl_se", edge.kl_se))}
    return [
        Column("kind", "text", [edge.kind]),
        *(Column(name, "number", [value]) for name, value in numbers.items()),
        Column("rank", "integer", [edge.rank]),
        Column("relation", "text", [edge.relation]),
    ]


@dataclass
class _Keys:
    """Declarations of attributes, made when they are first used, and their values."""

    root: ET.Element
    ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, element: ET.Element, column: Column, position: int = 0) -> None:
        value = column.values[position]
        if value in (None, "", []):
            return
        place = element.tag, column.name
        if place not in self.ids:
            self.ids[place] = f"d{len(self.ids)}"
            attributes = {
                "id": self.ids[place],
                "for": element.tag,
                "attr.name": printable(column.name),
                "attr.type": _TYPES[column.kind],
            }
            ET.SubElement(self.root, "key", attributes)
        ET.SubElement(element, "data", key=self.ids[place]).text = _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return printable(" ".join(value))
    return printable(str(value))
