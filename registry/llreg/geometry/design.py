"""Sampling designs: which texts a row was scored on, and how they were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Design:
    """A sample of texts, drawn with replacement.

    Attributes
    ----------
    id : str
        sha256 of the subset file.
    draws : int
        Texts drawn; a text may be drawn more than once.
    counts : int64 array of shape (n_texts,)
        How often each text of the set was drawn.
    weights : float64 array of shape (n_texts,)
        Weight of each text, counts / (draws * probability): 0 where it was not drawn, and n_texts in sum on average
        (P2, arXiv 2505.15428; P2's w is the square root of it).
    """

    id: str
    draws: int
    counts: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Design) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Design:
        """The design in a subset file (``subset.schema.json``)."""
        count = int(document["num_texts"])
        texts = np.asarray(document["texts"], dtype=np.intp)
        drawn = np.asarray(document["counts"], dtype=np.int64)
        counts, weights = np.zeros(count, np.int64), np.zeros(count)
        counts[texts] = drawn
        weights[texts] = drawn / (int(document["draws"]) * np.asarray(document["probabilities"], dtype=np.float64))
        return cls(str(document["id"]), int(document["draws"]), counts, weights)
