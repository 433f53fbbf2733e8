"""Log-probabilities of a few token sequences: one forward pass, and the log-softmax over its logits."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 64 << 20  # 64 MiB: float32 logits the log-softmax holds at a time


def token_log_probs(module: Any, sequences: Sequence[NDArray[np.int32]], device: Any) -> list[NDArray[np.float32]]:
    """ln p(y_t | y_<t) for t = 2..n of each sequence, from one forward pass.

    Sequences are padded on the right and no attention mask is passed: in a causal model no token sees
    the padding behind it, so this is exact, while a mask or padding on the left changes positions in
    some architectures.

    Parameters
    ----------
    module : torch.nn.Module
        Causal language model of transformers.
    sequences : list of int32 arrays of shape (n,), token ids, n >= 2
    device : torch.device

    Returns
    -------
    list of float32 arrays of shape (n - 1,), nats
        Log-softmax in float32 over the whole vocabulary, whatever the weights' dtype.
    """
    import torch

    longest = max(len(ids) for ids in sequences)
    padded = np.full((len(sequences), longest), _padding_id(module), dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    with torch.inference_mode():
        tokens = torch.from_numpy(padded).to(device)  # (b, t)
        logits = module(input_ids=tokens, **_options(module)).logits  # (b, t, v)
        found = [_gather(logits[i, : len(ids) - 1], tokens[i, 1 : len(ids)]) for i, ids in enumerate(sequences)]
        return [log_probs.cpu().numpy() for log_probs in found]


def _gather(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-softmax at the targets, float32 of shape (t,); logits (t, v) in any dtype, targets (t,)."""
    import torch

    rows = max(1, _CHUNK_BYTES // (4 * logits.shape[-1]))
    parts = []
    for start in range(0, len(targets), rows):
        chunk = logits[start : start + rows].float()  # (rows, v)
        chosen = chunk.gather(1, targets[start : start + rows, None])[:, 0]  # (rows,)
        parts.append(chosen - chunk.logsumexp(1))
    return torch.cat(parts)


def _padding_id(module: Any) -> int:
    # Any id will do, but the configured one makes transformers warn that there is no mask.
    return 1 if getattr(module.config, "pad_token_id", None) == 0 else 0


def _options(module: Any) -> dict[str, Any]:
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if takes_any or "use_cache" in parameters else {}
