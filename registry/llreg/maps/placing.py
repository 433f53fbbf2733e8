"""Placing rows into a map that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg.maps.axes import add_points
from llreg.maps.nearest import kl_blocks, nearest_rows
from llreg.maps.tsne import PLACING_PERPLEXITY, place
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.maps.document import Map


@dataclass(frozen=True)
class Roles:
    """What each row is to a map.

    Attributes
    ----------
    made : list of (int, int)
        Positions, in the map and among the rows, of the rows that the map was made of.
    placed : list of (int, int)
        The same of rows that were placed into it before.
    new : list of int
        Positions among the rows of those that are not on it.
    gone : int
        Rows of the map that are not among the rows.
    """

    made: list[tuple[int, int]]
    placed: list[tuple[int, int]]
    new: list[int]
    gone: int


def roles(onto: Map, rows: Rows) -> Roles:
    """What each row is to a map; rows are the same if their digests are."""
    here = {record.digest: k for k, record in enumerate(rows.records)}
    pairs = [(k, here[digest]) for k, digest in enumerate(onto.digests) if digest in here]
    on_map = set(onto.digests)
    return Roles(
        made=[pair for pair in pairs if not onto.placed[pair[0]]],
        placed=[pair for pair in pairs if onto.placed[pair[0]]],
        new=[k for digest, k in here.items() if digest not in on_map],
        gone=len(onto.digests) - len(pairs),
    )


def place_rows(onto: Map, rows: Rows, found: Roles) -> NDArray[np.float64]:
    """Coordinates of the new rows on a map.

    Every row is placed by its distances to the rows that the map was made of, not to other placed ones: so the
    order in which rows come does not matter.

    Parameters
    ----------
    onto : Map
    rows : Rows
        Through the map's own view.
    found : Roles

    Returns
    -------
    float64 array of shape (len(found.new), 2)

    Raises
    ------
    InputError
        If too few rows of the map are there, a row shares no texts with them, or the map is a UMAP.
    """
    if onto.method == "umap":
        raise InputError("rows cannot be placed into a UMAP: make a new map with --method umap --align MAP")
    if len(found.made) < 2:
        raise InputError(
            f"placing needs two rows that the map was made of; {len(found.made)} of {len(onto.row_ids)} are here"
        )
    if not found.new:
        return np.empty((0, 2))
    reference, new = rows.take([k for _, k in found.made]), rows.take(found.new)
    xy = onto.xy[[k for k, _ in found.made]]
    return _by_gradient(xy, reference, new) if onto.method == "tsne" else _by_distance(xy, reference, new)


def _by_gradient(xy: NDArray[np.float64], reference: Rows, new: Rows) -> NDArray[np.float64]:
    """t-SNE's cost of the new points with all others held."""
    count = min(len(reference), int(3 * PLACING_PERPLEXITY))
    found = nearest_rows(new, reference, count).complete(new.labels)
    return place(xy, found.index, found.kl, perplexity=max(1.0, min(PLACING_PERPLEXITY, count / 3)))


def _by_distance(xy: NDArray[np.float64], reference: Rows, new: Rows) -> NDArray[np.float64]:
    """Gower's formula, for principal coordinates."""
    means = np.concatenate([block.mean(axis=1) for _, block in kl_blocks(reference, reference)])
    distances = np.concatenate([block for _, block in kl_blocks(new, reference)])
    lacking = np.flatnonzero(np.isnan(distances).any(axis=1))
    if len(lacking) or np.isnan(means).any():
        label = new.labels[lacking[0]] if len(lacking) else "a row of the map"
        raise InputError(f"{label} shares fewer than two texts with a row of the map and cannot be placed")
    return add_points(xy, means, distances)
