"""Nearest rows by KL divergence: in blocks, or of more rows than memory holds among candidates from a sketch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.distance import kl_matrix, kl_plain
from llreg.geometry.kl.stream import RowStream, principal_coordinates
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

_BLOCK = 256  # rows at a time: 40 MB a block for 20,000 rows
_DIMS = 64  # coordinates of a sketch: 1,018 models have 90 % of their variance in 42, 95 % in 82
_EXACT_BYTES = 1_500_000_000  # of float32 values that are held to take the neighbours among candidates exactly


@dataclass(frozen=True)
class Nearest:
    """The nearest of some rows to each of others.

    Attributes
    ----------
    index : intp array of shape (n_models, k)
        Positions, nearest first; -1 where there are fewer.
    kl : float64 array of shape (n_models, k), bit/byte
        NaN where there are fewer.
    kl_se : float64 array of shape (n_models, k) or None, bit/byte
        Standard errors of the KL; NaN where there are fewer or they were too costly; None: not computed.
    """

    index: NDArray[np.intp]
    kl: NDArray[np.float64]
    kl_se: NDArray[np.float64] | None = None

    def first(self, count: int) -> Nearest:
        """The nearest few of them."""
        return Nearest(self.index[:, :count], self.kl[:, :count], None if self.kl_se is None else self.kl_se[:, :count])

    def check_complete(self, labels: Sequence[str]) -> Nearest:
        """Itself, if every row has all its neighbours.

        Raises
        ------
        InputError
            If a row shares fewer than two texts with too many others; it is named by its label.
        """
        lacking = np.flatnonzero((self.index < 0).any(axis=1))
        if len(lacking):
            raise InputError(
                f"{labels[lacking[0]]} shares fewer than two texts with most other rows and has no place on a map; "
                "leave it out by naming the others"
            )
        return self


def kl_blocks(rows: Rows, others: Rows) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """KL divergences of some rows from others, a block of rows at a time.

    Yields
    ------
    slice, float64 array of shape (n_block, n_others), bit/byte
        Which rows, and their KL; NaN where a pair shares fewer than two texts.
    """
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(rows)))
        part = rows.take(range(block.start, block.stop))
        yield block, kl_plain(part, others, se=False, tail_share=False)["kl_bits_per_byte"].values


def nearest_rows(rows: Rows, others: Rows | None, count: int) -> Nearest:
    """The nearest others of each row, without memory that grows with the square of the rows.

    Parameters
    ----------
    rows : Rows
    others : Rows or None
        None: the same rows, each without itself.
    count : int
    """
    right = rows if others is None else others
    count = min(count, len(right) - (others is None))
    index, kl = np.empty((len(rows), count), np.intp), np.empty((len(rows), count))
    for block, distances in kl_blocks(rows, right):
        part = nearest(distances, count, itself=np.arange(block.start, block.stop) if others is None else None)
        index[block], kl[block] = part.index, part.kl
    return Nearest(index, kl)


def nearest(kl: NDArray[np.float64], count: int, itself: NDArray[np.intp] | None = None) -> Nearest:
    """The nearest columns of each row of a matrix.

    Parameters
    ----------
    kl : float64 array of shape (n_models, n_others), bit/byte
    count : int
        At most n_others, less one if `itself` is given.
    itself : intp array of shape (n_models,), optional
        The column that is the row itself.
    """
    distances = np.where(np.isnan(kl), np.inf, kl)
    if itself is not None:
        distances[np.arange(len(kl)), itself] = np.inf
    if count < distances.shape[1]:
        index = np.argpartition(distances, count - 1, axis=1)[:, :count] if count else np.empty((len(kl), 0), np.intp)
    else:
        index = np.broadcast_to(np.arange(distances.shape[1]), distances.shape)
    index = np.sort(index, axis=1)  # ties in the order of the rows
    selected = np.take_along_axis(distances, index, axis=1)  # (n_models, count)
    order = np.argsort(selected, axis=1, kind="stable")
    index, selected = np.take_along_axis(index, order, axis=1), np.take_along_axis(selected, order, axis=1)
    missing = np.isinf(selected)
    return Nearest(np.where(missing, -1, index), np.where(missing, np.nan, selected))


def with_errors(rows: Rows, neighbors: Nearest) -> Nearest:
    """The same neighbours with the standard errors of their KL."""
    errors = np.full(neighbors.kl.shape, np.nan)
    for k, index in enumerate(neighbors.index):
        present = index >= 0
        if present.any():
            result = kl_plain(rows.take([k]), rows.take(index[present]), tail_share=False)
            errors[k, present] = result["kl_bits_per_byte_se"].values[0]
    return replace(neighbors, kl_se=errors)


# Rows that do not fit in memory: candidates by their leading principal coordinates, then exact KL to those.


def sketch(rows: RowStream) -> NDArray[np.float64]:
    """Leading principal coordinates, float64 array of shape (n_models, 64), sqrt(bit/byte)."""
    return principal_coordinates(rows, _DIMS)


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


def exact_neighbors(rows: RowStream, candidates: Nearest, count: int) -> Nearest:
    """The nearest few among candidates, with exact KL and standard errors where memory allows it.

    Parameters
    ----------
    rows : RowStream
    candidates : Nearest
        More than `count`.
    count : int

    Returns
    -------
    Nearest
        If the values do not fit: with the candidates' own KL, and NaN as standard errors.
    """
    count = min(count, candidates.index.shape[1])
    texts = rows.read(slice(0, 1))  # one row: for the texts' bytes and weights
    if 4 * len(rows) * (texts.values if texts.fine is None else texts.fine).shape[1] > _EXACT_BYTES:
        return replace(candidates.first(count), kl_se=np.full((len(rows), count), np.nan))
    values = np.concatenate(  # clipped already
        [block.values.astype(np.float32) if block.fine is None else block.fine for _, block in rows.blocks()]
    )
    sampled = np.array([design is not None for design in rows.source.designs(rows.records)])

    def nearest_of(k: int) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        index = candidates.index[k]
        if sampled[k] or sampled[index].any():
            result = kl_plain(rows.read([k]), rows.read(index), tail_share=False)
            kl, kl_se = (result[name].values[0] for name in ("kl_bits_per_byte", "kl_bits_per_byte_se"))
        else:
            kl, kl_se = _kl_to_many(values[k], values[index], texts)
        order = np.argsort(kl, kind="stable")[:count]
        return index[order], kl[order], kl_se[order]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        columns = zip(*pool.map(nearest_of, range(len(rows))), strict=True)
        index, kl, kl_se = (np.array(column) for column in columns)
    return Nearest(index, kl, kl_se)


def _kl_to_many(
    row: NDArray[np.float32], many: NDArray[np.float32], texts: Rows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL and standard errors, bit/byte, shape (n_many,) each."""
    if texts.fine is None and texts.weights is None and not np.isnan(row @ many.sum(axis=0)):
        # The common case, no gaps and no weights: half the variance of the differences, without what `kl_matrix` checks.
        square = many.astype(np.float64) - row  # (n_many, n_texts)
        square -= square.mean(axis=1, keepdims=True)
        square *= square
        second, fourth = square.mean(axis=1), np.einsum("ij,ij->i", square, square) / square.shape[1]
        se = np.sqrt(np.maximum(fourth - second**2, 0) / square.shape[1])
        return second / 2 / texts.bits, se / 2 / texts.bits
    result = kl_matrix(
        row[None],
        texts.num_bytes,
        clip=None,
        others=many,
        weights=texts.weights,
        coordinate_text=texts.fine_text,
        tail_share=False,
    )
    return result["kl_bits_per_byte"].values[0], result["kl_bits_per_byte_se"].values[0]
