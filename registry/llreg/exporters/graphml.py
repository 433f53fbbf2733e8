"""Export of nearest neighbours and declared bases as GraphML, for NetworkX, Gephi, Cytoscape or igraph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from llreg.atomic import output_file
from llreg.exporters.columns import Column, Kind
from llreg.geometry.kl.distance import kl_plain
from llreg.maps.nearest import nearest_rows
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.exporters.selection import Selection

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES: dict[Kind, str] = {
    "text": "string",
    "list": "string",
    "integer": "long",
    "number": "double",
    "flag": "boolean",
}


def write_graphml(
    selection: Selection, path: Path, *, k: int = 10, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the directed graph of the k nearest of each row, and of the rows of the base models that it declares.

    Parameters
    ----------
    selection : Selection
        At least two rows.
    path : Path
    k : int
        Neighbours of each row.
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    InputError
        If there are fewer than two rows.
    StorageError
        If it cannot be written.

    Notes
    -----
    Nodes carry `label` (the model's name where it is unique) and the selection's columns. Edges go from a row to one of
    its nearest (`kind` "neighbour", `rank` from 1) or to a row of a base that it declares (`kind` "declared base",
    `relation` such as "finetune"); `kl` and `kl_se` are bits per byte. Unknown values are left out. Control
    characters, which XML forbids, are escaped.
    """
    rows = selection.load()
    if len(rows) < 2:
        raise InputError(f"a neighbour graph needs two rows; got {len(rows)}")
    root = ET.Element("graphml", xmlns=_NAMESPACE)
    graph = ET.Element("graph", edgedefault="directed")
    keys: dict[tuple[str, str], str] = {}  # ids of attributes, by element and name; declared when they are first used

    def add(element: ET.Element, column: Column, position: int = 0) -> None:
        text = column.text(position)
        if not text:
            return
        key = element.tag, column.name
        if key not in keys:
            keys[key] = f"d{len(keys)}"
            names = {"attr.name": printable(column.name), "attr.type": _TYPES[column.kind]}
            ET.SubElement(root, "key", {"id": keys[key], "for": element.tag, **names})
        ET.SubElement(element, "data", key=keys[key]).text = printable(text)

    stamp = {"registry": selection.registry.name, **selection.make_stamp("kl"), "unit": "bit/byte"}
    for name, value in stamp.items():
        add(graph, Column(name, "text", [value]))
    columns = [Column("label", "text", rows.labels), *selection.columns]
    for position in range(len(rows)):
        node = ET.SubElement(graph, "node", id=f"n{position}")
        for column in columns:
            add(node, column, position)

    nearest = nearest_rows(rows, None, k).index  # (n_models, k)
    rows_of: dict[str, list[int]] = {}
    for position, name in enumerate(rows.names):
        rows_of.setdefault(name, []).append(position)
    for start, record in enumerate(rows.records):
        near = [int(end) for end in nearest[start] if end >= 0]
        bases = [end for name in dict.fromkeys(record.base_models) for end in rows_of.get(name, ()) if end != start]
        ends = [*near, *bases]
        if ends:
            distances = kl_plain(rows.take([start]), rows.take(ends), tail_share=False)
            kl, kl_se = (distances[name].values[0] for name in ("kl_bits_per_byte", "kl_bits_per_byte_se"))
        for position, end in enumerate(ends):
            is_near = position < len(near)
            edge = ET.SubElement(graph, "edge", source=f"n{start}", target=f"n{end}")
            add(edge, Column("kind", "text", ["neighbour" if is_near else "declared base"]))
            for name, number in (("kl", float(kl[position])), ("kl_se", float(kl_se[position]))):
                add(edge, Column(name, "number", [None if np.isnan(number) else number]))
            add(edge, Column("rank", "integer", [position + 1 if is_near else None]))
            add(edge, Column("relation", "text", [None if is_near else record.declared.get("relation")]))
        if progress:
            progress(start + 1, len(rows))

    root.append(graph)  # after the keys
    ET.indent(root)
    with output_file(path) as temp:
        ET.ElementTree(root).write(temp, encoding="utf-8", xml_declaration=True)
