"""PCA of rows: values for missing texts, and the axes of more rows than a KL matrix can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llreg.maps.axes import Axes, axis_signs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.rows import Rows

_BLOCK = 256  # rows at a time: 20 MB for 10,000 texts


def filled(rows: Rows) -> Rows:
    """Rows with a value for each missing text: what the row would have there if it were the mean of all rows.

    PCA needs coordinates, and so a value everywhere; a row that misses texts is drawn towards the middle.
    """
    if not np.isnan(rows.values).any():
        return rows
    values = _fill(rows.values, rows.weights, _column_means(rows))
    return replace(rows, values=values, designs=[None] * len(rows))


def principal_axes(rows: Rows) -> Axes:
    """PCA of rows without their KL matrix: for more rows than a matrix can hold.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    Axes
        As `classical_mds` of the KL matrix of the filled rows.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    count, texts = rows.values.shape
    weights = np.ones(texts) if rows.weights is None else rows.weights
    scale = np.sqrt(weights / (2 * weights.sum() * rows.bits))  # so that squared distances are KL in bits per byte
    blocks = [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]
    fill = _column_means(rows)

    def centred(block: slice) -> NDArray[np.float64]:
        part = _fill(rows.values[block], rows.weights, fill)
        return part - _means(part, rows.weights)

    centre = np.sum([centred(block).sum(axis=0) for block in blocks], axis=0) / count

    def q(block: slice) -> NDArray[np.float64]:
        return np.asarray((centred(block) - centre) * scale)

    def times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([q(block) @ vector for block in blocks])

    def transposed_times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(sum(q(block).T @ vector[block] for block in blocks))

    operator = LinearOperator((count, texts), matvec=times, rmatvec=transposed_times, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=min(count, texts))
    left, values, _ = svds(operator, k=2, v0=start)
    total = float(sum((q(block) ** 2).sum() for block in blocks))
    xy, values = (left * values)[:, ::-1], values[::-1]
    return Axes(xy * axis_signs(xy), (float(values[0] ** 2) / total, float(values[1] ** 2) / total))


def _fill(
    values: NDArray[np.float64], weights: NDArray[np.float64] | None, fill: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values with the missing ones put in: the row's mean plus what the text has over other rows' means."""
    missing = np.isnan(values)
    return np.where(missing, _means(values, weights) + fill, values) if missing.any() else values


def _means(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Mean of each row over its texts, as a column."""
    present = ~np.isnan(values)
    weight = present * (1.0 if weights is None else weights)
    total = (np.where(present, values, 0.0) * weight).sum(axis=1)
    return np.asarray((total / np.maximum(weight.sum(axis=1), 1e-300))[:, None])


def _column_means(rows: Rows) -> NDArray[np.float64]:
    """Mean of the row-centred values of each text, float64 array of shape (n_texts,), a block of rows at a time."""
    total, count = np.zeros(rows.values.shape[1]), np.zeros(rows.values.shape[1])
    for start in range(0, len(rows), _BLOCK):
        part = rows.values[start : start + _BLOCK]
        centred = part - _means(part, rows.weights)
        total += np.nan_to_num(centred).sum(axis=0)
        count += (~np.isnan(centred)).sum(axis=0)
    return np.asarray(total / np.maximum(count, 1))
