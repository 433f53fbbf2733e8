"""Downloads of a run: the next model made ready while one is scored, and which are deleted again, `--evict`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import llreg_extract
from llreg.add.job import prepare
from llreg.printable import shown_bytes
from llreg_schemas.errors import ModelError

if TYPE_CHECKING:
    from llreg.add.job import Job
    from llreg.add.reporter import Reporter

_LEAVE_SECONDS = 3.0  # for tokenising, which cannot be interrupted


class Prefetch:
    """One job at a time, its model downloaded and its texts tokenised by a thread that does not keep the process alive.

    A failure is not told here: what was not prepared is done at the job's own turn, and fails again there.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._encoded: llreg_extract.Encoded | None = None
        self._native, self._closed = threading.Lock(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the thread to itself, but not inside native code: the interpreter may end now, and abort there."""
        self._closed = True
        if self._native.acquire(timeout=_LEAVE_SECONDS):
            self._native.release()

    def start(self, job: Job) -> None:
        """Begin to prepare a job."""
        self._thread = threading.Thread(target=self._prepare, args=(job,), name="llreg-prefetch", daemon=True)
        self._thread.start()

    def take(self) -> llreg_extract.Encoded | None:
        """Wait for the job that was begun, and return its texts tokenised; None if there is none, or it failed."""
        if self._thread is not None:
            self._thread.join()
        encoded, self._thread, self._encoded = self._encoded, None, None
        return encoded

    def _prepare(self, job: Job) -> None:
        try:
            self._encoded = prepare(job, self._in_native_code())
        except Exception:  # noqa: BLE001 - it comes again at the job's own turn, and is told there
            self._encoded = None

    @contextmanager
    def _in_native_code(self) -> Iterator[None]:
        with self._native:
            if self._closed:
                raise InterruptedError
            yield


class Evictions:
    """Revisions on the Hub that a run brings into the cache, and how many of its models still need each.

    Parameters
    ----------
    sources : iterable of Source
        Of the models that are to be scored.
    """

    def __init__(self, sources: Iterable[llreg_extract.Source]) -> None:
        self._uses = Counter(revision for source in sources for revision in llreg_extract.revisions(source))
        self._cached_before = {revision for revision in self._uses if llreg_extract.is_cached(revision)}

    def release(self, source: llreg_extract.Source) -> list[llreg_extract.Revision]:
        """Take note that a model is done, and return the revisions that no other one of the run needs."""
        revisions = llreg_extract.revisions(source)
        self._uses.subtract(revisions)
        return [revision for revision in revisions if not self._uses[revision]]

    def delete(self, source: llreg_extract.Source, report: Reporter) -> None:
        """Take note that a model is done, and delete of it what nobody needs and was not in the cache before."""
        for revision in self.release(source):
            if revision in self._cached_before:
                continue
            try:
                freed = llreg_extract.evict(revision)
            except ModelError as error:
                report.note(f"{source.name}: not deleted: {error}")
            else:
                report.note(f"{source.name}: deleted from the cache, {shown_bytes(freed)} freed")
