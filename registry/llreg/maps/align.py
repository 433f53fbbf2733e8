"""Turning a map to an older one, so that a published map stays recognisable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llreg.maps.document import Map
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMMON_ROWS = 3  # that a rotation and a reflection need


def align(made: Map, to: Map) -> Map:
    """Turn a map to an older one by the rows that both hold.

    Parameters
    ----------
    made, to : Map

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
    if any(made.axes) and made.method != to.method:
        raise InputError(
            f"a {made.method} map has axes of its own and cannot be turned to a {to.method} map; "
            f"align it to one made with {made.method}"
        )
    mine, theirs = common_rows(made, to)
    if len(mine) < COMMON_ROWS:
        raise InputError(f"aligning needs {COMMON_ROWS} rows that both maps hold; they share {len(mine)}")
    if any(made.axes):
        return made.moved(made.xy * _best_signs(made.xy[mine], to.xy[theirs]), to.id)
    rotation, shift = procrustes(made.xy[mine], to.xy[theirs])
    return made.moved(made.xy @ rotation + shift, to.id)


def common_rows(made: Map, to: Map) -> tuple[list[int], list[int]]:
    """Positions, in each of two maps, of the rows that both hold, without rows that were only placed."""
    there = {digest: k for k, digest in enumerate(to.digests) if not to.placed[k]}
    pairs = [(k, there[digest]) for k, digest in enumerate(made.digests) if digest in there and not made.placed[k]]
    return [one for one, _ in pairs], [other for _, other in pairs]


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
    Orthogonal Procrustes without scaling (Schönemann 1966), as P2 (arXiv 2505.15428) aligns maps of resampled texts.
    """
    from scipy.linalg import orthogonal_procrustes

    mean, there = xy.mean(axis=0), target.mean(axis=0)
    rotation, _ = orthogonal_procrustes(xy - mean, target - there)
    return np.asarray(rotation), np.asarray(there - mean @ rotation)


def _best_signs(xy: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    agreement = ((xy - xy.mean(axis=0)) * (target - target.mean(axis=0))).sum(axis=0)
    return np.where(agreement < 0, -1.0, 1.0)
