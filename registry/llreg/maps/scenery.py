"""From a map to what is shown: columns, neighbours, declared edges, trajectories, links, facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.rows import Rows
from llreg.maps.columns import map_columns
from llreg.maps.large import exact_neighbors, sketch, sketched_neighbors
from llreg.maps.nearest import Nearest, nearest_rows, standard_errors
from llreg.maps.scene import Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.maps.make import MapResult
    from llreg_schemas import RowRecord

NEIGHBORS = 10
_METHODS = {"tsne": "t-SNE", "pca": "PCA", "mds": "classical MDS", "umap": "UMAP"}


def make_scene(result: MapResult, *, scores: Path | str | None = None) -> Scene:
    """A map with all that pages, figures and tables show beside it.

    Parameters
    ----------
    result : MapResult
    scores : Path, optional
        As in `map_columns`.

    Returns
    -------
    Scene
        With the ten nearest rows of each by KL divergence over the view's texts, whatever the map shows.
    """
    rows, made = result.rows, result.map
    found, errors = _nearest(result)
    return Scene(
        title=rows.registry,
        subtitle=f"{len(rows):,} models, {_METHODS[made.method]}, version {made.version[:12]}",
        row_ids=rows.row_ids,
        names=rows.labels,
        xy=made.xy,
        axes=made.axes,
        columns=map_columns(rows, scores),
        neighbors=found.index,
        kl=found.kl,
        kl_se=errors,
        edges=declared_edges(rows.records),
        trajectories=_trajectories(rows.records),
        ellipses=made.ellipses,
        links=[_link(record) for record in rows.records],
        placed=made.placed if made.placed.any() else None,
        facts=_facts(result),
    )


def _nearest(result: MapResult) -> tuple[Nearest, NDArray[np.float64]]:
    """The nearest rows of each, and the standard errors of their KL."""
    count = min(NEIGHBORS, len(result.rows) - 1)
    if result.nearest is not None and result.errors is not None:
        return result.nearest.first(count), result.errors[:, :count]
    if not isinstance(result.rows, Rows):
        return exact_neighbors(result.rows, sketched_neighbors(sketch(result.rows), 3 * count), count)
    found = nearest_rows(result.rows, None, count) if result.nearest is None else result.nearest.first(count)
    return found, standard_errors(result.rows, found)


def declared_edges(records: Sequence[RowRecord]) -> list[tuple[int, int, str]]:
    """Declared parent and child among rows, and how the child is related, as its card says.

    Of several rows of the parent the one with the child's weight dtype is taken, else the first.
    """
    by_model: dict[str, list[int]] = {}
    for k, record in enumerate(records):
        by_model.setdefault(record.identity.name, []).append(k)
    edges = []
    for child, record in enumerate(records):
        for base in record.base_models:
            parents = [k for k in by_model.get(base, []) if records[k].identity.name != record.identity.name]
            if parents:
                alike = [k for k in parents if records[k].identity.weight_dtype == record.identity.weight_dtype]
                edges.append(
                    (alike[0] if alike else parents[0], child, str(record.declared.get("relation") or "derived"))
                )
    return edges


def _trajectories(records: Sequence[RowRecord]) -> list[tuple[str, Sequence[int]]]:
    from llreg.geometry.steps import find_trajectories

    return [(str(name), [int(k) for k in positions]) for name, positions in find_trajectories(records)]


def _link(record: RowRecord) -> str | None:
    identity = record.identity
    local = str(identity.adapter["revision"]).startswith("sha256:") if identity.adapter else identity.source != "hub"
    return None if local else f"https://huggingface.co/{identity.name}"


def _facts(result: MapResult) -> list[tuple[str, str]]:
    made, rows = result.map, result.rows
    facts = [
        ("registry", made.registry),
        ("version", made.version[:12]),
        ("models", f"{len(rows):,}"),
        ("texts", f"{len(rows.texts):,}"),
        ("view", f"{made.view.describe()} ({made.view.id[:12]})"),
        ("method", _METHODS[made.method]),
        *((name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in made.settings.items()),
    ]
    if made.onto:
        facts.append(("placed", f"{int(np.count_nonzero(made.placed)):,} rows onto map {made.onto[:12]}"))
    if made.aligned_to:
        facts.append(("aligned to", f"map {made.aligned_to[:12]}"))
    if made.resamples:
        facts.append(("ellipses", f"one standard deviation over {made.resamples} resamples of the texts"))
    software = ", ".join(f"{name} {number}" for name, number in made.software.items())
    return [*facts, ("map", made.id[:12]), ("made with", software)]
