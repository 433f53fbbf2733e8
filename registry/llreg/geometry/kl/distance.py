"""KL divergence between models from their log-likelihoods, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.masked import MaskedRows, masked_moments
from llreg.geometry.kl.moments import pair_moments
from llreg.geometry.kl.noise import noise_floor
from llreg.geometry.kl.patterns import Pattern, pair_texts, patterns, together

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows
    from llreg.texts.design import Design

_BLOCK = 1024  # models at a time: bounds temporaries at 3 x 80 MB for 10,000 texts
_MASKED_BLOCK = 256  # of rows with gaps, whose powers are all kept
TAIL_PAIRS = 20_000  # up to here the tail share is computed unless told otherwise: it needs a sort a pair
_NAMES = ("kl", "kl_se", "tail_share", "num_texts", "mean_bytes")


def kl_matrix(
    log_likelihood: NDArray[np.floating],
    num_bytes: NDArray[np.floating],
    *,
    clip: float | None,
    others: NDArray[np.floating] | None = None,
    weights: NDArray[np.float64] | None = None,
    designs: Sequence[Design | None] | None = None,
    other_designs: Sequence[Design | None] | None = None,
    se: bool = True,
    tail_share: bool | None = None,
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
    weights : float64 array of shape (n_texts,), optional
        Weight of each text, above 0; all equal by default.
    designs, other_designs : sequence of (Design or None), optional
        How the texts of each row were drawn, for rows scored on a sample of the texts.
    se : bool
        Whether to compute standard errors: twice the time for a large matrix.
    tail_share : bool, optional
        Whether to compute the tail share, which takes a sort a pair; by default up to 20,000 pairs.

    Returns
    -------
    xarray.Dataset
        float64 variables with dims (model, other): ``kl``, nats per text; ``kl_se``, its standard error;
        ``kl_bits_per_byte`` and ``kl_bits_per_byte_se``; ``tail_share``, the share of the variance that the
        top 1 % of texts carry; and int64 ``num_texts``, the texts used. All NaN where a pair shares
        fewer than two texts. What was not asked for is not there.

    Notes
    -----
    2 KL(p_i, p_j) = Var_s(l_i - l_j) over texts s, with divisor N (Oyama et al. 2025, arXiv 2502.16173, the
    estimate of the KL divergence by the squared distance of centred log-likelihood vectors). It is
    symmetric: half the Jeffreys divergence (Shimodaira 1993, theorem 2), and close to it for models near the
    distribution of the texts. Its standard error is that of a variance over independent texts,
    SE(KL) = sqrt((m4 - m2**2) / N) / 2 with the central moments m2, m4 of l_i - l_j. Bits per byte divide by
    (mean bytes of the texts used) * ln 2 (P3, arXiv 2505.15353). Weighted texts enter mean and variance with their
    weights; sampled rows with the weights of P2 (arXiv 2505.15428), see `llreg.geometry.kl.patterns.pair_texts`.

    Large matrices are Gram matrices of centred rows, in float64; pairs so close that cancellation would take
    digits are then taken again as direct differences, so the KL of near-duplicates keeps its digits.
    """
    first = _clipped(log_likelihood, clip)
    second = first if others is None else _clipped(others, clip)
    symmetric = others is None
    tail = first.shape[0] * second.shape[0] <= TAIL_PAIRS if tail_share is None else tail_share
    rows = patterns(first, designs)
    columns = rows if symmetric else patterns(second, other_designs)
    if tail or (se and weights is not None):
        units, other_units = [[row] for row in rows], [[column] for column in columns]
    else:
        units, other_units = together(rows), together(columns)
    filling = _Filling(first, second, num_bytes, weights, symmetric=symmetric, se=se, tail=tail)
    for a, some in enumerate(units):
        for rest in other_units[a if symmetric else 0 :]:
            filling.fill(some, rest)
    return _dataset(filling.result)


