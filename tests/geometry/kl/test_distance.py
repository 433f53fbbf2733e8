"""KL divergences: worked numbers, plain formulas, the axioms, and what happens at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llreg.geometry import kl_matrix
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas import make_view, version_id
from llreg_schemas.errors import InputError

MakeRow = Callable[..., Row]
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
TWICE_KL = {
    (0, 1): 1567.222222,
    (0, 2): 47710.138889,
    (0, 3): 2366.666667,
    (1, 2): 66080.583333,
    (1, 3): 807.222222,
    (2, 3): 68893.472222,
}
BITS_PER_BYTE = {(0, 1): 1.130512, (1, 3): 0.582288}
KILOBYTE = np.full(6, 1000.0)

matrices = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(2, 12)),
    elements=st.floats(-5000, 0) | st.just(float("nan")),
)


def test_worked_example() -> None:
    clip = float(np.quantile(T, 0.02))
    assert clip == pytest.approx(-2094.0, abs=1e-9)
    result = kl_matrix(T, KILOBYTE, clip=clip)
    for (i, j), twice in TWICE_KL.items():
        assert 2 * result["kl"].values[i, j] == pytest.approx(twice, abs=1e-6)
    for (i, j), bits in BITS_PER_BYTE.items():
        assert result["kl_bits_per_byte"].values[i, j] == pytest.approx(bits, abs=1e-6)
    assert result["kl"].dims == ("model", "other")
    assert result["kl"].attrs["units"] == "nat/text"
    assert result["kl_bits_per_byte"].attrs["units"] == "bit/byte"


def _direct(a: Array, b: Array, num_bytes: Array) -> dict[str, float]:
    """One pair, written down from the formulas."""
    used = ~(np.isnan(a) | np.isnan(b))
    d = a[used] - b[used]
    n = len(d)
    centred = d - d.mean()
    m2, m4 = (centred**2).mean(), (centred**4).mean()
    bits = num_bytes[used].mean() * math.log(2)
    se = math.sqrt(max(m4 - m2**2, 0) / n) / 2
    top = np.sort(centred**2)[::-1][: math.ceil(n / 100)].sum()
    return {
        "kl": m2 / 2,
        "kl_se": se,
        "kl_bits_per_byte": m2 / 2 / bits,
        "kl_bits_per_byte_se": se / bits,
        "tail_share": top / (n * m2) if m2 else 0.0,
        "num_texts": n,
    }


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("num_texts", [3, 100, 101, 1000])
def test_equals_the_plain_formulas(num_texts: int, missing: float) -> None:
    rng = np.random.default_rng(num_texts)
    values = -rng.gamma(3.0, 200.0, (5, num_texts)) * rng.uniform(0.5, 2.0, (5, 1))
    values[rng.random(values.shape) < missing] = np.nan
    values[:, :2] = -100 - rng.random((5, 2))  # every pair shares two texts at least
    num_bytes = rng.integers(300, 1025, num_texts).astype(np.float64)
    result = kl_matrix(values, num_bytes, clip=None)
    for i in range(5):
        for j in range(5):
            for name, expected in _direct(values[i], values[j], num_bytes).items():
                got = result[name].values[i, j]
                assert got == pytest.approx(expected, rel=1e-10, abs=1e-12), (name, i, j)


def test_float32_rows_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    values = (-rng.gamma(3.0, 200.0, (2, 500))).astype(np.float32)
    result = kl_matrix(values, np.full(500, 400.0), clip=None)
    wide = values.astype(np.float64)
    assert result["kl"].values[0, 1] == pytest.approx(np.var(wide[0] - wide[1]) / 2, rel=1e-12)
    assert result["kl"].dtype == np.float64


def test_near_duplicates_keep_their_digits() -> None:
    """Differences are taken before squaring: at 1e-4 nats between rows of 1e5 nats nothing cancels."""
    rng = np.random.default_rng(0)
    base = -1e5 * rng.random(1000)
    values = np.stack([base, base + 1e-4 * rng.standard_normal(1000)])
    expected = np.var(values[1] - values[0]) / 2
    assert kl_matrix(values, np.ones(1000), clip=None)["kl"].values[0, 1] == pytest.approx(expected, rel=1e-9)


def test_clip_raises_both_rows() -> None:
    values = np.array([[-100.0, -5000.0, -200.0, np.nan], [-120.0, -900.0, -6000.0, -7000.0]])
    clipped = np.array([[-100.0, -1000.0, -200.0, np.nan], [-120.0, -900.0, -1000.0, -1000.0]])
    num_bytes = np.array([10.0, 20.0, 30.0, 40.0])
    got, want = kl_matrix(values, num_bytes, clip=-1000.0), kl_matrix(clipped, num_bytes, clip=None)
    assert got.identical(want)
    assert got["num_texts"].values.tolist() == [[3, 3], [3, 4]]
    swapped = kl_matrix(values[::-1], num_bytes, clip=-1000.0)
    np.testing.assert_array_equal(swapped["kl"].values, got["kl"].values[::-1, ::-1])


@given(matrices)
def test_symmetric_with_zero_diagonal_and_never_negative(values: Array) -> None:
    num_bytes = np.full(values.shape[1], 500.0)
    result = kl_matrix(values, num_bytes, clip=None)
    for name in result:
        np.testing.assert_array_equal(result[name].values, result[name].values.T)
    kl, enough = result["kl"].values, result["num_texts"].values >= 2
    assert (np.isnan(kl) == ~enough).all()
    assert (kl[enough] >= 0).all()
    np.testing.assert_array_equal(np.diag(kl)[np.diag(enough)], 0.0)


@given(matrices, st.randoms(use_true_random=False))
def test_order_of_texts_does_not_matter(values: Array, random: Any) -> None:
    num_bytes = np.arange(300.0, 300.0 + values.shape[1])
    order = random.sample(range(values.shape[1]), values.shape[1])
    one = kl_matrix(values, num_bytes, clip=-3000.0)
    other = kl_matrix(values[:, order], num_bytes[order], clip=-3000.0)
    for name in one:
        np.testing.assert_allclose(other[name].values, one[name].values, rtol=1e-6, atol=1e-6)


@given(matrices.filter(lambda values: not np.isnan(values).any()))
def test_root_of_kl_obeys_the_triangle_inequality(values: Array) -> None:
    root = np.sqrt(kl_matrix(values, np.ones(values.shape[1]), clip=None)["kl"].values)
    through = (root[:, :, None] + root[None, :, :]).min(axis=1)
    assert (root <= through + 1e-6).all()


@given(matrices, st.floats(-1000, 0))
def test_constant_shift_of_a_row_changes_nothing_much(values: Array, shift: float) -> None:
    """A constant factor on every text's probability is invisible to a variance."""
    moved = values.copy()
    moved[0] += shift
    num_bytes = np.ones(values.shape[1])
    one, other = (kl_matrix(v, num_bytes, clip=None)["kl"].values for v in (values, moved))
    np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


