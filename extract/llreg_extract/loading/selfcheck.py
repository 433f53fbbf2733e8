"""What must hold before a model is scored, and the fastest way to score it that gives the plain way's values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.fast import kernels, replay
from llreg_extract.libraries import is_out_of_memory
from llreg_extract.model import Model
from llreg_extract.quirks import rope_boundary
from llreg_extract.scoring.encoding import PROBE_TEXT, tokenise
from llreg_extract.scoring.forward import token_log_probs
from llreg_schemas.errors import UnsupportedModelError

_LENGTH = 160  # tokens of the probe at most: more than one block of attention
# Root mean square over the tokens of a probe, and largest, in nats: rounding in the weights' dtype stays below (SmolLM2 in
# bfloat16: 0.05 and 0.39 between two kernels), another computation does not.
_TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.15, 2.0), "float16": (0.03, 0.5)}


def prepare(model: Model) -> None:
    """Check a loaded model, and set the fastest way to score it that agrees with its plain forward pass.

    The plain pass is transformers' own, one text at a time, with all its logits. First it must be causal. Then, one after
    another and each only if the probe's log-probabilities stay what they are: the head only where a token is scored
    (`path` "replay"), attention in blocks (on a CPU, `attention`), and texts padded into batches (`batching`).

    Parameters
    ----------
    model : Model
        As transformers loaded it; its `path`, `base`, `attention` and `batching` are set.

    Raises
    ------
    UnsupportedModelError
        The model is not causal.
    """
    # As transformers made it, also when it was prepared before.
    replay.remove(model.module)
    model.base, model.path, model.batching = None, "logits", False
    if model.attention != model.library_attention:
        model.module.set_attn_implementation(model.library_attention)
        model.attention = model.library_attention

    (probe,) = tokenise(model.tokenizer, [PROBE_TEXT]).ids
    limits = model.context_length, rope_boundary(model.module.config.to_dict())
    length = min([_LENGTH, *(limit for limit in limits if limit is not None)])
    probe = np.resize(probe, length)  # repeated or cut
    short = probe[: max(2, len(probe) // 3)]
    plain = [_alone(model, ids) for ids in (probe, short)]
    _check_causality(model, probe, plain[0])

    def agrees() -> bool:
        whole = _alone(model, probe)
        # Some tokens without those before: a head that mixes tokens shows by it.
        start = max(1, len(short) // 2)
        part = _log_probs(model, [short], [start])[0]
        return close(plain[0], whole, model.weight_dtype) and close(plain[1][start - 1 :], part, model.weight_dtype)

    _use_replay(model, agrees)
    if model.weight_dtype != "float32":
        # The head is exact now, where the plain one rounds its logits: by more, the larger they are.
        plain = [_alone(model, ids) for ids in (probe, short)]
    _use_blocks(model, agrees)
    # Shorter texts beside the long one are padded: does that show in their values? It may in a few tokens only (Doge, in
    # transformers up to 5.10).
    few = probe[:3]
    together = _attempt(lambda: _log_probs(model, [probe, short, few])[1:])
    model.batching = together is not None and all(
        close(alone, padded, model.weight_dtype)
        for alone, padded in zip((plain[1], _alone(model, few)), together, strict=True)
    )


def _use_replay(model: Model, agrees: Callable[[], bool]) -> None:
    """Replay the head on the first base model with which the values agree, if there is one."""
    for base in replay.bases(model.module):
        replay.install(model.module, base)
        model.base = base
        if _attempt(agrees):
            model.path = "replay"
            replay.widen(model.module)
            return
        replay.remove(model.module)
        model.base = None


def _use_blocks(model: Model, agrees: Callable[[], bool]) -> None:
    """Attend in blocks on a CPU, where the model attends through sdpa and the values agree."""
    if model.device.type != "cpu" or model.attention != "sdpa":
        return
    model.module.set_attn_implementation(kernels.register())
    if model.module.config._attn_implementation == kernels.NAME and _attempt(agrees):
        model.attention = kernels.NAME
    else:
        model.module.set_attn_implementation(model.library_attention)


def _attempt(check: Callable[[], Any]) -> Any:
    """What a check gives; None where the model cannot take the way at all, whatever it raises then."""
    try:
        return check()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None


def _check_causality(model: Model, ids: NDArray[np.int32], log_probs: NDArray[np.float32]) -> None:
    """Change the second half of a text: the log-probabilities of its first half must not move."""
    # Other tokens than before, none of a larger id than the text has: for each the model has an embedding.
    half = len(ids) // 2
    changed = ids.copy()
    changed[half:] = np.roll(ids, half // 2 + 1)[half:] + (np.arange(half, len(ids)) % 3 + 1)
    changed[half:] %= ids.max() + 1
    after = _alone(model, changed)
    if not close(log_probs[: half - 1], after[: half - 1], model.weight_dtype):
        raise UnsupportedModelError(
            f"{model.source.name} ({type(model.module).__name__}) is not causal: its early predictions change with later tokens, so it defines no "
            "log-likelihood of a text"
        )


def _alone(model: Model, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    return _log_probs(model, [ids])[0]


def _log_probs(
    model: Model, sequences: list[NDArray[np.int32]], starts: list[int] | None = None
) -> list[NDArray[np.float32]]:
    # The plain pass too: which library multiplies is decided by a check of its own.
    with kernels.fast_products(model.device.type):
        return token_log_probs(model.module, sequences, model.device, starts=starts, base=model.base)


def close(a: NDArray[np.float32], b: NDArray[np.float32], dtype: str) -> bool:
    """Whether `b` is `a` but for rounding; where `a` is NaN or inf, as of a float16 overflow, it says nothing, and scoring tells."""
    finite = np.isfinite(a)
    if not finite.any():
        return True
    with np.errstate(invalid="ignore"):
        difference = np.abs(a[finite].astype(np.float64) - b[finite])
    rms, largest = _TOLERANCE[dtype]
    return bool(np.sqrt((difference**2).mean()) <= rms and difference.max() <= largest)
