"""Benchmark scores from rows: ridge regression with families left out, intervals, and a screen for leaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.families import families_of
from llreg.geometry.kl.points import Distances, Excerpt, comparable, excerpts
from llreg.geometry.predict.leak import likelihood_excess, mean_log_likelihood
from llreg.geometry.predict.prediction import Agreement, Prediction, TaskResult
from llreg.geometry.predict.ridge import ALPHAS, Folds, Ridge, cross_predict, fit
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.predict.scores import Scores

MIN_MODELS = 5
_FOUND = ("out_of_fold", "predicted", "low", "high")


def predict(
    rows: Rows,
    scores: Scores,
    *,
    seeds: Sequence[int] = range(5),
    folds: int = 5,
    alphas: Sequence[float] = ALPHAS,
    level: float = 0.9,
    strict: bool = False,
) -> Prediction:
    """Predict benchmark scores from rows, and say how well that works.

    Parameters
    ----------
    rows : Rows
        With and without scores.
    scores : Scores
        See `llreg.geometry.predict.scores.read_scores`.
    seeds : sequence of int
        One split into folds each.
    folds : int
        At least 2; fewer are made where there are fewer families.
    alphas : sequence of float
        Penalties to choose from, above 0.
    level : float
        Of the intervals, between 0 and 1.
    strict : bool
        Whether a scored model without a row is an error.

    Returns
    -------
    Prediction

    Raises
    ------
    InputError
        If no benchmark has five scored models whose rows share texts, or an option is out of range.
    NotFoundError
        If no scored model has a row, or (strict) one has none.

    Notes
    -----
    P1 (Oyama et al. 2025, arXiv 2502.16173, prediction of benchmark scores): ridge regression of the score, unscaled,
    on the double-centred coordinates q; `GroupKFold(5, shuffle=True, random_state=seed)` with model families as groups,
    so that no model is predicted from its siblings; the penalty by `RidgeCV(alphas, cv=5)` inside; predictions
    clipped to 0..100 where all scores lie there; correlations over the pooled predictions of a seed. Families are
    those given with the scores, else those of `llreg.geometry.families.families_of`. Here the regression is
    computed from KL divergences, to which it is equivalent (see `llreg.geometry.predict.ridge.Ridge`); so rows that lack texts,
    samples of texts and text weights are treated as in every distance.

    Intervals: prediction +- the ceil((n + 1) level)-th smallest of n absolute residuals of predictions without the
    model's family, all seeds pooled (split conformal; Vovk et al. 2005). They cover the level if a row without a score
    is to the scored ones as one of them is to the other families; a row with siblings among the scored ones is
    covered more often, a model of an altogether new kind less.

    Rows that are likelier than their predicted skill explains are flagged: see `llreg.geometry.predict.leak`.
    """
    method = _Method(tuple(seeds), folds, tuple(alphas), level)
    method.check()
    matched = scores.match(rows.records, strict=strict)
    notes = [*scores.notes, *([matched.note] if matched.note else [])]
    families = _families(rows, matched.families, notes)
    columns = _enough(matched.values, scores.tasks, scores.source, notes)
    names, values = [scores.tasks[t] for t in columns], matched.values[:, columns]
    likelihood = mean_log_likelihood(rows)
    distances = Distances.of(rows, np.flatnonzero(~np.isnan(values).all(axis=1)))
    found = {name: np.full(values.shape, np.nan) for name in _FOUND}
    results: dict[int, TaskResult] = {}
    for part in _parts(values, names, families, distances, notes):
        of_tasks, arrays = _predict_part(part, rows, distances, method, likelihood, notes)
        results |= zip(part.tasks.tolist(), of_tasks, strict=True)
        for name, array in arrays.items():
            found[name][:, part.tasks] = array
    kept = sorted(results)
    names, values = [names[t] for t in kept], values[:, kept]
    found = {name: array[:, kept] for name, array in found.items()}
    _note_constant(values, names, notes)
    excess = likelihood_excess(likelihood, np.where(np.isnan(values), found["predicted"], found["out_of_fold"]))
    if excess is None:
        notes.append("no screen for leaks: it needs ten rows whose predicted scores differ")
        excess = np.full(len(rows), np.nan)
    return Prediction(
        row_ids=rows.row_ids,
        models=rows.names,
        labels=rows.labels,
        families=families,
        tasks=[results[t] for t in kept],
        scores=values,
        mean_log_likelihood=likelihood,
        excess=excess,
        level=level,
        registry=rows.registry,
        version=rows.version,
        view=rows.view.id,
        notes=list(dict.fromkeys(notes)),
        **found,
    )


# What is predicted from what


@dataclass(frozen=True)
class _Method:
    seeds: tuple[int, ...]
    folds: int
    alphas: tuple[float, ...]
    level: float

    def check(self) -> None:
        if not self.seeds:
            raise InputError("seeds: expected at least one")
        if self.folds < 2:
            raise InputError(f"folds: expected at least 2; got {self.folds}")
        if not self.alphas or not all(0 < alpha < math.inf for alpha in self.alphas):
            raise InputError(f"alphas: expected penalties above 0; got {list(self.alphas)}")
        if not 0 < self.level < 1:
            raise InputError(f"level: expected a number between 0 and 1, such as 0.9; got {self.level}")


@dataclass(frozen=True, eq=False)
class _Part:
    """Tasks that have scores of the same models.

    Attributes
    ----------
    names : list of str
        Of the tasks.
    tasks : intp array of shape (n_tasks,)
    scored, other : intp arrays of shape (n_scored,) and (n_other,)
        Rows with a score, and without.
    scores : float64 array of shape (n_scored, n_tasks)
    family : intp array of shape (n_scored,)
        A number a family.
    """

    names: list[str]
    tasks: NDArray[np.intp]
    scored: NDArray[np.intp]
    other: NDArray[np.intp]
    scores: NDArray[np.float64]
    family: NDArray[np.intp]

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """0 and 100 for tasks whose scores all lie there, else no bounds; shape (n_tasks,) each."""
        percent = ((self.scores >= 0) & (self.scores <= 100)).all(axis=0)
        return np.where(percent, 0, -np.inf), np.where(percent, 100, np.inf)


def _parts(
    values: NDArray[np.float64], names: Sequence[str], families: Sequence[str], distances: Distances, notes: list[str]
) -> list[_Part]:
    """Group the tasks by the models that have a score; without those of too few models that share texts."""
    present = ~np.isnan(values)
    groups: dict[bytes, list[int]] = {}
    for t in range(values.shape[1]):
        groups.setdefault(present[:, t].tobytes(), []).append(t)
    parts: list[_Part] = []
    few: list[str] = []
    for tasks in groups.values():
        shown = [names[t] for t in tasks]
        scored = _comparable(distances, np.flatnonzero(present[:, tasks[0]]), shown, notes)
        if len(scored) < MIN_MODELS:
            few += [f"{name} has {len(scored)}" for name in shown]
            continue
        _, family = np.unique(np.array(families, dtype=str)[scored], return_inverse=True)
        other = np.flatnonzero(~present[:, tasks[0]])
        parts.append(_Part(shown, np.array(tasks), scored, other, values[scored][:, tasks], family))
    if not parts:
        raise InputError(f"prediction needs at least {MIN_MODELS} scored models that share texts; {few[0]}")
    if few:
        notes.append(f"left out, with fewer than {MIN_MODELS} scored models that share texts: {', '.join(few)}")
    return parts


def _comparable(
    distances: Distances, scored: NDArray[np.intp], names: Sequence[str], notes: list[str]
) -> NDArray[np.intp]:
    """The scored rows without those that share no texts with others."""
    kept = comparable(distances.between(scored, scored))
    if MIN_MODELS <= kept.sum() < len(kept):  # else the task is left out, which is told instead
        notes.append(
            f"{', '.join(names)}: {(~kept).sum():,} scored rows share too few texts with others and are left out"
        )
    return scored[kept]


def _families(rows: Rows, given: Sequence[str | None], notes: list[str]) -> list[str]:
    """Families as given, else as declared."""
    declared = families_of(rows.records)
    if not any(given):
        notes.append("families are those that models declare; where you know better, give a column family")
    return [label or own for label, own in zip(given, declared, strict=True)]


def _enough(values: NDArray[np.float64], names: Sequence[str], source: str, notes: list[str]) -> list[int]:
    """Tasks with enough scored models."""
    counts = (~np.isnan(values)).sum(axis=0)
    few = [f"{name} has {count}" for name, count in zip(names, counts, strict=True) if count < MIN_MODELS]
    if len(few) == len(names):
        raise InputError(
            f"{source}: prediction needs at least {MIN_MODELS} scored models with a row; {few[0]}; give more scores"
        )
    if few:
        notes.append(f"left out, with fewer than {MIN_MODELS} scored models: {', '.join(few)}")
    return [t for t, count in enumerate(counts) if count >= MIN_MODELS]


def _note_constant(values: NDArray[np.float64], names: Sequence[str], notes: list[str]) -> None:
    same = [name for name, column in zip(names, values.T, strict=True) if np.nanmin(column) == np.nanmax(column)]
    if same:
        notes.append(f"{', '.join(same)}: all scores are equal, so there is nothing to predict and no correlation")


# Prediction


def _predict_part(
    part: _Part, rows: Rows, distances: Distances, method: _Method, likelihood: NDArray[np.float64], notes: list[str]
) -> tuple[list[TaskResult], dict[str, NDArray[np.float64]]]:
    """Results of the tasks, and predictions as arrays of shape (n_models, n_tasks)."""
    ridge = Ridge.of(distances.between(part.scored, part.scored))
    grouped, plain = _splits(part, method, notes)
    held = np.clip(cross_predict(ridge, part.scores, [*grouped, *plain], method.alphas), *part.bounds)
    by_family, at_random = held[: len(grouped)], held[len(grouped) :]
    honest = by_family if grouped else at_random
    half = _half_widths(np.abs(honest - part.scores), part, method.level, notes)
    fitted = fit(ridge, part.scores, method.alphas)
    found = {name: np.full((len(rows), len(part.tasks)), np.nan) for name in _FOUND}
    found["out_of_fold"][part.scored] = honest.mean(axis=0)
    whole, in_part = excerpts(rows, part.other)
    _set(found, whole, fitted.predict(distances.between(whole, part.scored)), half, part)
    for excerpt in in_part:
        values, width = _predict_excerpt(part, rows, excerpt, grouped or plain, method, notes)
        _set(found, excerpt.models, values, width, part)
    _note_texts(rows, part, found["predicted"], notes)
    results = [
        TaskResult(
            task=name,
            num_models=len(part.scored),
            num_families=int(part.family.max()) + 1,
            grouped=_agreement(by_family[:, :, t], part.scores[:, t]),
            plain=_agreement(at_random[:, :, t], part.scores[:, t]),
            baseline=_agreement(likelihood[None, part.scored], part.scores[:, t]),
            alpha=float(fitted.alphas[t]),
            half_width=float(half[t]),
        )
        for t, name in enumerate(part.names)
    ]
    return results, found


def _predict_excerpt(
    part: _Part, rows: Rows, excerpt: Excerpt, splits: Sequence[Folds], method: _Method, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions for rows that have a part of the texts, and half widths: all is done anew on these texts.

    What a sample of the texts gets wrong in a distance is more than what a point of score makes in it; over the same
    texts for all models it is wrong alike, and cancels.
    """
    nothing = np.full((len(excerpt.models), len(part.names)), np.nan), np.full(len(part.names), np.nan)
    if len(excerpt.texts) < 2:
        return nothing
    among, to = excerpt.squared(rows, part.scored)
    kept = comparable(among)
    if kept.sum() < MIN_MODELS:
        return nothing
    ridge, scores = Ridge.of(among[np.ix_(kept, kept)]), part.scores[kept]
    number = np.cumsum(kept) - 1
    remaining = [[number[fold[kept[fold]]] for fold in folds if kept[fold].any()] for folds in splits]
    held = np.clip(cross_predict(ridge, scores, remaining, method.alphas), *part.bounds)
    half = _half_widths(np.abs(held - scores), part, method.level, notes)
    return fit(ridge, scores, method.alphas).predict(to[:, kept]), half


