"""The truth that estimators of KL are measured by: divergences of next-token distributions from all logits, in float64.

Independent of llreg's rows: models are loaded and texts encoded as llreg does it, the rest is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from _sampling import Estimate, write

import llreg_extract

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg_extract import Model

    Modules = Mapping[str, Any]

T = TypeVar("T", bound="Scored")

TOP = 40  # logits that others keep of each position
_LOGITS = 1 << 21  # entries of a model's logits in float64 at a time


@dataclass(frozen=True)
class Scored:
    """Token log-probabilities of models that share a tokenizer.

    Attributes
    ----------
    names : list of str
    text : int32 array of shape (n_tokens,)
        The text of each scored token, ascending. Texts that a model cannot take are left out.
    start : int32 array of shape (n_tokens,)
        Byte of its text at which the character begins to which the token's first byte belongs.
    log_probs : float64 array of shape (n_models, n_tokens), nats
    """

    names: Sequence[str]
    text: NDArray[np.int32]
    start: NDArray[np.int32]
    log_probs: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """All arrays, to a .npz file."""
        np.savez(path, **{name: np.asarray(value) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Measured(Scored):
    """What all logits say of each pair of models, in the order of itertools.combinations.

    Attributes
    ----------
    exact : float64 array of shape (n_pairs, n_texts), nats
        (KL_ij + KL_ji) / 2 of the next-token distributions, summed over the scored positions of each text.
    top : float64 array of shape (2, n_pairs, n_texts), nats
        The same when of each position only the 40 likeliest tokens of the first model are known: their probabilities
        scaled to sum to 1; or all others taken as one outcome.
    """

    exact: NDArray[np.float64]
    top: NDArray[np.float64]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Names of the models of each pair."""
        return list(combinations(self.names, 2))


def kept(path: Path, kind: type[T], make: Callable[[], T]) -> T:
    """What is in a file, or what is made now and written there."""
    if not path.is_file():
        made = make()
        made.save(path)
        return made
    with np.load(path) as file:
        return kind(**{name: file[name].tolist() if name == "names" else file[name] for name in file.files})


def load(path: Path) -> Model:
    """A model in float32 on the CPU."""
    return llreg_extract.load(llreg_extract.resolve(str(path)), dtype="float32", device="cpu")


@torch.inference_mode()
def score(model: Model, name: str, texts: Sequence[str]) -> Scored:
    """Token log-probabilities of one model."""
    parts = []
    for tokens, targets in _sequences(model, texts):
        logits = model.module(input_ids=tokens, use_cache=False).logits[0, -1 - len(targets) : -1]
        chunks = zip(_chunks(logits), _chunks(logits, targets), strict=True)
        parts.append(torch.cat([_at(part.double().log_softmax(-1), wanted) for part, wanted in chunks]).numpy())
    text, start = token_places(model, texts)
    return Scored([name], text, start, np.concatenate(parts)[None])


@torch.inference_mode()
def measure(model: Model, modules: Modules, texts: Sequence[str]) -> Measured:
    """Everything of all pairs of some models.

    Parameters
    ----------
    model : Model
        Its tokenizer and context length are those of all.
    modules : mapping of str to torch.nn.Module
    texts : sequence of str
    """
    text, start = token_places(model, texts)
    log_probs, exact, top = [], [], []
    for tokens, targets in _sequences(model, texts):
        logits = torch.stack(
            [m(input_ids=tokens, use_cache=False).logits[0, -1 - len(targets) : -1] for m in modules.values()], 1
        )  # (t, model, v)
        for part, wanted in zip(_chunks(logits), _chunks(logits, targets), strict=True):
            log_p = part.double().log_softmax(-1)
            log_probs.append(_at(log_p, wanted[:, None].expand(-1, len(modules))))
            exact.append(_halved(_divergences(log_p)))
            top.append(_halved(_top_divergences(log_p)))
    sums = np.concatenate([torch.cat(exact)[None], torch.cat(top, 1)])  # (3, t, pair)
    per_text = np.zeros((3, sums.shape[2], len(texts)))
    np.add.at(per_text.transpose(2, 0, 1), text, sums.transpose(1, 0, 2))
    return Measured(list(modules), text, start, torch.cat(log_probs).numpy().T, per_text[0], per_text[1:])


def _divergences(log_p: torch.Tensor) -> torch.Tensor:
    """KL(p_i, p_j), (t, i, j), of log-probabilities (t, model, v): in float64 cross entropies do not cancel to nothing."""
    cross = torch.bmm(log_p.exp(), log_p.transpose(1, 2))
    return torch.diagonal(cross, dim1=1, dim2=2)[:, :, None] - cross


