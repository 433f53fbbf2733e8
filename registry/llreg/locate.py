"""Opening and making registries: by name, or the one that is meant: an option, LLREG_REGISTRY, the enclosing directory, one's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from llreg import settings
from llreg.hub.client.repo import is_repo_id
from llreg.registry import HubRegistry, Registry
from llreg.store.init import make_registry
from llreg.store.layout import CONFIG, enclosing
from llreg_schemas.errors import HubNotFoundError, HubUnreachableError, InputError
from llreg_schemas.records import Rendering


def open_registry(path: str | Path, *, revision: str | None = None) -> Registry:
    """Open a registry; as ``llreg.open``.

    Parameters
    ----------
    path : str or Path
        Directory of the registry; or ``org/name``, where there is no such directory: a registry on the Hub, of which
        only what is asked for is read.
    revision : str, optional
        A version's tag: show only the rows that it holds. On the Hub also a branch, commit or ``refs/pr/N``.

    Raises
    ------
    NotFoundError
        If there is no registry or no such version.
    InvalidFileError
        If registry.json is not valid, or of a newer format.
    HubNotFoundError, HubAccessError, HubUnreachableError
        If the Hub has none, or it cannot be read.

    Examples
    --------
    >>> reg = llreg.open("toys")
    >>> reg.name, len(reg.records()), reg.num_texts
    ('ada/toys', 29, 128)
    >>> manifest = reg.tag("v1")
    >>> llreg.open("toys", revision="v1").revision
    'v1'
    """
    if isinstance(path, str) and is_repo_id(path) and not Path(path).exists():
        try:
            return HubRegistry(path, revision=revision)
        except (HubNotFoundError, HubUnreachableError) as error:
            raise type(error)(f"no directory {path}, and {error}") from error
    return Registry(path, revision=revision)


def init(
    path: str | Path,
    *,
    texts: str | Path = "mini",
    name: str | None = None,
    clip: float | None = None,
    licence: str = "CC0-1.0",
    prompt: Rendering | None = None,
) -> Registry:
    """Make an empty registry; as ``llreg.init``.

    Parameters
    ----------
    path : str or Path
        Directory; made if it is missing. It may hold other files, but no registry.
    texts : str or Path
        "mini", the embedded text set, or a JSON Lines or Parquet file with a `text` field. Of one that
        `llreg texts build` made, the recipe is kept too; and where it says that the texts must not be copied, these stay
        on this machine. A file with `prompt` and `response` makes a registry of conditional log-likelihoods.
    name : str, optional
        By default the directory's name.
    clip : float, optional
        Frozen clip threshold of the default view, nats per text; None leaves values as they are.
    licence : str
        Licence of the rows, as an SPDX identifier.
    prompt : {"chat-template", "raw"}, optional
        For texts that are (prompt, response) pairs, and only for these: whether models see a prompt through their own
        chat template, or as it is. It is part of the protocol.

    Returns
    -------
    Registry

    Raises
    ------
    InputError
        If there is a registry already, the texts are not usable, or `prompt` does not fit them.
    StorageError
        If the directory cannot be written.

    Examples
    --------
    >>> new = llreg.init("new", name="ada/new")
    >>> new.name, new.num_texts, new.records()
    ('ada/new', 128, [])
    >>> from pathlib import Path
    >>> written = Path("two.jsonl").write_text('{"text": "It rains."}\\n{"text": "It pours."}\\n')
    >>> llreg.init("two", texts="two.jsonl", clip=-300).view.describe()
    'segments, whole texts: clipped at -300 nats'
    """
    return Registry(make_registry(path, texts=texts, name=name, clip=clip, licence=licence, prompt=prompt))


def find(location: str | None) -> Registry | None:
    """Open the registry that is named or encloses the working directory; None if there is neither.

    Parameters
    ----------
    location : str, optional
        A directory, or ``DIR@TAG`` for a named version of it; or ``ORG/NAME`` or ``ORG/NAME@REV`` on the Hub. By default
        what LLREG_REGISTRY names.

    Raises
    ------
    InputError
        If what is named is no directory and no Hub id.
    NotFoundError
        If it is not a registry.
    HubNotFoundError, HubAccessError, HubUnreachableError
        If it is none on the Hub, or that cannot be read.
    """
    location = location or settings.registry_setting()
    if location:
        return _open(location)
    for directory in enclosing():
        if (directory / CONFIG).is_file():
            return Registry(directory)
    return None


def locate(location: str | None, *, note: Callable[[str], None] | None = None) -> Registry:
    """Open the registry that is meant: as `find`, or else the user's own.

    Parameters
    ----------
    location : str, optional
        As in `find`.
    note : callable, optional
        Told when the user's own registry is made.
    """
    registry = find(location)
    if registry is not None:
        return registry
    path = settings.default_registry()
    if not (path / CONFIG).exists():
        make_registry(path, name="default")
        if note:
            note(f"made your own registry on the text set mini: {path}")
    return Registry(path)


def _open(location: str) -> Registry:
    path = Path(os.path.expanduser(location))  # unlike Path.expanduser, raises nothing for an unknown user
    if path.exists():
        return Registry(path)
    directory, at, tag = location.rpartition("@")
    if at and Path(os.path.expanduser(directory)).is_dir():
        return Registry(directory, revision=tag)
    repo, at, revision = location.partition("@")
    if is_repo_id(repo):
        return open_registry(repo, revision=revision if at else None)
    raise InputError(f"no directory {location}; make a registry there with: llreg init {location}")
