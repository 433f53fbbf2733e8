"""Samples of the text set that tell models apart: drawn by what the rows show, and what they cost in accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.points import squared_distances
from llreg.geometry.kl.rows import Rows, full_rows
from llreg.geometry.view.view import View, view_of
from llreg.store.contents import Contents
from llreg.store.subsets import DRAWS_A_TEXT, check_subset, draw_subset
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
from llreg_schemas import check, hash_json
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION, SUBSET_FORMAT

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 20
MAX_MODELS = 200  # rows that take part, chosen at random: 19,900 pairs are enough for a mean
GRID = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # shares of the texts
_NEW = 0.2  # share of the rows that play the new models
_LEAST = 1e-3  # lower bound of ||q_i - q_j||**2 in relative errors, nats**2 (Oyama et al. 2025b)
_MAX_SEED = (1 << 53) - 1  # the largest integer that all JSON readers keep


def make_subset(
    registry: Contents,
    size: int | None = None,
    *,
    draws: int | None = None,
    method: Method = "ls",
    floor: float | None = None,
    seed: int = 0,
    view: View | None = None,
) -> dict[str, Any]:
    """Draw a sample of the texts that new models may be scored on, at a fraction of the cost.

    Behind `Registry.subset`, which describes parameters, result and errors.

    Notes
    -----
    Without replacement every text drawn is new, and the more are drawn the less is left to chance: at 1,000 of 3,610
    texts the error is a fifth smaller than that of as many different texts drawn with replacement. Chances are the same.
    """
    if (size is None) == (draws is None):
        raise InputError("give the number of texts (size), or of draws with replacement (draws); not both")
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed: expected at least 0, and at most {_MAX_SEED}; got {seed}")
    most = DRAWS_A_TEXT * registry.num_texts
    if draws is not None and draws > most:
        raise InputError(f"draws: expected at most {most:,}, {DRAWS_A_TEXT} a text of the set; got {draws:,}")
    view = view_of(registry, view)
    share = 1.0 if method == "uniform" else FLOOR if floor is None else floor
    chances, models = _text_chances(registry, view, method, share)
    rules = {
        "format": SUBSET_FORMAT,
        "format_version": FORMAT_VERSION,
        "text_set": registry.info.text_set.id,
        "num_texts": registry.num_texts,
        "method": method,
        "floor": float(share),
        "replacement": draws is not None,
        "seed": int(seed),
        "draws": int((draws if size is None else size) or 0),
        "chances": chances.tolist(),
        "view": view.to_json(),
        "registry": registry.name,
        "version": registry.version,
        "models": models,
    }
    counts = draw_subset(rules)
    texts = counts.nonzero()[0]
    document = {**rules, "texts": texts.tolist(), "counts": counts[texts].tolist()}
    document = {**document, "id": hash_json(document)}
    try:  # the checks that `llreg add --subset` makes
        return check_subset(check("subset", document, "subset"), registry.info, "subset")
    except InvalidFileError as error:
        raise InputError(f"these options make no subset that rows can be scored on: {error}") from error


def _text_chances(registry: Contents, view: View, method: Method, floor: float) -> tuple[NDArray[np.int64], int]:
    """Chances of all texts of the set, 0 for those that the view leaves out, and the rows they are computed from."""
    texts = view.texts(registry.text_index)
    weights = view.text_weights(registry.text_index)
    values = np.empty((0, len(texts)))
    if method != "uniform":
        values = full_rows(registry, view).values
        if len(values) < 2:
            raise InputError(
                f"method {method} needs two rows scored on all texts, to know which texts of the view tell models "
                f"apart; there are {len(values)}: add rows, or draw with method uniform"
            )
    chances = np.zeros(registry.num_texts, np.int64)
    chances[texts] = text_chances(text_scores(values, method), floor=floor, weights=weights)
    return chances, len(values)


def describe_subset(registry: Contents, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a subset costs.

    Returns
    -------
    dict
        Keys id, method, seed, draws, replacement, texts, text_share, bytes, byte_share.
    """
    sizes = registry.text_index.bytes_per_text
    size = float(sizes[np.asarray(document["texts"])].sum())
    return {
        **{name: document[name] for name in ("id", "method", "floor", "seed", "draws", "replacement", "models")},
        "texts": len(document["texts"]),
        "text_share": len(document["texts"]) / document["num_texts"],
        "bytes": int(size),
        "byte_share": size / float(sizes.sum()),
    }


