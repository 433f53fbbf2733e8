"""Building, tagging and retracting: what a registry's owner does with the rows that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import atomic, settings
from llreg.store import build as builds
from llreg.store.layout import CARD, STORE, TABLE
from llreg.store.merging import Source, gather
from llreg.store.rowfile import Row, write_row
from llreg_schemas import RowRecord, check, pretty_json, version_id
from llreg_schemas.errors import InputError
from llreg_schemas.records import now, retraction, version_manifest

if TYPE_CHECKING:
    from llreg.store.contents import Contents

# As git takes it for a tag, too: no "..", no dot or ".lock" at the end.
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TAG = re.compile(r"(?!.*\.\.)(?!.*(\.|\.lock)$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def build(registry: Contents) -> str:
    """Make the build from the accepted rows and put it in the place of the old one.

    Returns
    -------
    str
        The version id, 64 hex digits.

    Raises
    ------
    InvalidFileError
        If a row file is damaged; the old build stays.
    StorageError
        If the disk is full or read-only; the old build stays.
    """
    registry.check_changeable()
    atomic.sweep(registry.path)
    with atomic.lock(registry.path, "build"), atomic.staging_directory(registry.path) as staging:
        records = write_build(registry, staging)
        keep_dropped(registry, records)
        put_build(registry.path, staging)
    return version_id(record.digest for record in records)


def put_build(root: Path, built: Path) -> None:
    """Put a build in the place of a registry's; one rename makes its rows change for readers."""
    atomic.swap_directory(root, built / STORE, root / STORE)
    for name in (TABLE, CARD):
        atomic.write_atomic(root, root / name, (built / name).read_bytes())


def check_build(registry: Contents) -> list[str]:
    """Build anew beside the build and say what differs; an empty list if it is current."""
    registry.check_changeable()
    with atomic.staging_directory(registry.path) as staging:
        write_build(registry, staging)
        return builds.differences(registry.path, staging)


def write_build(registry: Contents, directory: Path) -> list[RowRecord]:
    """Write the build of the accepted rows into an empty directory, made if it is missing; their records."""
    records = registry.records(strict=True)
    rows = gather(records, rows_of(registry))
    builds.write_build(directory, rows, records, registry.text_index, registry.info, registry.retractions())
    return records


def rows_of(registry: Contents) -> list[Source]:
    """Where a registry's rows are: their files, else the build."""
    files = registry.row_files()

    def from_files(records: Sequence[RowRecord]) -> Iterator[Row]:
        return (registry.read_file(files[record.digest]) for record in records if record.digest in files)

    return [from_files, lambda records: registry.store.intact_rows(records).values()]


def keep_dropped(registry: Contents, records: Iterable[RowRecord]) -> None:
    """Write the row files of rows that only the old build holds and the new one leaves out: no row is ever lost."""
    kept = {record.digest for record in records} | set(registry.row_files())
    dropped = [record for record in registry.store.records() if record.digest not in kept]
    for row in registry.store.intact_rows(dropped).values():
        write_row(registry.path, row)


def tag(registry: Contents, name: str) -> dict[str, Any]:
    """Name the present version: write ``versions/<name>.json``.

    Raises
    ------
    InputError
        If the name is taken by another version, or is no usable file name.
    """
    registry.check_changeable()
    path = registry.path / "versions" / f"{check_tag(name)}.json"
    rows = registry.digests()
    if path.exists():
        there = registry.version_manifest(name)
        if there["version"] == version_id(rows):
            return there
        raise InputError(
            f"tag {name} names version {there['version'][:12]} already; tags never move: choose another name"
        )
    manifest = version_manifest(name, version_id(rows), now(), sorted(rows), registry.info["view"])
    atomic.write_atomic(registry.path, path, pretty_json(check("version", manifest, path.name)).encode())
    return manifest


def check_tag(name: str) -> str:
    """The name, if it can name a version.

    Raises
    ------
    InputError
    """
    if not _TAG.fullmatch(name) or name in ("main", "HEAD", "refs") or _COMMIT.fullmatch(name):
        raise InputError(
            f"tag {name!r}: use letters, digits, '.', '_' and '-', for example v1, and nothing that git takes for "
            "something else (main, HEAD, a commit, '..', a dot or .lock at the end)"
        )
    return name


def retract(registry: Contents, name: str, *, why: str) -> RowRecord:
    """Withdraw a row: write ``retractions/<digest>.json``; the row's file stays.

    Parameters
    ----------
    name : str
        Model name, row id or digest prefix.
    why : str
        The reason, one line.
    """
    registry.check_changeable()
    if not why.strip() or not why.isprintable() or len(why) > 500:
        raise InputError("--why: give the reason in one printable line of at most 500 characters")
    record = registry.find(name)
    document = retraction(record.digest, record.identity.name, why, settings.contributor(), now())
    path = registry.path / "retractions" / f"{record.digest}.json"
    atomic.write_atomic(registry.path, path, pretty_json(check("retraction", document, path.name)).encode())
    return record
