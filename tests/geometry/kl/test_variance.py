"""Large matrices through products: they must agree with direct differences, gaps and near-duplicates included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llreg.geometry.kl.distance import kl_matrix
from llreg.geometry.kl.variance import standard_error

Array = np.ndarray[Any, Any]


def _plain(values: Array, num_bytes: Array) -> dict[str, Array]:
    """Every pair from its own differences, in extended precision."""
    count = len(values)
    found = {name: np.full((count, count), np.nan) for name in ("kl", "kl_se", "kl_bits_per_byte")}
    for i in range(count):
        for j in range(count):
            d = values[i].astype(np.longdouble) - values[j].astype(np.longdouble)
            used = ~np.isnan(d)
            d = d[used] - d[used].mean()
            m2, m4 = (d**2).mean(), (d**4).mean()
            found["kl"][i, j] = m2 / 2
            found["kl_se"][i, j] = np.sqrt(max(m4 - m2**2, 0) / used.sum()) / 2
            found["kl_bits_per_byte"][i, j] = m2 / 2 / num_bytes[used].mean() / np.log(2)
    return found


def _rows(count: int = 40, texts: int = 300, seed: int = 0) -> Array:
    """More pairs than are taken directly; texts of very different likelihood; tails; near-duplicates."""
    rng = np.random.default_rng(seed)
    values = -rng.gamma(2.0, 400.0, texts) * rng.lognormal(0, 0.1, (count, 1)) + rng.normal(0, 20, (count, texts))
    values[:, :3] *= 20
    values[1] = values[0]
    values[2] = values[0] + rng.normal(0, 1e-3, texts)
    values[3] = values[0] + rng.normal(0, 1e-6, texts)
    values[4] = values[0] - 7.0
    return np.minimum(values, 0).astype(np.float64)


@pytest.mark.parametrize("gaps", ["none", "one row", "many rows"])
def test_products_agree_with_differences(gaps: str) -> None:
    values, rng = _rows(), np.random.default_rng(1)
    if gaps == "one row":
        values[7, :50] = np.nan
    if gaps == "many rows":
        values[rng.random(values.shape) < 0.05] = np.nan
        values[9] = values[8]
        values[5:8] = _rows()[5:8]
    num_bytes = rng.uniform(200, 1000, values.shape[1])
    result = kl_matrix(values, num_bytes, clip=None, tail_share=False)
    expected = _plain(values, num_bytes)
    for name, matrix in expected.items():
        np.testing.assert_allclose(result[name].values, matrix, rtol=1e-8, atol=1e-22, err_msg=name)
    assert result["kl"].values[0, 1] == pytest.approx(0, abs=0) or gaps == "many rows"


def test_interleaved_patterns_of_gaps_stay_in_their_cells() -> None:
    """Rows 0, 2, 4, ... lack one text, rows 1, 3, 5, ... another: together they are every row, in another order."""
    values = _rows()
    values[0::2, 5] = np.nan
    values[1::2, 9] = np.nan
    num_bytes = np.full(300, 1000.0)
    fast = kl_matrix(values, num_bytes, clip=None, tail_share=False)
    direct = kl_matrix(values, num_bytes, clip=None, tail_share=True)
    for name in ("kl", "kl_se", "num_texts", "kl_bits_per_byte"):
        np.testing.assert_allclose(fast[name].values, direct[name].values, rtol=1e-8, atol=1e-20, err_msg=name)


def test_near_duplicates_keep_their_digits() -> None:
    """A KL of 1e-6 bits per byte beside one of hundreds."""
    values = _rows()
    result = kl_matrix(values, np.full(300, 1000.0), clip=None, tail_share=False)
    expected = np.var(values[2] - values[0]) / 2
    assert expected / 1000 / np.log(2) < 1e-8
    assert result["kl"].values[0, 2] == pytest.approx(expected, rel=1e-9)
    assert result["kl"].values[0, 3] == pytest.approx(np.var(values[3] - values[0]) / 2, rel=1e-6)


def test_rectangle_is_a_part_of_the_square() -> None:
    values = _rows()
    values[10, 5] = np.nan
    num_bytes = np.full(300, 500.0)
    whole = kl_matrix(values, num_bytes, clip=-3000.0, tail_share=False)
    part = kl_matrix(values[:25], num_bytes, clip=-3000.0, others=values, tail_share=False)
    for name in ("kl", "kl_se", "num_texts"):
        np.testing.assert_allclose(part[name].values, whole[name].values[:25], rtol=1e-9, atol=1e-20)


@settings(max_examples=settings.default.max_examples // 2)
@given(st.integers(0, 10_000), st.floats(0.1, 3.0))
def test_weights_and_gaps_together(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    values = _rows(12, 40, seed)
    values[rng.random(values.shape) < 0.1] = np.nan
    weights = rng.lognormal(0, spread, 40)
    result = kl_matrix(values, np.ones(40), clip=None, weights=weights, tail_share=False)
    some = kl_matrix(values[:3], np.ones(40), clip=None, weights=weights, tail_share=True)
    np.testing.assert_allclose(result["kl"].values[:3, :3], some["kl"].values, rtol=1e-8, atol=1e-12)
    d = values[5] - values[11]
    used = ~np.isnan(d)
    w = weights[used]
    mean = np.average(d[used], weights=w)
    assert result["kl"].values[5, 11] == pytest.approx(np.average((d[used] - mean) ** 2, weights=w) / 2, rel=1e-9)


def test_without_standard_errors_and_tail() -> None:
    result = kl_matrix(_rows(), np.ones(300), clip=None, se=False, tail_share=False)
    assert set(result) == {"kl", "kl_bits_per_byte", "num_texts"}
    assert "tail_share" in kl_matrix(_rows(), np.ones(300), clip=None)


def test_weighted_standard_error_agrees_with_a_bootstrap() -> None:
    """Texts drawn anew, each keeping its weight."""
    rng = np.random.default_rng(3)
    values = np.stack([-rng.gamma(4.0, 100.0, 3000), -rng.gamma(4.0, 100.0, 3000)])
    weights = rng.uniform(0.2, 3.0, 3000)
    result = kl_matrix(values, np.ones(3000), clip=None, weights=weights)
    draws = rng.integers(0, 3000, (800, 3000))
    d, w = (values[0] - values[1])[draws], weights[draws]
    mean = (d * w).sum(1) / w.sum(1)
    kl = ((d - mean[:, None]) ** 2 * w).sum(1) / w.sum(1) / 2
    assert result["kl_se"].values[0, 1] == pytest.approx(kl.std(), rel=0.15)


def test_standard_error_is_that_of_half_a_variance() -> None:
    """For normal differences of variance v: m4 = 3 v**2, so SE(KL) = v sqrt(2 / N) / 2; never of a negative number."""
    m2 = np.array([4.0, 1.0])
    np.testing.assert_allclose(standard_error(m2, 3 * m2**2, 200.0), m2 * np.sqrt(2 / 200) / 2, rtol=1e-15)
    assert standard_error(np.array(2.0), np.array(4.0 - 1e-15), 10.0) == 0
