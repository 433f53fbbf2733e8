"""Which texts a pair of rows shares, and with which weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.design import Design


@dataclass(frozen=True, eq=False)
class Pattern:
    """Rows that were scored on the same texts in the same way.

    Attributes
    ----------
    rows : intp array of shape (n_rows,)
    present : bool array of shape (n_texts,)
    design : Design or None
    """

    rows: NDArray[np.intp]
    present: NDArray[np.bool_]
    design: Design | None


def patterns(values: NDArray[np.float64], designs: Sequence[Design | None] | None) -> list[Pattern]:
    """Group rows by the texts they were scored on: each group is one matrix without gaps.

    Parameters
    ----------
    values : float64 array of shape (n_models, n_texts), nats
        NaN where not scored.
    designs : sequence of (Design or None), optional
        One a row.
    """
    groups: dict[tuple[bytes, Design | None], list[int]] = {}
    for k, row in enumerate(values):
        key = np.packbits(~np.isnan(row)).tobytes(), designs[k] if designs is not None else None
        groups.setdefault(key, []).append(k)
    return [
        Pattern(np.array(rows, dtype=np.intp), ~np.isnan(values[rows[0]]), design)
        for (_, design), rows in groups.items()
    ]


@dataclass(frozen=True, eq=False)
class PairTexts:
    """The texts of a pair of patterns.

    Attributes
    ----------
    columns : slice or intp array of shape (count,)
        Texts used; a slice where it is all of them, so that nothing is copied.
    count : int
    weights : float64 array of shape (count,) or None
        None: all equal.
    total : float
        What weighted sums are divided by.
    draws : float64 array of shape (count,) or None
        How often each text was drawn; None if the texts are no sample of the set.
    population : int
        Texts of the set, of which the used ones may be a sample.
    """

    columns: slice | NDArray[np.intp]
    count: int
    weights: NDArray[np.float64] | None
    total: float
    draws: NDArray[np.float64] | None
    population: int

    def prepare(
        self, values: NDArray[np.float64], rows: NDArray[np.intp], shift: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Rows centred over these texts and multiplied by the roots of the weights.

        Returns
        -------
        float64 array of shape (len(rows), count)
            Sums of squared differences of it are weighted sums of squared centred differences.
        """
        # What all rows share goes first: it carries most of the magnitude and none of the differences.
        centred = values[rows][:, self.columns] - shift[self.columns]
        if self.count:
            centred -= np.average(centred, axis=1, weights=self.weights)[:, None]
        if self.weights is not None:
            centred *= np.sqrt(self.weights)
        return np.asarray(centred)


def pair_texts(one: Pattern, other: Pattern, weights: NDArray[np.float64] | None, num_texts: int) -> PairTexts:
    """The texts that two patterns share, with their weights.

    Parameters
    ----------
    one, other : Pattern
    weights : float64 array of shape (n_texts,), optional
        The view's text weights.
    num_texts : int

    Notes
    -----
    Rows scored on all texts: weights as the view has them, divided by their sum. Rows scored on a sample: a drawn
    text stands for 1 / (n p_s) texts (P2, arXiv 2505.15428), and sums are divided by the number of texts of the set,
    not by the sum of the weights, which varies with the draw. For two rows drawn independently the product of the
    two weights is unbiased again; for rows of one sample it is counted once.
    """
    used = one.present & other.present
    base = np.ones(num_texts) if weights is None else weights
    design = _joint(one.design, other.design)
    columns = slice(None) if used.all() else np.flatnonzero(used)
    if design is None:
        chosen = None if weights is None else base[columns]
        total = float(np.count_nonzero(used) if chosen is None else chosen.sum())
        return PairTexts(columns, int(used.sum()), chosen, total, None, num_texts)
    sampling, draws = design
    drawn = base * sampling
    columns = np.flatnonzero(used & (drawn > 0))
    # Of the drawn texts some may lack in a row (too long for its context): they lack in the same share of the set.
    total = float(base.sum() * drawn[columns].sum() / drawn.sum()) if drawn.any() else 0.0
    return PairTexts(columns, len(columns), drawn[columns], total, draws[columns], num_texts)


def _joint(one: Design | None, other: Design | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Sampling weights and draws of a pair, or None if neither row is of a sample."""
    if one is None or other is None or one == other:
        design = one or other
        return None if design is None else (design.weights, design.counts.astype(np.float64))
    return one.weights * other.weights, np.minimum(one.counts, other.counts).astype(np.float64)
