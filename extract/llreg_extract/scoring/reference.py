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
from llreg_extract.scoring.scores import Cuts, Scores, Status


def reference_scores(model: Model, texts: Sequence[str], *, cuts: Cuts | None = None) -> Scores:
    """Log-likelihoods computed one text at a time in float64: slow, and easy to see right.

    ll(x) = sum over t of ln p(y_t | y_<t), with y the tokens of x behind the special ones that go before it (Oyama et
    al., ACL 2025, arXiv 2502.16173, section 3): all of x, or all but its first where nothing goes before it. NaN for a text
    past the context, without a token to score, or with a part that no token of the vocabulary holds.

    Parameters
    ----------
    model : Model
        Left as it is; its module is copied.
    texts : sequence of str
    cuts : sequence of int32 arrays of shape (n_segments,), optional
        Byte of each text at which each of its segments begins. A token counts for the segment in which it begins.

    Returns
    -------
    Scores
    """
    import torch

    module = _plain_copy(model)
    values, counts, correct, states, segments = [], [], [], [], []
    encoded = tokenise(model.tokenizer, texts)
    for k, (ids, start, unknown) in enumerate(
        zip(encoded.ids, encoded.starts.tolist(), encoded.unknown.tolist(), strict=True)
    ):
        value, count, num_first, status = float("nan"), 0, 0, Status.SCORED
        sums = [0.0] * (0 if cuts is None else len(cuts[k]))
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
            parts = [float(log_p[t - 1, ids[t]]) for t in range(start, len(ids))]
            value, count = sum(parts), len(parts)
            num_first = sum(bool(log_p[t - 1, ids[t]] == log_p[t - 1].max()) for t in range(start, len(ids)))
            if cuts is not None and encoded.offsets is not None:
                for part, offset in zip(parts, encoded.offsets[k][start:].tolist(), strict=True):
                    sums[sum(begin <= offset for begin in cuts[k].tolist()) - 1] += part
            if not np.isfinite(value):
                value, count, num_first, status = float("nan"), 0, 0, Status.NON_FINITE
        values.append(value)
        counts.append(count)
        correct.append(num_first)
        states.append(status)
        segments.append(np.array(sums) if status == Status.SCORED else np.full(len(sums), np.nan))
    return Scores(
        log_likelihood=np.array(values, dtype=np.float32),
        num_tokens=np.array(counts, dtype=np.int32),
        num_correct=np.array(correct, dtype=np.int32),
        status=np.array(states, dtype=np.int8),
        segments=None if cuts is None or encoded.offsets is None else tuple(segments),
    )


def _plain_copy(model: Model) -> Any:
    """The module in float64, with none of what makes scoring fast."""
    module = copy.deepcopy(model.module).double()
    replay.remove(module)
    if model.attention != model.library_attention:
        module.set_attn_implementation(model.library_attention)
    if getattr(module.config, "_experts_implementation", None) == "grouped_mm":
        module.set_experts_implementation("eager")  # the grouped product takes no float64
    return module
