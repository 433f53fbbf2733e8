"""The journal of an unfinished row: whatever a crash leaves, whole entries are kept and the rest is dropped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.add.journal import Journal, make_entries

ENTRY_BYTES = 24


def _entries(*texts: int) -> Any:
    text = np.array(texts, np.int64)
    return make_entries(text, -1.5 * text - 0.1, text + 1, np.zeros(len(text), np.int8))


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


entries_strategy = st.lists(
    st.tuples(st.integers(0, 50), st.floats(allow_nan=True), st.integers(0, 2**31 - 1), st.integers(0, 3)), max_size=30
)


@given(entries_strategy)
def test_reads_back_the_last_of_each_text(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]) -> None:
    journal = Journal(tmp_path_factory.mktemp("j") / "x.journal")
    with journal.writing(journal.read()):
        for text, value, tokens, status in entries:
            journal.write(make_entries(np.array([text]), np.array([value]), np.array([tokens]), np.array([status])))
    last = {text: (value, tokens, status) for text, value, tokens, status in entries}
    back = journal.read()
    assert sorted(back["text"].tolist()) == sorted(last)
    for entry in back:
        value, tokens, status = last[int(entry["text"])]
        np.testing.assert_array_equal(entry["log_likelihood"], value)
        assert (entry["num_tokens"], entry["status"]) == (tokens, status)


def test_float64_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.journal")
    with journal.writing(journal.read()):
        journal.write(make_entries(np.array([7]), np.array([-1 / 3]), np.array([2]), np.array([0])))
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
        journal.write(make_entries(np.array([1]), np.array([-1.0]), np.array([2]), np.array([0])))
        assert Journal(journal.path).read()["text"].tolist() == [1]


def test_remove(journal: Journal) -> None:
    journal.remove()
    journal.remove()
    assert len(journal.read()) == 0
    assert list(journal.path.parent.iterdir()) == []
