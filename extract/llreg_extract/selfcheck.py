"""What must hold before a model is scored: no token sees the future, and padding changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llreg_extract.encoding import PROBE_TEXT
from llreg_extract.forward import token_log_probs
from llreg_schemas.errors import UnsupportedModelError

if TYPE_CHECKING:
    from llreg_extract.model import Model

_LENGTH = 64  # tokens of the probe at most
# Per token and in nats: rounding in the weights' dtype stays below, seeing another token does not.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}


def check_causality(model: Model) -> None:
    """Change the second half of a text: the log-probabilities of its first half must not move.

    Raises
    ------
    UnsupportedModelError
        They do.
    """
    ids = _probe(model)
    half = len(ids) // 2
    changed = ids.copy()
    changed[half:] = np.roll(ids, half // 2 + 1)[half:] + (np.arange(half, len(ids)) % 3 + 1)
    changed[half:] %= ids.max() + 1
    before, after = (token_log_probs(model.module, [row], model.device)[0] for row in (ids, changed))
    if not _close(before[: half - 1], after[: half - 1], model.weight_dtype):
        raise UnsupportedModelError(
            f"{model.source.name} is not causal: its early predictions change with later tokens, so it defines no "
            "log-likelihood of a text"
        )


def padding_is_exact(model: Model) -> bool:
    """Whether a short text scores in a padded batch as it does alone."""
    ids = _probe(model)
    short = ids[: max(2, len(ids) // 3)]
    alone = token_log_probs(model.module, [short], model.device)[0]
    together = token_log_probs(model.module, [ids, short], model.device)[1]
    return _close(alone, together, model.weight_dtype)


def _probe(model: Model) -> NDArray[np.int32]:
    ids = np.asarray(model.tokenizer(PROBE_TEXT)["input_ids"], dtype=np.int32)
    while len(ids) < 8:  # a tokenizer of whole words, or for another script
        ids = np.concatenate([ids, ids])
    return ids[: min(_LENGTH, model.context_length or _LENGTH)]


def _close(a: NDArray[np.float32], b: NDArray[np.float32], dtype: str) -> bool:
    # NaN and inf, as of a float16 overflow, say nothing here; scoring reports them.
    finite = np.isfinite(a) & np.isfinite(b)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= _TOLERANCE[dtype]))