def _set(
    found: dict[str, NDArray[np.float64]],
    models: NDArray[np.intp],
    values: NDArray[np.float64],
    half: NDArray[np.float64],
    part: _Part,
) -> None:
    """Enter predictions and intervals."""
    for name, shift in (("predicted", 0), ("low", -half), ("high", half)):
        found[name][models] = np.clip(values + shift, *part.bounds)


def _note_texts(rows: Rows, part: _Part, predicted: NDArray[np.float64], notes: list[str]) -> None:
    """Say where missing texts make a prediction rougher, or impossible."""
    lost = int(np.isnan(predicted[part.other]).any(axis=1).sum())
    if lost:
        notes.append(f"{lost:,} rows share too few texts with scored ones to be predicted")
    in_part = sum(len(excerpt.models) for excerpt in excerpts(rows, part.scored)[1])
    if in_part:
        notes.append(f"{in_part:,} scored rows have a part of the texts only; what they add is rougher")


def _splits(part: _Part, method: _Method, notes: list[str]) -> tuple[list[Folds], list[Folds]]:
    """Folds of each seed: with families kept together (none if there is one family only), and without."""
    from sklearn.model_selection import GroupKFold, KFold

    count, num_families = len(part.scored), int(part.family.max()) + 1
    shown = ", ".join(part.names)
    if count < 2 * method.folds:
        notes.append(f"{shown}: only {count} scored models; correlations and intervals are rough")
    if num_families == 1:
        notes.append(
            f"{shown}: all scored models are of one family, which cannot be left out whole: models are predicted from "
            f"their siblings, and intervals are too narrow for other families"
        )
    elif num_families < method.folds:
        notes.append(f"{shown}: {num_families} families make {num_families} folds, not {method.folds}")
    grouped: list[Folds] = []
    plain: list[Folds] = []
    for seed in method.seeds:
        if num_families > 1:
            splitter = GroupKFold(min(method.folds, num_families), shuffle=True, random_state=seed)
            grouped.append([test for _, test in splitter.split(part.scores, groups=part.family)])
        splitter = KFold(min(method.folds, count), shuffle=True, random_state=seed)
        plain.append([test for _, test in splitter.split(part.scores)])
    return grouped, plain


