"""How far two runs of one model may lie apart: the noise floor of a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg_schemas import RowRecord

Verdict = Literal["identical", "same within noise", "different", "unknown"]

# Root mean square error of one text's log-likelihood, nats, against float64: SmolLM2-135M, texts of about 300 tokens,
# weights and arithmetic in the dtype, head and log-softmax in float32. For bfloat16 the larger of two measurements.
_RMS = {"float64": 0.0, "float32": 0.0002, "float16": 0.11, "bfloat16": 0.9}
_RMS_TOKENS = 300.0


def noise_floor(left: Sequence[RowRecord], right: Sequence[RowRecord], num_texts: int) -> NDArray[np.float64]:
    """KL that the arithmetic alone puts between two runs of the same weights.

    Parameters
    ----------
    left, right : sequence of RowRecord
    num_texts : int
        Texts of the set.

    Returns
    -------
    float64 array of shape (n_left, n_right), nats per text

    Notes
    -----
    Independent errors with standard deviations s_i and s_j in the two log-likelihoods add (s_i**2 + s_j**2) / 2 to
    KL = Var(l_i - l_j) / 2. s depends on the dtype, and grows with the root of the number of tokens, as errors of a sum do.
    It says nothing about rounded weights: a quantised model is another model.
    """
    one, other = (np.array([_variance(record, num_texts) for record in records]) for records in (left, right))
    return np.asarray((one[:, None] + other[None, :]) / 2)


def _variance(record: RowRecord, num_texts: int) -> float:
    tokens = float(record.provenance.get("tokens") or 0) / num_texts
    return float(_RMS.get(record.identity.weight_dtype, 0.9) ** 2 * max(tokens, 1.0) / _RMS_TOKENS)


def noise_bound(floor: NDArray[np.float64], num_texts: NDArray[np.integer] | int) -> NDArray[np.float64]:
    """The largest KL that noise alone is likely to show over so many texts, in the unit of the floor.

    The variance of n independent normal errors is estimated with a relative standard error of sqrt(2 / (n - 1)); three
    of them are allowed.
    """
    return np.asarray(floor * (1 + 3 * np.sqrt(2 / np.maximum(np.asarray(num_texts) - 1, 1))))


def verdict(kl: float, floor: float, num_texts: int) -> Verdict:
    """Whether two rows can be told apart: their KL against what noise alone may show, both in one unit."""
    if np.isnan(kl):
        return "unknown"
    if kl == 0:
        return "identical"
    return "same within noise" if kl <= noise_bound(np.array(floor), num_texts) else "different"
