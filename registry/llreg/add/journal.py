"""Scored texts of an unfinished row, kept so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.settings import JOURNAL_SYNC_SECONDS
from llreg_schemas.errors import storage_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# One entry a text, with a checksum over the rest: a torn or damaged tail is recognised and dropped.
_ENTRY = np.dtype(
    [("text", "<i4"), ("num_tokens", "<i4"), ("status", "<i4"), ("check", "<u4"), ("log_likelihood", "<f8")]
)


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

    def read(self) -> NDArray[Any]:
        """Entries written so far, the last one of each text; a structured array with fields text, num_tokens,
        status, log_likelihood (float64, nats)."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return read_entries()
        entries = np.frombuffer(data[: len(data) // _ENTRY.itemsize * _ENTRY.itemsize], _ENTRY)
        # All after the first entry that is damaged is dropped: it was written later, maybe in part.
        whole = np.array([entry["check"] == _checksum(entry) for entry in entries], dtype=bool)
        kept = entries[: int(np.argmin(whole))] if not whole.all() else entries
        _, last = np.unique(kept["text"][::-1], return_index=True)
        return kept[len(kept) - 1 - last]

    @contextmanager
    def writing(self, kept: NDArray[Any]) -> Iterator[None]:
        """Open for appending, beginning with the entries in `kept`."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Rewritten whole first, so that a damaged tail does not stay between old and new entries.
            temp = self.path.with_suffix(".new")
            with temp.open("wb") as file:
                file.write(kept.tobytes())
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self.path)
            self._file = self.path.open("ab")
        try:
            yield
        finally:
            with storage_errors(self.path):
                self._file.close()

    def write(self, entries: NDArray[Any]) -> None:
        """Add entries, as `make_entries` gives them; they are on the disk within a few seconds.

        Raises
        ------
        StorageError
            If the disk is full; what was there stays.
        """
        with storage_errors(self.path):
            self._file.write(entries.tobytes())
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
    status: NDArray[np.integer],
) -> NDArray[Any]:
    """Journal entries of scored texts.

    Parameters
    ----------
    text : integer array of shape (n,)
        Indices of texts, or numbers of sequences; see `llreg.add.job`.
    log_likelihood : float64 array of shape (n,), nats
    num_tokens : integer array of shape (n,)
        Tokens scored.
    status : integer array of shape (n,)
        Values of `llreg_extract.Status`.

    Returns
    -------
    structured array of shape (n,)
    """
    entries = np.zeros(len(text), _ENTRY)
    entries["text"], entries["log_likelihood"] = text, log_likelihood
    entries["num_tokens"], entries["status"] = num_tokens, status
    entries["check"] = [_checksum(entry) for entry in entries]
    return entries


def read_entries(data: bytes = b"") -> NDArray[Any]:
    """Journal entries from their bytes: structured array of shape (n,)."""
    return np.frombuffer(data, _ENTRY)


def _checksum(entry: Any) -> int:
    blank = entry.copy()
    blank["check"] = 0
    return zlib.crc32(blank.tobytes())
