"""Moments of differences between rows that lack different texts, through products with their masks."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.moments import CANCELLATION

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaskedRows:
    """Rows centred over the texts they have, and their powers with 0 where a text lacks.

    Parameters
    ----------
    values : float64 array of shape (n_rows, n_texts), nats
        NaN where not scored; what all rows share is taken off already.
    weights : float64 array of shape (n_texts,) or None
    """

    def __init__(self, values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> None:
        self._present = ~np.isnan(values)
        self._weights = np.ones(values.shape[1]) if weights is None else weights
        filled = np.where(self._present, values, 0.0)
        total = self._present @ self._weights
        means = np.divide(filled @ self._weights, total, out=np.zeros(len(values)), where=total > 0)
        self._filled = np.where(self._present, filled - means[:, None], 0.0)

    def power(self, exponent: int) -> NDArray[np.float64]:
        """Values to a power, 0 where a text lacks; the zeroth power is the mask. Shape (n_rows, n_texts)."""
        return self._present.astype(np.float64) if exponent == 0 else self._filled**exponent

    def weighted(self, exponent: int) -> NDArray[np.float64]:
        """The same times the weights of the texts."""
        return np.asarray(self.power(exponent) * self._weights)

    def times(self, factor: NDArray[np.floating]) -> NDArray[np.float64]:
        """The mask times one number a text, shape (n_rows, n_texts)."""
        return np.asarray(self._present * factor)


Masked = tuple[
    "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.bool_]"
]


def masked_moments(left: MaskedRows, right: MaskedRows, num_bytes: NDArray[np.floating], *, se: bool) -> Masked:
    """KL, standard error, texts used, their mean bytes, and where cancellation took digits, of every pair.

    Returns
    -------
    four float64 arrays and a bool array of shape (n_left, n_right)
        KL and standard error in nats per text; the standard error is of equally weighted texts.

    Notes
    -----
    sum over shared texts of (x - y)**p = sum_a C(p, a) (-1)**(p - a) <x**a, y**(p - a)>, where x**0 is the mask: each term
    is one matrix product. Central moments follow from the raw ones; the rows are centred, so little cancels.
    """
    raw, sizes = zip(*(_sums(left, right, p) for p in range(5 if se else 3)), strict=True)
    total = np.where(raw[0] > 0, raw[0], np.nan)
    count = left.power(0) @ right.power(0).T
    mean, second = raw[1] / total, raw[2] / total
    variance = second - mean**2
    close = variance * total <= CANCELLATION * sizes[2]
    kl_se = np.full_like(variance, np.nan)
    if se:
        fourth = raw[4] / total - 4 * mean * raw[3] / total + 6 * mean**2 * second - 3 * mean**4
        close |= fourth * total <= CANCELLATION * sizes[4]
        kl_se = np.sqrt(np.maximum(fourth - variance**2, 0) / total) / 2
    mean_bytes = left.weighted(0) @ right.times(num_bytes).T / total
    for values in (variance, kl_se, mean_bytes):
        values[count < 2] = np.nan
    return variance / 2, kl_se, count, mean_bytes, close & (count >= 2)


def _sums(left: MaskedRows, right: MaskedRows, p: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of differences to a power over shared texts, and the size of the numbers that went into them."""
    terms = [comb(p, a) * (-1) ** (p - a) * (left.weighted(a) @ right.power(p - a).T) for a in range(p + 1)]
    return np.sum(terms, axis=0), np.abs(terms[0]) + np.abs(terms[-1])
