"""A screen for models that have seen the texts: likelier than their predicted skill explains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

EXCESS_LIMIT = 3.0  # robust standard deviations, above which a row is flagged
_MIN_ROWS = 10  # fewer have no spread worth the name
_MAD_TO_SD = 1.4826  # of a normal distribution


def mean_log_likelihood(rows: Rows) -> NDArray[np.float64]:
    """Mean log-likelihood of each row, float64 array of shape (n_models,), nats per text.

    A row that lacks texts is compared on those it has: mean of its differences from the mean row, plus that row's
    mean. Weights of the view and of samples count. NaN for a row without any of the view's texts.

    Raises
    ------
    InputError
        If no row has any of them.
    """
    base = np.ones(rows.values.shape[1]) if rows.weights is None else rows.weights
    present = ~np.isnan(rows.values)
    count = present.sum(axis=0)
    if not count.any():
        raise InputError("no row was scored on any of the view's texts; choose others with --only or --without")
    # The mean row, over the rows that have each text, and its own mean: what a row that lacks texts is completed by.
    total = rows.values.sum(axis=0, where=present)
    mean_row = np.divide(total, count, out=np.zeros_like(total), where=count > 0)  # (n_texts,)
    level = float(np.average(mean_row, weights=base * (count > 0)))
    means = np.full(len(rows), np.nan)
    for k, row in enumerate(rows.values):
        design = rows.designs[k]
        weights = np.where(present[k], base if design is None else base * design.weights, 0)
        if weights.any():
            means[k] = level + np.average(np.where(present[k], row - mean_row, 0), weights=weights)
    return means


def likelihood_excess(likelihood: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """How far each row's mean log-likelihood is above what its predicted skill suggests.

    Parameters
    ----------
    likelihood : float64 array of shape (n_models,), nats per text
        Mean log-likelihoods.
    predicted : float64 array of shape (n_models, n_tasks)
        Predicted scores, of scored models without their own score; NaN where there is none.

    Returns
    -------
    float64 array of shape (n_models,), or None
        In robust standard deviations; NaN for a row that lacks a prediction. None with fewer than ten rows, or if
        all predictions are equal.

    Notes
    -----
    Oyama et al. 2025 (arXiv 2502.16173) compare mean log-likelihood and benchmark score: high likelihood without
    the score suggests that the model has trained on the texts. Here the score is the predicted skill x, the mean over
    benchmarks of the standardised predictions, which rows without scores have too; the residual of the mean
    log-likelihood on x in simple least squares is taken, minus its median, over 1.4826 median absolute deviations.
    Above 3 a row is flagged, as one in 700 is by chance if residuals are normal. q does not see the mean
    log-likelihood, so knowing the texts does not look like skill. But mean log-likelihood is size and kind of training
    text, too: a model that was honestly trained on the texts' source (for modelmap, the Pile) stands out as well. A
    flag is a question, not a finding.
    """
    excess = np.full(len(likelihood), np.nan)
    complete = ~np.isnan(predicted).any(axis=1) & ~np.isnan(likelihood)
    skill = predicted[complete]  # (n_complete, n_tasks)
    skill = skill[:, np.ptp(skill, axis=0) > 0] if complete.any() else skill
    if complete.sum() < _MIN_ROWS or not skill.shape[1]:
        return None
    # Mean of the standardised predictions; then the residuals of least squares on it, in robust standard deviations.
    x = ((skill - skill.mean(axis=0)) / skill.std(axis=0)).mean(axis=1)
    y = likelihood[complete] - likelihood[complete].mean()
    residual = y - (x @ y) / (x @ x) * x  # x and y have mean 0
    residual -= np.median(residual)
    spread = _MAD_TO_SD * np.median(np.abs(residual))
    if spread > 0:
        excess[complete] = residual / spread
    return excess
