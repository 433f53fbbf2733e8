"""Nearest rows by KL divergence, in blocks, so that memory does not grow with the square of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

_BLOCK = 256  # rows at a time: 40 MB a block for 20,000 rows


@dataclass(frozen=True)
class Nearest:
    """The nearest of some rows to each of others.

    Attributes
    ----------
    index : intp array of shape (n_models, k)
        Positions, nearest first; -1 where there are fewer.
    kl : float64 array of shape (n_models, k), bit/byte
        NaN where there are fewer.
    """

    index: NDArray[np.intp]
    kl: NDArray[np.float64]

    def first(self, count: int) -> Nearest:
        """The nearest few of them."""
        return Nearest(self.index[:, :count], self.kl[:, :count])

    def complete(self, labels: list[str]) -> Nearest:
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
    """The nearest others of each row.

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
    for block, found in kl_blocks(rows, right):
        part = nearest(found, count, own=np.arange(block.start, block.stop) if others is None else None)
        index[block], kl[block] = part.index, part.kl
    return Nearest(index, kl)


def nearest(kl: NDArray[np.float64], count: int, own: NDArray[np.intp] | None = None) -> Nearest:
    """The nearest columns of each row of a matrix.

    Parameters
    ----------
    kl : float64 array of shape (n_models, n_others), bit/byte
    count : int
        At most n_others, less one if `own` is given.
    own : intp array of shape (n_models,), optional
        The column that is the row itself.
    """
    known = np.where(np.isnan(kl), np.inf, kl)
    if own is not None:
        known[np.arange(len(kl)), own] = np.inf
    if count < known.shape[1]:
        index = np.argpartition(known, count - 1, axis=1)[:, :count] if count else np.empty((len(kl), 0), np.intp)
    else:
        index = np.broadcast_to(np.arange(known.shape[1]), known.shape)
    index = np.sort(index, axis=1)  # ties in the order of the rows
    found = np.take_along_axis(known, index, axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    index, found = np.take_along_axis(index, order, axis=1), np.take_along_axis(found, order, axis=1)
    missing = np.isinf(found)
    return Nearest(np.where(missing, -1, index), np.where(missing, np.nan, found))


def standard_errors(rows: Rows, found: Nearest) -> NDArray[np.float64]:
    """Standard errors of the KL divergences to the nearest rows, float64 array of shape (n_models, k), bit/byte."""
    errors = np.full(found.kl.shape, np.nan)
    for k, index in enumerate(found.index):
        there = index >= 0
        if there.any():
            result = kl_plain(rows.take([k]), rows.take(index[there]), tail_share=False)
            errors[k, there] = result["kl_bits_per_byte_se"].values[0]
    return errors
