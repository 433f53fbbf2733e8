"""The files of Hub models on this machine's disk: downloaded if they fit, and deleted when they are done with."""

from __future__ import annotations

import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from llreg_extract.files.checkpoint import WEIGHTS_INDEX
from llreg_extract.files.hub import RepoFile, cache_folder, needed_files, repo_folder
from llreg_extract.files.hub_errors import hub_errors
from llreg_extract.libraries import quiet
from llreg_extract.source import Adapter, Source
from llreg_schemas.errors import ModelError, NoRoomError

_STREAMS = 4  # files downloaded at once
# What `resolve` and `needs` fetch, wherever it lies.
_LOOKED_AT = frozenset(("config.json", "adapter_config.json", "README.md", WEIGHTS_INDEX))


class Revision(NamedTuple):
    """A commit of a repository on the Hub."""

    repo: str
    commit: str


def fetch(source: Source, *, trust_remote_code: bool = False) -> None:
    """Download what loading a Hub model takes; a local model has all it takes.

    The threads that download do not keep the process alive: an interruption ends it at once, and what is there of a
    file is gone on from next time.

    Parameters
    ----------
    source : Source
        From `resolve`.
    trust_remote_code : bool
        Whether code from the checkpoint may run.

    Raises
    ------
    NoRoomError
        It does not fit on the disk; nothing was downloaded.
    ModelError
        It cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    if not revisions(source):
        return
    missing = [file for file in needed_files(source, trust_remote_code=trust_remote_code) if not file.cached]
    for revision in revisions(source):
        files = [file for file in missing if (file.repo, file.commit) == revision]
        if not files:
            continue
        # Room is looked at under the lock, so that two downloads to one repository do not both count on it.
        with quiet(), hub_errors(source.name, revision.commit), _repo_lock(revision, required=False):
            _check_room(source, files)
            download = partial(hf_hub_download, revision.repo, revision=revision.commit)
            _each_in_daemons(download, [file.name for file in files])


def revisions(source: Source) -> list[Revision]:
    """What a model is made of on the Hub: the revision of its weights, and of its adapter; nothing of a local one."""
    parts: list[Source | Adapter] = [source, *([source.adapter] if source.adapter else [])]
    return [Revision(part.location, part.revision) for part in parts if part.kind == "hub"]


def is_cached(revision: Revision) -> bool:
    """Whether the cache holds files of a revision, other than those which describe it."""
    snapshot = repo_folder(revision.repo) / "snapshots" / revision.commit
    return any(path.name not in _LOOKED_AT for path in snapshot.rglob("*") if not path.is_dir())


def evict(revision: Revision) -> int:
    """Delete a revision from the cache; what other revisions share with it stays.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    ModelError
        The cache cannot be changed, or is not in order.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with quiet(), _repo_lock(revision, required=True):
        _tidy_references(repo_folder(revision.repo))
        try:
            cache = scan_cache_dir(cache_folder())
        except CacheNotFound:
            return 0
        # A copy of a repository under another name has the same commits, and is not ours to delete.
        repos = frozenset(repo for repo in cache.repos if (repo.repo_type, repo.repo_id) == ("model", revision.repo))
        of_it = re.compile(re.escape(repo_folder(revision.repo).name) + r"(?![\w.-])")
        for fault in filter(of_it.search, map(str, cache.warnings)):  # such a repository is not among them
            raise ModelError(f"the cache of {revision.repo} is not in order: {fault}")
        strategy = replace(cache, repos=repos).delete_revisions(revision.commit)
        strategy.execute()
        return int(strategy.expected_freed_size)


def _tidy_references(folder: Path) -> None:
    """Take away the white space that an editor or `echo` puts behind a commit: the client calls a repository with it corrupted."""
    with suppress(OSError, ValueError):
        for path in [path for path in (folder / "refs").rglob("*") if path.is_file()]:
            commit = path.read_text(encoding="utf-8")
            if commit != commit.strip():
                path.write_text(commit.strip(), encoding="utf-8")


@contextmanager
def _repo_lock(revision: Revision, *, required: bool) -> Iterator[None]:
    """Keep other processes from deleting in a repository's cache while this one downloads to it, and the reverse.

    Revisions share files there: one could be deleted just after the other found it. Who deletes has to have the lock
    (`required`). Who downloads goes on without one that is not to be had, because it is another user's or the file system has
    none: what may not be written says so itself.
    """
    from filelock import FileLock

    folder = cache_folder() / ".locks" / repo_folder(revision.repo).name
    lock = FileLock(folder / "llreg.lock", mode=0o664)  # as the client library's locks: a group may share a cache
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if required:
            raise ModelError(
                f"the cache of {revision.repo} in {cache_folder()} cannot be changed: {error.strerror}"
            ) from error
    try:
        yield
    finally:
        lock.release()  # nothing where it was not had


def _check_room(source: Source, files: Sequence[RepoFile]) -> None:
    """Refuse a download that is larger than what is free on the cache's disk."""
    folder = cache_folder()
    asked, free = sum(file.num_bytes or 0 for file in files), shutil.disk_usage(folder).free
    if asked > free:
        raise NoRoomError(
            f"the download of {source.name} ({asked / 1e9:,.2f} GB) does not fit on the disk: {free / 1e9:,.2f} GB are "
            f"free in {folder}; free some space, move HF_HOME, or have models deleted when they are done (--evict)"
        )


def _each_in_daemons(function: Callable[[str], Any], items: Sequence[str]) -> None:
    """Call a function with each item, some at once, and raise the first error when all threads are done.

    Not by an executor, whose threads would be waited for when the process ends.
    """
    waiting, outcomes = deque(items), SimpleQueue[Exception | None]()

    def work() -> None:
        with suppress(IndexError):  # nothing is left
            while True:
                item = waiting.popleft()
                try:
                    function(item)
                except Exception as error:  # noqa: BLE001 - the thread that waits raises it
                    outcomes.put(error)
                else:
                    outcomes.put(None)

    for _ in items[:_STREAMS]:
        threading.Thread(target=work, name="llreg-fetch", daemon=True).start()
    errors: list[Exception] = []
    running = len(items)
    try:
        while running > 0:
            error = outcomes.get()
            running -= 1
            if error is not None:
                errors.append(error)
                # Those are not begun; what runs is waited for, since it writes where others would delete.
                running -= len(waiting)
                waiting.clear()
    finally:
        waiting.clear()
    if errors:
        raise errors[0]