def kl_rows(rows: Rows, others: Rows | None = None, *, se: bool = True, tail_share: bool | None = None) -> Dataset:
    """KL divergences between rows that are seen through a view, with names, version and view attached.

    Parameters
    ----------
    rows, others : Rows
        Of one view; `others` are `rows` by default.
    se, tail_share : bool
        As in `kl_matrix`.

    Returns
    -------
    xarray.Dataset
        As `kl_matrix`, with ``noise_floor``, the KL that arithmetic alone puts between two runs, nats per text (see
        `llreg.geometry.kl.noise`); row ids (model, other) and model names (model_id, other_id) as coordinates; and
        registry, version, view and clip as attributes.
    """
    result = kl_plain(rows, others, se=se, tail_share=tail_share)
    right = rows if others is None else others
    if rows.noise is not None and right.noise is not None:
        attributes = {"long_name": "KL between two runs of one model", "units": "nat/text"}
        result["noise_floor"] = ("model", "other"), noise_floor(rows.noise, right.noise), attributes
    coordinates = {
        "model": np.array(rows.row_ids, dtype=object),
        "other": np.array(right.row_ids, dtype=object),
        "model_id": ("model", np.array(rows.names, dtype=object)),
        "other_id": ("other", np.array(right.names, dtype=object)),
    }
    attrs = {
        "registry": rows.registry,
        "version": rows.version,
        "view": rows.view.id,
        "clip": "none" if rows.view.clip is None else rows.view.clip,
        "view_description": rows.view.describe(),
    }
    return result.assign_coords(coordinates).assign_attrs(attrs)


def kl_plain(rows: Rows, others: Rows | None = None, *, se: bool = True, tail_share: bool | None = None) -> Dataset:
    """As `kl_rows`, without coordinates, noise floor and attributes."""
    return kl_matrix(
        rows.values,
        rows.num_bytes,
        clip=None,  # the view has clipped
        others=None if others is None else others.values,
        weights=rows.weights,
        designs=rows.designs,
        other_designs=None if others is None else others.designs,
        se=se,
        tail_share=tail_share,
    )


class _Filling:
    """A result in the making, filled by pairs of groups of rows."""

    def __init__(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        num_bytes: NDArray[np.floating],
        weights: NDArray[np.float64] | None,
        *,
        symmetric: bool,
        se: bool,
        tail: bool,
    ) -> None:
        self._first, self._second, self._num_bytes, self._weights = first, second, num_bytes, weights
        self._symmetric, self._se, self._tail = symmetric, se, tail
        self._shift = _column_mean(first)
        unwanted = {*(() if se else ("kl_se",)), *(() if tail else ("tail_share",))}
        shape = len(first), len(second)
        self.result = {name: np.full(shape, np.nan) for name in _NAMES if name not in unwanted}

    def fill(self, some: list[Pattern], others: list[Pattern]) -> None:
        """Pairs of two groups: of one pattern each through one product, of mixed ones through masks."""
        sampled = any(pattern.design for pattern in (*some, *others))
        if len(some) == len(others) == 1 or sampled:
            same = self._symmetric and some is others
            for a, one in enumerate(some):
                for other in others[a if same else 0 :]:
                    self._fill_plain(one, other)
        else:
            self._fill_masked(*(np.sort(np.concatenate([pattern.rows for pattern in part])) for part in (some, others)))

    def _fill_plain(self, one: Pattern, other: Pattern) -> None:
        texts = pair_texts(one, other, self._weights, len(self._num_bytes))
        same = self._symmetric and one is other
        bytes_used = texts.mean_bytes(self._num_bytes)
        for i in range(0, len(one.rows), _BLOCK):
            rows = one.rows[i : i + _BLOCK]
            left = texts.prepare(self._first, rows, self._shift)
            for j in range(i if same else 0, len(other.rows), _BLOCK):
                columns = other.rows[j : j + _BLOCK]
                right = left if same and i == j else texts.prepare(self._second, columns, self._shift)
                kl, kl_se, share = pair_moments(left, right, texts, se=self._se, tail=self._tail)
                constant = (np.broadcast_to(np.float64(value), kl.shape) for value in (texts.count, bytes_used))
                found = (kl, kl_se, share, *constant)
                self._store(rows, columns, found)

    def _fill_masked(self, some: NDArray[np.intp], others: NDArray[np.intp]) -> None:
        same = self._symmetric and np.array_equal(some, others)
        for i in range(0, len(some), _MASKED_BLOCK):
            rows = some[i : i + _MASKED_BLOCK]
            left = MaskedRows(self._first[rows] - self._shift, self._weights)
            for j in range(i if same else 0, len(others), _MASKED_BLOCK):
                columns = others[j : j + _MASKED_BLOCK]
                right = MaskedRows(self._second[columns] - self._shift, self._weights)
                kl, kl_se, count, mean_bytes, close = masked_moments(left, right, self._num_bytes, se=self._se)
                self._store(rows, columns, (kl, kl_se, np.full_like(kl, np.nan), count, mean_bytes))
                self._again(rows, columns, close)

    def _again(self, rows: NDArray[np.intp], columns: NDArray[np.intp], close: NDArray[np.bool_]) -> None:
        """Take the pairs that lost digits directly."""
        for i, j in np.argwhere(close):
            one, other = (
                Pattern(np.array([k]), ~np.isnan(values[k]), None)
                for k, values in ((rows[i], self._first), (columns[j], self._second))
            )
            self._fill_plain(one, other)

    def _store(self, rows: NDArray[np.intp], columns: NDArray[np.intp], found: tuple[NDArray[np.float64], ...]) -> None:
        at, back = _place(rows, columns), _place(columns, rows)
        mirrored = self._symmetric and not np.array_equal(rows, columns)
        for name, block in zip(_NAMES, found, strict=True):
            if name in self.result:
                self.result[name][at] = block
                if mirrored:
                    self.result[name][back] = block.T


