"""Cuts of texts into segments: what holds for every text, and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.texts.segments import Cuts, cut, in_units
from llreg.texts.textset import mini
from llreg_schemas import Pair

TARGET, MOST = 24, 48
WHITESPACE = b" \t\n\r\f\v"

# Any text; and texts of which many cuts are forced, fall into whitespace, or lie beside characters of 1 to 4 bytes.
TEXTS = st.text(max_size=400) | st.text(alphabet="ab 数🎉é\n\t\u3000", max_size=400)


@given(TEXTS)
def test_segments_are_consecutive_whole_and_within_limits(text: str) -> None:
    data, sizes = text.encode("utf-8"), cut(text)
    assert sum(sizes) == len(data)
    assert sizes == cut(text)
    ends = np.cumsum(sizes).tolist()
    for size, end in zip(sizes[:-1], ends, strict=False):
        data[:end].decode("utf-8")  # raises inside a character
        rest = data[end - size :]
        if data[end] in WHITESPACE and data[end - 1] not in WHITESPACE and TARGET <= size:
            # No whitespace before it would have done.
            places = [k for k in range(TARGET, size) if rest[k] in WHITESPACE and rest[k - 1] not in WHITESPACE]
            assert size <= MOST
        else:  # forced: nothing within the limit would have done, and another character would not have fitted
            places = [
                k
                for k in range(TARGET, min(MOST + 1, len(rest)))
                if rest[k] in WHITESPACE and rest[k - 1] not in WHITESPACE
            ]
            assert MOST - 3 <= size <= MOST
            assert size + len(rest[size:].decode("utf-8")[0].encode("utf-8")) > MOST
        assert places == []
    assert 0 < sizes[-1] <= MOST or not data
    assert sizes or not data


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", [0]),
        ("x", [1]),
        (" ", [1]),
        ("a" * 24, [24]),
        ("a" * 24 + " b", [24, 2]),
        ("a" * 23 + " b", [25]),
        ("a" * 48 + " b", [48, 2]),
        ("a" * 49 + " b", [48, 3]),
        ("a" * 100, [48, 48, 4]),
        (" " * 60, [48, 12]),
        # A run of whitespace goes with what follows it, whole.
        ("a" * 24 + "\n\n    return", [24, 12]),
        ("数" * 17, [48, 3]),
        ("x" + "数" * 17, [46, 6]),
        ("🎉" * 13, [48, 4]),
        # Unicode's further spaces are characters as any other.
        ("a" * 24 + "\u3000" + "b" * 8, [35]),
        ("The lighthouse keeper counted ships until the fog came.", [29, 26]),
    ],
)
def test_worked_cuts(text: str, sizes: list[int]) -> None:
    assert cut(text) == sizes


def test_other_limits() -> None:
    assert cut("aaaa bbbb cccc", target=4, most=6) == [4, 5, 5]
    rules = {"target_bytes": 4, "max_bytes": 6}
    assert Cuts.of(["aaaa bbbb cccc"], rules).sizes.tolist() == [4, 5, 5]


def test_cuts_of_a_text_set() -> None:
    cuts = Cuts.of(["", "a" * 50, Pair("a prompt is not cut, however long it may be", "b" * 49)])
    assert cuts.sizes.tolist() == [0, 48, 2, 48, 1]
    assert cuts.first.tolist() == [0, 1, 3, 5]
    assert cuts.text.tolist() == [0, 1, 1, 2, 2]
    assert (cuts.num_texts, cuts.num_segments) == (3, 5)
    assert [cuts.starts(text).tolist() for text in range(3)] == [[0], [0, 48], [0, 48]]
    assert cuts.sums(cuts.sizes).tolist() == [0, 50, 49]
    assert (cuts.sizes.dtype, cuts.text.dtype, cuts.starts(1).dtype) == (np.int32, np.int32, np.int32)


def test_the_document_names_the_cuts_and_the_text_set() -> None:
    texts = mini()
    cuts = Cuts.of(texts.complete())
    document = cuts.document(texts.info.id)
    # Of the embedded set, for good: rows under other cuts do not compare.
    assert (document["num_segments"], document["id"][:12]) == (1621, "9d65dd72bf4c")
    moved = Cuts.from_lists([[1, 2]]).document(texts.info.id), Cuts.from_lists([[2, 1]]).document(texts.info.id)
    assert moved[0]["id"] != moved[1]["id"] != Cuts.from_lists([[2, 1]]).document("f" * 64)["id"]


@given(st.lists(st.floats(-1e4, 0), min_size=1, max_size=60))
def test_rounded_segments_sum_to_the_rounded_text(values: list[float]) -> None:
    units = in_units(np.array(values))
    assert units.dtype == np.int32
    assert (units <= 0).all()
    assert abs(int(units.sum()) / 256 - sum(values)) <= 1 / 512 + 1e-9
    assert np.abs(units / 256 - values).max() <= 1 / 256 + 1e-9
