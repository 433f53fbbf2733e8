"""Log-probabilities of a few token sequences: one forward pass, and the log-softmax over its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.fast import replay
from llreg_extract.fast.replay import call_options

if TYPE_CHECKING:
    import torch

# Logits are held for so many bytes in float32 at a time: on a CPU what its cache holds, on a GPU what fills it.
_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 1 << 30}  # 24 MiB, 1 GiB


def token_log_probs(
    module: Any,
    sequences: Sequence[NDArray[np.int32]],
    device: Any,
    *,
    starts: Sequence[int] | None = None,
    base: Any = None,
) -> list[NDArray[np.float32]]:
    """ln p(y_t | y_<t) of each sequence's tokens from `starts` on, from one forward pass.

    Sequences are padded on the right and no attention mask is passed: in a causal model no token sees
    the padding behind it, so this is exact, while a mask or padding on the left changes positions in
    some architectures.

    Parameters
    ----------
    module : torch.nn.Module
        Causal language model of transformers.
    sequences : list of int32 arrays of shape (n,), token ids, n >= 2
    device : torch.device
    starts : sequence of int, optional
        Place of the first token that is scored in each sequence, at least 1; 1 if not given.
    base : torch.nn.Module, optional
        From `llreg_extract.fast.replay.install`: then the head runs only on what is scored, and logits of whole texts never
        exist.

    Returns
    -------
    list of float32 arrays of shape (n - start,), nats
        Log-softmax in float32 over the whole vocabulary, whatever the weights' dtype.
    """
    import torch

    firsts = [1] * len(sequences) if starts is None else list(starts)
    with torch.inference_mode():
        tokens = torch.from_numpy(_padded(module, sequences)).to(device, non_blocking=True)  # (batch, text)
        rows, places = _scored(sequences, firsts)
        targets = tokens[rows.to(device), places.to(device)]  # (scored token,)
        where = rows.to(device), (places - 1).to(device)
        chunks = _replayed(module, base, tokens, where) if base is not None else _whole(module, tokens, where)
        found = torch.cat(list(_log_probs(chunks, targets))).cpu().numpy()
    ends = np.cumsum([len(ids) - first for ids, first in zip(sequences, firsts, strict=True)])
    return np.split(found, ends[:-1])


def _padded(module: Any, sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    padded = np.full((len(sequences), max(map(len, sequences))), _padding_id(module), dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    return padded


def _scored(sequences: Sequence[NDArray[np.int32]], firsts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence and place of each token that is scored: int64 tensors of shape (scored token,)."""
    import torch

    counts = [len(ids) - first for ids, first in zip(sequences, firsts, strict=True)]
    rows = np.repeat(np.arange(len(sequences)), counts)
    places = np.concatenate([np.arange(first, len(ids)) for ids, first in zip(sequences, firsts, strict=True)])
    return torch.from_numpy(rows), torch.from_numpy(places)


def _whole(
    module: Any, tokens: torch.Tensor, where: tuple[torch.Tensor, torch.Tensor]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Logits that predict the scored tokens, in chunks, cut from the model's whole ones."""
    logits = module(input_ids=tokens, **call_options(module)).logits  # (batch, text, vocabulary)
    for part in _parts(len(where[0]), logits.shape[-1], tokens.device.type):
        yield part, logits[where[0][part], where[1][part]]


def _replayed(
    module: Any, base: Any, tokens: torch.Tensor, where: tuple[torch.Tensor, torch.Tensor]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The same, of the head on the hidden states of each chunk."""
    options = call_options(module)
    output = replay.hidden_states(module, base, tokens, options)
    states = replay.states_of(output)[where]  # (scored token, hidden)
    ids = tokens[where]
    for part in _parts(len(ids), _vocabulary(module), tokens.device.type):
        yield part, replay.head(module, base, output, states[part], ids[part], options)


def _parts(length: int, vocabulary: int, device_type: str) -> Iterator[slice]:
    most = max(1, _CHUNK_BYTES.get(device_type, _CHUNK_BYTES["cpu"]) // (4 * vocabulary))
    # Parts of equal size: a short last one would use the processor badly.
    number = -(-length // most)
    for k in range(number):
        yield slice(k * length // number, (k + 1) * length // number)


def _vocabulary(module: Any) -> int:
    """Columns of the logits, or what is near: it only decides how many rows a chunk has."""
    head = module.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and weight.ndim == 2:
        return int(max(weight.shape[0], getattr(head, "out_features", 0)))
    return int(getattr(module.config.get_text_config(), "vocab_size", 1 << 15))


def _log_probs(chunks: Iterator[tuple[slice, torch.Tensor]], targets: torch.Tensor) -> Iterator[torch.Tensor]:
    """Log-softmax at the targets: float32 of shape (scored token,), chunk by chunk. The chunks are overwritten.

    Not through torch's log-softmax, which on a CPU is off by 1e-6 nats a token at 49,000 columns, and more at more.
    """
    for part, logits in chunks:
        wide = logits.float()
        highest = wide.amax(-1, keepdim=True)
        chosen = wide.gather(-1, targets[part, None]) - highest
        yield (chosen - wide.sub_(highest).exp_().sum(-1, keepdim=True).log_())[:, 0]


def _padding_id(module: Any) -> int:
    # Any id will do, but the configured one makes transformers warn that there is no mask.
    return 1 if getattr(module.config, "pad_token_id", None) == 0 else 0
