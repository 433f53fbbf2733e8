"""A map and an older one: a new map turned to it, or new rows placed into it, so that readers recognise it."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

COMMON_ROWS = 3  # that a rotation and a reflection need


def align(new: Map, old: Map) -> Map:
    """Turn a map to an older one by the rows that both hold, without those that were only placed.

    Parameters
    ----------
    new, old : Map

    Returns
    -------
    Map
        Turned, mirrored and shifted; distances within it are as they were. On PCA and MDS maps, whose axes have a
        meaning, only the axes' signs change.

    Raises
    ------
    InputError
        If they have fewer than three rows in common, or axes of another kind.
    """
    if any(new.axes) and new.method != old.method:
        raise InputError(
            f"a {new.method} map has axes of its own and cannot be turned to a {old.method} map; "
            f"align it to one made with {new.method}"
        )
    old_position = {digest: k for k, digest in enumerate(old.digests) if not old.placed[k]}
    common = [k for k, digest in enumerate(new.digests) if digest in old_position and not new.placed[k]]
    if len(common) < COMMON_ROWS:
        raise InputError(f"aligning needs {COMMON_ROWS} rows that both maps hold; they share {len(common)}")
    xy, target = new.xy[common], old.xy[[old_position[new.digests[k]] for k in common]]  # (n_common, 2)
    if any(new.axes):
        agreement = ((xy - xy.mean(axis=0)) * (target - target.mean(axis=0))).sum(axis=0)
        turned = new.xy * np.where(agreement < 0, -1.0, 1.0)
    else:
        rotation, shift = procrustes(xy, target)
        turned = new.xy @ rotation + shift
    return replace(new, xy=turned, aligned_to=old.id)


def procrustes(xy: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rotation or reflection R and shift t that bring xy @ R + t nearest to the target.

    Parameters
    ----------
    xy, target : float64 arrays of shape (n_models, 2)

    Returns
    -------
    float64 arrays of shape (2, 2) and (2,)

    Notes
    -----
    Orthogonal Procrustes without scaling (Schönemann 1966), by which Oyama et al. 2025b (arXiv 2505.15428) align maps
    of resampled texts.
    """
    from scipy.linalg import orthogonal_procrustes

    mean, target_mean = xy.mean(axis=0), target.mean(axis=0)
    rotation, _ = orthogonal_procrustes(xy - mean, target - target_mean)
    return np.asarray(rotation), np.asarray(target_mean - mean @ rotation)


@dataclass(frozen=True)
class Roles:
    """What each row is to a map; rows are the same if their digests are.

    Attributes
    ----------
    reference : list of (int, int)
        Positions, in the map and among the rows, of the rows that the map was made of.
    placed : list of (int, int)
        The same of rows that were placed into it before.
    new : list of int
        Positions among the rows of those that are not on it.
    num_gone : int
        How many rows of the map are not among the rows.
    """

    reference: list[tuple[int, int]]
    placed: list[tuple[int, int]]
    new: list[int]
    num_gone: int


def find_roles(old: Map, rows: Rows) -> Roles:
    """What each row is to a map."""
    positions = {record.digest: k for k, record in enumerate(rows.records)}
    pairs = [(k, positions[digest]) for k, digest in enumerate(old.digests) if digest in positions]
    on_map = set(old.digests)
    return Roles(
        reference=[pair for pair in pairs if not old.placed[pair[0]]],
        placed=[pair for pair in pairs if old.placed[pair[0]]],
        new=[k for digest, k in positions.items() if digest not in on_map],
        num_gone=len(old.digests) - len(pairs),
    )


def place_rows(old: Map, rows: Rows, roles: Roles) -> NDArray[np.float64]:
    """Coordinates of the new rows on a map.

    Every row is placed by its distances to the rows that the map was made of, not to other placed ones: so the
    order in which rows come does not matter.

    Parameters
    ----------
    old : Map
    rows : Rows
        Through the map's own view.
    roles : Roles

    Returns
    -------
    float64 array of shape (n_new, 2)

    Raises
    ------
    InputError
        If too few rows of the map are there, a row shares no texts with them, or the map is a UMAP.
    """
    if old.method == "umap":
        raise InputError("rows cannot be placed into a UMAP: make a new map with --method umap --align MAP")
    if len(roles.reference) < 2:
        raise InputError(
            f"placing needs two rows that the map was made of; {len(roles.reference)} of {len(old.row_ids)} are here"
        )
    if not roles.new:
        return np.empty((0, 2))
    xy = old.xy[[k for k, _ in roles.reference]]
    reference, new = rows.take([k for _, k in roles.reference]), rows.take(roles.new)

    if old.method == "tsne":
        # Down the gradient of t-SNE's cost, with all other points held.
        count = min(len(reference), int(3 * PLACING_PERPLEXITY))
        nearest = nearest_rows(new, reference, count).check_complete(new.labels)
        return place(xy, nearest.index, nearest.kl, perplexity=max(1.0, min(PLACING_PERPLEXITY, count / 3)))

    # PCA and MDS: Gower's formula for principal coordinates.
    means = np.concatenate([block.mean(axis=1) for _, block in kl_blocks(reference, reference)])  # (n_reference,)
    kl = np.concatenate([block for _, block in kl_blocks(new, reference)])  # (n_new, n_reference)
    lacking = np.flatnonzero(np.isnan(kl).any(axis=1))
    if len(lacking) or np.isnan(means).any():
        label = new.labels[lacking[0]] if len(lacking) else "a row of the map"
        raise InputError(f"{label} shares fewer than two texts with a row of the map and cannot be placed")
    return add_points(xy, means, kl)
