"""Ridge regression from squared distances, cross-validated at every penalty from one eigendecomposition."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHAS = tuple(10.0**k for k in range(1, 10))  # the grid of Oyama et al. 2025
INNER_FOLDS = 5

Folds = Sequence["NDArray[np.intp]"]


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression with a free intercept on points that are known by their squared distances.

    Attributes
    ----------
    squared : float64 array of shape (n_models, n_models)
        Squared distances of the points.
    vectors : float64 array of shape (n_models, n_models)
        Eigenvectors of the centred inner products, in columns, each with its mean taken off.
    values : float64 array of shape (n_models,)
        Their eigenvalues, at least 0.

    Notes
    -----
    A free intercept makes ridge regression blind to where the origin is, and the solution needs inner products
    only, so centred inner products -1/2 J D J of the squared distances D are all of it (J takes off means). Hence
    regression on the double-centred q (`llreg.geometry.view.view.double_centred`) is a function of the KL divergences,
    and the rows over which q was centred do not matter.

    The residuals of a fit are M y with M = J (I + K / alpha)^-1 J. Leaving out a block B of models leaves the
    residuals (M_BB)^-1 (M y)_B on it, exactly: a fit without B is the fit of all models whose dual coefficients
    vanish on B. So every fold of every split, and every fold inside it, comes from one M.
    """

    squared: NDArray[np.float64]
    vectors: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, squared: NDArray[np.float64]) -> Ridge:
        """From squared distances, float64 array of shape (n_models, n_models)."""
        from scipy.linalg import eigh

        rows = squared - squared.mean(axis=0)
        inner = (rows - rows.mean(axis=1, keepdims=True)) / -2
        values, vectors = eigh((inner + inner.T) / 2, check_finite=False)
        # Distances over different texts need not be Euclidean; the nearest that are have no negative eigenvalue.
        return cls(squared, vectors - vectors.mean(axis=0), np.maximum(values, 0))

    def residual_maker(self, alpha: float) -> NDArray[np.float64]:
        """M of the notes, float64 array of shape (n_models, n_models)."""
        return np.asarray((self.vectors * (alpha / (self.values + alpha))) @ self.vectors.T)


