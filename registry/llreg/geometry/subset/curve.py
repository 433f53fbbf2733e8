"""How far distances from a sample of the texts are off, against its size: measured on the rows that are there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.distance import kl_matrix
from llreg.texts.design import Design
from llreg.texts.sampling import (
    FLOOR,
    METHODS,
    Method,
    expected_draws,
    pick_with,
    pick_without,
    text_chances,
    text_scores,
)
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

RESAMPLES = 20
MAX_MODELS = 200  # rows that take part, chosen at random: 19,900 pairs are enough for a mean
GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # shares of the texts
_NEW = 0.2  # share of the rows that play the new models
_LEAST = 1e-3  # P2's lower bound of ||q_i - q_j||**2 in relative errors, nats**2


def error_curve(
    rows: Rows,
    sizes: Sequence[int] | None = None,
    *,
    methods: Iterable[Method] = METHODS,
    floor: float = FLOOR,
    replacement: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    held_out: bool = True,
) -> list[dict[str, Any]]:
    """Errors of squared distances from samples of the texts.

    Parameters
    ----------
    rows : Rows
        Scored on all texts; a random 200 of them, if there are more.
    sizes : sequence of int, optional
        Texts of a sample (draws, with replacement); by default 2 % to all of them.
    methods : iterable of {"uniform", "ls", "kl"}
    floor : float
        As in `llreg.texts.sampling.text_chances`, for ls and kl.
    replacement : bool
    resamples : int
    seed : int
    held_out : bool
        Each time a fifth of the models is left out of the chances, and the errors are those of its pairs: what a new
        model will see. Otherwise, as in P2, chances and errors are of all models.

    Returns
    -------
    list of dict
        One a method and size. Keys method, draws, texts (mean number of different texts), absolute
        (||G' - G||_F / ||G||_F), relative (root of the mean of ((G' - G) / max(G, 1e-3))**2), and relative_total,
        which adds the error that the whole text set has as a sample of all texts:
        sqrt(relative**2 + tau_uniform(N)**2). Errors are root mean squares over the resamples.

    Raises
    ------
    InputError
        If there are fewer than two rows that differ.

    Notes
    -----
    P2 (arXiv 2505.15428), G_ij = ||q_i - q_j||**2 = 2 N KL(i, j) and tau(n) of its error analysis. Means are over pairs
    of different models; P2 also counts the zero diagonal.
    """
    rng = np.random.default_rng(seed)
    if len(rows) > MAX_MODELS:
        rows = rows.take(np.sort(rng.choice(len(rows), MAX_MODELS, replace=False)))
    count = len(rows.texts)
    truth = _squared(rows, None)
    if len(rows) < 2 or not np.nanmax(truth) > 0:
        raise InputError(f"errors are measured between rows that differ, on all texts; there are {len(rows)} rows")
    grid = sizes or sorted({max(2, round(share * count)) for share in GRID})
    whole = _errors(rows, truth, "uniform", count, 1.0, True, resamples, rng, held_out)["relative"]
    lines = []
    for method in methods:
        for size in grid:
            line = _errors(rows, truth, method, size, floor, replacement, resamples, rng, held_out)
            lines.append({**line, "relative_total": math.hypot(line["relative"], whole)})
    return lines


def _errors(
    rows: Rows,
    truth: NDArray[np.float64],
    method: Method,
    size: int,
    floor: float,
    replacement: bool,
    resamples: int,
    rng: np.random.Generator,
    held_out: bool,
) -> dict[str, Any]:
    found = []
    for _ in range(resamples):
        new = _new_models(len(rows), rng, held_out)
        scores = text_scores(rows.values if new.all() else rows.values[~new], method)
        if not scores.sum() > 0:  # the models left are all equal
            scores = np.ones_like(scores)
        chances = text_chances(scores, floor=floor, weights=rows.weights)
        counts = _draw(chances, size, replacement, rng)
        design = Design("curve", counts, expected_draws(chances, size, replacement=replacement), replacement)
        pairs = np.triu(new[:, None] | new[None, :], 1)
        off, true = (_squared(rows, design) - truth)[pairs], truth[pairs]
        absolute = np.sqrt(np.nansum(off**2) / np.nansum(true**2)) if np.nansum(true**2) else 0.0
        relative = np.sqrt(np.nanmean((off / np.maximum(true, _LEAST)) ** 2))
        found.append((float(np.count_nonzero(counts)), float(absolute**2), float(relative**2)))
    texts, absolute, relative = np.mean(found, axis=0)
    return {
        "method": method,
        "draws": int(size),
        "texts": float(texts),
        "absolute": float(np.sqrt(absolute)),
        "relative": float(np.sqrt(relative)),
    }


def _new_models(count: int, rng: np.random.Generator, held_out: bool) -> NDArray[np.bool_]:
    """Which rows play the new models; all, where too few would be left to compute chances from."""
    number = math.ceil(_NEW * count)
    new = np.ones(count, dtype=bool)
    if held_out and count - number >= 2:
        new[rng.permutation(count)[number:]] = False
    return new


def _draw(chances: NDArray[np.int64], size: int, replacement: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    if replacement:
        return pick_with(chances, rng.integers(int(chances.sum()), size=size))
    return pick_without(chances, size, rng.permutation(len(chances)), lambda limit: int(rng.integers(limit)))


def _squared(rows: Rows, design: Design | None) -> NDArray[np.float64]:
    """G of P2, float64 array of shape (n_models, n_models), nats**2."""
    result = kl_matrix(
        rows.values,
        rows.num_bytes,
        clip=None,
        weights=rows.weights,
        designs=[design] * len(rows),
        se=False,
        tail_share=False,
    )
    return np.asarray(2 * len(rows.texts) * result["kl"].values)
