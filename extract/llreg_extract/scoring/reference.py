"""The definition, in plain code: what every faster path must agree with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from llreg_extract.fast import replay
from llreg_extract.fast.replay import call_options
from llreg_extract.model import Model
from llreg_extract.scoring.encoding import tokenise
from llreg_extract.scoring.scores import Scores, Status


def reference_scores(model: Model, texts: Sequence[str]) -> Scores:
    """Log-likelihoods computed one text at a time in float64: slow, and easy to see right.

    ll(x) = sum over t of ln p(y_t | y_<t), with y the tokens of x behind the special ones that go before it (Oyama et
    al., ACL 2025, arXiv 2502.16173, section 3): all of x, or all but its first where nothing goes before it. NaN for a text
    past the context, without a token to score, or with a part that no token of the vocabulary holds.

    Parameters
    ----------
    model : Model
        Left as it is; its module is copied.
    texts : sequence of str

    Returns
    -------
    Scores
    """
    import torch

    module = _plain_copy(model)
    values, counts, states = [], [], []
    encoded = tokenise(model.tokenizer, texts)
    for ids, start, unknown in zip(encoded.ids, encoded.starts.tolist(), encoded.unknown.tolist(), strict=True):
        value, count, status = float("nan"), 0, Status.SCORED
        if unknown:
            status = Status.UNKNOWN_TOKEN
        elif len(ids) <= start:
            status = Status.UNSCORED
        elif model.context_length is not None and len(ids) > model.context_length:
            status = Status.OVER_CONTEXT
        else:
            tokens = torch.from_numpy(ids).long().to(model.device)[None]
            with torch.inference_mode():
                logits = module(tokens, **call_options(module)).logits[0]  # (t, v)
                log_p = torch.log_softmax(logits.double(), dim=-1)
            # The logits at t - 1 predict the token at t; special tokens before the text are not scored.
            value = sum(float(log_p[t - 1, ids[t]]) for t in range(start, len(ids)))
            count = len(ids) - start
            if not np.isfinite(value):
                value, count, status = float("nan"), 0, Status.NON_FINITE
        values.append(value)
        counts.append(count)
        states.append(status)
    return Scores(np.array(values, dtype=np.float32), np.array(counts, dtype=np.int32), np.array(states, dtype=np.int8))


def _plain_copy(model: Model) -> Any:
    """The module in float64, with none of what makes scoring fast."""
    module = copy.deepcopy(model.module).double()
    replay.remove(module)
    if model.attention != model.library_attention:
        module.set_attn_implementation(model.library_attention)
    if getattr(module.config, "_experts_implementation", None) == "grouped_mm":
        module.set_experts_implementation("eager")  # the grouped product takes no float64
    return module