def test_identical_rows_give_exactly_zero() -> None:
    row = -np.random.default_rng(0).gamma(3.0, 200.0, 128).astype(np.float32)
    row[5] = np.nan
    result = kl_matrix(np.stack([row, row]), np.full(128, 400.0), clip=None)
    for name in ("kl", "kl_se", "kl_bits_per_byte", "kl_bits_per_byte_se", "tail_share"):
        np.testing.assert_array_equal(result[name].values, np.zeros((2, 2)))


def test_pair_that_shares_fewer_than_two_texts_is_nan() -> None:
    nan = np.nan
    values = np.array([[-1.0, -2.0, nan, nan], [nan, -5.0, -3.0, nan], [nan, nan, -4.0, -9.0]])
    result = kl_matrix(values, np.full(4, 400.0), clip=None)
    assert result["num_texts"].values.tolist() == [[2, 1, 0], [1, 2, 1], [0, 1, 2]]
    few = result["num_texts"].values < 2
    for name in ("kl", "kl_se", "kl_bits_per_byte", "kl_bits_per_byte_se", "tail_share"):
        np.testing.assert_array_equal(np.isnan(result[name].values), few, name)


def test_tail_share_sees_a_few_texts_that_decide() -> None:
    even = np.stack([np.zeros(1000), np.tile([-1.0, 1.0], 500)])
    spiked = even.copy()
    spiked[1, :3] = -10_000.0
    assert kl_matrix(even, np.ones(1000), clip=None)["tail_share"].values[0, 1] == pytest.approx(0.01, rel=1e-9)
    assert kl_matrix(spiked, np.ones(1000), clip=None)["tail_share"].values[0, 1] > 0.99


