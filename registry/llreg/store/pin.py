"""Where a local registry comes from: the repository, the commit it was last at, and what was published then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from llreg.atomic import write_atomic
from llreg.store.layout import REMOTE
from llreg.store.rowfile import digest_in_name
from llreg_schemas.errors import InvalidFileError


class RowFolder(NamedTuple):
    """One ``rows/<hh>`` at the pinned commit: hash of the git tree ("" if not known), names of the files."""

    oid: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Pin:
    """The repository that a registry was pulled from or pushed to.

    Attributes
    ----------
    repo : str
        ``org/name``.
    revision : str
        What it follows: ``main``, or the tag or commit it was pulled at.
    commit : str
        40-hex commit that the local registry holds all of; "" before the first pull is over.
    config : str
        git blob of registry.json at that commit: says on which side it was changed.
    rows : mapping of str to RowFolder
        Row files at that commit, by first two digits of the digest.
    tables : mapping of str to str
        Hashes of the annotations at that commit, by path.
    pull_request : int or None
        The open pull request that rows were pushed to.
    """

    repo: str
    revision: str = "main"
    commit: str = ""
    config: str = ""
    rows: Mapping[str, RowFolder] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    pull_request: int | None = None

    def digests(self) -> set[str]:
        """Digests of the rows that were published at the commit."""
        digests = (digest_in_name(name) for folder in self.rows.values() for name in folder.names)
        return {digest for digest in digests if digest}

    def with_rows(self, paths: Iterable[str]) -> Pin:
        """The pin with row files that were published since; their folders are listed anew by the next pull."""
        rows = dict(self.rows)
        for path in paths:
            _, folder, name = path.split("/")
            names = rows[folder].names if folder in rows else ()
            rows[folder] = RowFolder("", (*names, name))
        return replace(self, rows=rows)


def read_pin(root: Path) -> Pin | None:
    """The pin of the registry at `root`; None if it was never pulled or pushed.

    Raises
    ------
    InvalidFileError
        If ``.llreg/remote.json`` is damaged.
    """
    try:
        document = json.loads((root / REMOTE).read_bytes())
        rows = {name: RowFolder(oid, tuple(names)) for name, (oid, names) in document.pop("rows").items()}
        return Pin(rows=rows, **document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidFileError(REMOTE, "is damaged; delete it and run: llreg pull ORG/NAME (no row is lost)") from error


def write_pin(root: Path, pin: Pin) -> None:
    """Remember where the registry at `root` comes from."""
    write_atomic(root, root / REMOTE, json.dumps(asdict(pin)).encode())
