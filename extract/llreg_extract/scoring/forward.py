"""Log-probabilities of a few token sequences, and which tokens were the first choice: one forward pass, and its logits."""

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
    """ln p(y_t | y_<t) of each sequence's tokens from `starts` on: the first part of `token_scores`."""
    return token_scores(module, sequences, device, starts=starts, base=base)[0]


def token_scores(
    module: Any,
    sequences: Sequence[NDArray[np.int32]],
    device: Any,
    *,
    starts: Sequence[int] | None = None,
    base: Any = None,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """ln p(y_t | y_<t) of each sequence's tokens from `starts` on, and whether no token was likelier, from one forward pass.

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
        Index of the first token that is scored in each sequence, at least 1; 1 if not given.
    base : torch.nn.Module, optional
        From `llreg_extract.fast.replay.install`: then the head runs only on what is scored, and logits of whole texts never
        exist.

    Returns
    -------
    log_probs : list of float32 arrays of shape (n - start,), nats
        Log-softmax in float32 over the whole vocabulary, whatever the weights' dtype.
    is_first : list of bool arrays of shape (n - start,)
        Whether the token's logit is the highest, also where others are as high.
    """
    import torch

    firsts = [1] * len(sequences) if starts is None else list(starts)
    counts = [len(ids) - first for ids, first in zip(sequences, firsts, strict=True)]
    # Any id will do for padding, but the configured one makes transformers warn that there is no mask.
    padding = 1 if getattr(module.config, "pad_token_id", None) == 0 else 0
    padded = np.full((len(sequences), max(map(len, sequences))), padding, dtype=np.int64)  # (batch, text)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    # Row and column in it of each token that is scored: int64 of shape (scored token,).
    rows = np.repeat(np.arange(len(sequences)), counts)
    columns = np.concatenate([np.arange(first, len(ids)) for ids, first in zip(sequences, firsts, strict=True)])

    with torch.inference_mode():
        tokens = torch.from_numpy(padded).to(device, non_blocking=True)
        index = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
        before = index[0], index[1] - 1  # a token is predicted at the one before it
        targets, options = tokens[index], call_options(module)  # targets: (scored token,)
        if base is None:
            logits = module(input_ids=tokens, **options).logits  # (batch, text, vocabulary)
            chunks = _chunks(len(targets), logits.shape[-1], tokens.device.type)
            parts = [_scores(logits[before[0][chunk], before[1][chunk]], targets[chunk]) for chunk in chunks]
        else:
            output = replay.hidden_states(module, base, tokens, options)
            states, ids_before = replay.states_of(output)[before], tokens[before]  # (scored token, hidden)
            parts = []
            for chunk in _chunks(len(targets), _vocabulary(module), tokens.device.type):
                part = replay.head(module, base, output, states[chunk], ids_before[chunk], options)
                parts.append(_scores(part, targets[chunk]))
        log_probs, is_first = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    ends = np.cumsum(counts)[:-1]
    return np.split(log_probs, ends), np.split(is_first, ends)


def _chunks(length: int, vocabulary: int, device_type: str) -> Iterator[slice]:
    """Slices of `length` tokens whose logits fit in `_CHUNK_BYTES`, of equal size: a short last one would use the
    processor badly."""
    most = max(1, _CHUNK_BYTES.get(device_type, _CHUNK_BYTES["cpu"]) // (4 * vocabulary))
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


def _scores(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-softmax of logits (scored token, vocabulary) at the targets, and whether these are the highest: float32 and bool
    of shape (scored token,).

    Not through torch's log-softmax, which on a CPU is off by 1e-6 nats a token at 49,000 columns, and more at more.
    The logits are overwritten.
    """
    wide = logits.float()
    highest = wide.amax(-1, keepdim=True)
    target_logits = wide.gather(-1, targets[:, None]) - highest
    log_probs = target_logits - wide.sub_(highest).exp_().sum(-1, keepdim=True).log_()
    return log_probs[:, 0], target_logits[:, 0] == 0
