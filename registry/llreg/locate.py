"""Which registry is meant: an option, LLREG_REGISTRY, the enclosing directory, or the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from llreg import settings
from llreg.contents import CONFIG
from llreg.create import init
from llreg.registry import Registry
from llreg_schemas.errors import InputError, NotFoundError


def locate(given: str | None, *, note: Callable[[str], None] | None = None) -> Registry:
    """Open the registry that is meant.

    Parameters
    ----------
    given : str, optional
        A directory, or ``DIR@TAG`` for a named version of it.
    note : callable, optional
        Told when the user's own registry is made.

    Raises
    ------
    NotFoundError
        If what was given is not a registry.
    """
    chosen = given or settings.registry_setting()
    if chosen:
        return _open(chosen)
    for directory in _enclosing():
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
    if given.count("/") == 1 and not given.startswith((".", "/", "~")):
        raise NotFoundError(
            f"no directory {given}; if it is a registry on the Hub, download it first: "
            f"hf download --repo-type dataset {given} --local-dir {given.split('/')[1]}"
        )
    raise InputError(f"no directory {given}; make a registry there with: llreg init {given}")


def _enclosing() -> list[Path]:
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return []
    return [here, *here.parents]
