"""What a Dask worker does: prepare a model, score it, and tell meanwhile where the registry is what it has scored."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import llreg_extract
from llreg import settings
from llreg._version import __version__
from llreg.add import job as jobs
from llreg.add.job import Computed, Job, Scoring
from llreg.add.journal import Entries
from llreg.add.reporter import Reporter
from llreg.texts.segments import Cuts
from llreg_schemas.errors import ClusterError, LlregError, ModelError

_SEND_SECONDS = 0.5
_EVICT_SECONDS = 60.0  # for one revision to be deleted

FileStamps = Mapping[str, tuple[int, int]]  # bytes and time in seconds of each file of a local model, by its path
# What this process has downloaded, by the topic of the run that it was for: `--evict` deletes nothing else.
_downloads: defaultdict[str, set[llreg_extract.Revision]] = defaultdict(set)


class StoppedError(Exception):
    """A task that Dask has taken back: it was cancelled, or who asked for it is gone."""


def dask_setup(worker: Any) -> None:
    """Set up a worker process of this machine, before anything runs in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches it too; the parent ends it
    cpus = settings.worker_cpus()
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


# Tasks


Texts = tuple[Sequence[Any], Cuts | None]  # the texts of a job, and how those of the set are cut into segments


def hold(texts: Texts) -> Texts:
    """Texts, as the result of a task: other tasks take them from the worker that has it."""
    return texts


def prepare(job: Job, texts: Texts, topic: str) -> llreg_extract.Encoded | None:
    """Download a job's model and tokenise its texts; None if that fails, for it is told when the job is scored."""
    _remember_downloads(job.source, topic)
    try:
        return jobs.prepare(replace(job, texts=texts[0]))
    except Exception:  # noqa: BLE001
        return None


def score(
    job: Job,
    texts: Texts,
    encoded: llreg_extract.Encoded | None,
    topic: str,
    expected: Mapping[str, str],
    stamps: FileStamps | None,
) -> Computed | LlregError | StoppedError:
    """Compute a job's row.

    Parameters
    ----------
    job : Job
        Without its texts and cuts.
    texts : tuple
        Them.
    encoded : Encoded or None
        From `prepare`.
    topic : str
        Of the Dask events that tell what goes on; see `_Events`.
    expected : mapping
        `versions` that this worker must have.
    stamps : mapping, optional
        `file_stamps` that a local model must have here.

    Returns
    -------
    Computed, LlregError or StoppedError
        An error is returned and not raised: its traceback would keep the model in memory until the client has it, and Dask
        would print it.
    """
    events = _Events(topic)
    try:
        events.begin(job.identity.name)
        check_versions(f"worker {socket.gethostname()}", versions(), expected)
        if stamps is not None:
            job = replace(job, source=_check_files(job.source, stamps))
        if _remember_downloads(job.source, topic):  # it was prepared on another worker, or not at all
            llreg_extract.fetch(job.source, trust_remote_code=job.trust_remote_code)
        job = replace(job, texts=texts[0], cuts=texts[1])
        computed = Scoring(job, encoded).run(events.keep, events)
        events.flush()
    except (LlregError, StoppedError) as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
    else:
        return computed
    finally:
        gc.collect()  # modules hold themselves; the next one would be loaded beside this one


async def evict(topic: str, revisions: Sequence[llreg_extract.Revision]) -> bool:
    """Delete revisions from this worker's cache that it has downloaded for a run; return whether that was done.

    It runs in the worker's event loop and deletes in a thread, so that the worker still answers the scheduler.
    """
    all_deleted = True
    for revision in _downloads[topic].intersection(revisions):
        _downloads[topic].remove(revision)
        try:
            await asyncio.wait_for(asyncio.to_thread(llreg_extract.evict, revision), _EVICT_SECONDS)
        except (ModelError, TimeoutError):
            all_deleted = False
    return all_deleted


def _remember_downloads(source: llreg_extract.Source, topic: str) -> bool:
    """Note what is not in the cache and will be downloaded now; False if all is there."""
    missing = [revision for revision in llreg_extract.revisions(source) if not llreg_extract.is_cached(revision)]
    _downloads[topic].update(missing)
    return bool(missing)


# What must be the same on all machines


def versions() -> dict[str, str]:
    """Versions that have to be the same for rows to be of one environment; without the build of torch, as "+cu128"."""
    from importlib.metadata import version

    return {"llreg": __version__, **{name: version(name).partition("+")[0] for name in ("torch", "transformers")}}


def check_versions(name: str, present: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse a worker of other versions.

    Parameters
    ----------
    name : str
        The worker, in words.
    present, expected : mapping
        `versions` on the worker, and on the machine that asks.

    Raises
    ------
    ClusterError
    """
    for package, version in expected.items():
        if present.get(package) != version:
            raise ClusterError(
                f"{name} has {package} {present.get(package)}, and {version} is here: install the same version on both"
            )


def file_stamps(source: llreg_extract.Source) -> FileStamps | None:
    """Size and time in seconds of each file of a local model as they were when it was hashed; None for one on the Hub.

    Another machine may count finer times and inodes differently.
    """
    return {path: (stamp.num_bytes, stamp.mtime_ns // 10**9) for path, stamp in source.files.items()} or None


def _check_files(source: llreg_extract.Source, expected: FileStamps) -> llreg_extract.Source:
    """Refuse other files at the same path: the row would name a content that it was not computed from.

    Returns
    -------
    Source
        With the stamps that its files have on this machine.
    """
    try:
        here = replace(source, files={path: llreg_extract.FileStamp.of(Path(path)) for path in expected})
    except OSError:
        here = replace(source, files={})
    stamps = file_stamps(here) or {}
    if stamps != expected:
        what = "other files" if stamps else "nothing"
        raise ModelError(
            f"{source.name} is a local model, and worker {socket.gethostname()} finds {what} at {source.location}: put it "
            "on a file system that all workers see, or on the Hub"
        )
    return here


class _Events(Reporter):
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
        self._send("begin")

    def start(self, model: str, tokens: int, done: int) -> None:
        self._send("start", tokens=tokens, done=done)

    def keep(self, entries: Entries) -> None:
        """Send journal entries of texts that are scored."""
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state == "cancelled":
            raise StoppedError
        self._entries.append(entries.to_bytes())

    def advance(self, tokens: int) -> None:
        self._tokens += tokens
        if time.monotonic() - self._sent > _SEND_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is held back."""
        self._send("scored", entries=b"".join(self._entries), tokens=self._tokens)
        self._entries, self._tokens, self._sent = [], 0, time.monotonic()