def _top_divergences(log_p: torch.Tensor) -> torch.Tensor:
    """The two kinds of `Measured.top`, (2, t, i, j), where i's likeliest tokens are known."""
    found = []
    for i in range(log_p.shape[1]):
        likeliest = log_p[:, i].topk(TOP, -1).indices
        known = log_p.gather(2, likeliest[:, None].expand(-1, log_p.shape[1], -1))  # (t, j, 40)
        total = known.logsumexp(-1, keepdim=True)
        scaled = known - total
        rest = torch.log1p(-total[..., 0].exp().clamp(max=1 - 1e-12))
        difference = (known[:, i : i + 1].exp() * (known[:, i : i + 1] - known)).sum(-1)
        one_outcome = difference + rest[:, i : i + 1].exp() * (rest[:, i : i + 1] - rest)
        found.append(torch.stack([(scaled[:, i : i + 1].exp() * (scaled[:, i : i + 1] - scaled)).sum(-1), one_outcome]))
    return torch.stack(found, 2)


def _halved(divergences: torch.Tensor) -> torch.Tensor:
    """Half the Jeffreys divergences of pairs, (..., pair), of KL (..., i, j)."""
    i, j = torch.triu_indices(*divergences.shape[-2:], offset=1)
    return (divergences[..., i, j] + divergences[..., j, i]) / 2


def _sequences(model: Model, texts: Sequence[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids (1, n) of each text that is scored, and those of its scored tokens."""
    encoded = llreg_extract.encode(model, texts)
    for ids, start, scored in zip(
        encoded.ids, encoded.starts, encoded.num_scored(model.context_length) > 0, strict=True
    ):
        if scored:
            tokens = torch.from_numpy(ids.astype(np.int64))
            yield tokens[None], tokens[int(start) :]


def _chunks(logits: torch.Tensor, values: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
    """Rows of the logits, or of something beside them, a few at a time."""
    return iter((logits if values is None else values).split(max(1, _LOGITS // logits[0].numel())))


def _at(log_p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return log_p.gather(-1, targets[..., None])[..., 0]


def token_places(model: Model, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Text and start of each scored token, as `Scored` has them: from the bytes that a byte-level vocabulary spells."""
    spelt = _spelt_bytes()
    encoded = llreg_extract.encode(model, texts)
    num_scored = encoded.num_scored(model.context_length)
    starts = []
    for text, ids, first in zip(texts, encoded.ids, encoded.starts, strict=True):
        tokens = model.tokenizer.library.convert_ids_to_tokens(ids[len(model.tokenizer.prefix) :].tolist())
        raw, data = [bytes(spelt[c] for c in token) for token in tokens], text.encode()
        if b"".join(raw) != data:
            raise SystemExit(f"the vocabulary is not byte-level: {tokens[:8]} for {text[:40]!r}")
        # Bytes of one character begin with it.
        character = np.maximum.accumulate(np.where(_leads(data), np.arange(len(data)), 0))
        begins = np.cumsum([0, *map(len, raw)])[:-1]
        starts.append(character[begins][int(first) - len(model.tokenizer.prefix) :])
    chosen = np.flatnonzero(num_scored)
    text_of = np.repeat(chosen, num_scored[chosen])
    return text_of.astype(np.int32), np.concatenate([starts[k] for k in chosen]).astype(np.int32)


def _leads(data: bytes) -> NDArray[np.bool_]:
    return np.asarray(np.frombuffer(data, np.uint8) & 0xC0 != 0x80)


def _spelt_bytes() -> dict[str, int]:
    """The byte of each character by which GPT-2's vocabulary spells bytes: printable ones by themselves, others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(others)}


# Texts that the models write


def written(
    models: Mapping[str, Any], pairs: Sequence[tuple[str, str]], like: Sequence[NDArray[np.int32]], seed: int
) -> dict[tuple[str, str], Estimate]:
    """Half the Jeffreys divergence of next tokens on what the models write, nats a token.

    Each model of a pair continues the first token of the given sequences to their lengths; at every position the divergence
    is exact, so that chance is only in which texts were written.

    Parameters
    ----------
    models : mapping of str to Model
    pairs : sequence of pairs of names
    like : sequence of int32 arrays, token ids
    seed : int
    """
    texts = {
        name: write(models[name], like, torch.Generator().manual_seed(seed + k))
        for k, name in enumerate(sorted({name for pair in pairs for name in pair}))
    }
    found = {}
    for one, other in pairs:
        there, back = (
            _written_by(models[i].module, models[j].module, texts[i]) for i, j in ((one, other), (other, one))
        )
        found[one, other] = there.halved_with(back)
    return found


@torch.inference_mode()
def _written_by(writer: Any, other: Any, sequences: Sequence[NDArray[np.int32]]) -> Estimate:
    """KL(writer, other) a token, on what the writer wrote."""
    sums, lengths = [], []
    for ids in sequences:
        tokens = torch.from_numpy(ids[None, :-1].astype(np.int64))
        p, q = (m(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1) for m in (writer, other))
        sums.append(float((p.exp() * (p - q)).sum()))
        lengths.append(len(ids) - 1)
    mean = Estimate.mean(np.array(sums))
    return Estimate(mean.value / float(np.mean(lengths)), mean.se / float(np.mean(lengths)))
