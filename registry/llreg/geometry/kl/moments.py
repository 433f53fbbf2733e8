"""Second and fourth moments of the differences between rows: products for many, direct sums for the closest."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
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

Triple = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


def pair_moments(
    left: NDArray[np.float64], right: NDArray[np.float64], texts: PairTexts, *, se: bool, tail: bool
) -> Triple:
    """KL, its standard error, and the tail share of every pair.

    Parameters
    ----------
    left, right : float64 arrays of shape (n_left, count) and (n_right, count)
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
    if tail or left.shape[0] * right.shape[0] <= _DIRECT_PAIRS or (se and texts.weights is not None):
        return _all_direct(left, right, texts, tail)
    second, fourth, close = _products(left, right, se)
    if left is right:  # a row and itself: 0, whatever the product left of it
        for values, nothing in ((second, 0.0), (fourth, 0.0), (close, False)):
            if values.flags.writeable:  # `fourth` is not, where it was not asked for
                np.fill_diagonal(values, nothing)
    kl = second / (2 * texts.total)
    unknown = np.broadcast_to(np.nan, shape)
    kl_se = np.sqrt(np.maximum(fourth / texts.total - (2 * kl) ** 2, 0) / texts.total) / 2 if se else unknown
    for i in np.flatnonzero(close.any(axis=1)):
        columns = np.flatnonzero(close[i])
        kl[i, columns], exact, _ = _direct(left[i], right[columns], texts, tail=False)
        if se:
            kl_se[i, columns] = exact
    return kl, kl_se, unknown


def _products(
    left: NDArray[np.float64], right: NDArray[np.float64], se: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Sums of 2nd and 4th powers of differences through matrix products, and where they lost digits.

    sum (x - y)**2 = sum x**2 + sum y**2 - 2 sum x y, and so for the fourth power.
    """
    same = left is right
    size = _outer_sum(left, right)
    second = left @ right.T  # numpy takes the symmetric product, half the work, where both are one
    second *= -2
    second += size
    close = second <= CANCELLATION * size
    if not se:
        return second, np.broadcast_to(np.nan, second.shape), close
    square_left = left**2
    square_right = square_left if same else right**2
    size = _outer_sum(square_left, square_right)
    fourth = square_left @ square_right.T
    fourth *= 6
    fourth += size
    square_left *= left
    mixed = square_left @ right.T
    fourth -= 4 * (mixed + (mixed.T if same else left @ (square_right * right).T))
    close |= fourth <= CANCELLATION * size
    return second, fourth, close


def _outer_sum(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of squares of each row of one and each of the other, added."""
    one, other = (np.einsum("ij,ij->i", values, values) for values in (left, right))
    return np.asarray(one[:, None] + other[None, :])


def _all_direct(left: NDArray[np.float64], right: NDArray[np.float64], texts: PairTexts, tail: bool) -> Triple:
    """Every pair from its own differences, one thread a core: numpy lets go of the lock in long loops."""
    same = left is right

    def one(i: int) -> Triple:
        return _direct(left[i], right[i if same else 0 :], texts, tail=tail)

    out = np.zeros((3, len(left), len(right)))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, found in enumerate(pool.map(one, range(len(left)))):
            out[:, i, i if same else 0 :] = found
            if same:
                out[:, i:, i] = found
    return out[0], out[1], out[2]


def _direct(one: NDArray[np.float64], many: NDArray[np.float64], texts: PairTexts, *, tail: bool) -> Triple:
    """KL, standard error and tail share between a row and others, shape (n_many,) each."""
    panels = [_panel(one, many[k : k + _PANEL], texts, tail) for k in range(0, len(many), _PANEL)]
    kl, kl_se, share = (np.concatenate(parts) for parts in zip(*panels, strict=True))
    return kl, kl_se, share


def _panel(one: NDArray[np.float64], many: NDArray[np.float64], texts: PairTexts, tail: bool) -> Triple:
    square = many - one  # (model, text)
    square *= square
    kl = square.sum(axis=1) / (2 * texts.total)
    variance = _sampling_variance(square, 2 * kl, texts)
    share = _tail_share(square, texts) if tail else np.full_like(kl, np.nan)
    return kl, np.sqrt(variance) / 2, share


def _sampling_variance(
    square: NDArray[np.float64], second: NDArray[np.float64], texts: PairTexts
) -> NDArray[np.float64]:
    """Variance of the second moments.

    Over independent texts it is sum (w (d**2 - m2))**2 / (sum w)**2, which is (m4 - m2**2) / N for equal weights.
    For a sample of the texts that is estimated with the weights of the sample, and the variance of the draw is added
    (`llreg.geometry.kl.patterns.Sampling`).
    """
    weighted = second[:, None] * (1.0 if texts.weights is None else texts.weights)
    sampling = texts.sampling
    if sampling is None:
        return np.asarray(((square - weighted) ** 2).sum(axis=1) / texts.total**2)
    of_the_set = ((square - weighted) ** 2 / sampling.weights).sum(axis=1) / (texts.total * sampling.size)
    rest = square - square.sum(axis=1)[:, None] * sampling.shares
    draw = rest**2 @ sampling.noise - sum(scale * (rest @ part) ** 2 for part, scale in sampling.parts)
    return np.asarray(of_the_set + np.maximum(draw, 0) / texts.total**2)


def _tail_share(square: NDArray[np.float64], texts: PairTexts) -> NDArray[np.float64]:
    """Share of each row's sum in its ceil(1 %) largest entries, or in 1 % of the set sampled; 0 where the sum is 0."""
    total = square.sum(axis=1)
    if texts.sampling is None:
        top = int(np.ceil(square.shape[1] * TAIL_SHARE))
        sums = np.partition(square, square.shape[1] - top, axis=1)[:, -top:].sum(axis=1)
    else:
        sums = _sampled_top(square, texts.sampling.weights)
    return np.asarray(np.divide(sums, total, out=np.zeros_like(total), where=total > 0))


def _sampled_top(square: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the texts of largest difference that together stand for 1 % of the set, the last one in part."""
    order = np.argsort(-square / weights, axis=1)
    size = weights[order]
    before = np.cumsum(size, axis=1) - size
    part = np.clip((TAIL_SHARE * weights.sum() - before) / size, 0, 1)
    return np.asarray((np.take_along_axis(square, order, axis=1) * part).sum(axis=1))
