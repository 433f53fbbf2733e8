"""The registry: a directory of rows measured under one protocol on one text set, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llreg.hub.remote.contents import RemoteContents, find_folder
from llreg.registry.maps import MapVerbs
from llreg.registry.rows import RowVerbs
from llreg.registry.sync import HubVerbs
from llreg.store.contents import Contents
from llreg.store.folder import LocalFolder
from llreg.store.layout import STORE
from llreg.store.zarr_read import StoreReader


class Registry(MapVerbs, RowVerbs, HubVerbs):
    """A registry on this machine: its contents, and the verbs of `llreg` as methods.

    Parameters
    ----------
    path : str or Path
        Its directory.
    revision : str, optional
        A version's tag: only the rows that it holds, and nothing can be changed.

    Raises
    ------
    NotFoundError
        If there is no registry or no such version.
    InvalidFileError
        If registry.json is not valid, or of a newer format.
    """

    def __init__(self, path: str | Path, *, revision: str | None = None) -> None:
        root = Path(path).expanduser().resolve()
        super().__init__(LocalFolder(root), StoreReader(root / STORE), revision=revision)

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        return _reopen, (str(self.path), self.revision)


class HubRegistry(Registry, RemoteContents):
    """A registry on the Hub at one commit: all verbs of `Registry` that only read.

    Parameters
    ----------
    repo : str
        ``org/name``.
    revision : str, optional
        A version's tag, a branch, a commit or ``refs/pr/N``.
    """

    def __init__(self, repo: str, *, revision: str | None = None) -> None:
        folder, version = find_folder(repo, revision)
        RemoteContents.__init__(self, folder, revision=version)

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        return _reopen_on_hub, (self.repo, self.revision or self.commit)


def _reopen(path: str, revision: str | None) -> Registry:
    return Registry(path, revision=revision)


def _reopen_on_hub(repo: str, revision: str | None) -> Registry:
    return HubRegistry(repo, revision=revision)
