"""What a worker of a Dask cluster does: prepare a model, score it, and send what is scored to where the registry is."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llreg_extract
from llreg import settings
from llreg._version import __version__
from llreg.add.job import Computed, Job, Scoring
from llreg.add.job import prepare as prepare_here
from llreg.add.reporter import Reporter
from llreg_schemas.errors import ClusterError, LlregError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SEND_SECONDS = 0.5

Brought = list[tuple[llreg_extract.Revision, str]]  # what was downloaded, and the worker that did it
Seen = Mapping[str, tuple[int, int]]  # bytes and time of each file of a local model


@dataclass(frozen=True)
class Prepared:
    """What was done for a job before its turn; `encoded` is None where that failed."""

    encoded: llreg_extract.Encoded | None
    brought: Brought


@dataclass(frozen=True)
class Outcome:
    """What became of a job: computed, or why not."""

    computed: Computed | None
    error: LlregError | None
    brought: Brought


def dask_setup(worker: Any) -> None:
    """Set up a worker process of this machine, before anything runs in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches it too; the parent ends it
    cpus = settings.worker_cpus()
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def hold(texts: Sequence[Any]) -> Sequence[Any]:
    """Texts, as the result of a task: other tasks take them from the worker that has it."""
    return texts


def versions() -> dict[str, str]:
    """Versions that have to be the same for rows to be of one environment; without the build of torch, as "+cu128"."""
    from importlib.metadata import version

    return {"llreg": __version__, **{name: version(name).partition("+")[0] for name in ("torch", "transformers")}}


def prepare(job: Job, texts: Sequence[Any]) -> Prepared:
    """Download a job's model and tokenise its texts. A failure comes again when it is scored, and is told then."""
    brought = _not_here(job.source)
    try:
        return Prepared(prepare_here(replace(job, texts=texts)), brought)
    except Exception:  # noqa: BLE001
        return Prepared(None, brought)


def score(
    job: Job, texts: Sequence[Any], prepared: Prepared, topic: str, expected: Mapping[str, str], seen: Seen | None
) -> Outcome:
    """Compute a job's row.

    Parameters
    ----------
    job : Job
        Without its texts.
    texts : sequence
    prepared : Prepared
    topic : str
        Where to send what goes on; see `_Link`.
    expected : mapping
        `versions` that this worker must have.
    seen : mapping, optional
        What `look` must give for the model here.
    """
    link, brought = _Link(topic), list(prepared.brought)
    try:
        link.begin(job.identity.name)
        _check_versions(expected)
        if seen is not None:
            _check_files(job.source, seen)
        missing = _not_here(job.source)
        brought += missing
        if missing:
            llreg_extract.fetch(job.source, trust_remote_code=job.trust_remote_code)
        computed = Scoring(replace(job, texts=texts), prepared.encoded).run(link.keep, link)
        link.flush()
        return Outcome(computed, None, brought)
    except _NotWantedError:
        return Outcome(None, None, brought)
    except LlregError as error:
        return Outcome(None, error, brought)
    finally:
        gc.collect()  # modules hold themselves; the next one would be loaded beside this one


def evict(revision: llreg_extract.Revision) -> int:
    """Delete a revision from this worker's cache; return the bytes freed."""
    try:
        return llreg_extract.evict(revision)
    except ModelError:
        return 0


def look(source: llreg_extract.Source) -> Seen | None:
    """Size and time in seconds of each file of a local model; None for one on the Hub."""
    parts = [part for part in (source, source.adapter) if part is not None and part.kind == "local"]
    if not parts:
        return None
    found = {}
    for part in parts:
        folder = Path(part.location) / (part.subfolder or "")
        named = getattr(part, "file", None)
        for path in [folder / named] if named else sorted(folder.iterdir()):
            if path.is_file():
                status = path.stat()
                found[str(path)] = (status.st_size, int(status.st_mtime))
    return found


def _check_files(source: llreg_extract.Source, seen: Seen) -> None:
    """Refuse other files at the same path: the row would name a content that it was not computed from."""
    try:
        here = look(source)
    except OSError:
        here = {}
    if here != seen:
        what = "other files" if here else "nothing"
        raise ModelError(
            f"{source.name} is a local model, and worker {socket.gethostname()} finds {what} at {source.location}: put it "
            "on a file system that all workers see, or on the Hub"
        )


def _check_versions(expected: Mapping[str, str]) -> None:
    here = versions()
    for name, version in expected.items():
        if here[name] != version:
            raise ClusterError(
                f"worker {socket.gethostname()} has {name} {here[name]}, and {version} is here: install the same version"
            )


def _not_here(source: llreg_extract.Source) -> Brought:
    from distributed import get_worker

    address = get_worker().address
    return [
        (revision, address) for revision in llreg_extract.revisions(source) if not llreg_extract.is_cached(revision)
    ]


class _NotWantedError(Exception):
    """The task was cancelled, or who asked for it is gone."""


class _Link(Reporter):
    """Sends what a task does, a few times a second, as events of Dask: mappings with `key`, the task's, and `what`."""

    def __init__(self, topic: str) -> None:
        from distributed import get_worker

        self._worker, self._topic = get_worker(), topic
        self._key = str(self._worker.get_current_task())
        self._entries: list[bytes] = []
        self._tokens, self._sent = 0, 0.0

    def _send(self, what: str, **more: Any) -> None:
        self._worker.log_event(self._topic, {"key": self._key, "what": what, **more})

    def note(self, message: str) -> None:
        self._send("note", message=message)

    def begin(self, model: str) -> None:
        self._send("begin", where=socket.gethostname())

    def start(self, model: str, tokens: int, done: int) -> None:
        self._send("start", tokens=tokens, done=done)

    def keep(self, entries: NDArray[Any]) -> None:
        """Send journal entries of texts that are scored."""
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state == "cancelled":
            raise _NotWantedError
        self._entries.append(entries.tobytes())

    def advance(self, tokens: int) -> None:
        self._tokens += tokens
        if time.monotonic() - self._sent > _SEND_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        self._send("scored", entries=b"".join(self._entries), tokens=self._tokens)
        self._entries, self._tokens, self._sent = [], 0, time.monotonic()
