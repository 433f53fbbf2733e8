"""Annotations on both sides: files that may be replaced, here or on the Hub, unlike all others."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

from llreg.hub.client.repo import blob_oid, same_content
from llreg.hub.sync.published import Published
from llreg.store.layout import ANNOTATIONS
from llreg.store.pin import Pin
from llreg_schemas.errors import LlregWarning


def to_take(published: Published, root: Path, pin: Pin) -> list[str]:
    """Tables of a commit that a pull brings: those that are missing here, or not changed here since the last one.

    Of one that was changed on both sides ours is kept, with a warning.
    """
    wanted = []
    for path, entry in published.tables.items():
        here = root / path
        if not here.is_file():
            wanted.append(path)
        elif not same_content(entry, here):
            if pin.tables.get(path) in _oids(here):
                wanted.append(path)
            elif pin.tables.get(path) != entry.oid:
                warnings.warn(
                    f"{path} was changed here and on the Hub; yours is kept, and your next push replaces theirs: to take "
                    "theirs, delete yours and pull again",
                    LlregWarning,
                    stacklevel=4,
                )
    return wanted


def to_send(published: Published, root: Path, pin: Pin) -> dict[str, Path]:
    """Tables that a push sends: those the commit lacks, and those changed here only."""
    found = {}
    for here in sorted((root / ANNOTATIONS).glob("*.parquet")):
        path = here.relative_to(root).as_posix()
        entry = published.tables.get(path)
        if entry is None or (pin.tables.get(path) == entry.oid and not same_content(entry, here)):
            found[path] = here
    return found


def sent_oids(sent: Mapping[str, Path]) -> dict[str, str]:
    """What the Hub calls the tables among files that were sent, as a pin keeps it.

    They are large files by the registry's .gitattributes, whatever their size.
    """
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sent.items()
        if name.startswith(f"{ANNOTATIONS}/")
    }


def _oids(path: Path) -> tuple[str, str]:
    """What a file's content may be called there: as a large file, and as another."""
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), blob_oid(data)
