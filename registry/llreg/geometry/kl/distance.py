"""KL divergence between models from their log-likelihoods, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.noise import noise_floor, verdicts
from llreg.geometry.kl.patterns import FineColumns, Pattern, pair_texts, pattern_groups, patterns
from llreg.geometry.kl.variance import MaskedRows, masked_moments, pair_moments
from llreg.geometry.view.view import clip_values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows
    from llreg.texts.design import Design

_BLOCK = 1024  # models at a time: bounds temporaries at 3 x 80 MB for 10,000 texts
_MASKED_BLOCK = 256  # of rows with gaps, whose powers are all kept
CLIPPED_SHARE = 0.05  # of a row's texts; the threshold of Oyama et al. 2025 is the 2 % quantile of all rows
TAIL_PAIRS = 20_000  # up to here the tail share is computed unless told otherwise: it needs a sort a pair
_NAMES = ("kl", "kl_se", "tail_share", "num_texts", "mean_bytes")  # as `_PairBlocks` computes them

# The variables of a result, with their attributes. A new one is computed in `_PairBlocks` or `kl_matrix`.
_ATTRS = {
    "kl": {"long_name": "KL divergence", "units": "nat/text"},
    "kl_se": {"long_name": "standard error of kl", "units": "nat/text"},
    "kl_bits_per_byte": {"long_name": "KL divergence", "units": "bit/byte"},
    "kl_bits_per_byte_se": {"long_name": "standard error of kl_bits_per_byte", "units": "bit/byte"},
    "tail_share": {"long_name": "share of the variance that the top 1 % of texts carry", "units": "1"},
    "num_texts": {"long_name": "texts used", "units": "1"},
}


def kl_matrix(
    log_likelihood: NDArray[np.floating],
    num_bytes: NDArray[np.floating],
    *,
    clip: float | None,
    others: NDArray[np.floating] | None = None,
    weights: NDArray[np.float64] | None = None,
    designs: Sequence[Design | None] | None = None,
    other_designs: Sequence[Design | None] | None = None,
    coordinate_text: NDArray[np.intp] | None = None,
    se: bool = True,
    tail_share: bool | None = None,
) -> Dataset:
    """Pairwise KL divergences of models, estimated from their log-likelihoods.

    Parameters
    ----------
    log_likelihood : float array of shape (n_models, n_texts), nats
        NaN where a text was not scored; such texts are left out of a pair. With `coordinate_text` fine coordinates instead, of
        shape (n_models, n_coordinates).
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
    coordinate_text : intp array of shape (n_coordinates,), optional
        The text of each fine coordinate, ascending; see `llreg.store.fine.FineMap`.
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
    SE(KL) = sqrt((m4 - m2**2) / N) / 2 with the central moments m2, m4 of l_i - l_j (`llreg.geometry.kl.variance`).
    Bits per byte divide by (mean bytes of the texts used) * ln 2 (Kishino et al., arXiv 2505.15353). Weighted texts enter
    mean and variance with their weights; sampled rows with the weights of Oyama et al. 2025b (arXiv 2505.15428), see
    `llreg.geometry.kl.patterns.pair_texts`.

    Of fine coordinates y the KL of a text is half the sum of (y_i - y_j)**2 over its coordinates, and KL the mean over texts: the
    divergence of next-token distributions summed over positions, since what a model does better throughout a text is
    not in them. Texts are independent, coordinates of a text are not: the standard error is that of a mean over texts.

    Large matrices are Gram matrices of centred rows, in float64; pairs so close that cancellation would take
    digits are then taken again as direct differences, so the KL of near-duplicates keeps its digits.
    """
    import xarray as xr

    first = clip_values(log_likelihood, clip)  # (n_models, n_texts)
    second = first if others is None else clip_values(others, clip)  # (n_others, n_texts)
    symmetric = others is None
    tail = first.shape[0] * second.shape[0] <= TAIL_PAIRS if tail_share is None else tail_share
    # Which texts a row has: a text's first coordinate stands for all of them.
    starts = slice(None) if coordinate_text is None else np.unique(coordinate_text, return_index=True)[1]
    rows = patterns(first[:, starts], designs)
    columns = rows if symmetric else patterns(second[:, starts], other_designs)
    one_by_one = coordinate_text is not None or tail or (se and weights is not None)
    if one_by_one:  # these come from each pair's own differences: nothing to take together
        row_groups, column_groups = [[row] for row in rows], [[column] for column in columns]
    else:
        row_groups, column_groups = pattern_groups(rows), pattern_groups(columns)
    blocks = _PairBlocks(first, second, num_bytes, weights, coordinate_text, symmetric=symmetric, se=se, tail=tail)
    for k, row_group in enumerate(row_groups):
        for column_group in column_groups[k if symmetric else 0 :]:
            blocks.fill(row_group, column_group)
    result = blocks.result
    scale = result.pop("mean_bytes") * math.log(2)  # (n_models, n_others): from nats per text to bits per byte
    result["kl_bits_per_byte"] = result["kl"] / scale
    if se:
        result["kl_bits_per_byte_se"] = result["kl_se"] / scale
    result["num_texts"] = result["num_texts"].astype(np.int64)
    return xr.Dataset(
        {name: (("model", "other"), result[name], attrs) for name, attrs in _ATTRS.items() if name in result}
    )


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
        As `kl_judged`; row ids (model, other) and model names (model_id, other_id) as coordinates; and registry, version, view
        and clip as attributes.
    """
    result = kl_judged(rows, others, se=se, tail_share=tail_share)
    right = rows if others is None else others
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


