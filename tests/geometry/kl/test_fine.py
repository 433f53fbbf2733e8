"""KL from fine coordinates: the plain formula, rows with and without them, and which rows are called identical."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llreg.geometry import kl_matrix
from llreg.geometry.kl.contrast import by_subset, widest_texts
from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.noise import verdicts
from llreg.geometry.kl.points import squared_distances
from llreg.geometry.kl.rows import Rows
from llreg.geometry.view.view import View
from llreg.texts.design import Design
from llreg_schemas import Identity, RowRecord

Array = np.ndarray[Any, Any]

NUM_TEXTS = 40
SIZES = np.random.default_rng(7).integers(1, 6, NUM_TEXTS)
TEXT = np.repeat(np.arange(NUM_TEXTS), SIZES)


def coordinates(num_models: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(num_models, len(TEXT))).astype(np.float32)


def plain_kl(first: Array, second: Array, weights: Array) -> tuple[float, float]:
    """KL and standard error, one text after the other."""
    square = (first.astype(np.float64) - second) ** 2
    by_text = np.array([square[TEXT == text].sum() / 2 for text in range(NUM_TEXTS)])
    used = ~np.isnan(by_text)
    by_text, weights = by_text[used], weights[used]
    kl = float((weights * by_text).sum() / weights.sum())
    return kl, float(np.sqrt((weights**2 * (by_text - kl) ** 2).sum()) / weights.sum())


@pytest.mark.parametrize("num_models", [4, 30])  # pair by pair, and by products
@pytest.mark.parametrize("case", ["whole", "gaps", "weights"])
def test_it_is_the_plain_formula(num_models: int, case: str) -> None:
    values, weights = coordinates(num_models), None
    if case == "gaps":
        for model in range(3):
            values[model, model == TEXT] = np.nan
    if case == "weights":
        weights = np.random.default_rng(1).uniform(0.5, 2, NUM_TEXTS)
    expected = np.array(
        [[plain_kl(a, b, np.ones(NUM_TEXTS) if weights is None else weights) for b in values] for a in values]
    )
    sizes = np.full(NUM_TEXTS, 500.0)
    for se in (True, False):
        result = kl_matrix(values, sizes, clip=None, coordinate_text=TEXT, weights=weights, se=se, tail_share=False)
        np.testing.assert_allclose(result["kl"], expected[..., 0], rtol=1e-9, atol=1e-12)
        if se:
            np.testing.assert_allclose(result["kl_se"], expected[..., 1], rtol=1e-9, atol=1e-12)
    lacking = np.array([3 if case == "gaps" and k < 3 else 0 for k in range(num_models)], dtype=bool)
    assert (result["num_texts"].values[np.ix_(~lacking, ~lacking)] == NUM_TEXTS).all()


def test_one_coordinate_a_text_has_the_same_errors_through_products() -> None:
    values = np.random.default_rng(0).normal(size=(40, 300))
    sizes, text = np.full(300, 500.0), np.arange(300)
    fast = kl_matrix(values, sizes, clip=None, coordinate_text=text, tail_share=False)
    direct = kl_matrix(values, sizes, clip=None, coordinate_text=text, tail_share=True)
    for name in ("kl", "kl_se"):
        np.testing.assert_allclose(fast[name], direct[name], rtol=1e-9, atol=1e-12)


def test_a_sample_of_the_texts_estimates_all_of_them() -> None:
    values = coordinates(2)
    sizes, expected = np.full(NUM_TEXTS, 500.0), plain_kl(*values, np.ones(NUM_TEXTS))[0]
    rng, estimates = np.random.default_rng(3), []
    for k in range(400):
        counts = np.zeros(NUM_TEXTS, np.int64)
        counts[rng.choice(NUM_TEXTS, 20, replace=False)] = 1
        design = Design(str(k), counts, np.full(NUM_TEXTS, 0.5), False)
        drawn = np.where(np.isin(TEXT, np.flatnonzero(counts)), values, np.nan)
        result = kl_matrix(drawn, sizes, clip=None, designs=[design] * 2, coordinate_text=TEXT)
        estimates.append((result["kl"].values[0, 1], result["kl_se"].values[0, 1]))
    mean, se = np.mean(estimates, axis=0)
    assert mean == pytest.approx(expected, rel=0.03)
    assert se > np.std([kl for kl, _ in estimates])  # that of the draw, and that of the texts as a sample of all texts


def test_intervals_cover() -> None:
    """Over independent sets of texts, intervals of two standard errors hold the true value nearly as often as they say."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(400):
        values = np.stack([rng.normal(size=len(TEXT)), rng.normal(size=len(TEXT))])
        result = kl_matrix(values, np.full(NUM_TEXTS, 500.0), clip=None, coordinate_text=TEXT)
        kl, se = result["kl"].values[0, 1], result["kl_se"].values[0, 1]
        hits += abs(kl - SIZES.mean()) < 1.96 * se  # half of the sum of squares with variance 2
    assert 0.9 < hits / 400 <= 1.0