def test_standard_error_agrees_with_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([-rng.gamma(4.0, 100.0, 2000), -rng.gamma(4.0, 100.0, 2000)])
    result = kl_matrix(values, np.full(2000, 400.0), clip=None)
    difference = values[0] - values[1]
    resampled = difference[rng.integers(0, 2000, (1000, 2000))].var(axis=1) / 2
    assert result["kl_se"].values[0, 1] == pytest.approx(resampled.std(), rel=0.15)


@pytest.mark.parametrize("count", [0, 1])
def test_few_models(count: int) -> None:
    result = kl_matrix(T[:count], KILOBYTE, clip=None)
    assert result["kl"].shape == (count, count)
    assert result["tail_share"].values.tolist() == [[0.0] * count] * count


class TestOfARegistry:
    """`Registry.kl`: which rows, which clip, and what it says about itself."""

    @pytest.fixture
    def filled(self, small_registry: Registry, make_row: MakeRow) -> Registry:
        for k, values in enumerate(T):
            write_row(small_registry.path, make_row(small_registry, f"org/m{k}", k, log_likelihood=values))
        return small_registry

    def test_values_and_labels(self, filled: Registry) -> None:
        result = filled.kl(["org/m3", "org/m0"], clip=-2094.0)
        assert 2 * result["kl"].values[0, 1] == pytest.approx(TWICE_KL[0, 3], abs=1e-6)
        assert result["model_id"].values.tolist() == ["org/m3", "org/m0"]
        assert result["other"].values.tolist() == [filled.find(name).row_id for name in ("org/m3", "org/m0")]
        mean_bytes = filled.info["text_set"]["mean_bytes"]
        bits = result["kl"].values / mean_bytes / math.log(2)
        np.testing.assert_allclose(result["kl_bits_per_byte"].values, bits, rtol=1e-12)

    def test_says_how_it_was_obtained(self, filled: Registry) -> None:
        result = filled.kl(clip=-2094.0)
        assert result.attrs["version"] == version_id(filled.digests())
        assert (result.attrs["clip"], result.attrs["view"]) == (-2094.0, make_view(-2094.0, estimator="fine")["id"])
        assert (filled.kl().attrs["clip"], filled.kl().attrs["view"]) == (
            "none",
            make_view(None, estimator="fine")["id"],
        )

    def test_frozen_clip_is_the_default(self, filled: Registry, tmp_path: Any, small_texts: Any) -> None:
        from llreg.locate import init

        clipped = init(tmp_path / "clipped", texts=small_texts, clip=-2094.0)
        for name in ("org/m0", "org/m2"):
            write_row(clipped.path, filled.row(name))
        assert clipped.kl().attrs["clip"] == -2094.0
        assert 2 * clipped.kl()["kl"].values[0, 1] == pytest.approx(TWICE_KL[0, 2], abs=1e-6)
        assert clipped.kl(clip=None)["kl"].values[0, 1] > clipped.kl()["kl"].values[0, 1]

    def test_bad_clip(self, filled: Registry) -> None:
        with pytest.raises(InputError, match="clip: expected a number, None or 'default'; got 'low'"):
            filled.kl(clip="low")
