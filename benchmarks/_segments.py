"""Segments of texts, and the fine and the text estimate of KL from their log-likelihoods: written apart from llreg's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from _exact import Scored
    from numpy.typing import NDArray

TARGET, MOST = 24, 48  # bytes of a segment


class Value(NamedTuple):
    """A mean over texts and its standard error, nats a text."""

    mean: float
    se: float

    @classmethod
    def of(cls, per_text: NDArray[np.float64]) -> Value:
        """Of what each text gives."""
        return cls(float(per_text.mean()), float(per_text.std(ddof=1) / np.sqrt(len(per_text))))

    @property
    def relative(self) -> float:
        """Standard error over value."""
        return self.se / self.mean


# Segments


def cut(text: str, target: int = TARGET, most: int = MOST) -> list[int]:
    """Bytes of a text's segments: character by character, where llreg searches for the next cut."""
    sizes, size, before = [], 0, " "
    for character in text:
        length, is_space = len(character.encode()), character in " \t\n\r\f\v"
        if size and ((size >= target and is_space and before not in " \t\n\r\f\v") or size + length > most):
            sizes.append(size)
            size = 0
        size, before = size + length, character
    return [*sizes, size]


@dataclass(frozen=True)
class Segments:
    """The segments of some texts.

    Attributes
    ----------
    sizes : int64 array of shape (n_segments,), bytes
    text : int64 array of shape (n_segments,)
        Ascending.
    """

    sizes: NDArray[np.int64]
    text: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str], target: int = TARGET, most: int = MOST) -> Segments:
        """The cuts of some texts."""
        lists = [cut(text, target, most) for text in texts]
        return cls(np.concatenate(lists), np.repeat(np.arange(len(lists)), [len(sizes) for sizes in lists]))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Segments of each text."""
        return np.bincount(self.text)

    @cached_property
    def num_bytes(self) -> NDArray[np.float64]:
        """Bytes of each text."""
        return self.per_text(self.sizes)

    @cached_property
    def correction(self) -> NDArray[np.float64]:
        """By what each text's squares are multiplied: without the drift, independent differences with variances as their bytes
        keep the share 1 - sum b**2 / B**2 of their squares. 1 in a text of one segment, which keeps its difference."""
        left = 1 - self.per_text(self.sizes**2) / self.num_bytes**2
        return np.where(self.counts > 1, 1 / np.where(left > 0, left, 1), 1)

    def per_text(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over each text's segments."""
        return np.bincount(self.text, values, minlength=len(self.counts))

    def sums(self, scored: Scored, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of tokens' values over the segments in which they begin."""
        ends = np.cumsum(self.sizes)
        begins = np.concatenate([[0], np.cumsum(self.num_bytes)])[scored.text] + scored.start
        return np.bincount(np.searchsorted(ends, begins, "right"), values, minlength=len(self.sizes))

    def residuals(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is left of the differences without the drift, (n_segments,), of a text of one segment all."""
        slopes = np.where(self.counts > 1, self.per_text(differences) / self.num_bytes, 0)
        return differences - self.sizes * slopes[self.text]

    def fine(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """The fine estimate of each text, nats."""
        return self.per_text(self.residuals(differences) ** 2) * self.correction / 2

    def signed(self, differences: NDArray[np.float64], num_sums: int, seed: int) -> NDArray[np.float64]:
        """The same from a few sums a text: segments are dealt to them in turn, in random order and with random signs."""
        rng = np.random.default_rng(seed)
        values = self.residuals(differences) * np.sqrt(self.correction)[self.text]
        order = np.lexsort((rng.random(len(values)), self.text))
        rank = np.empty(len(values), np.int64)
        rank[order] = np.arange(len(values)) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        cells = self.text * num_sums + rank % num_sums
        sums = np.bincount(cells, rng.choice([-1, 1], len(values)) * values, minlength=len(self.counts) * num_sums)
        return (sums**2).reshape(-1, num_sums).sum(1) / 2


def halved_variance(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each text gives to half the variance: the paper's KL."""
    return (differences - differences.mean()) ** 2 / 2