def kl_judged(rows: Rows, others: Rows | None = None, *, se: bool = True, tail_share: bool | None = None) -> Dataset:
    """KL divergences between rows, with what must be known of each.

    Returns
    -------
    xarray.Dataset
        As `kl_plain`, with ``mark``, why a value is no KL (see `marks`); where the noise of rows is known, ``noise_floor``, the KL
        that arithmetic alone puts between two runs, nats per text, and ``verdict``, what it says of the pair (see
        `llreg.geometry.kl.noise`). First rows of unknown noise are taken to be as exact as those that they are compared with.
    """
    result = kl_plain(rows, others, se=se, tail_share=tail_share)
    right = rows if others is None else others
    result["mark"] = ("model", "other"), marks(result, rows, right), {"long_name": "why the value is no KL"}
    if right.noise is not None:
        kl, rounding = result["kl"].values, rows.rounding * result["fine"].values
        if rows.noise is None:
            floor = np.broadcast_to(right.noise, kl.shape)
        else:
            floor = noise_floor(rows.noise, right.noise)
        attributes = {"long_name": "KL between two runs of one model", "units": "nat/text"}
        result["noise_floor"] = ("model", "other"), floor, attributes
        pairs = verdicts(kl, floor, result["num_texts"].values, rows.raw, right.raw, rounding)
        result["verdict"] = ("model", "other"), pairs, {"long_name": "whether the two can be told apart"}
    return result


def kl_plain(rows: Rows, others: Rows | None = None, *, se: bool = True, tail_share: bool | None = None) -> Dataset:
    """KL divergences between rows, the estimates alone: what `kl_matrix` gives, by the estimator that the rows have.

    ``fine``, bool with dims (model, other), says which are from segments: those of two rows that both have them, if the view
    asks for it.
    """
    right = rows if others is None else others

    def estimate(left: Rows, right: Rows | None, *, fine: bool) -> Dataset:
        def columns(rows: Rows) -> NDArray[np.floating]:
            return rows.values if rows.fine is None or not fine else rows.fine

        return kl_matrix(
            columns(left),
            left.num_bytes,
            clip=None,  # the view has clipped
            others=None if right is None else columns(right),
            weights=left.weights,
            designs=left.designs,
            other_designs=None if right is None else right.designs,
            coordinate_text=left.fine_text if fine else None,
            se=se,
            tail_share=tail_share,
        )

    fine = rows.has_fine[:, None] & right.has_fine[None, :]  # (n_models, n_others)
    result = estimate(rows, others, fine=bool(fine.all() and fine.size))
    if fine.any() and not fine.all():
        left_rows, right_rows = np.flatnonzero(rows.has_fine), np.flatnonzero(right.has_fine)
        part = estimate(rows.take(left_rows), None if others is None else right.take(right_rows), fine=True)
        for name in part:
            result[name].values[np.ix_(left_rows, right_rows)] = part[name].values
    attributes = {"long_name": "whether the estimate is from segments of the texts", "units": "1"}
    return result.assign(fine=(("model", "other"), fine, attributes))


def marks(result: Dataset, rows: Rows, others: Rows) -> NDArray[np.object_]:
    """What must be known of estimates before they are taken for KL divergences.

    Parameters
    ----------
    result : xarray.Dataset
        From `kl_plain`, of these rows.
    rows, others : Rows

    Returns
    -------
    object array of shape (n_models, n_others)
        "no KL" where the estimate exceeds what a text costs the two models on average. "N % clipped" where whole texts are compared
        and more than 5 % of them lie below the view's threshold in one of the rows. Else "".

    Notes
    -----
    On texts drawn half from each model, what these cost the two is the sum of their entropies and of J, the mean of both
    divergences; so J exceeds the mean of the costs only where less than half of what the models pay is their own uncertainty.
    Exact J over the zoo is 0.53 of it at most (benchmarks/RESULTS.md); squares of large differences grow beyond.
    """
    mean_cost = (rows.cost[:, None] + others.cost[None, :]) / 2
    clipped = np.maximum(rows.clipped_share[:, None], others.clipped_share[None, :])
    clipped = np.where(result["fine"].values, 0.0, clipped)
    result_marks = np.full(clipped.shape, "", dtype=object)
    for pair in np.argwhere(clipped > CLIPPED_SHARE):
        result_marks[tuple(pair)] = f"{clipped[tuple(pair)]:.0%} clipped"
    result_marks[result["kl"].values > mean_cost] = "no KL"
    return result_marks


