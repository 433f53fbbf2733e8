"""Every error llreg raises on purpose.

::

    LlregError                      base: one sentence for the user, never a bug
    ├── InputError                  an argument or an input file the caller can correct      (ValueError)
    ├── NotFoundError               a row, tag, text or registry that is not there            (KeyError)
    ├── InvalidFileError            a registry file that breaks the format                    (ValueError)
    │   └── FormatVersionError      a file written for a newer llreg
    ├── StorageError                disk full, read-only, no permission                       (OSError)
    ├── ModelError                  a model that cannot be scored; other models go on
    │   ├── ModelNotFoundError      no such model, revision or file
    │   ├── ModelAccessError        gated, private or unreachable
    │   ├── UnsupportedModelError   not a causal language model, or a format llreg cannot load
    │   ├── NonFiniteError          the model returned NaN or inf
    │   ├── ChangedFilesError       its files changed while it was scored
    │   └── NoRoomError             its download does not fit on the disk
    ├── ClusterError                a Dask cluster that cannot be used, or was lost
    ├── HubError                    a registry on the Hub that cannot be read or changed
    │   ├── HubNotFoundError        no such repository, revision or file
    │   ├── HubAccessError          not logged in, gated, or no right to do this
    │   ├── HubConflictError        somebody else changed the repository meanwhile
    │   └── HubUnreachableError     no answer, or a failure on its side; the request may have been carried out
    └── MissingExtraError           an optional dependency is not installed                   (ImportError)
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


class LlregError(Exception):
    """Base of all llreg errors; its text is one sentence that ends in what to do."""

    def __str__(self) -> str:
        # KeyError, a base of NotFoundError, would show the repr of the message.
        return str(self.args[0]) if self.args else ""


class InputError(LlregError, ValueError):
    """An argument or an input file the caller can correct."""


class NotFoundError(LlregError, KeyError):
    """A row, tag, text or registry that is not there."""


class InvalidFileError(LlregError, ValueError):
    """A registry file that breaks the format.

    Parameters
    ----------
    file : str
        The file, relative to the registry where that is known.
    problem : str
        What was expected and what came.
    field : str, optional
        Dotted path of the field inside the file.
    """

    def __init__(self, file: str | Path, problem: str, *, field: str | None = None) -> None:
        self.file, self.problem, self.field = str(file), problem, field
        super().__init__(f"{self.file}: {field}: {problem}" if field else f"{self.file}: {problem}")

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is rebuilt from `args`, which is the message alone; worker processes send these.
        return partial(type(self), field=self.field), (self.file, self.problem)


class FormatVersionError(InvalidFileError):
    """A file of a newer format than this llreg reads."""


class LlregWarning(UserWarning):
    """Something llreg works around and the user should know, such as one damaged row among good ones."""


class StorageError(LlregError, OSError):
    """The disk refused: full, read-only, or no permission."""


class ModelError(LlregError):
    """A model that cannot be scored; the other models of a run go on."""


class ModelNotFoundError(ModelError):
    """No such model, revision or file."""


class ModelAccessError(ModelError):
    """The model is gated or private, or its host cannot be reached."""


class UnsupportedModelError(ModelError):
    """Not a causal language model, or a format llreg cannot load."""


class NonFiniteError(ModelError):
    """The model returned NaN or inf where a log-likelihood was due."""


class ChangedFilesError(ModelError):
    """A model's files are no longer those that its hash is of."""


class NoRoomError(ModelError):
    """A download that does not fit on the disk, as long as nothing there is removed."""


class ClusterError(LlregError):
    """A Dask cluster that cannot be used, or was lost."""


class HubError(LlregError):
    """A registry on the Hub that cannot be read or changed."""


class HubNotFoundError(HubError):
    """No such repository, revision or file on the Hub."""


class HubAccessError(HubError):
    """Not logged in, gated, or no right to do this."""


class HubConflictError(HubError):
    """Somebody else changed the repository meanwhile; doing it again on what is there now may work."""


class HubUnreachableError(HubError):
    """The Hub gave no answer, or one of a failure on its side; what was asked may have been done all the same."""


class MissingExtraError(LlregError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        The module that is missing.
    extra : str
        The extra of llreg that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f'{package} is needed here and not installed: pip install "llreg[{extra}]"')

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.package, self.extra)


class MissingLibraryError(MissingExtraError, ModelError):
    """An optional dependency is not installed that one model needs, and others do not."""


_STORAGE_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file size limit of this process is reached; raise it (ulimit -f) and run the same command again",
    errno.EROFS: "the file system is read-only; use a registry you may write to (--registry DIR)",
    errno.EACCES: "permission denied; use a registry you may write to (--registry DIR)",
    errno.ENOTDIR: "a part of the path is a file, not a directory; choose another path",
    errno.EEXIST: "there is a file of that name; choose another path",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.EIO: "the disk reports an input/output error; check it, then run the same command again",
    errno.EPERM: "not permitted; use a registry you may write to (--registry DIR)",
}

# What file systems without locks answer to flock: not implemented, not supported, no lock service.
NO_LOCKS = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL))


@contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """Turn the disk's refusals while writing `path` into a `StorageError` sentence."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        advice = _STORAGE_ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise StorageError(f"cannot write {path}: {advice}") from error
