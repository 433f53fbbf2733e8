"""Ridge regression from squared distances: equal to scikit-learn's on the coordinates, fold by fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV

from llreg.geometry.predict.ridge import ALPHAS, Ridge, cross_predict, fit

Array = np.ndarray[Any, Any]


def _squared(a: Array, b: Array) -> Array:
    return np.asarray(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2))


def _problem(seed: int, *, models: int = 40, texts: int = 60, scale: float = 20.0) -> tuple[Array, Array]:
    """Coordinates, and scores of two tasks: one that follows from them and one that does not."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(models, texts)) * scale * rng.uniform(0.05, 1, texts)
    follows = points @ rng.normal(size=texts) / scale + rng.normal(size=models)
    return points, np.column_stack([60 + 5 * follows, rng.normal(size=models)])


@settings(max_examples=settings.default.max_examples // 4)  # scikit-learn takes 0.2 s for one
@given(st.integers(0, 10_000), st.integers(20, 45), st.sampled_from([3, 30, 80]), st.sampled_from([0.5, 20.0, 300.0]))
def test_the_fit_is_that_of_scikit_learn(seed: int, models: int, texts: int, scale: float) -> None:
    points, scores = _problem(seed, models=models, texts=texts, scale=scale)
    new = np.random.default_rng(seed + 1).normal(size=(4, texts)) * scale
    fitted = fit(Ridge.of(_squared(points, points)), scores)
    predicted = fitted.predict(_squared(new, points))
    for task in range(2):
        theirs = RidgeCV(ALPHAS, cv=5).fit(points, scores[:, task])
        assert fitted.alphas[task] == theirs.alpha_
        np.testing.assert_allclose(predicted[:, task], theirs.predict(new), rtol=1e-8, atol=1e-8)


def test_every_fold_is_that_of_scikit_learn() -> None:
    """Of even folds and of uneven ones, for two tasks: 32 fits, of 0.1 s in scikit-learn."""
    points, scores = _problem(0)
    order = np.random.default_rng(0).permutation(len(points))
    uneven = np.split(order, [3, 20])  # as families make them
    splits = [np.array_split(order, 5), uneven]
    predicted = cross_predict(Ridge.of(_squared(points, points)), scores, splits)
    chosen = set()
    for s, folds in enumerate(splits):
        for fold in folds:
            kept = np.setdiff1d(order, fold)
            for task in range(2):
                theirs = RidgeCV(ALPHAS, cv=5).fit(points[kept], scores[kept, task])
                chosen.add(theirs.alpha_)
                np.testing.assert_allclose(predicted[s, fold, task], theirs.predict(points[fold]), rtol=1e-8, atol=1e-8)
    assert len(chosen) > 1  # else choosing has not been tested


def test_the_choice_within_a_grid_of_one_is_that_one() -> None:
    points, scores = _problem(0)
    assert (fit(Ridge.of(_squared(points, points)), scores, [100.0]).alphas == 100.0).all()


@pytest.mark.parametrize("left", [3, 1])
def test_too_few_models_for_inner_folds_take_the_strongest_penalty(left: int) -> None:
    points, scores = _problem(0, models=6)
    fold, kept = np.arange(left, 6), np.arange(left)
    predicted = cross_predict(Ridge.of(_squared(points, points)), scores, [[fold, kept]], [1.0, 1e12])
    np.testing.assert_allclose(predicted[0, fold], np.broadcast_to(scores[kept].mean(axis=0), (6 - left, 2)), rtol=1e-6)


def test_two_copies_of_a_model_predict_each_other() -> None:
    points, scores = _problem(0, models=30)
    points[1], scores[1] = points[0], scores[0]
    folds = [np.array([k]) for k in range(30)]
    predicted = cross_predict(Ridge.of(_squared(points, points)), scores, [folds], [1e-9])
    np.testing.assert_allclose(predicted[0, :2], scores[:2], atol=1e-4)


def test_huge_distances_are_no_crash() -> None:
    points, scores = _problem(0, scale=1e9)
    folds = np.array_split(np.arange(len(points)), 5)
    assert np.isfinite(cross_predict(Ridge.of(_squared(points, points)), scores, [folds])).all()


def test_distances_that_are_not_euclidean_are_no_crash() -> None:
    rng = np.random.default_rng(0)
    squared = rng.uniform(50, 100, (30, 30))
    squared = np.triu(squared, 1) + np.triu(squared, 1).T
    ridge = Ridge.of(squared)
    assert ridge.values.min() == 0
    folds = np.array_split(np.arange(30), 5)
    assert np.isfinite(cross_predict(ridge, rng.normal(size=(30, 1)), [folds])).all()
