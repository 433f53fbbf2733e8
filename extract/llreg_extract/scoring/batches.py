"""Batches: how many tokens go through the model at a time, and which texts go together."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Padded tokens of a batch at most. On a CPU larger batches are no faster (measured: SmolLM2-135M, 2 threads) and leave
# threads idle at the end; on a GPU they fill the device.
CPU_TOKENS, GPU_TOKENS = 256, 16_384
# At that budget a GPU waits for launches when the model is small.
SMALL_MODEL_GPU_TOKENS, SMALL_MODEL = 65_536, 1_000_000_000  # tokens; parameters


def default_batch_tokens(device_type: str, num_parameters: int | None = None) -> int:
    """Padded tokens of a batch at most, where the caller does not say: 256 on a CPU, 16,384 on a GPU, 65,536 there
    for a model of less than a billion parameters."""
    if device_type != "cuda":
        return CPU_TOKENS
    is_small = num_parameters is not None and num_parameters < SMALL_MODEL
    return SMALL_MODEL_GPU_TOKENS if is_small else GPU_TOKENS


class BatchPlan:
    """Texts still to be scored, given out in batches: longest first, under a budget of padded tokens.

    Longest first, so that a batch which does not fit in memory shows at once, and so that texts of a
    batch are of similar length and little is padded.

    Parameters
    ----------
    lengths : int64 array of shape (n_texts,), tokens
    texts : iterable of int
        Indices of the texts to score.
    budget : int
        Padded tokens of a batch at most; a single longer text is a batch of its own.
    scored : collection of int
        Texts among them that are scored already: batches are made as if they were not, and then go without them.
    single : bool
        One text a batch.
    boundary : int, optional
        Length, in tokens, above which the model computes differently: no batch spans it.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        texts: Iterable[int],
        budget: int,
        *,
        scored: Collection[int] = (),
        single: bool = False,
        boundary: int | None = None,
    ) -> None:
        self.lengths, self.budget = lengths, max(1, budget)
        self.scored, self.single, self.boundary = scored, single, boundary
        self.retried: set[int] = set()  # texts that did not fit beside others; from then on one batch runs at a time
        self._waiting = deque(sorted(texts, key=lambda i: (-lengths[i], i)))

    def next(self) -> list[int]:
        """Indices of the next batch; empty when nothing is left."""
        while self._waiting:
            batch: list[int] = []
            while self._waiting and self._fits(batch, self._waiting[0]):
                batch.append(self._waiting.popleft())
            unscored = [text for text in batch if text not in self.scored]
            if unscored:
                return unscored
        return []

    def _fits(self, batch: Sequence[int], text: int) -> bool:
        """Whether a text may join a batch; the first always may."""
        if not batch:
            return True
        if self.single or self._beyond(batch[0]) != self._beyond(text):
            return False
        longest = max(self.lengths[batch[0]], self.lengths[text])
        return int(longest) * (len(batch) + 1) <= self.budget

    def _beyond(self, text: int) -> bool:
        return self.boundary is not None and bool(self.lengths[text] > self.boundary)

    def padded(self, batch: Sequence[int]) -> int:
        """Tokens of a batch with its padding."""
        return int(self.lengths[batch].max()) * len(batch)

    def put_back(self, batch: Sequence[int]) -> None:
        """Return a batch that could not be scored; it comes next."""
        self._waiting.extendleft(reversed(batch))

    def shrink(self, budget: int) -> None:
        """Lower the budget to `budget` tokens, unless it is lower already."""
        self.budget = max(1, min(self.budget, budget))