class _PairBlocks:
    """The arrays of a result, each float64 of shape (n_models, n_others), filled a block of pairs at a time."""

    def __init__(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        num_bytes: NDArray[np.floating],
        weights: NDArray[np.float64] | None,
        coordinate_text: NDArray[np.intp] | None,
        *,
        symmetric: bool,
        se: bool,
        tail: bool,
    ) -> None:
        self._first, self._second, self._num_bytes, self._weights = first, second, num_bytes, weights
        self._coordinate_text = coordinate_text
        self._symmetric, self._se, self._tail = symmetric, se, tail
        self._shift = _mean_row(first)
        skipped = {*(() if se else ("kl_se",)), *(() if tail else ("tail_share",))}
        self.result: dict[str, NDArray[Any]] = {
            name: np.full((len(first), len(second)), np.nan) for name in _NAMES if name not in skipped
        }

    def fill(self, row_group: list[Pattern], column_group: list[Pattern]) -> None:
        """Pairs of two groups of patterns: through one product a pair of patterns, or all at once through masks."""
        sampled = any(pattern.design for pattern in (*row_group, *column_group))
        if len(row_group) == len(column_group) == 1 or sampled:
            same = self._symmetric and row_group is column_group
            for k, row in enumerate(row_group):
                for column in column_group[k if same else 0 :]:
                    self._fill_patterns(row, column)
        else:
            self._fill_masked(
                *(np.sort(np.concatenate([p.rows for p in group])) for group in (row_group, column_group))
            )

    def _fill_patterns(self, row: Pattern, column: Pattern) -> None:
        """Pairs of two patterns: all on the same texts."""
        texts = pair_texts(row, column, self._weights, len(self._num_bytes))
        if self._coordinate_text is not None:
            texts = replace(texts, fine=FineColumns.of(self._coordinate_text, texts.columns))
        same = self._symmetric and row is column
        constants = float(texts.count), texts.mean_bytes(self._num_bytes)
        for i in range(0, len(row.rows), _BLOCK):
            rows = row.rows[i : i + _BLOCK]
            left = texts.prepare(self._first, rows, self._shift)  # (n_rows, count)
            for j in range(i if same else 0, len(column.rows), _BLOCK):  # of a symmetric block half is enough
                columns = column.rows[j : j + _BLOCK]
                right = left if same and i == j else texts.prepare(self._second, columns, self._shift)
                moments = pair_moments(left, right, texts, se=self._se, tail=self._tail)
                self._store(
                    rows, columns, (*moments, *(np.broadcast_to(value, moments[0].shape) for value in constants))
                )

    def _fill_masked(self, row_group: NDArray[np.intp], column_group: NDArray[np.intp]) -> None:
        """Pairs of rows that lack different texts."""
        same = self._symmetric and np.array_equal(row_group, column_group)
        for i in range(0, len(row_group), _MASKED_BLOCK):
            rows = row_group[i : i + _MASKED_BLOCK]
            left = MaskedRows(self._first[rows] - self._shift, self._weights)
            for j in range(i if same else 0, len(column_group), _MASKED_BLOCK):
                columns = column_group[j : j + _MASKED_BLOCK]
                right = MaskedRows(self._second[columns] - self._shift, self._weights)
                kl, kl_se, count, mean_bytes, close = masked_moments(left, right, self._num_bytes, se=self._se)
                self._store(rows, columns, (kl, kl_se, np.full_like(kl, np.nan), count, mean_bytes))
                for a, b in np.argwhere(close):  # pairs that lost digits are taken directly
                    row, column = (
                        Pattern(np.array([k]), ~np.isnan(values[k]), None)
                        for k, values in ((rows[a], self._first), (columns[b], self._second))
                    )
                    self._fill_patterns(row, column)

    def _store(self, rows: NDArray[np.intp], columns: NDArray[np.intp], block: tuple[NDArray[np.float64], ...]) -> None:
        """Write a block of each of `_NAMES`, and its mirror image below the diagonal."""
        mirrored = self._symmetric and not np.array_equal(rows, columns)
        for name, values in zip(_NAMES, block, strict=True):
            if name in self.result:
                self.result[name][_block_index(rows, columns)] = values
                if mirrored:
                    self.result[name][_block_index(columns, rows)] = values.T


def _block_index(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[Any, ...]:
    """Index of a block; of slices where it is in one piece, which is many times quicker."""
    spans = [slice(int(k[0]), int(k[-1]) + 1) if (np.diff(k) == 1).all() else None for k in (rows, columns)]
    return np.ix_(rows, columns) if None in spans else tuple(spans)


def _mean_row(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What all rows have in common, taken off before products: the smaller the numbers, the less cancels; (n_texts,)."""
    mean = values.sum(axis=0) / max(len(values), 1)
    if not np.isnan(mean).any():  # the common case, in one pass
        return np.asarray(mean)
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    total = values.sum(axis=0, where=present)
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0))
