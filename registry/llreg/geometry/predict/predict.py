"""Benchmark scores from rows: ridge regression with families left out, intervals, and a screen for leaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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
_ARRAYS = ("out_of_fold", "predicted", "low", "high")


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

    Behind `Registry.predict`, which describes parameters, result and errors. `rows` are seen through a view already.

    Notes
    -----
    Oyama et al. 2025 (arXiv 2502.16173, prediction of benchmark scores): ridge regression of the score, unscaled,
    on the double-centred coordinates q; `GroupKFold(5, shuffle=True, random_state=seed)` with model families as groups,
    so that no model is predicted from its siblings; the penalty by `RidgeCV(alphas, cv=5)` inside; predictions
    clipped to 0..100 where all scores lie there; correlations over the pooled predictions of a seed. Families are
    those given with the scores, else those of `llreg.geometry.families.families_of`. Here the regression is
    computed from KL divergences, to which it is equivalent (see `llreg.geometry.predict.ridge.Ridge`); so rows that lack
    texts, samples of texts and text weights are treated as in every distance.

    Intervals: prediction +- the ceil((n + 1) level)-th smallest of n absolute residuals of predictions without the
    model's family, all seeds pooled (split conformal; Vovk et al. 2005). They cover the level if a row without a score
    is to the scored ones as one of them is to the other families; a row with siblings among the scored ones is
    covered more often, a model of an altogether new kind less.

    Rows that are likelier than their predicted skill explains are flagged: see `llreg.geometry.predict.leak`.
    """
    seeds, alphas = tuple(seeds), tuple(alphas)
    if not seeds:
        raise InputError("seeds: expected at least one")
    if folds < 2:
        raise InputError(f"folds: expected at least 2; got {folds}")
    if not alphas or not all(0 < alpha < math.inf for alpha in alphas):
        raise InputError(f"alphas: expected penalties above 0; got {list(alphas)}")
    if not 0 < level < 1:
        raise InputError(f"level: expected a number between 0 and 1, such as 0.9; got {level}")
    matched = scores.match(rows.records, strict=strict)
    notes = [*scores.notes, *([matched.note] if matched.note else [])]
    if not any(matched.families):
        notes.append("families are those that models declare; where you know better, give a column family")
    declared = families_of(rows.records)
    families = [given or own for given, own in zip(matched.families, declared, strict=True)]
    # Tasks, in order of their columns, and results by position among them.
    columns = _scored_enough(matched.values, scores.tasks, scores.source, notes)
    names, values = [scores.tasks[t] for t in columns], matched.values[:, columns]
    likelihood = mean_log_likelihood(rows)
    distances = Distances.of(rows, np.flatnonzero(~np.isnan(values).all(axis=1)))
    method = _Method(rows, distances, likelihood, seeds, folds, alphas, level, notes)
    arrays = {name: np.full(values.shape, np.nan) for name in _ARRAYS}  # (n_models, n_tasks)
    results: dict[int, TaskResult] = {}
    for group in _task_groups(values, names, families, distances, notes):
        task_results, group_arrays = method.predict_group(group)
        results |= zip(group.tasks.tolist(), task_results, strict=True)
        for name, array in group_arrays.items():
            arrays[name][:, group.tasks] = array
    predicted_tasks = sorted(results)
    values = values[:, predicted_tasks]
    arrays = {name: array[:, predicted_tasks] for name, array in arrays.items()}
    spread = np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
    constant = [names[t] for t, width in zip(predicted_tasks, spread, strict=True) if width == 0]
    if constant:
        notes.append(f"{', '.join(constant)}: all scores are equal, so there is nothing to predict and no correlation")
    excess = likelihood_excess(likelihood, np.where(np.isnan(values), arrays["predicted"], arrays["out_of_fold"]))
    if excess is None:
        notes.append("no screen for leaks: it needs ten rows whose predicted scores differ")
        excess = np.full(len(rows), np.nan)
    return Prediction(
        row_ids=rows.row_ids,
        models=rows.names,
        labels=rows.labels,
        families=families,
        tasks=[results[t] for t in predicted_tasks],
        scores=values,
        mean_log_likelihood=likelihood,
        excess=excess,
        level=level,
        registry=rows.registry,
        version=rows.version,
        view=rows.view.id,
        notes=list(dict.fromkeys(notes)),
        **arrays,
    )


# Which tasks and models


def _scored_enough(values: NDArray[np.float64], names: Sequence[str], source: str, notes: list[str]) -> list[int]:
    """Columns of the tasks with enough scored models."""
    counts = (~np.isnan(values)).sum(axis=0)
    few = [f"{name} has {count}" for name, count in zip(names, counts, strict=True) if count < MIN_MODELS]
    if len(few) == len(names):
        raise InputError(
            f"{source}: prediction needs at least {MIN_MODELS} scored models with a row; {few[0]}; give more scores"
        )
    if few:
        notes.append(f"left out, with fewer than {MIN_MODELS} scored models: {', '.join(few)}")
    return [t for t, count in enumerate(counts) if count >= MIN_MODELS]


