"""Writing that a reader, a crash or a second process never sees half done."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llreg.settings import STALE_TEMP_SECONDS
from llreg_schemas.errors import NO_LOCKS, InputError, LlregWarning, storage_errors

# What zipfile raises of a file that is damaged, or no zip.
ZIP_ERRORS = (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)
_REMOVALS = 20  # tries, a tenth of a second apart, to remove a staging directory
STATE = ".llreg"  # directory in a registry: locks, partial runs and temporary files; never published
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def state_dir(root: Path) -> Path:
    """The directory `STATE` of a registry, made if it is missing."""
    path = root / STATE
    with storage_errors(path):
        path.mkdir(exist_ok=True)
    return path


def temp_dir(root: Path) -> Path:
    """Where a registry's temporary files live: its own file system, outside the published tree."""
    path = state_dir(root) / "tmp"
    with storage_errors(path):
        path.mkdir(exist_ok=True)
    return path


def check_writable(root: Path) -> None:
    """Find out that a registry cannot be written before hours are spent on what should go into it.

    Raises
    ------
    StorageError
    """
    with storage_errors(root), tempfile.TemporaryFile(dir=temp_dir(root)):
        pass


def write_atomic(root: Path, target: Path, data: bytes) -> None:
    """Write `data` to `target` so that it is there whole or not at all, also after a power cut.

    Raises
    ------
    StorageError
        If the disk is full or read-only; nothing is left behind.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(target, temp_dir(root)) as temp, temp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(target.parent)


def write_output(target: Path, data: bytes) -> None:
    """Write a file that the user asked for, anywhere: beside the target, then into its place.

    Raises
    ------
    InputError
        As `check_output`.
    StorageError
        If it cannot be written; what stood there stays, and nothing is left behind.
    """
    with output_file(target) as temp:
        temp.write_bytes(data)


def check_output(target: Path) -> None:
    """Find out before the work that a file the user asked for cannot be written.

    Raises
    ------
    InputError
        If it is a directory, or there is no directory for it.
    StorageError
        If its directory cannot be written to.
    """
    check_place(target)
    with storage_errors(target), tempfile.TemporaryFile(dir=target.parent):
        pass


def check_place(target: Path) -> None:
    """Refuse a file that is a directory or has none to be in."""
    if target.is_dir():
        raise InputError(f"{target} is a directory; name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: there is no directory {target.parent}; make it first")


@contextmanager
def output_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, with its ending, that takes its place when the block ends without an error."""
    check_place(target)
    with storage_errors(target), _replacing(target, target.parent) as temp:
        yield temp


@contextmanager
def _replacing(target: Path, directory: Path) -> Iterator[Path]:
    """A new file in `directory` that takes the place of `target` if the block ends well, and is removed if not."""
    # Hidden, and with the target's ending: some writers go by it. It has the rights of any new file from the start, for not
    # every file system (exFAT, SMB, 9p) lets them be changed.
    temp = directory / f".{target.stem[:40]}.{secrets.token_hex(4)}{target.suffix}"
    temp.touch(exist_ok=False)
    try:
        yield temp
        temp.replace(target)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


@contextmanager
def staging_directory(root: Path) -> Iterator[Path]:
    """A fresh directory on the registry's file system, removed afterwards."""
    with storage_errors(root):
        path = temp_dir(root) / f"build.{secrets.token_hex(4)}"
        path.mkdir()
    try:
        with storage_errors(root):
            yield path
    finally:
        # Threads of zarr may still be writing when the first of them has failed, and fill what is being emptied.
        for _ in range(_REMOVALS):
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.1)


def swap_directory(root: Path, new: Path, target: Path) -> None:
    """Put directory `new` in the place of `target`; what stood there is removed.

    On Linux the two names are exchanged in one step, so a reader finds the old or the new directory
    and never none. Elsewhere there is an instant without one; llreg's own reader retries.
    """
    # Content first: after a power cut, a name must not stand for files that never reached the disk.
    for path in sorted(new.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    with storage_errors(target):
        if not target.exists():
            new.rename(target)
        elif _exchange(new, target):
            shutil.rmtree(new, ignore_errors=True)
        else:
            old = Path(tempfile.mkdtemp(dir=temp_dir(root), prefix="old.")) / target.name
            target.rename(old)
            new.rename(target)
            shutil.rmtree(old.parent, ignore_errors=True)
        _sync_directory(target.parent)


@contextmanager
def lock(root: Path, name: str, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the registry's lock of that name; a process that dies lets go of it.

    Where the file system has no locks, a file that names its holder stands for one. Of a holder on this machine that died it
    is taken away; of one on another machine nobody can tell.

    Parameters
    ----------
    root : Path
    name : str
        File name of the lock, without ending.
    waiting : callable, optional
        Called once if another process holds the lock.

    Raises
    ------
    StorageError
        If a file for it cannot be written.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path = state_dir(root) / f"{name}.lock"
    with storage_errors(path):
        has_locks = _has_locks(path.parent)
        # Not the name of the true lock, whose file stays where another machine's file system has locks.
        file_lock = FileLock(path) if has_locks else SoftFileLock(path.with_suffix(".held"))
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            if waiting:
                waiting()
            if not has_locks:
                warnings.warn(
                    f"waiting for another llreg: the file system has no locks, and {file_lock.lock_file} says that it is at "
                    "work; remove that file if no llreg is at this registry on any machine",
                    LlregWarning,
                    stacklevel=2,
                )
            file_lock.acquire()
    try:
        yield
    finally:
        file_lock.release()


def _has_locks(directory: Path) -> bool:
    """Whether files in a directory can be locked: Lustre has to be mounted for it, NFS needs a service."""
    try:
        import fcntl
    except ImportError:  # Windows, which locks in another way
        return True
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
    return True


def sweep(root: Path) -> None:
    """Remove temporary files that killed processes left behind more than an hour ago."""
    path = root / STATE / "tmp"
    limit = time.time() - STALE_TEMP_SECONDS
    for entry in path.iterdir() if path.is_dir() else ():
        with suppress(OSError):  # another process may sweep, too
            if entry.stat().st_mtime < limit:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names atomically; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # C library older than glibc 2.28
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _sync_directory(path: Path) -> None:
    """Make a rename in `path` durable; not every system lets a directory be synced."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
