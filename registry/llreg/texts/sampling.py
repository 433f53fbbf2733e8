"""Drawing texts: how telling each text is, its chance, and a draw that anybody can repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Method = Literal["uniform", "ls", "kl"]
METHODS: tuple[Method, ...] = ("uniform", "ls", "kl")
FLOOR = 0.5  # share of the draws that ignores the scores; measured in docs/format.md
_MEAN_CHANCE = 10_000  # chances are integers, so that a draw is the same on every machine
_ROWS = 256  # rows at a time


def text_scores(values: NDArray[np.float64], method: Method) -> NDArray[np.float64]:
    """How much each text tells about the distances between models: what its chance is proportional to.

    Parameters
    ----------
    values : float64 array of shape (n_models, n_texts), nats
        Clipped log-likelihoods; NaN counts as no difference.
    method : {"uniform", "ls", "kl"}

    Returns
    -------
    float64 array of shape (n_texts,)

    Notes
    -----
    Oyama et al. 2025b (arXiv 2505.15428), with double-centred q: length-squared sampling takes sum_i q_is**2; KL
    sampling takes sqrt(sum_ij (q_is - q_js)**4) = sqrt(2 K S4 + 6 S2**2 - 8 S1 S3), S_m = sum_i q_is**m.
    """
    if method == "uniform":
        return np.ones(values.shape[1])

    def centred_rows(start: int) -> NDArray[np.float64]:  # (n_rows, n_texts)
        block = values[start : start + _ROWS]
        return np.asarray(block - np.nanmean(block, axis=1, keepdims=True))

    # q is centred by model, then by text; a block of rows at a time, so that there is no second matrix.
    num_models, num_texts = values.shape
    starts = range(0, num_models, _ROWS)
    total = sum((np.nansum(centred_rows(start), axis=0) for start in starts), np.zeros(num_texts))
    mean = total / np.maximum((~np.isnan(values)).sum(axis=0), 1)
    s1, s2, s3, s4 = sums = np.zeros((4, num_texts))  # sums of q, q**2, q**3, q**4 over models
    for start in starts:
        q = np.nan_to_num(centred_rows(start) - mean)  # (n_rows, n_texts); NaN as no difference
        for power in range(4):
            sums[power] += (q ** (power + 1)).sum(axis=0)
    if method == "ls":
        return np.asarray(s2)
    return np.asarray(np.sqrt(np.maximum(2 * num_models * s4 + 6 * s2**2 - 8 * s1 * s3, 0)))


def text_chances(
    scores: NDArray[np.float64], *, floor: float = FLOOR, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Chances of the texts in a draw, as integers: text s is drawn with probability chances[s] / sum.

    Parameters
    ----------
    scores : float64 array of shape (n_texts,)
        As `text_scores` gives them.
    floor : float
        From 0 (the paper's rule) to 1: the share of the draws that is uniform whatever the scores.
    weights : float64 array of shape (n_texts,), optional
        The view's text weights: a text that counts twice is twice as telling.

    Returns
    -------
    int64 array of shape (n_texts,)
        At least 1: a text where no two models differ so far may be where the next one does.

    Raises
    ------
    InputError
        If the floor is no share, or no text tells models apart.

    Notes
    -----
    The scores come from models that are there, the draw is for models to come. With floor f no text stands for more
    than 1 / f times as many texts as in a uniform draw, so a model that differs where the others agree costs
    precision, not truth (the defensive mixture of importance sampling: Hesterberg 1995, Technometrics 37).
    """
    if not 0 <= floor <= 1:
        raise InputError(f"floor: expected a number from 0 to 1; got {floor}")
    base = np.ones(len(scores)) if weights is None else weights
    scores = scores * base
    if not scores.sum() > 0:
        raise InputError("no text tells the models apart: the rows are all equal; draw with method uniform")
    share = (1 - floor) * scores / scores.sum() + floor * base / base.sum()
    if share.min() == share.max():
        return np.ones(len(share), np.int64)
    return np.asarray(np.maximum(np.rint(share * (len(share) * _MEAN_CHANCE)), 1), dtype=np.int64)


def expected_draws(chances: NDArray[np.int64], draws: int, *, replacement: bool) -> NDArray[np.float64]:
    """How often each text is drawn on average, float64 array of shape (n_texts,).

    With replacement: draws x chance. Without: its probability to be drawn, proportional to its chance and 1 for
    texts whose share exceeds that.
    """
    if replacement:
        return np.asarray(draws * (chances / chances.sum()))
    sure = _sure(chances, draws)
    expected = np.where(sure, 1.0, 0.0)
    total = int(chances[~sure].sum())
    if total:  # the draws that remain, in proportion to the chances
        expected[~sure] = chances[~sure] * ((draws - int(sure.sum())) / total)
    return expected


def _sure(chances: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Texts that a sample of that size without replacement always holds."""
    sure = np.zeros(len(chances), dtype=bool)
    while True:  # each text that is sure leaves a larger share of the draws to the others
        draws, total = size - int(sure.sum()), int(chances[~sure].sum())
        more = ~sure & (chances > 0) & (chances * draws >= total)
        if not more.any():
            return sure
        sure |= more


def draw_texts(chances: NDArray[np.int64], draws: int, *, replacement: bool, key: str) -> NDArray[np.int64]:
    """Draw texts; the same arguments draw the same texts, on every machine and with every library version.

    Parameters
    ----------
    chances : int64 array of shape (n_texts,)
    draws : int
        Without replacement, the number of texts.
    replacement : bool
    key : str
        What the random numbers are made from: sha256 of the key and a counter. Different keys draw independently.

    Returns
    -------
    int64 array of shape (n_texts,)
        How often each was drawn.

    Raises
    ------
    InputError
        If more texts are asked for than can be drawn.
    """
    if draws < 1:
        raise InputError(f"expected at least 1 text to draw; got {draws}")
    if replacement:
        total = int(chances.sum())
        tickets = np.array([_random(key, k) % total for k in range(draws)], dtype=np.int64)
        return pick_with(chances, tickets)
    num_drawable = int((chances > 0).sum())
    if draws > num_drawable:
        raise InputError(f"expected at most {num_drawable:,} texts, as many as can be drawn; got {draws:,}")
    order = sorted(range(len(chances)), key=lambda text: _random(key, text))
    return pick_without(chances, draws, np.array(order, dtype=np.intp), lambda limit: _random(key, -1) % limit)


def _random(key: str, counter: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{key}:{counter}".encode()).digest(), "big")


def pick_with(chances: NDArray[np.int64], tickets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts of texts drawn with replacement, from tickets between 0 and the sum of the chances."""
    return np.bincount(np.searchsorted(np.cumsum(chances), tickets, side="right"), minlength=len(chances))


def pick_without(
    chances: NDArray[np.int64], size: int, order: NDArray[np.intp], offset: Callable[[int], int]
) -> NDArray[np.int64]:
    """Counts (0 or 1) of `size` texts drawn without replacement: systematic sampling in random order.

    Laid end to end in the given order, each text as long as its chance, they are hit by a comb of equal steps at a
    random offset; so every text is drawn with exactly its probability (Madow 1949; in random order, Hartley & Rao
    1962).
    """
    sure = _sure(chances, size)
    rest = order[~sure[order]]
    draws, total = size - int(sure.sum()), int(chances[rest].sum())
    counts = sure.astype(np.int64)
    if draws:
        # In units of 1 / draws the teeth are `total` apart: a text is hit as often as a multiple of it lies in its length.
        ends = np.concatenate([[0], np.cumsum(chances[rest])]) * draws + offset(total)
        counts[rest] = np.diff(ends // total)
    return counts