@dataclass(frozen=True, eq=False)
class _TaskGroup:
    """Tasks that have scores of the same models: they share distances, folds and eigenvectors.

    Attributes
    ----------
    names : list of str
        Of the tasks.
    tasks : intp array of shape (n_tasks,)
    scored, unscored : intp arrays of shape (n_scored,) and (n_unscored,)
        Rows with a score, and without.
    scores : float64 array of shape (n_scored, n_tasks)
    family : intp array of shape (n_scored,)
        A number a family.
    """

    names: list[str]
    tasks: NDArray[np.intp]
    scored: NDArray[np.intp]
    unscored: NDArray[np.intp]
    scores: NDArray[np.float64]
    family: NDArray[np.intp]

    @property
    def label(self) -> str:
        """The tasks' names, for notes."""
        return ", ".join(self.names)

    def within_bounds(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions of shape (..., n_tasks), clipped to 0..100 for tasks whose scores all lie there."""
        percent = ((self.scores >= 0) & (self.scores <= 100)).all(axis=0)
        return np.clip(values, np.where(percent, 0, -np.inf), np.where(percent, 100, np.inf))


def _task_groups(
    values: NDArray[np.float64], names: Sequence[str], families: Sequence[str], distances: Distances, notes: list[str]
) -> list[_TaskGroup]:
    """Group the tasks by the models that have a score; without those of too few models that share texts."""
    present = ~np.isnan(values)
    by_models: dict[bytes, list[int]] = {}
    for t in range(values.shape[1]):
        by_models.setdefault(present[:, t].tobytes(), []).append(t)
    groups: list[_TaskGroup] = []
    few: list[str] = []
    for tasks in by_models.values():
        task_names = [names[t] for t in tasks]
        scored = np.flatnonzero(present[:, tasks[0]])
        share_texts = comparable(distances.between(scored, scored))
        lost, scored = int((~share_texts).sum()), scored[share_texts]
        if len(scored) < MIN_MODELS:
            few += [f"{name} has {len(scored)}" for name in task_names]
            continue
        if lost:
            notes.append(
                f"{', '.join(task_names)}: {lost:,} scored rows share too few texts with others and are left out"
            )
        _, family = np.unique(np.array(families, dtype=str)[scored], return_inverse=True)
        unscored = np.flatnonzero(~present[:, tasks[0]])
        groups.append(_TaskGroup(task_names, np.array(tasks), scored, unscored, values[scored][:, tasks], family))
    if not groups:
        raise InputError(f"prediction needs at least {MIN_MODELS} scored models that share texts; {few[0]}")
    if few:
        notes.append(f"left out, with fewer than {MIN_MODELS} scored models that share texts: {', '.join(few)}")
    return groups


# Prediction


@dataclass(frozen=True, eq=False)
class _Method:
    """What all groups of tasks are predicted from, and how; notes are added to."""

    rows: Rows
    distances: Distances
    likelihood: NDArray[np.float64]
    seeds: tuple[int, ...]
    folds: int
    alphas: tuple[float, ...]
    level: float
    notes: list[str] = field(default_factory=list)

    def predict_group(self, group: _TaskGroup) -> tuple[list[TaskResult], dict[str, NDArray[np.float64]]]:
        """Results of the tasks, and `_ARRAYS` of shape (n_models, n_tasks)."""
        ridge = Ridge.of(self.distances.between(group.scored, group.scored))
        grouped, plain = self._splits(group)
        # Out-of-fold predictions of the scored models, (n_splits, n_scored, n_tasks)
        held_out = group.within_bounds(cross_predict(ridge, group.scores, [*grouped, *plain], self.alphas))
        by_family, at_random = held_out[: len(grouped)], held_out[len(grouped) :]
        honest = by_family if grouped else at_random
        half_width = self._half_widths(np.abs(honest - group.scores), group)
        fitted = fit(ridge, group.scores, self.alphas)
        arrays = {name: np.full((len(self.rows), len(group.tasks)), np.nan) for name in _ARRAYS}
        arrays["out_of_fold"][group.scored] = honest.mean(axis=0)
        # Rows without a score: those on (nearly) all texts from the fit, the others from one on their own texts.
        whole, parts = excerpts(self.rows, group.unscored)
        predictions = [(whole, fitted.predict(self.distances.between(whole, group.scored)), half_width)]
        predictions += [(excerpt.models, *self._predict_excerpt(group, excerpt, grouped or plain)) for excerpt in parts]
        for models, values, half in predictions:
            for name, shift in (("predicted", 0), ("low", -half), ("high", half)):
                arrays[name][models] = group.within_bounds(values + shift)
        lost = int(np.isnan(arrays["predicted"][group.unscored]).any(axis=1).sum())
        if lost:
            self.notes.append(f"{lost:,} rows share too few texts with scored ones to be predicted")
        rough = sum(len(excerpt.models) for excerpt in excerpts(self.rows, group.scored)[1])
        if rough:
            self.notes.append(f"{rough:,} scored rows have a part of the texts only; what they add is rougher")
        results = [
            TaskResult(
                task=name,
                num_models=len(group.scored),
                num_families=int(group.family.max()) + 1,
                grouped=_agreement(by_family[:, :, t], group.scores[:, t]),
                plain=_agreement(at_random[:, :, t], group.scores[:, t]),
                baseline=_agreement(self.likelihood[None, group.scored], group.scores[:, t]),
                alpha=float(fitted.alphas[t]),
                half_width=float(half_width[t]),
            )
            for t, name in enumerate(group.names)
        ]
        return results, arrays

    def _predict_excerpt(
        self, group: _TaskGroup, excerpt: Excerpt, splits: Sequence[Folds]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predictions for rows that have a part of the texts, and half widths: all is done anew on these texts.

        What a sample of the texts gets wrong in a distance is more than what a point of score makes in it; over the same
        texts for all models it is wrong alike, and cancels.
        """
        nothing = np.full((len(excerpt.models), len(group.names)), np.nan), np.full(len(group.names), np.nan)
        if len(excerpt.texts) < 2:
            return nothing
        among, to = excerpt.squared(self.rows, group.scored)
        usable = comparable(among)
        if usable.sum() < MIN_MODELS:
            return nothing
        ridge, scores = Ridge.of(among[np.ix_(usable, usable)]), group.scores[usable]
        number = np.cumsum(usable) - 1  # of each scored model among the usable ones
        usable_splits = [[number[fold[usable[fold]]] for fold in folds if usable[fold].any()] for folds in splits]
        held_out = group.within_bounds(cross_predict(ridge, scores, usable_splits, self.alphas))
        half_width = self._half_widths(np.abs(held_out - scores), group)
        return fit(ridge, scores, self.alphas).predict(to[:, usable]), half_width

    def _splits(self, group: _TaskGroup) -> tuple[list[Folds], list[Folds]]:
        """Folds of each seed: with families kept together (none if there is one family only), and without."""
        from sklearn.model_selection import GroupKFold, KFold

        count, num_families = len(group.scored), int(group.family.max()) + 1
        if count < 2 * self.folds:
            self.notes.append(f"{group.label}: only {count} scored models; correlations and intervals are rough")
        if num_families == 1:
            self.notes.append(
                f"{group.label}: all scored models are of one family, which cannot be left out whole: models are predicted "
                f"from their siblings, and intervals are too narrow for other families"
            )
        elif num_families < self.folds:
            self.notes.append(f"{group.label}: {num_families} families make {num_families} folds, not {self.folds}")
        grouped: list[Folds] = []
        plain: list[Folds] = []
        for seed in self.seeds:
            if num_families > 1:
                splitter = GroupKFold(min(self.folds, num_families), shuffle=True, random_state=seed)
                grouped.append([test for _, test in splitter.split(group.scores, groups=group.family)])
            splitter = KFold(min(self.folds, count), shuffle=True, random_state=seed)
            plain.append([test for _, test in splitter.split(group.scores)])
        return grouped, plain

    def _half_widths(self, errors: NDArray[np.float64], group: _TaskGroup) -> NDArray[np.float64]:
        """Half widths of the intervals, shape (n_tasks,); NaN with too few models for the level.

        Parameters
        ----------
        errors : float64 array of shape (n_seeds, n_scored, n_tasks)
            Absolute residuals.
        group : _TaskGroup
        """
        num_seeds, count, num_tasks = errors.shape
        rank = math.ceil((count + 1) * self.level - 1e-9)
        if rank > count:
            needed = math.ceil(self.level / (1 - self.level) - 1e-9)
            self.notes.append(f"{group.label}: no intervals at level {self.level:g}: they need {needed} scored models")
            return np.full(num_tasks, np.nan)
        pooled = np.sort(errors.reshape(-1, num_tasks), axis=0)
        return np.asarray(pooled[rank * num_seeds - 1])


def _agreement(predicted: NDArray[np.float64], scores: NDArray[np.float64]) -> Agreement:
    """Correlations of each row of `predicted`, shape (n_seeds, n_scored), with the scores."""
    from scipy.stats import rankdata

    pearson = [_correlation(row, scores) for row in predicted]
    spearman = [_correlation(rankdata(row), rankdata(scores)) for row in predicted]
    return Agreement(*_mean_sd(pearson), *_mean_sd(spearman))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson correlation; NaN if one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
