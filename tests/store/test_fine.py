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
    """Of a text, nats**2: its segments' differences less the drift, with what the drift took of independent ones."""
    differences = [(x - y) / 256 for x, y in zip(a, b, strict=True)]
    total = sum(sizes)
    left = 1 - sum(size**2 for size in sizes) / total**2
    if not left:
        return 0.0
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
    """A difference that is spread evenly over a text's bytes leaves nothing; nor does one within a single segment."""
    for many in (False, True):
        sizes = [[24, 30, 26], [40], [25, 25]] * (2000 if many else 1)
        made = fine_map(sizes)
        flat = -np.array([100 * size for text in sizes for size in text], np.int32)
        np.testing.assert_allclose(made.coordinates(flat), 0, atol=1e-5)
        assert (made.coordinates(flat - 7)[made.text % 3 == 1] == 0).all()


def test_texts_that_were_not_scored() -> None:
    made = fine_map([[24, 25], [30], [24, 24, 9]])
    coordinates = made.coordinates(np.array([-5, -9, UNSCORED, -3, -4, -5], np.int32))
    assert np.isnan(coordinates).tolist() == [False, False, True, False, False, False]


def test_an_empty_text() -> None:
    assert fine_map([[0], [24, 25]]).coordinates(np.array([0, -5, -9], np.int32))[0] == 0


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

    def test_signs_are_balanced_in_every_sum(self, made: FineMap) -> None:
        signs = made._signs.reshape(18, 900, 20)
        assert set(np.unique(signs)) == {-1, 1}
        assert (signs.sum(axis=2) == 0).all()
        # Neighbours in size cancel: at most as many bytes are left as the largest and the smallest differ by.
        sizes = np.array(self.SIZES)
        assert (np.abs((signs * sizes).sum(axis=2)) <= np.ptp(sizes, axis=1)).all()
        # Each sum has signs of its own.
        assert abs(np.corrcoef(signs.reshape(18, -1))[np.triu_indices(18, 1)]).max() < 0.05

    def test_squares_have_the_mean_of_those_of_segments(self, made: FineMap) -> None:
        rng, sizes, ratios = np.random.default_rng(1), np.array(self.SIZES), []
        for _ in range(4):
            # Differences of two rows: independent ones, and a drift of each text.
            differences = rng.normal(0, 400, (900, 20)) - 50 * rng.normal(size=(900, 1)) * sizes
            row = np.rint(differences).astype(np.int32)
            x, y = made.coordinates(row.ravel()), made.coordinates(np.zeros(18_000, np.int32))
            exact = sum(squared_distance(b, values, [0] * 20) for b, values in zip(self.SIZES, row, strict=True))
            ratios.append(((x.astype(np.float64) - y) ** 2).sum() / exact)
        assert np.mean(ratios) == pytest.approx(1, abs=0.02)  # 0.012 is the standard error of each

    def test_the_same_on_every_machine(self, made: FineMap) -> None:
        segments = -np.arange(18_000, dtype=np.int32)
        again = fine_map(self.SIZES).coordinates(segments)
        assert again.tobytes() == made.coordinates(segments).tobytes()
        # Written down: other bits here would be another value of every row in every registry.
        assert [float(value).hex() for value in again[:2]] == ["-0x1.ae25b80000000p-6", "-0x1.d4ff720000000p-7"]
        assert FineMap({"id": "1" * 64}, made.cuts).coordinates(segments).tolist() != again.tolist()

    def test_an_odd_number_of_segments(self) -> None:
        signs = fine_map([[24, 40, 24]] * 6000)._signs
        assert set(np.abs(signs.reshape(-1, 3).sum(axis=1)).tolist()) == {1}
        # The longest and one of the others cancel; the last has either sign.
        assert (signs.reshape(-1, 3)[:, 1] == -signs.reshape(-1, 3)[:, [0, 2]].T).any(axis=0).all()
        assert {tuple(row) for row in signs.reshape(-1, 3).tolist()} == {
            (1, -1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1), (1, 1, -1), (-1, 1, 1),
        }  # fmt: skip
