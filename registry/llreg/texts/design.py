"""Sampling designs: which texts a row was scored on, and how they were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.texts.sampling import expected_draws

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Design:
    """A random sample of texts; equal designs have equal ids.

    Attributes
    ----------
    id : str
        sha256 of the subset file.
    counts : int64 array of shape (n_texts,)
        How often each text was drawn; at most once without replacement.
    expected : float64 array of shape (n_texts,)
        How often each was to be drawn on average: draws x chance, or its probability to be in a sample without
        replacement. 0 where it could not be drawn.
    replacement : bool
        Whether a text could be drawn more than once.
    """

    id: str
    counts: NDArray[np.int64]
    expected: NDArray[np.float64]
    replacement: bool

    def __eq__(self, design: object) -> bool:
        return isinstance(design, Design) and design.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def take(self, texts: NDArray[np.intp]) -> Design:
        """The design on some of the texts: what a view that leaves out texts shows of it."""
        return replace(self, counts=self.counts[texts], expected=self.expected[texts])

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Design:
        """The design in a subset file (``subset.schema.json``)."""
        chances = np.asarray(document["chances"], dtype=np.int64)
        counts = np.zeros(len(chances), np.int64)
        counts[np.asarray(document["texts"], dtype=np.intp)] = document["counts"]
        replacement = bool(document["replacement"])
        expected = expected_draws(chances, int(document["draws"]), replacement=replacement)
        return cls(str(document["id"]), counts, expected, replacement)

    @cached_property
    def covers(self) -> bool:
        """Whether every one of its texts could be drawn: else the sample says nothing of some."""
        return bool((self.expected > 0).all())

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How many texts each text stands for, float64 array of shape (n_texts,): counts / expected.

        0 where it was not drawn; each is 1 on average over draws. It is w**2 of Oyama et al. 2025b
        (arXiv 2505.15428).
        """
        return np.divide(self.counts, self.expected, out=np.zeros(len(self.counts)), where=self.counts > 0)

    @cached_property
    def freedom(self) -> NDArray[np.float64]:
        """How much chance is in each text's weight, float64 array of shape (n_texts,).

        Counts with replacement; 1 - expected of the drawn texts without: those sure to be drawn add no noise.
        """
        drawn = self.counts > 0
        return np.where(drawn, self.counts if self.replacement else 1.0 - self.expected, 0.0)

    @cached_property
    def correction(self) -> float:
        """Bessel's n / (n - 1) over the draws that were left to chance."""
        draws = int(self.counts.sum() if self.replacement else (self.freedom > 0).sum())
        return draws / (draws - 1) if draws > 1 else 1.0
