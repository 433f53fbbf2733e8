"""How far two runs of one model may lie apart: the noise floor of a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from llreg_schemas.records import RESOLUTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg_schemas import RowRecord

Verdict = Literal["identical", "same within noise", "different", "unknown"]

# Root mean square error of one text's log-likelihood, nats, against float64: SmolLM2-135M, texts of about 300 tokens,
# weights and arithmetic in the dtype, head and log-softmax in float32. For bfloat16 the larger of two measurements.
_RMS = {"float64": 0.0, "float32": 0.0002, "float16": 0.11, "bfloat16": 0.9}
_RMS_TOKENS = 300.0
_PANEL = 32  # rows at a time: 2.5 MB for 10,000 texts, which stays in the cache


def noise_variances(
    records: Sequence[RowRecord], num_scored: NDArray[np.integer], suffix: str = ""
) -> NDArray[np.float64]:
    """Variance of the error of one text's log-likelihood, by row.

    Parameters
    ----------
    records : sequence of RowRecord
    num_scored : int array of shape (n_models,)
        Texts that each row was scored on, of the whole set: the tokens of its record are of these.
    suffix : {"", "_response"}
        "_response" for the log-likelihoods of responses alone, in rows of pairs.

    Returns
    -------
    float64 array of shape (n_models,), nats**2
        It depends on the dtype, and grows with the number of tokens, as that of a sum does. Of imported rows, whose
        tokens are not known, as of texts of 300 tokens, and with the error by which their values were rounded before they
        came (provenance `value_rounding`): in float16 0.3 nats on a text of -1,500.
    """
    tokens = np.array([float(record.provenance.get(f"tokens{suffix}") or 0) for record in records])
    per_text = np.where(tokens > 0, np.maximum(tokens / np.maximum(num_scored, 1), 1.0), _RMS_TOKENS)
    rounding = np.array([float(record.provenance.get("value_rounding") or 0) for record in records])
    arithmetic = text_variances([record.identity.weight_dtype for record in records], per_text)
    return np.asarray(arithmetic + rounding**2)


def text_variances(dtypes: Sequence[str], num_tokens: NDArray[np.floating]) -> NDArray[np.float64]:
    """Variance of the error of log-likelihoods, nats**2, by the dtype they were computed in and their number of tokens."""
    rms = np.array([_RMS.get(dtype, 0.9) for dtype in dtypes])
    return np.asarray(rms**2 * num_tokens / _RMS_TOKENS)


def noise_floor(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL that the arithmetic alone puts between two runs of the same weights.

    Parameters
    ----------
    left, right : float64 arrays of shape (n_left,) and (n_right,), nats**2
        As `noise_variances` gives them.

    Returns
    -------
    float64 array of shape (n_left, n_right), nats per text

    Notes
    -----
    Independent errors of variances s_i**2 and s_j**2 in the two log-likelihoods add (s_i**2 + s_j**2) / 2 to
    KL = Var(l_i - l_j) / 2. It says nothing about rounded weights: a quantised model is another model.
    """
    return np.asarray((left[:, None] + right[None, :]) / 2)


def rounding_floor(segments_per_text: float) -> float:
    """KL that the rounding of segments puts between two rows, nats per text.

    Boundaries of segments are rounded to `RESOLUTION`, so a segment's error has twice the variance of one rounding,
    RESOLUTION**2 / 12, in either row; half of the sum over both rows and all segments of a text counts.
    """
    return segments_per_text * RESOLUTION**2 / 6


def noise_bound(floor: NDArray[np.float64], num_texts: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """The largest KL that noise alone is likely to show over so many texts, in the unit of the floor.

    The variance of n independent normal errors is estimated with a relative standard error of sqrt(2 / (n - 1)); three
    of them are allowed.
    """
    return np.asarray(floor * (1 + 3 * np.sqrt(2 / np.maximum(np.asarray(num_texts) - 1, 1))))


def verdicts(
    kl: NDArray[np.float64],
    floor: NDArray[np.float64],
    num_texts: NDArray[np.integer],
    raw: NDArray[np.floating],
    other_raw: NDArray[np.floating],
    rounding: NDArray[np.float64],
) -> NDArray[np.object_]:
    """Which pairs of rows can be told apart.

    A distance alone cannot say: clipping makes rows equal that are not, and a constant that is added to all texts leaves a
    variance as it is. So rows that are near must be near in their log-likelihoods as they are, too.

    Parameters
    ----------
    kl, floor : float64 arrays of shape (n_models, n_others), nats per text
        KL divergences, and the noise floors of the pairs: those of whole texts.
    num_texts : int array of shape (n_models, n_others)
        Texts used.
    raw, other_raw : float arrays of shape (n_models, n_texts) and (n_others, n_texts), nats
        Log-likelihoods before any clipping, NaN where not scored.
    rounding : float64 array of shape (n_models, n_others), nats per text
        What the rounding of segments adds to the floor of those KL that are estimated from them; see `rounding_floor`.

    Returns
    -------
    object array of shape (n_models, n_others)
        "identical", "same within noise", "different", or, without a distance, "unknown".
    """
    bound = noise_bound(floor, num_texts)
    near_enough = kl <= noise_bound(floor + rounding, num_texts)
    result = np.full(kl.shape, "different", dtype=object)
    result[np.isnan(kl)] = "unknown"
    for i in np.flatnonzero(near_enough.any(axis=1)):
        near = np.flatnonzero(near_enough[i])
        for start in range(0, len(near), _PANEL):
            others = near[start : start + _PANEL]
            square = (np.asarray(other_raw[others], dtype=np.float64) - raw[i]) ** 2  # (n_panel, n_texts)
            half = np.nansum(square, axis=1) / (2 * np.maximum((~np.isnan(square)).sum(axis=1), 1))
            same = np.where(half == 0, "identical", "same within noise")
            result[i, others] = np.where(half <= bound[i, others], same, "different")
    return result