def _place(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[Any, ...]:
    """Index of a block; of slices where it is in one piece, which is many times quicker."""
    spans = [slice(int(k[0]), int(k[-1]) + 1) if (np.diff(k) == 1).all() else None for k in (rows, columns)]
    return np.ix_(rows, columns) if None in spans else tuple(spans)


def _dataset(result: dict[str, NDArray[Any]]) -> Dataset:
    import xarray as xr

    scale = result.pop("mean_bytes") * math.log(2)
    result["kl_bits_per_byte"] = result["kl"] / scale
    if "kl_se" in result:
        result["kl_bits_per_byte_se"] = result["kl_se"] / scale
    result["num_texts"] = result["num_texts"].astype(np.int64)
    return xr.Dataset(
        {name: (("model", "other"), result[name], attrs) for name, attrs in _ATTRS.items() if name in result}
    )


_ATTRS = {
    "kl": {"long_name": "KL divergence", "units": "nat/text"},
    "kl_se": {"long_name": "standard error of kl", "units": "nat/text"},
    "kl_bits_per_byte": {"long_name": "KL divergence", "units": "bit/byte"},
    "kl_bits_per_byte_se": {"long_name": "standard error of kl_bits_per_byte", "units": "bit/byte"},
    "tail_share": {"long_name": "share of the variance that the top 1 % of texts carry", "units": "1"},
    "num_texts": {"long_name": "texts used", "units": "1"},
}


def _clipped(log_likelihood: NDArray[np.floating], clip: float | None) -> NDArray[np.float64]:
    if clip is None:
        return np.asarray(log_likelihood, dtype=np.float64)
    return np.asarray(np.maximum(log_likelihood, clip, dtype=np.float64))  # NaN stays NaN


def _column_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What all rows have in common, taken off before products: the smaller the numbers, the less cancels."""
    mean = values.sum(axis=0) / max(len(values), 1)
    if not np.isnan(mean).any():  # the common case, in one pass
        return np.asarray(mean)
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    total = values.sum(axis=0, where=present)
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0))
