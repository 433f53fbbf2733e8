"""Fine coordinates: what squared distances of them estimate, against sums over segments in plain Python."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.store import fine
from llreg.store.arrays import UNSCORED
from llreg.store.fine import FineMap, num_coordinates
from llreg.texts.segments import Cuts

ID = "0" * 64


def fine_map(sizes: Sequence[Sequence[int]]) -> FineMap:
    return FineMap({"id": ID}, Cuts.from_lists(sizes))


def squared_distance(sizes: Sequence[int], a: Sequence[int], b: Sequence[int]) -> float:
    """Of a text, nats**2: its segments' differences less the drift, with what the drift took of independent ones.

    With the drift where it would take nearly all: of a text of one segment, or of one and a byte.
    """
    differences = [(x - y) / 256 for x, y in zip(a, b, strict=True)]
    total = sum(sizes)
    left = 1 - sum(size**2 for size in sizes) / total**2
    if left < 0.25:
        return sum(difference**2 for difference in differences)
    slope = sum(differences) / total
    return sum((d - slope * size) ** 2 for d, size in zip(differences, sizes, strict=True)) / left


@st.composite
def texts_and_rows(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    sizes = draw(st.lists(st.lists(st.integers(1, 48), min_size=1, max_size=9), min_size=1, max_size=6))
    rows = [[[draw(st.integers(-30_000, 0)) for _ in text] for text in sizes] for _ in range(2)]
    return sizes, *rows


@given(texts_and_rows())
def test_few_segments_are_kept_one_by_one(given: tuple[list[list[int]], list[list[int]], list[list[int]]]) -> None:
    sizes, a, b = given
    made = fine_map(sizes)
    x, y = (made.coordinates(np.array(list(itertools.chain(*row)), np.int32)) for row in (a, b))
    assert (x.dtype, made.text.dtype) == (np.float32, np.int32)
    assert len(made.text) == len(x) == num_coordinates(len(sizes), len(made.text))
    squares = (x.astype(np.float64) - y) ** 2
    for text in range(len(sizes)):
        expected = squared_distance(sizes[text], a[text], b[text])
        assert squares[made.text == text].sum() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_drift_is_no_distance() -> None:
    """A difference that is spread evenly over a text's bytes leaves nothing."""
    for repeats in (1, 3000):
        sizes = [[24, 30, 26], [30, 40], [25, 25]] * repeats
        flat = -np.array([100 * size for text in sizes for size in text], np.int32)
        np.testing.assert_allclose(fine_map(sizes).coordinates(flat), 0, atol=1e-5)


def test_a_text_of_one_segment_has_its_log_likelihood() -> None:
    values = fine_map([[40], [0], [48, 1]]).coordinates(np.array([-256, -128, -512, -64], np.int32))
    np.testing.assert_allclose(values, [-1, -0.5, -2, -0.25])


def test_texts_that_were_not_scored() -> None:
    made = fine_map([[24, 25], [30], [24, 24, 9]])
    coordinates = made.coordinates(np.array([-5, -9, UNSCORED, -3, -4, -5], np.int32))
    assert np.isnan(coordinates).tolist() == [False, False, True, False, False, False]


def test_an_empty_text() -> None:
    assert not np.isnan(fine_map([[0], [24, 25]]).coordinates(np.array([0, -5, -9], np.int32))).any()


class TestManySegments:
    """Signed sums of the segments of each text, in place of the segments."""

    SIZES: ClassVar = [[int(size) for size in sizes] for sizes in np.random.default_rng(0).integers(24, 49, (900, 20))]

    @pytest.fixture(scope="class")
    def made(self) -> FineMap:
        return fine_map(self.SIZES)

    def test_as_many_sums_as_fit(self, made: FineMap) -> None:
        assert made.text.tolist() == [text for text in range(900) for _ in range(18)]
        assert num_coordinates(900, 18_000) == len(made.text) == 16_200 <= fine.COORDINATES
        assert num_coordinates(16_384, 20_000) == 16_384
        assert num_coordinates(50_000, 2_000_000) == 50_000
        assert num_coordinates(900, 0) == 0

    def test_every_segment_is_in_one_sum(self, made: FineMap) -> None:
        """Of 20 segments two sums have two, the others one; which, and their signs, differ from text to text."""
        rng, row = np.random.default_rng(0), np.zeros((900, 20), np.int32)
        segment = rng.integers(0, 20, 900)
        row[np.arange(900), segment] = -256
        base = made.coordinates(np.zeros(18_000, np.int32))
        changed = (np.abs(made.coordinates(row.ravel()) - base) > 0.5).reshape(900, 18)
        assert (changed.sum(axis=1) == 1).all()
        assert len(set(changed.argmax(axis=1)[segment == 0])) > 9

    @pytest.mark.parametrize("num_texts", [900, 6000])  # 18 sums a text, and 2
    def test_squares_have_the_mean_of_those_of_segments(self, num_texts: int) -> None:
        rng, ratios = np.random.default_rng(1), []
        sizes = rng.integers(24, 49, (num_texts, 20))
        made = fine_map(sizes.tolist())
        for _ in range(4):
            # Differences of two rows: independent ones, and a drift of each text.
            differences = rng.normal(0, 400, sizes.shape) - 50 * rng.normal(size=(num_texts, 1)) * sizes
            row = np.rint(differences).astype(np.int32)
            x, y = made.coordinates(row.ravel()), made.coordinates(np.zeros(sizes.size, np.int32))
            exact = sum(squared_distance(b, values, [0] * 20) for b, values in zip(sizes, row, strict=True))
            ratios.append(((x.astype(np.float64) - y) ** 2).sum() / exact)
        assert np.mean(ratios) == pytest.approx(1, abs=0.02)  # 0.012 is the standard error of each with 2 sums

    def test_the_same_on_every_machine(self, made: FineMap) -> None:
        segments = -np.arange(18_000, dtype=np.int32)
        again = fine_map(self.SIZES).coordinates(segments)
        assert again.tobytes() == made.coordinates(segments).tobytes()
        # Written down: other bits here would be another value of every row in every registry.
        assert [float(value).hex() for value in again[:2]] == ["-0x1.0ca0740000000p-8", "-0x1.5939800000000p-7"]
        assert FineMap({"id": "1" * 64}, made.cuts).coordinates(segments).tolist() != again.tolist()
