"""KL divergence between models from their log-likelihoods, with standard errors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

_BLOCK = 32  # models at a time, so that temporaries stay in the cache
TAIL_SHARE = 0.01  # the texts whose share of the variance is reported: the top 1 %


def kl_matrix(
    log_likelihood: NDArray[np.floating],
    num_bytes: NDArray[np.floating],
    *,
    clip: float | None,
    others: NDArray[np.floating] | None = None,
) -> Dataset:
    """Pairwise KL divergences of models, estimated from their log-likelihoods.

    Parameters
    ----------
    log_likelihood : float array of shape (n_models, n_texts), nats
        NaN where a text was not scored; such texts are left out of a pair.
    num_bytes : float array of shape (n_texts,)
        UTF-8 bytes of the texts.
    clip : float or None
        Values below are raised to it, in both rows, nats per text.
    others : float array of shape (n_others, n_texts), nats, optional
        Second models of the pairs; by default the first ones, and then half the work is saved.

    Returns
    -------
    xarray.Dataset
        float64 variables with dims (model, other): ``kl``, nats per text; ``kl_se``, its standard error;
        ``kl_bits_per_byte`` and ``kl_bits_per_byte_se``; ``tail_share``, the share of the variance that the
        top 1 % of texts carry; and int64 ``num_texts``, the texts used. All NaN where a pair shares
        fewer than two texts.

    Notes
    -----
    2 KL(p_i, p_j) = Var_s(l_i - l_j) over texts s, with divisor N (Oyama et al. 2025, arXiv 2502.16173, the
    estimate of the KL divergence by the squared distance of centred log-likelihood vectors). It is
    symmetric: half the Jeffreys divergence (Shimodaira 1993, theorem 2), and close to it for models near the
    distribution of the texts. Its standard error is that of a variance over independent texts,
    SE(KL) = sqrt((m4 - m2**2) / N) / 2 with the central moments m2, m4 of l_i - l_j. Bits per byte divide by
    (mean bytes of the texts used) * ln 2. Differences are taken directly in float64, so that the KL of
    near-duplicates keeps its digits.
    """
    import xarray as xr

    values = _clipped(log_likelihood, clip)
    second = values if others is None else _clipped(others, clip)
    names = ("kl", "kl_se", "tail_share", "num_texts", "mean_bytes")
    result: dict[str, NDArray[Any]] = {name: np.zeros((len(values), len(second))) for name in names}
    for i in range(len(values)):
        for start in range(i if others is None else 0, len(second), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(second)))
            columns = _one_to_many(values[i], second[block], num_bytes)
            for name, column in zip(names, columns, strict=True):
                result[name][i, block] = column
                if others is None:
                    result[name][block, i] = column
    scale = result.pop("mean_bytes") * math.log(2)
    result["kl_bits_per_byte"], result["kl_bits_per_byte_se"] = result["kl"] / scale, result["kl_se"] / scale
    result["num_texts"] = result["num_texts"].astype(np.int64)
    return xr.Dataset({name: (("model", "other"), value, _ATTRS[name]) for name, value in result.items()})


_ATTRS = {
    "kl": {"long_name": "KL divergence", "units": "nat/text"},
    "kl_se": {"long_name": "standard error of kl", "units": "nat/text"},
    "kl_bits_per_byte": {"long_name": "KL divergence", "units": "bit/byte"},
    "kl_bits_per_byte_se": {"long_name": "standard error of kl_bits_per_byte", "units": "bit/byte"},
    "tail_share": {"long_name": "share of the variance that the top 1 % of texts carry", "units": "1"},
    "num_texts": {"long_name": "texts used", "units": "1"},
}


def _clipped(log_likelihood: NDArray[np.floating], clip: float | None) -> NDArray[np.float64]:
    values = np.asarray(log_likelihood, dtype=np.float64)
    return values if clip is None else np.maximum(values, clip)  # NaN stays NaN


def _one_to_many(
    one: NDArray[np.float64], many: NDArray[np.float64], num_bytes: NDArray[np.floating]
) -> tuple[NDArray[np.float64], ...]:
    """kl, kl_se, tail_share, num_texts, mean_bytes of shape (n_models,) between a row and others."""
    difference = many - one  # (model, text)
    used = ~np.isnan(difference)
    count = used.sum(axis=1).astype(np.float64)  # (model,)
    enough = count >= 2
    safe = np.where(enough, count, np.nan)
    mean = np.where(used, difference, 0.0).sum(axis=1) / safe
    square = np.where(used, difference - mean[:, None], 0.0) ** 2  # (model, text)
    second = square.sum(axis=1) / safe
    fourth = (square**2).sum(axis=1) / safe
    kl_se = 0.5 * np.sqrt(np.maximum(fourth - second**2, 0.0) / safe)
    mean_bytes = (used * num_bytes).sum(axis=1) / safe
    return second / 2, kl_se, np.where(enough, _tail_share(square, count), np.nan), count, mean_bytes


def _tail_share(square: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each row's sum in its ceil(1 %) largest entries; 0 where the sum is 0."""
    total = square.sum(axis=1)
    top = np.ceil(count * TAIL_SHARE).astype(np.intp)  # (model,)
    widest = int(top.max(initial=1))
    largest = -np.sort(-np.partition(square, square.shape[1] - widest, axis=1)[:, -widest:], axis=1)
    sums = np.cumsum(largest, axis=1)[np.arange(len(square)), np.maximum(top, 1) - 1]
    return np.asarray(np.divide(sums, total, out=np.zeros_like(total), where=total > 0))