@dataclass(frozen=True, eq=False)
class Fit:
    """Ridge regression fitted to all models.

    Attributes
    ----------
    alphas : float64 array of shape (n_tasks,)
        The penalties chosen.
    dual : float64 array of shape (n_models, n_tasks)
        Coefficients of the inner products; they sum to 0.
    mean_score : float64 array of shape (n_tasks,)
    mean_squared : float64 array of shape (n_models,)
        Mean squared distance of each model.
    """

    alphas: NDArray[np.float64]
    dual: NDArray[np.float64]
    mean_score: NDArray[np.float64]
    mean_squared: NDArray[np.float64]

    def predict(self, squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of new points from their squared distances to the models of the fit.

        Parameters
        ----------
        squared : float64 array of shape (n_new, n_models)

        Returns
        -------
        float64 array of shape (n_new, n_tasks)
        """
        return np.asarray(self.mean_score + (squared - self.mean_squared) @ self.dual / -2)


def fit(ridge: Ridge, scores: NDArray[np.float64], alphas: Sequence[float] = ALPHAS) -> Fit:
    """Fit to all models, with the penalty of each task from cross-validation.

    Parameters
    ----------
    ridge : Ridge
    scores : float64 array of shape (n_models, n_tasks)
    alphas : sequence of float

    Notes
    -----
    As `sklearn.linear_model.RidgeCV(alphas, cv=5)`: five unshuffled folds, mean R^2, the first of equals.
    """
    blocks = _inner_folds(np.arange(len(scores)))
    quality = np.zeros((len(alphas), scores.shape[1]))  # mean R^2 of the folds, (n_alphas, n_tasks)
    duals = np.empty((len(alphas), *scores.shape))
    for a, alpha in enumerate(alphas):
        maker = ridge.residual_maker(alpha)
        residuals = maker @ scores
        duals[a] = residuals / alpha
        errors = [(scores[block], _left_out(maker, residuals, block)) for block in blocks]
        quality[a] = _mean_r2(errors, scores.shape[1], alpha == max(alphas))
    best, tasks = quality.argmax(axis=0), np.arange(scores.shape[1])
    return Fit(
        np.asarray(alphas, dtype=np.float64)[best],
        duals[best, :, tasks].T,
        scores.mean(axis=0),
        ridge.squared.mean(axis=1),
    )


def cross_predict(
    ridge: Ridge, scores: NDArray[np.float64], splits: Sequence[Folds], alphas: Sequence[float] = ALPHAS
) -> NDArray[np.float64]:
    """Predict every model from models of other folds, the penalty chosen by folds inside those.

    Parameters
    ----------
    ridge : Ridge
    scores : float64 array of shape (n_models, n_tasks)
    splits : sequence of sequence of intp arrays
        For each split its folds: the models left out together, which make up all of them.
    alphas : sequence of float

    Returns
    -------
    float64 array of shape (n_splits, n_models, n_tasks)

    Notes
    -----
    Each fold's predictions are those of `sklearn.linear_model.RidgeCV(alphas, cv=5)` fitted to the other models, as in
    Oyama et al. 2025 (arXiv 2502.16173, the section on predicting benchmark scores). Fewer than ten models leave room
    for fewer than five inner folds of two, and fewer than four for none: then the strongest penalty is taken.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    folds = [fold for split in splits for fold in split]
    predictions: list[list[NDArray[np.float64]]] = []  # by penalty and fold, (len(fold), n_tasks) each
    quality = np.empty((len(alphas), len(folds), scores.shape[1]))  # mean R^2 of the inner folds
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for a, alpha in enumerate(alphas):
            maker = ridge.residual_maker(alpha)
            work = partial(_hold_out, maker, maker @ scores, scores, alpha == max(alphas))
            with threadpool_limits(1):  # many small systems: one a core, not all cores on each in turn
                of_folds = list(pool.map(work, folds))
            predictions.append([values for values, _ in of_folds])
            quality[a] = [r2 for _, r2 in of_folds]
    best = quality.argmax(axis=0)  # penalty by (fold, task)
    result = np.empty((len(splits), *scores.shape))
    split_of = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    for f, fold in enumerate(folds):
        of_tasks = [predictions[a][f][:, t] for t, a in enumerate(best[f])]
        result[split_of[f], fold] = np.stack(of_tasks, axis=1)
    return result


def _hold_out(
    maker: NDArray[np.float64],
    residuals: NDArray[np.float64],
    scores: NDArray[np.float64],
    strongest: bool,
    fold: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions of a fold, shape (len(fold), n_tasks), and mean R^2 of the folds inside the rest, shape (n_tasks,)."""
    rest = np.setdiff1d(np.arange(len(scores)), fold)
    inner = []
    for block in _inner_folds(rest):
        errors = _left_out(maker, residuals, np.concatenate([fold, block]))
        inner.append((scores[block], errors[len(fold) :]))
    return scores[fold] - _left_out(maker, residuals, fold), _mean_r2(inner, scores.shape[1], strongest)


def _inner_folds(models: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Consecutive blocks, as `sklearn.model_selection.KFold` without shuffling; of two models at least, or none."""
    count = min(INNER_FOLDS, len(models) // 2)
    return np.array_split(models, count) if count > 1 else []


def _mean_r2(
    folds: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], num_tasks: int, strongest: bool
) -> NDArray[np.float64]:
    """Mean R^2 of (scores, errors) over the inner folds, shape (n_tasks,); without folds, 1 for the strongest penalty.

    As scikit-learn has it, R^2 of constant scores is 1 if they are met and 0 otherwise.
    """
    if not folds:
        return np.full(num_tasks, float(strongest))
    r2 = []
    for scores, errors in folds:
        total = ((scores - scores.mean(axis=0)) ** 2).sum(axis=0)
        wrong = (errors**2).sum(axis=0)
        r2.append(1 - np.divide(wrong, total, out=np.where(wrong > 0, 1.0, 0.0), where=total > 0))
    return np.asarray(np.mean(r2, axis=0))


def _left_out(
    maker: NDArray[np.float64], residuals: NDArray[np.float64], block: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Residuals of a block of models under the fit without them, shape (len(block), n_tasks)."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    part = maker[np.ix_(block, block)]
    try:
        factor = cho_factor(part.T, lower=True, check_finite=False)
        return np.asarray(cho_solve(factor, residuals[block], check_finite=False))
    except LinAlgError:  # the penalty drowns in the rounding of far larger distances
        return np.asarray(np.linalg.lstsq(part, residuals[block])[0])
