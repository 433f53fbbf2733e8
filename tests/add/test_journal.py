"""The journal of an unfinished row: whatever a crash leaves, whole entries are kept and the rest is dropped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.add.journal import Entries, Journal, make_entries

HEAD_BYTES = 32
SEGMENTS = 2  # of each text of the toy journals
ENTRY_BYTES = HEAD_BYTES + 4 * SEGMENTS


def _entries(*texts: int) -> Any:
    text = np.array(texts, np.int64)
    segments = [np.array([-10 * k, -k], np.int32) for k in texts]
    return make_entries(text, -1.5 * text - 0.1, text + 1, text, np.zeros(len(text), np.int8), segments)


def _entry(text: int, value: float, tokens: int, correct: int, status: int, segments: list[int]) -> Any:
    parts = [np.array(segments, np.int32)]
    return make_entries(*(np.array([x]) for x in (text, value, tokens, correct, status)), parts)


def _write(journal: Journal, *texts: int) -> None:
    entries = _entries(*texts)
    with journal.writing(journal.read()):
        journal.write(entries)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of texts 5, 0, 3."""
    made = Journal(tmp_path / "runs" / "x.journal")
    _write(made, 5, 0, 3)
    return made


def test_no_file_is_no_entries(tmp_path: Path) -> None:
    assert len(Journal(tmp_path / "x").read()) == 0


int32s = st.integers(-(2**31), 2**31 - 1)
entries_strategy = st.lists(
    st.tuples(
        st.integers(0, 50),
        st.floats(allow_nan=True),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**31 - 1),
        st.integers(0, 4),
        st.lists(int32s, max_size=6),
    ),
    max_size=30,
)


@given(entries_strategy)
def test_reads_back_the_last_of_each_text(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]) -> None:
    journal = Journal(tmp_path_factory.mktemp("j") / "x.journal")
    with journal.writing(journal.read()):
        for entry in entries:
            journal.write(_entry(*entry))
    last = {entry[0]: entry for entry in entries}
    back = journal.read()
    assert back["text"].tolist() == sorted(last)
    for k, (text, segments) in enumerate(zip(back["text"].tolist(), back.segments_of_each(), strict=True)):
        _, value, tokens, correct, status, expected = last[text]
        np.testing.assert_array_equal(back["log_likelihood"][k], value)
        assert [back[name][k] for name in ("num_tokens", "num_correct", "status")] == [tokens, correct, status]
        assert segments.tolist() == expected


@given(entries_strategy, st.data())
def test_entries_together_and_some_of_them(entries: list[Any], data: st.DataObject) -> None:
    parts = [_entry(*entry) for entry in entries]
    joined = Entries.joined([Entries.from_bytes(), *parts])
    assert joined.to_bytes() == b"".join(part.to_bytes() for part in parts)
    chosen = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=5)) if parts else []
    assert joined.take(np.array(chosen, np.int64)).to_bytes() == b"".join(parts[k].to_bytes() for k in chosen)


def test_float64_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.journal")
    with journal.writing(journal.read()):
        journal.write(_entry(7, -1 / 3, 2, 0, 0, []))
    assert journal.read()["log_likelihood"].tolist() == [-1 / 3]


def test_every_torn_tail(journal: Journal) -> None:
    data = journal.path.read_bytes()
    assert len(data) == 3 * ENTRY_BYTES
    for length in range(len(data)):
        journal.path.write_bytes(data[:length])
        assert sorted(journal.read()["text"].tolist()) == sorted([5, 0, 3][: length // ENTRY_BYTES])


def test_every_flipped_byte(journal: Journal) -> None:
    data = journal.path.read_bytes()
    rng = random.Random(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= rng.randrange(1, 256)
        journal.path.write_bytes(damaged)
        assert sorted(journal.read()["text"].tolist()) == sorted([5, 0, 3][: position // ENTRY_BYTES])


@pytest.mark.parametrize("tail", [bytes(ENTRY_BYTES), bytes(4096), b"\xff" * ENTRY_BYTES, b"x" * 7])
def test_garbage_tail(journal: Journal, tail: bytes) -> None:
    """A file system may leave a block of zeros behind a crash."""
    with journal.path.open("ab") as file:
        file.write(tail)
    assert sorted(journal.read()["text"].tolist()) == [0, 3, 5]


def test_goes_on_behind_a_torn_tail(journal: Journal) -> None:
    with journal.path.open("ab") as file:
        file.write(b"torn")
    _write(journal, 8)
    assert sorted(journal.read()["text"].tolist()) == [0, 3, 5, 8]
    assert journal.path.stat().st_size == 4 * ENTRY_BYTES


def test_entry_is_on_the_way_to_the_disk_before_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.journal")
    with journal.writing(journal.read()):
        journal.write(_entries(1))
        assert Journal(journal.path).read()["text"].tolist() == [1]


def test_remove(journal: Journal) -> None:
    journal.remove()
    journal.remove()
    assert len(journal.read()) == 0
    assert list(journal.path.parent.iterdir()) == []
