"""Text subsets: chances and draws, and what distances from a sample estimate, how well, and how sure they say they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llreg.geometry import kl_matrix
from llreg.geometry.kl.rows import Rows
from llreg.geometry.subset import error_curve
from llreg.geometry.view.view import View
from llreg.texts.design import Design
from llreg.texts.sampling import METHODS, Method, draw_texts, expected_draws, text_chances, text_scores
from llreg_schemas.errors import InputError

Array = np.ndarray[Any, Any]

T = np.array(
    [
        [-610, -480, -900, -300, -20, -1500],
        [-600, -500, -880, -310, -22, -1400],
        [-640, -470, -950, -290, -15, -2600],
        [-700, -560, -990, -350, -60, -1450],
    ],
    dtype=np.float64,
)
LS = [0.026666, 0.055175, 0.01735, 0.044635, 0.037331, 0.818843]
KL = [0.026311, 0.05488, 0.016961, 0.044649, 0.0373, 0.8199]

matrices = hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(2, 8)), elements=st.floats(-2000, 0))
chances_of_texts = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 100_000))


def _q(values: Array) -> Array:
    rows = values - values.mean(axis=1, keepdims=True)
    return np.asarray(rows - rows.mean(axis=0))


# Scores and chances


@pytest.mark.parametrize(("method", "expected"), [("ls", LS), ("kl", KL), ("uniform", [1 / 6] * 6)])
def test_worked_chances(method: Method, expected: list[float]) -> None:
    scores = text_scores(np.maximum(T, np.quantile(T, 0.02)), method)
    np.testing.assert_allclose(scores / scores.sum(), expected, atol=1e-6)
    chances = text_chances(scores, floor=0.0)
    np.testing.assert_allclose(chances / chances.sum(), expected, atol=2e-5)


@given(matrices)
def test_scores_are_the_sums_over_pairs(values: Array) -> None:
    q = _q(values)
    scale = 1e-9 * (1 + np.abs(values).max() ** 2)
    np.testing.assert_allclose(text_scores(values, "ls"), (q**2).sum(axis=0), rtol=1e-7, atol=scale)
    pairs = q[:, None, :] - q[None, :, :]
    expected = np.sqrt((pairs**4).sum(axis=(0, 1)))
    np.testing.assert_allclose(text_scores(values, "kl"), expected, rtol=1e-5, atol=1e-5 * (1 + expected.max()))


def test_scores_of_many_rows_are_those_of_one_block() -> None:
    values = -np.random.default_rng(0).gamma(2.0, 300.0, (700, 5))
    np.testing.assert_allclose(text_scores(values, "ls"), (_q(values) ** 2).sum(axis=0), rtol=1e-10)


def test_texts_that_a_row_lacks_count_as_no_difference() -> None:
    values = T.copy()
    values[0, 5] = np.nan
    without = text_scores(values, "ls")
    assert np.isfinite(without).all()
    rows = values - np.nanmean(values, axis=1, keepdims=True)
    np.testing.assert_allclose(without, np.nansum((rows - np.nanmean(rows, axis=0)) ** 2, axis=0))


def test_the_floor_bounds_every_weight() -> None:
    scores = np.array([0.0, 1.0, 10.0, 1000.0])
    chances = text_chances(scores, floor=0.25)
    share = chances / chances.sum()
    np.testing.assert_allclose(share, 0.75 * scores / scores.sum() + 0.25 / 4, rtol=1e-3)
    assert text_chances(scores, floor=0.0)[0] >= 1  # never impossible, only unlikely
    weighted = text_chances(np.ones(3), floor=0.5, weights=np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(weighted / weighted.sum(), [0.25, 0.5, 0.25], rtol=1e-3)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_is_a_share(floor: float) -> None:
    with pytest.raises(InputError, match="floor: expected a number from 0 to 1"):
        text_chances(np.ones(3), floor=floor)


def test_equal_rows_tell_nothing() -> None:
    with pytest.raises(InputError, match="no text tells the models apart"):
        text_chances(text_scores(np.full((3, 4), -5.0), "ls"))


# Draws

WITHOUT = [8, 14, 16, 23, 24, 27, 28, 29]
WITH = {3: 1, 6: 1, 7: 1, 10: 1, 14: 2, 18: 1, 20: 2, 23: 2, 29: 1}


@given(chances_of_texts, st.data())
def test_inclusion_probabilities(chances: Array, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(chances)))
    expected = expected_draws(chances, size, replacement=False)
    assert expected.sum() == pytest.approx(size)
    assert (expected <= 1 + 1e-12).all()
    below = expected < 1 - 1e-9
    ratio = expected[below] / chances[below]
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio)), rtol=1e-9)
    counts = draw_texts(chances, size, replacement=False, key="a key")
    assert counts.sum() == size
    assert set(counts) <= {0, 1}
    assert (counts[~below] == 1).all()


def test_a_draw_is_the_same_everywhere() -> None:
    """Written down once: another machine, numpy or Python must draw the same texts, or no subset can be checked."""
    chances = np.arange(1, 31, dtype=np.int64)
    without = draw_texts(chances, 8, replacement=False, key="key")
    assert np.flatnonzero(without).tolist() == WITHOUT
    counts = draw_texts(chances, 12, replacement=True, key="key")
    assert {int(text): int(counts[text]) for text in np.flatnonzero(counts)} == WITH


@pytest.mark.parametrize("replacement", [False, True])
def test_each_text_is_drawn_as_often_as_expected(replacement: bool) -> None:
    chances = np.array([1, 1, 2, 3, 5, 8, 13, 60], dtype=np.int64)
    runs = 3000
    drawn = [draw_texts(chances, 4, replacement=replacement, key=f"{k}") for k in range(runs)]
    expected = expected_draws(chances, 4, replacement=replacement)
    error = np.std(drawn, axis=0) / np.sqrt(runs)
    np.testing.assert_array_less(np.abs(np.mean(drawn, axis=0) - expected), 5 * error + 1e-9)
    assert np.sum(drawn, axis=1).tolist() == [4] * runs


@pytest.mark.parametrize(("draws", "told"), [(0, "at least 1 text"), (3, "at most 2 texts, as many as can be drawn")])
def test_an_impossible_number_is_refused(draws: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        draw_texts(np.array([3, 0, 1]), draws, replacement=False, key="")


# Distances from samples


def _population(num_texts: int, seed: int = 1) -> Array:
    """Four models, some texts far more telling than others, with heavy tails."""
    rng = np.random.default_rng(seed)
    spread = rng.gamma(1.5, 10.0, num_texts)
    noise = rng.standard_normal((4, num_texts)) + 0.3 * rng.standard_t(5, (4, num_texts))
    return np.asarray(np.minimum(rng.normal(-600, 100, num_texts) + spread * noise, -1.0))


def _design(values: Array, method: Method, size: int, replacement: bool, key: str, floor: float = 0.5) -> Design:
    chances = text_chances(text_scores(values, method), floor=floor)
    counts = draw_texts(chances, size, replacement=replacement, key=key)
    return Design(key, counts, expected_draws(chances, size, replacement=replacement), replacement)


def _seen(row: Array, design: Design) -> Array:
    return np.where(design.counts > 0, row, np.nan)


def _pair(a: Array, b: Array, num_bytes: Array, one: Design | None, other: Design | None, **more: Any) -> Any:
    result = kl_matrix(a[None], num_bytes, clip=None, others=b[None], designs=[one], other_designs=[other], **more)
    return {name: result[name].values[0, 0] for name in result}


@pytest.mark.parametrize("replacement", [False, True])
def test_uniform_samples_give_the_sample_variance(replacement: bool) -> None:
    """With replacement s**2 / 2, without s**2 (N - 1) / N / 2, the unbiased estimates of a variance with divisor N."""
    values = _population(200)
    design = _design(values, "uniform", 50, replacement, "u")
    got = _pair(_seen(values[0], design), values[1], np.ones(200), design, None)
    difference = np.repeat(values[0] - values[1], design.counts)
    factor = 1.0 if replacement else 199 / 200
    assert got["kl"] == pytest.approx(factor * np.var(difference, ddof=1) / 2, rel=1e-12)
    assert got["num_texts"] == np.count_nonzero(design.counts)


def test_equals_the_weighted_coordinates_of_the_paper() -> None:
    """The estimate of Oyama et al. 2025b from w = sqrt(c / (n p)), but for the correction that a mean costs: O(1 / n)."""
    values, draws = _population(300), 120
    design = _design(values[:3], "ls", draws, True, "p2", floor=0.0)
    scores = text_scores(values[:3], "ls")
    texts = np.flatnonzero(design.counts)
    weight = np.sqrt(design.counts[texts] / (draws * scores[texts] / scores.sum()))
    means = (weight**2 * values[:, texts]).sum(axis=1) / (weight**2).sum()
    coordinates = weight * (values[:, texts] - means[:, None])
    expected = ((coordinates[0] - coordinates[3]) ** 2).sum() / (2 * 300)
    got = _pair(_seen(values[0], design), values[3], np.ones(300), design, None)["kl"]
    assert expected < got < expected * (1 + 4 / draws)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_of_all_texts_is_the_whole_set(method: Method) -> None:
    values, num_bytes = _population(90), np.arange(90) + 100.0
    design = _design(values, method, 90, False, "all")
    whole = _pair(values[0], values[1], num_bytes, None, None, tail_share=True)
    for other in (None, design):
        got = _pair(values[0], values[1], num_bytes, design, other, tail_share=True)
        for name in ("kl", "kl_se", "kl_bits_per_byte", "num_texts"):
            assert got[name] == pytest.approx(whole[name], rel=1e-12), name


CASES: list[tuple[Method, bool, str]] = [
    ("ls", False, "all texts"),
    ("ls", True, "all texts"),
    ("kl", False, "all texts"),
    ("uniform", False, "all texts"),
    ("uniform", True, "all texts"),
    ("ls", False, "a view of half the texts"),
    ("uniform", False, "a view of half the texts"),
    ("ls", False, "texts over the context"),
]


@pytest.mark.parametrize(("method", "replacement", "shown"), CASES)
def test_estimates_are_unbiased_and_their_errors_honest(method: Method, replacement: bool, shown: str) -> None:
    """Over many draws: means are the distances on all texts; the reported error is the spread of the estimates."""
    num_texts, size, runs = 500, 200, 80
    values = _population(num_texts)
    view = np.arange(0, num_texts, 2) if "view" in shown else np.arange(num_texts)
    new = values[0].copy()
    if "context" in shown:
        new[np.random.default_rng(2).random(num_texts) < 0.2] = np.nan
    num_bytes = np.random.default_rng(0).integers(300, 1000, num_texts).astype(float)
    truth = _pair(new[view], values[1][view], num_bytes[view], None, None)
    kinds = ("full and sample", "one sample", "two samples", "two kinds of sample")
    estimates: dict[str, list[float]] = {kind: [] for kind in kinds}
    variances: dict[str, list[float]] = {kind: [] for kind in kinds}
    for run in range(runs):
        a, b = (_design(values[1:], method, size, replacement, f"{run}{which}") for which in "ab")
        c = _design(values[1:], "uniform", 300, False, f"{run}c")
        for kind, other in zip(kinds, (None, a, b, c), strict=True):
            second = values[1] if other is None else _seen(values[1], other)
            seen = other.take(view) if other else None
            got = _pair(_seen(new, a)[view], second[view], num_bytes[view], a.take(view), seen)
            estimates[kind].append(got["kl"])
            variances[kind].append(got["kl_se"] ** 2)
    for kind in kinds:
        spread = np.std(estimates[kind], ddof=1)
        off = np.mean(estimates[kind]) - truth["kl"]
        assert abs(off) < 4 * spread / np.sqrt(runs), kind
        of_the_draw = np.sqrt(np.mean(variances[kind]) - truth["kl_se"] ** 2)
        assert 0.7 < of_the_draw / spread < 1.4, kind


def test_telling_texts_first_is_worth_it() -> None:
    values = _population(600)
    truth = _pair(values[0], values[1], np.ones(600), None, None)["kl"]
    off = {}
    for method in METHODS:
        for replacement in (False, True):
            designs = [_design(values[1:], method, 200, replacement, f"{k}") for k in range(60)]
            found = [_pair(_seen(values[0], d), values[1], np.ones(600), d, None)["kl"] for d in designs]
            off[method, replacement] = np.sqrt(np.mean((np.array(found) / truth - 1) ** 2))
    assert max(off["ls", False], off["kl", False]) < 0.7 * off["uniform", False]
    assert off["ls", False] < off["ls", True]


def test_bytes_are_those_of_the_set_not_of_the_sample() -> None:
    values, num_bytes = _population(100), np.linspace(100, 1000, 100)
    design = _design(values, "ls", 30, False, "bytes")
    got = _pair(_seen(values[0], design), values[1], num_bytes, design, None)
    assert got["kl_bits_per_byte"] == pytest.approx(got["kl"] / (num_bytes.mean() * np.log(2)), rel=1e-12)


def test_tail_share_of_a_sample_is_about_that_of_the_set() -> None:
    values = _population(2000)
    whole = _pair(values[0], values[1], np.ones(2000), None, None, tail_share=True)["tail_share"]
    designs = [_design(values[1:], "ls", 600, False, f"{k}") for k in range(40)]
    shares = [
        _pair(_seen(values[0], d), values[1], np.ones(2000), d, None, tail_share=True)["tail_share"] for d in designs
    ]
    assert np.mean(shares) == pytest.approx(whole, rel=0.1)


def test_a_view_beyond_the_sample_has_no_distance() -> None:
    values = _population(60)
    design = _design(values, "uniform", 20, False, "half")
    expected = design.expected.copy()
    expected[30:] = 0
    part = dataclasses.replace(design, expected=expected, counts=np.where(expected > 0, design.counts, 0))
    assert not part.covers
    got = _pair(_seen(values[0], part), values[1], np.ones(60), part, None)
    assert np.isnan(got["kl"])
    assert got["num_texts"] == 0
    within = part.take(np.arange(30))
    assert within.covers
    got = _pair(_seen(values[0], part)[:30], values[1][:30], np.ones(30), within, None)
    assert got["kl"] > 0


def test_a_matrix_is_symmetric_and_has_a_zero_diagonal_where_the_samples_are_one() -> None:
    values = _population(120)
    a, b = _design(values, "ls", 60, False, "a"), _design(values, "kl", 80, True, "b")
    rows = np.stack([_seen(values[0], a), _seen(values[1], a), _seen(values[2], b), values[3]])
    result = kl_matrix(rows, np.ones(120), clip=None, designs=[a, a, b, None])
    for name in ("kl", "kl_se"):
        np.testing.assert_array_equal(result[name].values, result[name].values.T)
    np.testing.assert_allclose(np.diag(result["kl"]), 0, atol=1e-12)
    assert result["num_texts"].values[0, 2] == np.count_nonzero((a.counts > 0) & (b.counts > 0))
    many = kl_matrix(np.repeat(rows, 10, axis=0), np.ones(120), clip=None, designs=[a] * 20 + [b] * 10 + [None] * 10)
    np.testing.assert_allclose(many["kl"].values[::10, ::10], result["kl"].values, rtol=1e-9, atol=1e-9)


# Rows


def _rows(values: Array, designs: list[Design | None]) -> Rows:
    count = values.shape[1]
    return Rows(
        records=[],
        values=values,
        num_bytes=np.full(count, 500.0),
        texts=np.arange(count),
        subsets=np.full(count, "all", dtype=object),
        weights=None,
        designs=designs,
        view=View(),
        registry="r",
        version="v",
    )


def test_coordinates_of_sampled_rows_have_their_distances() -> None:
    values = _population(80)
    design = _design(values, "ls", 40, False, "q")
    rows = _rows(np.stack([_seen(values[0], design), values[1], values[2]]), [design, None, None])
    q = rows.q
    kl = kl_matrix(rows.values, rows.num_bytes, clip=None, designs=[design] * 3)["kl"].values
    squared = ((q[:, None] - q[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, 2 * 80 * kl, rtol=1e-9, atol=1e-9)
    assert (q[:, design.counts == 0] == 0).all()
    half = rows.take_texts(np.arange(0, 80, 2))
    assert half.designs[0] is not None
    assert len(half.designs[0].counts) == 40


def test_coordinates_of_different_samples_do_not_exist() -> None:
    values = _population(80)
    a, b = (_design(values, "ls", 40, False, key) for key in "ab")
    with pytest.raises(InputError, match="coordinates need rows of one text subset; these have 2"):
        _ = _rows(values, [a, b, None, None]).q


# The error curve


class _Many(Rows):
    """Rows without records."""

    def __len__(self) -> int:
        return len(self.values)


def _many(values: Array) -> Rows:
    plain = _rows(values, [None] * len(values))
    return _Many(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(Rows)})


def test_error_curve_falls_to_zero() -> None:
    values = np.concatenate([_population(300, seed) for seed in range(3)])
    lines = error_curve(_many(values), [60, 150, 300], resamples=10)
    assert [(line["method"], line["draws"]) for line in lines] == [(m, n) for m in METHODS for n in (60, 150, 300)]
    for first, second, last in (lines[:3], lines[3:6], lines[6:]):
        assert first["relative"] > second["relative"] > last["relative"]
        assert last["relative"] == pytest.approx(0, abs=1e-9)
        assert last["absolute"] == pytest.approx(0, abs=1e-9)
        assert last["relative_total"] > 0.05  # what the set itself is off
    assert lines[0]["texts"] == 60


def test_error_curve_with_replacement_counts_different_texts() -> None:
    (line,) = error_curve(
        _many(_population(100)), [100], methods=["uniform"], replacement=True, resamples=40, held_out=False
    )
    assert line["texts"] == pytest.approx(100 * (1 - 0.99**100), rel=0.05)
    assert line["relative"] == pytest.approx(line["relative_total"] / np.sqrt(2), rel=0.5)


def test_error_curve_of_equal_rows_is_refused() -> None:
    with pytest.raises(InputError, match="errors are measured between rows that differ"):
        error_curve(_many(np.full((3, 5), -4.0)))
