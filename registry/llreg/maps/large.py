"""Maps of more rows than memory holds: from their leading principal coordinates, read a block at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.stream import RowStream, principal_coordinates
from llreg.maps.nearest import Nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    if 4 * len(rows) * len(rows.texts) > _EXACT_BYTES:
        return found.first(count), np.full((len(rows), min(count, found.index.shape[1])), np.nan)
    from llreg.geometry.distance import kl_matrix

    values = np.concatenate([block.values.astype(np.float32) for _, block in rows.blocks()])  # clipped already
    head = rows.read(slice(0, 1))
    index, kl, kl_se = (
        np.empty((len(rows), min(count, found.index.shape[1])), dtype) for dtype in (np.intp, float, float)
    )
    for k, candidates in enumerate(found.index):
        result = kl_matrix(
            values[k : k + 1],
            head.num_bytes,
            clip=None,
            others=values[candidates],
            weights=head.weights,
            tail_share=False,
        )
        exact = result["kl_bits_per_byte"].values[0]
        order = np.argsort(exact, kind="stable")[: index.shape[1]]
        index[k], kl[k], kl_se[k] = candidates[order], exact[order], result["kl_bits_per_byte_se"].values[0][order]
    return Nearest(index, kl), kl_se
