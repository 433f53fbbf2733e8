"""KL divergences of two models by Monte Carlo: on texts that they write, and token by token on given texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from llreg_extract.scoring.forward import token_log_probs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg_extract import Model

    Sequences = Sequence[NDArray[np.int32]]

_TOGETHER = 48  # sequences written at a time; more only fill the memory with keys and values
_SCORED_TOGETHER = 16  # sequences scored at a time: 16 x 1,000 tokens x 4,000 entries are 256 MB of logits


class Estimate(NamedTuple):
    """A value and its standard error, nats per text."""

    value: float
    se: float

    @classmethod
    def mean(cls, values: NDArray[np.float64]) -> Estimate:
        """The mean of independent values."""
        return cls(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    @classmethod
    def half_variance(cls, values: NDArray[np.float64]) -> Estimate:
        """Half the variance of independent values; its standard error from their fourth moment (METHOD a6)."""
        square = (values - values.mean()) ** 2
        return cls(float(square.mean() / 2), float(square.std() / np.sqrt(len(values)) / 2))

    def halved_with(self, other: Estimate) -> Estimate:
        """The mean of two independent estimates."""
        return Estimate((self.value + other.value) / 2, float(np.hypot(self.se, other.se) / 2))


@dataclass(frozen=True)
class MonteCarlo:
    """What sampling says of two models.

    Attributes
    ----------
    written : Estimate
        Half the Jeffreys divergence: mean of l_i - l_j on texts that i wrote, and the reverse, halved.
    formula : Estimate
        Var(l_i - l_j) / 2 on the same texts, the mean over both writers: the registry's formula where it should hold.
    tokens : Estimate
        Half the Jeffreys divergences of the next tokens, summed along the contexts of the given texts.
    """

    written: Estimate
    formula: Estimate
    tokens: Estimate


class Sampler:
    """Writes and scores texts with a few models that share a tokenizer; what a model wrote is kept.

    Parameters
    ----------
    load : callable
        From a name to a model.
    count : int
        Texts that a model writes.
    seed : int
    """

    def __init__(self, load: Callable[[str], Model], count: int, seed: int) -> None:
        self._load, self._count, self._seed = cache(load), count, seed
        self._written: dict[str, Sequences] = {}
        self._scores: dict[tuple[str, str], NDArray[np.float64]] = {}

    def compare(self, one: str, other: str, texts: Sequence[str]) -> MonteCarlo:
        """All three estimates for two models; lengths and first tokens of what they write are those of the texts."""
        by_one, by_other = (self._difference(one, other, writer, texts) for writer in (one, other))
        given = [ids for ids in self._encode(one, texts[: self._count]) if len(ids) > 1]
        return MonteCarlo(
            written=Estimate.mean(by_one).halved_with(Estimate.mean(-by_other)),
            formula=Estimate.half_variance(by_one).halved_with(Estimate.half_variance(by_other)),
            tokens=Estimate.mean(token_jeffreys(self._load(one), self._load(other), given) / 2),
        )

    def _difference(self, one: str, other: str, writer: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """l_one - l_other on what the writer wrote, float64 array of shape (n_samples,), nats."""
        if writer not in self._written:
            prompts = [ids for ids in self._encode(writer, texts) if len(ids) > 1]
            generator = torch.Generator().manual_seed(self._seed + len(self._written))
            picked = torch.randint(len(prompts), (self._count,), generator=generator)
            like = sorted((prompts[k] for k in picked.tolist()), key=len)  # of one length together: least is wasted
            self._written[writer] = write(self._load(writer), like, generator)
        return self._scored(one, writer) - self._scored(other, writer)

    def _scored(self, name: str, writer: str) -> NDArray[np.float64]:
        if (name, writer) not in self._scores:
            self._scores[name, writer] = log_likelihoods(self._load(name), self._written[writer])
        return self._scores[name, writer]

    def _encode(self, name: str, texts: Sequence[str]) -> Sequences:
        from llreg_extract import encode

        return encode(self._load(name), texts).ids


def write(model: Model, like: Sequences, generator: torch.Generator) -> list[NDArray[np.int32]]:
    """Sequences drawn from a model, each as long as one of those given and with its first token.

    A tokenizer without BOS leaves the first token unscored, so that one is no part of the divergence.
    """
    found: list[NDArray[np.int32]] = []
    for group in _groups(like, _TOGETHER):
        lengths = [len(ids) for ids in group]
        tokens = _continue(model.module, torch.tensor([[int(ids[0])] for ids in group]), max(lengths), generator)
        found += [row[:length] for row, length in zip(tokens.numpy().astype(np.int32), lengths, strict=True)]
    return found


@torch.inference_mode()
def _continue(module: Any, tokens: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens (b, 1) continued to (b, length), one at a time with cached keys and values."""
    written, cached = [tokens], None
    for _ in range(length - 1):
        out = module(input_ids=written[-1], past_key_values=cached, use_cache=True)
        cached = out.past_key_values
        written.append(torch.multinomial(out.logits[:, -1].float().softmax(-1), 1, generator=generator))
    return torch.cat(written, dim=1)


def log_likelihoods(model: Model, sequences: Sequences) -> NDArray[np.float64]:
    """l(x) of each sequence, float64 array of shape (n,), nats; the same code as a registry's rows."""
    sums = [
        [values.sum(dtype=np.float64) for values in token_log_probs(model.module, group, model.device)]
        for group in _groups(sequences, _SCORED_TOGETHER)
    ]
    return np.concatenate(sums)


@torch.inference_mode()
def token_jeffreys(one: Model, other: Model, sequences: Sequences) -> NDArray[np.float64]:
    """Jeffreys divergences of the next-token distributions, summed along each sequence.

    Returns
    -------
    float64 array of shape (n,), nats
        sum_t KL(p_i(. | y_<t), p_j(. | y_<t)) + the reverse, for t = 2..n.
    """
    sums = []
    for ids in sequences:
        tokens = torch.from_numpy(ids[None, :-1].astype(np.int64))
        p, q = (
            model.module(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1) for model in (one, other)
        )
        sums.append(float(((p.exp() - q.exp()) * (p - q)).sum()))  # (t, v)
    return np.array(sums)


def _groups(sequences: Sequences, size: int) -> Iterator[Sequences]:
    for start in range(0, len(sequences), size):
        yield sequences[start : start + size]
