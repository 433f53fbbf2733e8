"""The next model made ready while one is scored: its files downloaded, its texts tokenised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llreg.add.job import prepare

if TYPE_CHECKING:
    import llreg_extract
    from llreg.add.job import Job

_LEAVE_SECONDS = 3.0  # for tokenising, which cannot be interrupted


class Ahead:
    """One job at a time, prepared by a thread that does not keep the process alive.

    A failure is nobody's business here: what was not prepared is done, and told, at the job's own turn.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._encoded: llreg_extract.Encoded | None = None
        self._native, self._left = threading.Lock(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the thread to itself, but not inside native code: the interpreter may end now, and abort there."""
        self._left = True
        if self._native.acquire(timeout=_LEAVE_SECONDS):
            self._native.release()

    def start(self, job: Job) -> None:
        """Begin to prepare a job."""
        self._thread = threading.Thread(target=self._prepare, args=(job,), name="llreg-ahead", daemon=True)
        self._thread.start()

    def take(self) -> llreg_extract.Encoded | None:
        """Wait for the job that was begun, and return its texts tokenised; None if there is none, or it failed."""
        if self._thread is not None:
            self._thread.join()
        encoded, self._thread, self._encoded = self._encoded, None, None
        return encoded

    def _prepare(self, job: Job) -> None:
        try:
            self._encoded = prepare(job, self._guard())
        except Exception:  # noqa: BLE001 - it comes again at the job's own turn, and is told there
            self._encoded = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._native:
            if self._left:
                raise InterruptedError
            yield
