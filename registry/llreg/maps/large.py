"""Maps of more rows than memory holds: from their leading principal coordinates, read a block at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.distance import kl_matrix, kl_plain
from llreg.geometry.kl.stream import RowStream, principal_coordinates
from llreg.maps.nearest import Nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

DIMS = 64  # coordinates kept: the paper's 1,018 models have 90 % of their variance in 42, 95 % in 82
_EXACT_BYTES = 1_500_000_000  # of float32 values held to take the neighbours that are shown exactly


def sketch(rows: RowStream, *, seed: int = 0) -> NDArray[np.float64]:
    """Leading principal coordinates, float64 array of shape (n_models, 64), sqrt(bit/byte)."""
    return principal_coordinates(rows, DIMS, seed=seed)


def sketched_neighbors(coordinates: NDArray[np.float64], count: int) -> Nearest:
    """The nearest rows by the KL that principal coordinates keep: a lower bound of it, off by what they leave out.

    Parameters
    ----------
    coordinates : float64 array of shape (n_models, n_dims), sqrt(bit/byte)
    count : int
        At most n_models - 1.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(coordinates)
    distances, index = search.kneighbors()  # without the points themselves
    return Nearest(index.astype(np.intp), np.asarray(distances**2))


def exact_neighbors(rows: RowStream, found: Nearest, count: int) -> tuple[Nearest, NDArray[np.float64]]:
    """The nearest few among candidates, with exact KL and standard errors where memory allows it.

    Parameters
    ----------
    rows : RowStream
    found : Nearest
        Candidates, more than `count`.
    count : int

    Returns
    -------
    Nearest, float64 array of shape (n_models, count)
        KL and its standard error, bit/byte. If the values do not fit: the candidates' own KL, and NaN.
    """
    count = min(count, found.index.shape[1])
    if 4 * len(rows) * len(rows.texts) > _EXACT_BYTES:
        return found.first(count), np.full((len(rows), count), np.nan)
    values = np.concatenate([block.values.astype(np.float32) for _, block in rows.blocks()])  # clipped already
    head = rows.read(slice(0, 1))
    sampled = np.array([design is not None for design in rows.source.designs(rows.records)])

    def nearest(k: int) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        candidates = found.index[k]
        if sampled[k] or sampled[candidates].any():
            result = kl_plain(rows.read([k]), rows.read(candidates), tail_share=False)
            kl, kl_se = (result[name].values[0] for name in ("kl_bits_per_byte", "kl_bits_per_byte_se"))
        else:
            kl, kl_se = _exact(values[k], values[candidates], head)
        order = np.argsort(kl, kind="stable")[:count]
        return candidates[order], kl[order], kl_se[order]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        index, kl, kl_se = (np.array(column) for column in zip(*pool.map(nearest, range(len(rows))), strict=True))
    return Nearest(index, kl), kl_se


def _exact(
    one: NDArray[np.float32], many: NDArray[np.float32], head: Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL and standard errors, bit/byte, shape (n_many,) each; `head` has the texts' bytes and weights."""
    if head.weights is None and not np.isnan(one @ many.sum(axis=0)):  # no gaps: the common case, without ceremony
        square = many.astype(np.float64) - one
        square -= square.mean(axis=1, keepdims=True)
        square *= square
        second, fourth = square.mean(axis=1), np.einsum("ij,ij->i", square, square) / square.shape[1]
        return second / 2 / head.bits, np.sqrt(np.maximum(fourth - second**2, 0) / square.shape[1]) / 2 / head.bits
    result = kl_matrix(one[None], head.num_bytes, clip=None, others=many, weights=head.weights, tail_share=False)
    return result["kl_bits_per_byte"].values[0], result["kl_bits_per_byte_se"].values[0]
