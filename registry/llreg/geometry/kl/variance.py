"""KL, standard error and tail share of pairs from the differences of their rows: products for many, direct for the closest.

Three ways to the same numbers. Rows on one set of texts go through matrix products, or, where few pairs, the tail share or
weights ask for it, through each pair's own differences. Rows that lack different texts go through products with their masks.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from math import comb
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.patterns import PairTexts

TAIL_SHARE = 0.01  # the texts whose share of the variance is reported: the top 1 %
# A product loses about (sum of the squares / sum of squared differences) * 1e-16 of a value. Below this ratio
# a pair is taken directly, so that at least nine digits are right.
CANCELLATION = 1e-7
_DIRECT_PAIRS = 256  # fewer pairs than this are taken directly anyway
_PANEL = 32  # differences at a time: 2.5 MB for 10,000 texts, which stays in the cache

Moments = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]  # KL, standard error, tail share


def standard_error(
    m2: NDArray[np.float64], m4: NDArray[np.float64], num_texts: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Standard error of KL = m2 / 2 over independent, equally weighted texts: sqrt((m4 - m2**2) / N) / 2.

    Parameters
    ----------
    m2, m4 : float64 arrays of one shape, nats**2 and nats**4
        Central moments of the differences l_i - l_j.
    num_texts : float or float64 array
        N.

    Notes
    -----
    The large-sample variance of a sample variance (Cramér 1946). With weights or samples, where `_standard_error_direct`
    takes it from each pair's differences, it is the same quantity.
    """
    return np.asarray(np.sqrt(np.maximum(m4 - m2**2, 0) / num_texts) / 2)


def pair_moments(
    left: NDArray[np.float64], right: NDArray[np.float64], texts: PairTexts, *, se: bool, tail: bool
) -> Moments:
    """KL, its standard error, and the tail share of every pair.

    Parameters
    ----------
    left, right : float64 arrays of shape (n_left, n_columns) and (n_right, n_columns)
        As `PairTexts.prepare` makes them.
    texts : PairTexts
    se, tail : bool
        Which of them; NaN where not asked for.

    Returns
    -------
    three float64 arrays of shape (n_left, n_right)
        KL and standard error in nats per text, and a share.
    """
    shape = len(left), len(right)
    if texts.count < 2 or not texts.total > 0:
        return np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    several = (
        texts.fine is not None and texts.fine.starts is not None
    )  # columns of a text are summed before they are squared
    if tail or left.shape[0] * right.shape[0] <= _DIRECT_PAIRS or (se and (texts.weights is not None or several)):
        return _all_direct(left, right, texts, tail)
    second, fourth, close = _power_sums(left, right, se)
    if left is right:  # a row and itself: 0, whatever the product left of it
        np.fill_diagonal(second, 0.0)
        np.fill_diagonal(close, False)
        if se:
            np.fill_diagonal(fourth, 0.0)
    kl = second / (2 * texts.total)
    unknown = np.broadcast_to(np.nan, shape)
    kl_se = standard_error(2 * kl, fourth / texts.total, texts.total) if se else unknown
    for i in np.flatnonzero(close.any(axis=1)):
        columns = np.flatnonzero(close[i])
        kl[i, columns], exact, _ = _direct(left[i], right[columns], texts, tail=False)
        if se:
            kl_se[i, columns] = exact
    return kl, kl_se, unknown