def subset_errors(registry: Contents, document: Mapping[str, Any], *, curve: bool = False) -> list[dict[str, Any]]:
    """How far distances of a subset's rows are off, measured on the registry's rows.

    Parameters
    ----------
    registry : Contents
    document : mapping
    curve : bool
        For all methods, and sizes from 2 % to all of the texts; otherwise for this subset's only.

    Returns
    -------
    list of dict
        As `error_curve` gives them; empty where there are no two rows to measure on.

    Raises
    ------
    InputError
        If a curve is asked for, and there are no two different rows of all texts.
    """
    rows = full_rows(registry, View.from_json(document["view"]))
    common = {"floor": document["floor"], "replacement": document["replacement"], "seed": document["seed"]}
    try:
        if curve:
            floor = FLOOR if document["method"] == "uniform" else document["floor"]
            return error_curve(rows, **{**common, "floor": floor})
        return error_curve(rows, [document["draws"]], methods=[document["method"]], **common)
    except InputError:
        if curve:
            raise
        return []


# Errors


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
        model will see. Otherwise, as in Oyama et al. 2025b, chances and errors are of all models.

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
    Oyama et al. 2025b (arXiv 2505.15428): G_ij = ||q_i - q_j||**2 = 2 N KL(i, j), G' its estimate from the sample, and
    tau(n) of their error analysis. Means are over pairs of different models; they also count the zero diagonal.
    """
    rng = np.random.default_rng(seed)
    if len(rows) > MAX_MODELS:
        rows = rows.take(np.sort(rng.choice(len(rows), MAX_MODELS, replace=False)))
    count = len(rows.texts)
    truth = squared_distances(replace(rows, designs=[None] * len(rows)))
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
    """A line of `error_curve`, without relative_total."""
    num_new = math.ceil(_NEW * len(rows))
    # Too few rows to compute chances without the new ones: then all are new, and all give the chances.
    held_out = held_out and len(rows) - num_new >= 2
    resample_errors = []  # texts, absolute**2, relative**2
    for _ in range(resamples):
        new = np.ones(len(rows), dtype=bool)
        if held_out:
            new[rng.permutation(len(rows))[num_new:]] = False
        # Draw by what the old models show, measure on pairs with a new one.
        scores = text_scores(rows.values[~new] if held_out else rows.values, method)
        if not scores.sum() > 0:  # the remaining models are all equal
            scores = np.ones_like(scores)
        chances = text_chances(scores, floor=floor, weights=rows.weights)
        if replacement:
            counts = pick_with(chances, rng.integers(int(chances.sum()), size=size))
        else:
            order = rng.permutation(len(chances))
            counts = pick_without(chances, size, order, lambda limit: int(rng.integers(limit)))
        design = Design("curve", counts, expected_draws(chances, size, replacement=replacement), replacement)
        estimate = squared_distances(replace(rows, designs=[design] * len(rows)))
        pairs = np.triu(new[:, None] | new[None, :], 1)  # those of a new model, each once
        error, true = (estimate - truth)[pairs], truth[pairs]
        absolute = np.sqrt(np.nansum(error**2) / np.nansum(true**2)) if np.nansum(true**2) else 0.0
        relative = np.sqrt(np.nanmean((error / np.maximum(true, _LEAST)) ** 2))
        resample_errors.append((float(np.count_nonzero(counts)), float(absolute**2), float(relative**2)))
    texts, absolute, relative = np.mean(resample_errors, axis=0)
    return {
        "method": method,
        "draws": int(size),
        "texts": float(texts),
        "absolute": float(np.sqrt(absolute)),
        "relative": float(np.sqrt(relative)),
    }
