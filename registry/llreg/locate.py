"""Which registry is meant: an option, LLREG_REGISTRY, the enclosing directory, or the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from llreg import settings
from llreg.hub.client.repo import is_repo_id
from llreg.registry import Registry, open_registry
from llreg.store.contents import CONFIG
from llreg.store.init import init
from llreg_schemas.errors import InputError


def locate(given: str | None, *, note: Callable[[str], None] | None = None) -> Registry:
    """Open the registry that is meant.

    Parameters
    ----------
    given : str, optional
        A directory, or ``DIR@TAG`` for a named version of it; or ``ORG/NAME`` or ``ORG/NAME@REV`` on the Hub.
    note : callable, optional
        Told when the user's own registry is made.

    Raises
    ------
    NotFoundError
        If what was given is not a registry.
    HubNotFoundError, HubAccessError, HubUnreachableError
        If it is none on the Hub, or that cannot be read.
    """
    chosen = given or settings.registry_setting()
    if chosen:
        return _open(chosen)
    for directory in enclosing():
        if (directory / CONFIG).is_file():
            return Registry(directory)
    path = settings.default_registry()
    if not (path / CONFIG).exists():
        init(path, name="default")
        if note:
            note(f"made your own registry on the text set mini: {path}")
    return Registry(path)


def _open(given: str) -> Registry:
    path = Path(os.path.expanduser(given))  # unlike Path.expanduser, raises nothing for an unknown user
    if path.exists():
        return Registry(path)
    directory, at, tag = given.rpartition("@")
    if at and Path(os.path.expanduser(directory)).is_dir():
        return Registry(directory, revision=tag)
    repo, at, revision = given.partition("@")
    if is_repo_id(repo):
        return open_registry(repo, revision=revision if at else None)
    raise InputError(f"no directory {given}; make a registry there with: llreg init {given}")


def is_enclosed() -> bool:
    """Whether the working directory is a registry, or in one."""
    return any((directory / CONFIG).is_file() for directory in enclosing())


def enclosing() -> list[Path]:
    """The working directory and those around it, innermost first."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return []
    return [here, *here.parents]
