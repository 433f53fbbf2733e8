"""Which texts a pair of rows shares, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.texts.design import Design

_PANEL = 64  # rows at a time: 5 MB for 10,000 texts, which stays in the cache


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
    gaps = np.isnan(values.sum(axis=1))  # most rows have none: a sum is quicker than a mask
    for k, row in enumerate(values):
        mask = np.packbits(~np.isnan(row)).tobytes() if gaps[k] else b""
        groups.setdefault((mask, designs[k] if designs is not None else None), []).append(k)
    return [
        Pattern(np.array(rows, dtype=np.intp), ~np.isnan(values[rows[0]]), design)
        for (_, design), rows in groups.items()
    ]


def pattern_groups(of_rows: Sequence[Pattern]) -> list[list[Pattern]]:
    """Patterns in groups that are taken together: rows with gaps of whatever pattern form one group.

    A pattern of all texts and each pattern of a sample is a group of its own.
    """
    gaps = [pattern for pattern in of_rows if pattern.design is None and not pattern.present.all()]
    return [[pattern] for pattern in of_rows if pattern not in gaps] + ([gaps] if gaps else [])


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the texts of a pair were drawn: what the standard error needs.

    With r the weighted squared differences less their mean, the draw adds ``noise @ r**2 - sum(scale * (part @ r)**2)``
    to the variance of their sum; `scale`, `part` over `parts`, one a design.

    Attributes
    ----------
    weights : float64 array of shape (count,)
        How many texts of the set each stands for.
    shares : float64 array of shape (count,)
        Share of the sum of squares that each would have if the draw were ideal.
    noise : float64 array of shape (count,)
    parts : tuple of (float64 array of shape (count,), float)
    size : float
        Texts of the set that both rows could be scored on, weighted as the view has them.
    base : float64 array of shape (n_texts,) or None
        The view's weights, if every text drawn was scored: then nothing about the texts themselves is estimated.
    """

    weights: NDArray[np.float64]
    shares: NDArray[np.float64]
    noise: NDArray[np.float64]
    parts: tuple[tuple[NDArray[np.float64], float], ...]
    size: float
    base: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class FineColumns:
    """The fine coordinates of some texts: consecutive columns, one or several for each text.

    Attributes
    ----------
    columns : slice or intp array of shape (n_columns,)
        Where they are among those of all texts.
    starts : intp array of shape (n_texts,) or None
        First of each text, counted in `columns`; None: each text has one.
    sizes : intp array of shape (n_texts,)
        How many each text has.
    """

    columns: slice | NDArray[np.intp]
    starts: NDArray[np.intp] | None
    sizes: NDArray[np.intp]

    @classmethod
    def of(cls, text: NDArray[np.intp], texts: slice | NDArray[np.intp]) -> FineColumns:
        """Those of some texts.

        Parameters
        ----------
        text : intp array of shape (n_coordinates,), ascending
            The text of each coordinate of all; each text has at least one.
        texts : slice or intp array of shape (n_texts,), ascending
        """
        columns: slice | NDArray[np.intp] = slice(None)
        if not isinstance(texts, slice):
            columns = np.flatnonzero(np.isin(text, texts))
            text = text[columns]
        _, starts, sizes = np.unique(text, return_index=True, return_counts=True)
        return cls(columns, None if len(starts) == len(text) else starts, sizes)


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
    sampling : Sampling or None
        None if the texts are no sample of the set.
    fine : FineColumns or None
        Where the fine coordinates of these texts are, of rows that have such; None: rows have one value a text.
    """

    columns: slice | NDArray[np.intp]
    count: int
    weights: NDArray[np.float64] | None
    total: float
    sampling: Sampling | None = None
    fine: FineColumns | None = None

    def prepare(
        self, values: NDArray[np.float64], rows: NDArray[np.intp], shift: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Rows on these texts, multiplied by the roots of the weights; values of texts are centred before.

        Returns
        -------
        float64 array of shape (len(rows), n_columns)
            A column a text, or a fine coordinate. Sums of squared differences of it are weighted sums of squared (of texts:
            centred) differences.
        """
        # What all rows share goes first: it carries most of the magnitude and none of the differences.
        values = values if np.array_equal(rows, np.arange(len(values))) else values[rows]
        columns = self.columns if self.fine is None else self.fine.columns
        shift = shift[columns]
        prepared = np.empty((len(rows), len(shift)))
        for start in range(0, len(rows), _PANEL):
            panel = prepared[start : start + _PANEL]
            np.subtract(values[start : start + _PANEL, columns], shift, out=panel)
            if self.count and self.fine is None:
                # Summed row by row, not as a product: identical rows must come out identical, wherever they stand.
                panel -= np.average(panel, axis=1, weights=self.weights)[:, None]
            if self.weights is not None:
                panel *= self.roots if self.fine is None else np.repeat(np.sqrt(self.weights), self.fine.sizes)
        return prepared

    def of_texts(self, square: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared differences of prepared rows, (n_pairs, n_columns), as one number a text: (n_pairs, count)."""
        return square if self.fine is None or self.fine.starts is None else np.add.reduceat(square, self.fine.starts, 1)

    def mean_bytes(self, num_bytes: NDArray[np.floating]) -> float:
        """Mean bytes of the texts used, or of those that they are a sample of; NaN for fewer than two.

        Parameters
        ----------
        num_bytes : float array of shape (n_texts,)
        """
        if self.count < 2:
            return math.nan
        if self.sampling is not None and self.sampling.base is not None:
            return float(np.average(num_bytes, weights=self.sampling.base))
        return float(np.average(num_bytes[self.columns], weights=self.weights))

    @cached_property
    def roots(self) -> NDArray[np.float64] | float:
        """Roots of the weights; those of a sample with Bessel's correction, for its mean is estimated too.

        The variance of the weighted mean, which the sum of squares about it lacks, is itself a weighted sum of squares.
        """
        if self.weights is None:
            return 1.0
        if self.sampling is None:
            return np.sqrt(self.weights)
        return np.asarray(np.sqrt(self.weights + self.sampling.noise * self.weights**2 / self.total))


def pair_texts(a: Pattern, b: Pattern, weights: NDArray[np.float64] | None, num_texts: int) -> PairTexts:
    """The texts that two patterns share, with their weights.

    Parameters
    ----------
    a, b : Pattern
    weights : float64 array of shape (n_texts,), optional
        The view's text weights.
    num_texts : int

    Notes
    -----
    Rows scored on all texts: weights as the view has them, divided by their sum. Rows scored on a sample: a drawn
    text stands for counts / expected of the set (Oyama et al. 2025b, arXiv 2505.15428), and sums are divided by the number
    of texts of the set, not by the sum of the weights, which varies with the draw. For two rows drawn independently the
    product of the two weights is unbiased again; for rows of one sample it is counted once. A view that leaves out texts,
    or a pair of samples, holds more or fewer draws than expected by chance: the ratio of the chances drawn to the
    expected ones takes that out (it is 1 for one sample and all texts).
    """
    present = a.present & b.present
    designs = [
        design for design in ([a.design] if a.design == b.design else [a.design, b.design]) if design is not None
    ]
    if designs:
        return _sampled_texts(present, designs, np.ones(num_texts) if weights is None else weights)
    columns = slice(None) if present.all() else np.flatnonzero(present)
    shared = None if weights is None else weights[columns]
    return PairTexts(columns, int(present.sum()), shared, float(present.sum() if shared is None else shared.sum()))


def _sampled_texts(present: NDArray[np.bool_], designs: list[Design], base: NDArray[np.float64]) -> PairTexts:
    """Texts of a pair of which at least one row was scored on a sample; all arrays are of shape (n_texts,)."""
    stands_for = np.prod([design.weights for design in designs], axis=0)
    drawn = base * stands_for
    columns = np.flatnonzero(present & (drawn > 0))
    if not len(columns) or not all(design.covers for design in designs):
        return PairTexts(np.empty(0, np.intp), 0, np.empty(0), 0.0)
    # Of the drawn texts some may lack in a row (too long for its context): they lack in the same share of the set.
    size = float(base.sum() * drawn[columns].sum() / drawn.sum())
    chances = sum((design.expected / design.expected.sum() for design in designs), np.zeros(len(base)))
    ideal = stands_for * chances
    parts = []  # of the variance of the draw, as `Sampling` has it
    for design in designs:
        total = float(design.freedom.sum())
        part = _per_drawn(design, design.freedom, design.counts)
        parts.append((part[columns], design.correction / total if total > 0 else 0.0))
    sampling = Sampling(
        weights=stands_for[columns],
        shares=ideal[columns] / ideal[columns].sum(),
        noise=_draw_noise(designs)[columns],
        parts=tuple(parts),
        size=size,
        base=base if len(columns) == np.count_nonzero(drawn) else None,
    )
    return PairTexts(columns, len(columns), drawn[columns], size * float(ideal.sum() / chances.sum()), sampling)


def _draw_noise(designs: list[Design]) -> NDArray[np.float64]:
    """Coefficient of each squared term in the variance of the draw, shape (n_texts,).

    One sample: sum over draws of r**2, times n / (n - 1). Two: V(A) + E V(B given A), each term estimated from the texts
    in both, and the mean of that and the same with A and B exchanged.
    """
    alone = [design.correction * _per_drawn(design, design.freedom, design.counts**2) for design in designs]
    if len(alone) == 1:
        return alone[0]
    a, b = (_per_drawn(design, 1.0, design.weights) for design in designs)
    return np.asarray((alone[0] * (1 + b) + alone[1] * (1 + a)) / 2)


def _per_drawn(
    design: Design, numerator: NDArray[np.float64] | float, denominator: NDArray[np.number]
) -> NDArray[np.float64]:
    """A quotient for the texts that were drawn, 0 for the others."""
    return np.asarray(np.divide(numerator, denominator, out=np.zeros(len(design.counts)), where=design.counts > 0))
