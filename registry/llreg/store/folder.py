"""Where a registry's files are: a directory, or something that fills one as files are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from llreg.names import is_hidden
from llreg_schemas.records import RegistryInfo


class Folder(Protocol):
    """The files of a registry.

    Attributes
    ----------
    root : Path
        Directory that the files are in once they were fetched.
    """

    root: Path

    def fetch(self, path: Path) -> None:
        """Make a file under `root` be there, if there is one of that name."""

    def names(self, directory: Path) -> list[str]:
        """Names of the files in a directory under `root`, sorted, hidden ones left out; none if it is missing."""

    def folders(self, directory: Path) -> list[str]:
        """Names of the directories in one, sorted, hidden ones left out; none if it is missing."""

    def below(self, directory: Path) -> list[Path]:
        """Everything below a directory that is none itself, sorted, what is hidden left out."""

    def is_file(self, path: Path) -> bool:
        """Whether there is a file of that name, and no link to one."""


class RegistryFiles(Protocol):
    """A registry as far as its files go: for what `Contents` itself is made of, and must not import.

    Attributes
    ----------
    path : Path
        Directory of the registry.
    folder : Folder
    info : RegistryInfo
    """

    path: Path
    folder: Folder
    info: RegistryInfo


class LocalFolder:
    """A directory on this machine: all its files are there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, path: Path) -> None:
        """Nothing to do."""

    def names(self, directory: Path) -> list[str]:
        """Names of what is in a directory, sorted: also of what is no file and should be one."""
        return sorted(entry.name for entry in _scan(directory))

    def folders(self, directory: Path) -> list[str]:
        """Names of the directories in one, sorted."""
        return sorted(entry.name for entry in _scan(directory) if entry.is_dir(follow_symlinks=False))

    def below(self, directory: Path) -> list[Path]:
        """Everything below a directory that is none itself, sorted."""
        return sorted(path for path in files_below(directory) if not path.is_dir())

    def is_file(self, path: Path) -> bool:
        """Whether there is a file of that name, and no link to one."""
        return path.is_file() and not path.is_symlink()


def files_below(directory: Path) -> Iterator[Path]:
    """Files and directories below one, at any depth, without hidden ones and what is in them."""
    return (path for path in directory.rglob("*") if not any(map(is_hidden, path.relative_to(directory).parts)))


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    """Entries of a directory but hidden ones; none if it is missing."""
    # A scan, not a glob: a registry may hold a hundred thousand rows.
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except FileNotFoundError:
        return []
