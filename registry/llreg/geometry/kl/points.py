"""Rows as points: squared distances, and rows that were scored on a part of the texts only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.patterns import patterns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.texts.design import Design

_NEARLY_ALL = 0.99  # a row that has this share of the texts counts as scored on all


def squared_distances(rows: Rows, others: Rows | None = None, *, num_texts: int | None = None) -> NDArray[np.float64]:
    """Squared distances |q_i - q_j|**2 = 2 N KL (Oyama et al. 2025, arXiv 2502.16173).

    Parameters
    ----------
    rows, others : Rows
        `others` are `rows` by default.
    num_texts : int, optional
        N; by default the texts of the rows.

    Returns
    -------
    float64 array of shape (n_rows, n_others), nats**2
        As if all N texts were scored; NaN for a pair that shares fewer than two.
    """
    kl = kl_plain(rows, others, se=False, tail_share=False)["kl"].values
    return np.asarray(2 * (num_texts or rows.values.shape[1]) * kl)


def comparable(squared: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Models to keep so that all distances among them are known, bool array of shape (n_models,)."""
    missing = np.isnan(squared)
    keep = np.ones(len(squared), dtype=bool)
    while missing[np.ix_(keep, keep)].any():  # drop the model that lacks most distances
        keep[np.argmax(np.where(keep, missing[:, keep].sum(axis=1), -1))] = False
    return keep


@dataclass(frozen=True, eq=False)
class Distances:
    """Squared distances of all rows to some of them.

    Attributes
    ----------
    squared : float64 array of shape (n_models, n_targets), nats**2
    column : intp array of shape (n_models,)
        Column of each row; -1 where it is no target.
    """

    squared: NDArray[np.float64]
    column: NDArray[np.intp]

    @classmethod
    def of(cls, rows: Rows, targets: NDArray[np.intp]) -> Distances:
        """Compute them; each pair of targets once."""
        column = np.full(len(rows), -1, dtype=np.intp)
        column[targets] = np.arange(len(targets))  # targets come first, and are computed among themselves once
        squared = np.empty((len(rows), len(targets)))
        squared[targets] = squared_distances(rows.take(targets))
        rest = np.flatnonzero(column < 0)
        if len(rest):
            squared[rest] = squared_distances(rows.take(rest), rows.take(targets))
        return cls(squared, column)

    def between(self, models: NDArray[np.intp], targets: NDArray[np.intp]) -> NDArray[np.float64]:
        """Distances of some rows to some targets, float64 array of shape (n_chosen, n_chosen_targets)."""
        return self.squared[np.ix_(models, self.column[targets])]


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Rows that were scored on the same part of the texts.

    Attributes
    ----------
    models : intp array of shape (n_chosen,)
    texts : intp array of shape (n_used,)
        Columns.
    weights : float64 array of shape (n_used,) or None
        Of the view, times how many texts each stands for.
    design : Design or None
        How the texts were drawn.
    """

    models: NDArray[np.intp]
    texts: NDArray[np.intp]
    weights: NDArray[np.float64] | None
    design: Design | None

    def squared(self, rows: Rows, targets: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Squared distances over these texts alone, among the targets and from these rows to them.

        Returns
        -------
        float64 arrays of shape (n_targets, n_targets) and (n_chosen, n_targets), nats**2
            On the scale of all texts.
        """
        count = rows.values.shape[1]
        both = rows.take(np.concatenate([targets, self.models]))
        part = both.take_texts(self.texts)
        # The weights hold the draw of these texts; only another draw is still to be weighted.
        designs = [
            None if whole == self.design else of_part for whole, of_part in zip(both.designs, part.designs, strict=True)
        ]
        part = replace(part, weights=self.weights, designs=designs)
        fixed, new = part.take(np.arange(len(targets))), part.take(np.arange(len(targets), len(part)))
        return squared_distances(fixed, num_texts=count), squared_distances(new, fixed, num_texts=count)


def excerpts(rows: Rows, models: NDArray[np.intp]) -> tuple[NDArray[np.intp], list[Excerpt]]:
    """The models that have all texts, or nearly, and the rest of them by the texts they have."""
    parts, whole = [], np.ones(len(models), dtype=bool)
    for pattern in patterns(rows.values[models], [rows.designs[k] for k in models]):
        design = pattern.design
        if design is None and pattern.present.mean() >= _NEARLY_ALL:
            continue
        whole[pattern.rows] = False
        texts = np.flatnonzero(pattern.present if design is None else pattern.present & (design.weights > 0))
        weights = rows.weights if design is None else design.weights * (1 if rows.weights is None else rows.weights)
        parts.append(Excerpt(models[pattern.rows], texts, None if weights is None else weights[texts], design))
    return models[whole], parts