def _power_sums(
    left: NDArray[np.float64], right: NDArray[np.float64], se: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Sums of 2nd and 4th powers of differences through matrix products, and where they lost digits.

    sum (x - y)**2 = sum x**2 + sum y**2 - 2 sum x y, and so for the fourth power; (n_left, n_right) each.
    """
    same = left is right
    size = _sums_of_squares(left, right)
    second = left @ right.T  # numpy takes the symmetric product, half the work, where both are one
    second *= -2
    second += size
    close = second <= CANCELLATION * size
    if not se:
        return second, np.broadcast_to(np.nan, second.shape), close
    square_left = left**2
    square_right = square_left if same else right**2
    size = _sums_of_squares(square_left, square_right)
    fourth = square_left @ square_right.T
    fourth *= 6
    fourth += size
    square_left *= left  # now cubes: one temporary less
    mixed = square_left @ right.T
    fourth -= 4 * (mixed + (mixed.T if same else left @ (square_right * right).T))
    close |= fourth <= CANCELLATION * size
    return second, fourth, close


def _sums_of_squares(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of squares of each left row plus that of each right row, shape (n_left, n_right)."""
    of_left, of_right = (np.einsum("ij,ij->i", values, values) for values in (left, right))
    return np.asarray(of_left[:, None] + of_right[None, :])


# Pair by pair


def _all_direct(left: NDArray[np.float64], right: NDArray[np.float64], texts: PairTexts, tail: bool) -> Moments:
    """Every pair from its own differences, one thread a core: numpy lets go of the lock in long loops."""
    same = left is right
    moments = np.zeros((3, len(left), len(right)))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        rows = pool.map(lambda i: _direct(left[i], right[i if same else 0 :], texts, tail=tail), range(len(left)))
        for i, row in enumerate(rows):
            moments[:, i, i if same else 0 :] = row
            if same:
                moments[:, i:, i] = row
    return moments[0], moments[1], moments[2]


def _direct(row: NDArray[np.float64], many: NDArray[np.float64], texts: PairTexts, *, tail: bool) -> Moments:
    """KL, standard error and tail share between a row, shape (n_columns,), and others, shape (n_many, n_columns)."""
    panels = []
    for start in range(0, len(many), _PANEL):
        square = many[start : start + _PANEL] - row  # (n_panel, n_columns)
        square *= square
        square = texts.of_texts(square)  # (n_panel, count)
        kl = square.sum(axis=1) / (2 * texts.total)
        share = _tail_share(square, texts) if tail else np.full_like(kl, np.nan)
        panels.append((kl, _standard_error_direct(square, 2 * kl, texts), share))
    kl, kl_se, share = (np.concatenate(parts) for parts in zip(*panels, strict=True))
    return kl, kl_se, share


def _standard_error_direct(
    square: NDArray[np.float64], m2: NDArray[np.float64], texts: PairTexts
) -> NDArray[np.float64]:
    """Standard error of KL from weighted squared differences, shape (n_pairs, count): half the root of the variance of m2.

    Over independent texts that variance is sum (w (d**2 - m2))**2 / (sum w)**2, which is (m4 - m2**2) / N for equal weights.
    For a sample of the texts it is estimated with the weights of the sample, and the variance of the draw is added
    (`llreg.geometry.kl.patterns.Sampling`).
    """
    weighted = m2[:, None] * (1.0 if texts.weights is None else texts.weights)
    sampling = texts.sampling
    if sampling is None:
        variance = ((square - weighted) ** 2).sum(axis=1) / texts.total**2
    else:
        of_the_set = ((square - weighted) ** 2 / sampling.weights).sum(axis=1) / (texts.total * sampling.size)
        rest = square - square.sum(axis=1)[:, None] * sampling.shares
        draw = rest**2 @ sampling.noise - sum(scale * (rest @ part) ** 2 for part, scale in sampling.parts)
        variance = of_the_set + np.maximum(draw, 0) / texts.total**2
    return np.asarray(np.sqrt(variance) / 2)


def _tail_share(square: NDArray[np.float64], texts: PairTexts) -> NDArray[np.float64]:
    """Share of each row's sum in its ceil(1 %) largest entries; 0 where the sum is 0.

    Of a sample, in the entries that together stand for 1 % of the set, the last one in part.
    """
    total = square.sum(axis=1)
    if texts.sampling is None:
        top = int(np.ceil(square.shape[1] * TAIL_SHARE))
        sums = np.partition(square, square.shape[1] - top, axis=1)[:, -top:].sum(axis=1)
    else:
        weights = texts.sampling.weights
        order = np.argsort(-square / weights, axis=1)  # largest difference first
        size = weights[order]
        above = np.cumsum(size, axis=1) - size  # texts of the set that larger entries stand for
        part = np.clip((TAIL_SHARE * weights.sum() - above) / size, 0, 1)
        sums = (np.take_along_axis(square, order, axis=1) * part).sum(axis=1)
    return np.asarray(np.divide(sums, total, out=np.zeros_like(total), where=total > 0))


# Rows with gaps


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
    raw: list[NDArray[np.float64]] = []  # by power: sums of differences, (n_left, n_right)
    sizes: list[NDArray[np.float64]] = []  # and how large the numbers are that went into them
    for p in range(5 if se else 3):
        terms = [comb(p, a) * (-1) ** (p - a) * (left.weighted(a) @ right.power(p - a).T) for a in range(p + 1)]
        raw.append(np.sum(terms, axis=0))
        sizes.append(np.abs(terms[0]) + np.abs(terms[-1]))
    total = np.where(raw[0] > 0, raw[0], np.nan)
    count = left.power(0) @ right.power(0).T
    mean, second = raw[1] / total, raw[2] / total
    variance = second - mean**2
    close = variance * total <= CANCELLATION * sizes[2]
    kl_se = np.full_like(variance, np.nan)
    if se:
        fourth = raw[4] / total - 4 * mean * raw[3] / total + 6 * mean**2 * second - 3 * mean**4
        close |= fourth * total <= CANCELLATION * sizes[4]
        kl_se = standard_error(variance, fourth, total)
    mean_bytes = left.weighted(0) @ right.times(num_bytes).T / total
    for values in (variance, kl_se, mean_bytes):
        values[count < 2] = np.nan
    return variance / 2, kl_se, count, mean_bytes, close & (count >= 2)