# Rows


def rows_of(fine: Array | None, values: Array, clip: float | None = None) -> Rows:
    count = values.shape[1]
    return Rows(
        records=[
            RowRecord(Identity(f"org/m{k}", "hub", "0" * 40, "float32", "t", "p"), {}, {}, f"{k:064x}")
            for k in range(len(values))
        ],
        values=values if clip is None else np.maximum(values, clip),
        num_bytes=np.full(count, 500.0),
        texts=np.arange(count),
        subsets=np.array(["a", "b"] * (count // 2), dtype=object),
        weights=None,
        designs=[None] * len(values),
        view=View(clip=clip, estimator="fine"),
        registry="r",
        version="v",
        noise=np.full(len(values), 0.01),
        unclipped=None if clip is None else values,
        fine=fine,
        fine_text=None if fine is None else TEXT,
    )


def test_rows_without_segments_are_compared_by_whole_texts() -> None:
    values = np.random.default_rng(2).normal(-500, 5, (6, NUM_TEXTS))
    fine = coordinates(6)
    fine[4:] = np.nan
    result = kl_plain(rows_of(fine, values))
    by_text, by_segments = kl_plain(rows_of(None, values)), kl_plain(rows_of(fine[:4], values[:4]))
    assert result["fine"].values.tolist() == [[i < 4 and j < 4 for j in range(6)] for i in range(6)]
    for name in ("kl", "kl_se", "kl_bits_per_byte"):
        np.testing.assert_array_equal(result[name].values[:4, :4], by_segments[name].values)
        np.testing.assert_array_equal(result[name].values[4:], by_text[name].values[4:])
    some = rows_of(fine, values)
    pairs = kl_plain(some.take([0, 5]), some.take([1, 2, 4]))
    assert pairs["fine"].values.tolist() == [[True, True, False], [False, False, False]]
    np.testing.assert_allclose(pairs["kl"], result["kl"].values[[0, 5]][:, [1, 2, 4]], rtol=1e-9)


def test_points_have_these_distances() -> None:
    rows = rows_of(coordinates(5), np.zeros((5, NUM_TEXTS)))
    rows = replace(rows, weights=np.random.default_rng(1).uniform(0.5, 2, NUM_TEXTS))
    squared = ((rows.q[:, None] - rows.q[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, squared_distances(rows), rtol=1e-6, atol=1e-9)


def test_subsets_and_texts_carry_their_part() -> None:
    rows = rows_of(coordinates(2), np.random.default_rng(0).normal(-500, 5, (2, NUM_TEXTS)))
    whole, parts = kl_plain(rows)["kl"].values[0, 1], by_subset(rows)
    texts = widest_texts(rows, NUM_TEXTS)
    assert parts["share"].values.sum() == pytest.approx(1)
    assert texts["share"].values.sum() == pytest.approx(1)
    text = int(texts["text"].values[0])
    assert rows.fine is not None
    part = ((rows.fine[0].astype(np.float64) - rows.fine[1])[text == TEXT] ** 2).sum() / (2 * NUM_TEXTS)
    assert texts["share"].values[0] == pytest.approx(part / whole)
    halves = kl_plain(rows.take_texts(np.arange(0, NUM_TEXTS, 2)))["kl_bits_per_byte"].values[0, 1]
    assert parts["kl_bits_per_byte"].values[0] == pytest.approx(halves)


# Identity


@pytest.mark.parametrize("change", ["clipped", "constant", "none", "noise", "gap"])
def test_identity_is_decided_by_what_is_stored(change: str) -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(-5000, 300, 100)
    other = {
        "clipped": rng.normal(-9000, 300, 100),  # nothing in common but the threshold that both lie under
        "constant": row - 40,
        "none": row.copy(),
        "noise": row + rng.normal(0, 0.05, 100),
        "gap": np.where(np.arange(100) < 10, np.nan, row),
    }[change]
    rows = [np.maximum(values, -1000.0 if change == "clipped" else -9e9) for values in (row, other)]
    kl = kl_matrix(np.stack(rows), np.full(100, 500.0), clip=None)
    raw = np.stack([row, other])
    pairs = verdicts(kl["kl"].values, np.full((2, 2), 0.01), kl["num_texts"].values, raw, raw, np.zeros((2, 2)))
    expected = {"none": "identical", "gap": "identical", "noise": "same within noise"}.get(change, "different")
    assert pairs[0, 1] == expected


def test_share_of_clipped_texts() -> None:
    values = np.array([[-2000.0, -500, -500, np.nan], [-500.0, -500, -500, -500]])
    assert rows_of(None, values, clip=-1000.0).clipped_share.tolist() == [1 / 3, 0]
    assert rows_of(None, values).clipped_share.tolist() == [0, 0]