def _half_widths(errors: NDArray[np.float64], part: _Part, level: float, notes: list[str]) -> NDArray[np.float64]:
    """Half widths of the intervals, shape (n_tasks,); NaN with too few models for the level.

    Parameters
    ----------
    errors : float64 array of shape (n_seeds, n_scored, n_tasks)
        Absolute residuals.
    """
    num_seeds, count, num_tasks = errors.shape
    rank = math.ceil((count + 1) * level - 1e-9)
    if rank > count:
        needed = math.ceil(level / (1 - level) - 1e-9)
        notes.append(f"{', '.join(part.names)}: no intervals at level {level:g}: they need {needed} scored models")
        return np.full(num_tasks, np.nan)
    pooled = np.sort(errors.reshape(-1, num_tasks), axis=0)
    return np.asarray(pooled[rank * num_seeds - 1])


# Agreement


def _agreement(predicted: NDArray[np.float64], scores: NDArray[np.float64]) -> Agreement:
    """Correlations of each row of `predicted`, shape (n_seeds, n_scored), with the scores."""
    from scipy.stats import rankdata

    linear = [_correlation(one, scores) for one in predicted]
    ranks = [_correlation(rankdata(one), rankdata(scores)) for one in predicted]
    return Agreement(*_mean_sd(linear), *_mean_sd(ranks))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson correlation; NaN if one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
