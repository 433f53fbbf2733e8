"""Scored texts of an unfinished row, kept so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.settings import JOURNAL_SYNC_SECONDS
from llreg_schemas.errors import storage_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The head of an entry; its segments follow, int32 each. The check is over all behind it: a torn or damaged tail is
# recognised and dropped.
_HEAD = np.dtype(
    [
        ("check", "<u4"),
        ("text", "<i4"),
        ("num_tokens", "<i4"),
        ("num_correct", "<i4"),
        ("status", "<i4"),
        ("num_segments", "<i4"),
        ("log_likelihood", "<f8"),
    ]
)
_CHECK_BYTES = 4


@dataclass(frozen=True, eq=False)
class Entries:
    """Scored texts. ``entries["text"]`` is a field of all of them.

    Attributes
    ----------
    heads : structured array of shape (n,)
        With the fields text, num_tokens, num_correct, status, num_segments and log_likelihood (float64, nats).
    segments : int32 array of shape (n_segments,), units of 1/256 nat
        Those of all texts, one after the other.
    """

    heads: NDArray[Any]
    segments: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, field: str) -> NDArray[Any]:
        return np.asarray(self.heads[field])

    def segments_of_each(self) -> list[NDArray[np.int32]]:
        """The segments of each text: int32 arrays of shape (num_segments,)."""
        return np.split(self.segments, np.cumsum(self.heads["num_segments"])[:-1]) if len(self) else []

    def take(self, chosen: NDArray[np.integer]) -> Entries:
        """Some of them, by their places: int array of shape (n_chosen,)."""
        parts = self.segments_of_each()
        return Entries(self.heads[chosen], np.concatenate([self.segments[:0], *(parts[k] for k in chosen)]))

    @classmethod
    def joined(cls, parts: Sequence[Entries]) -> Entries:
        """Those of several, one after the other; at least one."""
        return cls(np.concatenate([part.heads for part in parts]), np.concatenate([part.segments for part in parts]))

    def to_bytes(self) -> bytes:
        """As they are in the file."""
        parts = zip(self.heads, self.segments_of_each(), strict=True)
        return b"".join(head.tobytes() + segments.astype("<i4").tobytes() for head, segments in parts)

    @classmethod
    def from_bytes(cls, data: bytes = b"") -> Entries:
        """Those in the file's bytes, up to the first that is damaged: what is behind it was written later, maybe in part."""
        heads, segments, at = [np.empty(0, _HEAD)], [np.empty(0, np.int32)], 0
        while len(data) - at >= _HEAD.itemsize:
            head = np.frombuffer(data, _HEAD, 1, at)
            num_segments, begin = int(head["num_segments"][0]), at + _HEAD.itemsize
            end = begin + 4 * num_segments
            if not begin <= end <= len(data) or zlib.crc32(data[at + _CHECK_BYTES : end]) != head["check"][0]:
                break
            heads.append(head)
            segments.append(np.frombuffer(data, "<i4", num_segments, begin).astype(np.int32))
            at = end
        return cls(np.concatenate(heads), np.concatenate(segments))


class Journal:
    """Append-only file of scored texts; use it inside `writing`.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._synced = 0.0

    def read(self) -> Entries:
        """Entries written so far, the last one of each text."""
        try:
            kept = Entries.from_bytes(self.path.read_bytes())
        except FileNotFoundError:
            return Entries.from_bytes()
        _, last = np.unique(kept["text"][::-1], return_index=True)
        return kept.take(len(kept) - 1 - last)

    @contextmanager
    def writing(self, kept: Entries) -> Iterator[None]:
        """Open for appending, beginning with the entries in `kept`."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Rewritten whole first, so that a damaged tail does not stay between old and new entries.
            temp = self.path.with_suffix(".new")
            with temp.open("wb") as file:
                file.write(kept.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self.path)
            self._file = self.path.open("ab")
        try:
            yield
        finally:
            with storage_errors(self.path):
                self._file.close()

    def write(self, entries: Entries) -> None:
        """Add entries, as `make_entries` gives them; they are on the disk within a few seconds.

        Raises
        ------
        StorageError
            If the disk is full; what was there stays.
        """
        with storage_errors(self.path):
            self._file.write(entries.to_bytes())
            self._file.flush()
            if time.monotonic() - self._synced > JOURNAL_SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def remove(self) -> None:
        """Remove the file: its row is written, or it must not be resumed."""
        self.path.unlink(missing_ok=True)


def make_entries(
    text: NDArray[np.integer],
    log_likelihood: NDArray[np.float64],
    num_tokens: NDArray[np.integer],
    num_correct: NDArray[np.integer],
    status: NDArray[np.integer],
    segments: Sequence[NDArray[np.int32]] | None = None,
) -> Entries:
    """Journal entries of scored texts.

    Parameters
    ----------
    text : integer array of shape (n,)
        Indices of texts, or numbers of sequences; see `llreg.add.job`.
    log_likelihood : float64 array of shape (n,), nats
    num_tokens, num_correct : integer arrays of shape (n,)
        Tokens scored, and how many of them were the model's first choice.
    status : integer array of shape (n,)
        Values of `llreg_extract.Status`.
    segments : sequence of int32 arrays of shape (n_segments,), optional
        Log-likelihoods of the segments of each text, in units of 1/256 nat.
    """
    heads, parts = np.zeros(len(text), _HEAD), [np.empty(0, np.int32)] * len(text) if segments is None else segments
    heads["text"], heads["log_likelihood"], heads["status"] = text, log_likelihood, status
    heads["num_tokens"], heads["num_correct"] = num_tokens, num_correct
    heads["num_segments"] = [len(part) for part in parts]
    heads["check"] = [
        zlib.crc32(part.astype("<i4").tobytes(), zlib.crc32(head.tobytes()[_CHECK_BYTES:]))
        for head, part in zip(heads, parts, strict=True)
    ]
    return Entries(heads, np.concatenate([np.empty(0, np.int32), *parts]))
