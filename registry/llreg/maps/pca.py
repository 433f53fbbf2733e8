"""PCA of rows: values for missing texts, and the axes of more rows than a KL matrix can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llreg.maps.axes import Axes, axis_signs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.kl.stream import RowStream


def filled(rows: Rows) -> Rows:
    """Rows with a value for each missing text: what the row would have there if it were the mean of all rows.

    PCA needs coordinates, and so a value everywhere; a row that misses texts is drawn towards the middle.
    """
    missing = np.isnan(rows.values)
    if not missing.any():
        return rows
    means = _means(rows)
    centred = rows.values - means
    expected = np.nan_to_num(centred).sum(axis=0) / np.maximum((~missing).sum(axis=0), 1)
    return replace(rows, values=np.where(missing, means + expected, rows.values), designs=[None] * len(rows))


def leading_axes(rows: RowStream, coordinates: NDArray[np.float64]) -> Axes:
    """The first two of many principal coordinates, with the share of all squared distances that they show.

    Parameters
    ----------
    rows : RowStream
    coordinates : float64 array of shape (n_models, n_dims), sqrt(bit/byte)
        Of these rows, largest axis first.
    """
    xy = coordinates[:, :2]
    total = _sum_of_squares(rows)
    first, second = ((xy - xy.mean(axis=0)) ** 2).sum(axis=0) / total
    return Axes(xy * axis_signs(xy), (float(first), float(second)))


def _sum_of_squares(rows: RowStream) -> float:
    """Sum of the squared lengths of the rows' coordinates about their mean, bit/byte."""
    squares, mean, scale = 0.0, np.zeros(len(rows.texts)), 1.0
    for _, block in rows.blocks():
        weights = np.ones(len(block.texts)) if block.weights is None else block.weights
        centred = np.nan_to_num(block.values - _means(block)) * np.sqrt(weights)
        squares += float((centred**2).sum())
        mean += centred.sum(axis=0) / len(rows)
        scale = 2 * weights.sum() * block.bits
    return float(squares - len(rows) * (mean @ mean)) / scale


def _means(rows: Rows) -> NDArray[np.float64]:
    """Mean of each row over its texts, as a column."""
    present = ~np.isnan(rows.values)
    weight = present * (1.0 if rows.weights is None else rows.weights)
    total = (np.where(present, rows.values, 0.0) * weight).sum(axis=1)
    return np.asarray((total / np.maximum(weight.sum(axis=1), 1e-300))[:, None])
