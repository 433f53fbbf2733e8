"""What a pull brings: downloaded beside the registry, checked, not yet part of it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llreg.atomic import state_dir
from llreg.hub.client.repo import Progress, Repo, same_content
from llreg.hub.sync.published import Published
from llreg.store.contents import Contents
from llreg.store.rowfile import Row
from llreg_schemas import RowRecord
from llreg_schemas.errors import (
    HubUnreachableError,
    storage_errors,
)

_TRIES = 2  # for a download that comes with other bytes than the Hub lists


@dataclass(frozen=True)
class Incoming:
    """Rows and documents of a commit that a local registry lacks.

    Attributes
    ----------
    published : Published
        The commit.
    registry : Contents
        Over the downloaded files.
    records : mapping of str to RowRecord
        Rows of the commit, retracted ones and those that are here already too, by digest: of the build, and new row files.
    files : mapping of str to Path
        Downloaded row files by digest.
    new : frozenset of str
        Digests of rows whose values came.
    downloaded : tuple of (int, int)
        Files and bytes.
    bad : frozenset of str
        Digests of rows of the commit that are not here and came neither, for nothing good of them is on the Hub.
    left_out : tuple of str
        What was left out and why, "file: reason".
    """

    published: Published
    registry: Contents
    records: dict[str, RowRecord]
    files: dict[str, Path]
    new: frozenset[str]
    downloaded: tuple[int, int]
    bad: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """Directory of the downloaded files."""
        return self.registry.path

    def rows(self, records: Sequence[RowRecord]) -> Iterator[Row]:
        """Those of some rows whose values came."""
        stored = self.registry.store.intact_rows([r for r in records if r.digest in self.new.difference(self.files)])
        for record in records:
            if record.digest in self.files:
                yield self.registry.read_file(self.files[record.digest])
            elif record.digest in stored:
                yield stored[record.digest]


def staging(root: Path, commit: str) -> Path:
    """Where downloads of a commit are kept until a pull is over.

    Those of an older commit, whose pull was cut off, are taken over: most of its files are in this one, too, and
    `download` checks each.
    """
    target = state_dir(root) / "pull" / commit
    with storage_errors(target):
        target.parent.mkdir(exist_ok=True)
        for old in sorted(target.parent.iterdir()):
            if not target.exists():
                old.rename(target)
            elif old != target:
                shutil.rmtree(old, ignore_errors=True)
        target.mkdir(exist_ok=True)
    return target


def nothing_new(published: Published, local: Contents, bad: Collection[str] = ()) -> Incoming:
    """What a commit brings to a registry that holds all of it but some rows that are bad there."""
    there = {digest: record for digest, record in local.all_records().items() if digest in published.rows}
    return Incoming(published, local, there, {}, frozenset(), (0, 0), frozenset(bad))


def download(
    repo: Repo, published: Published, names: Sequence[str], target: Path, progress: Progress | None = None
) -> None:
    """Download those of some files that are not in a directory as the commit lists them.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubUnreachableError
    """
    for _ in range(_TRIES):
        lacking = [name for name in names if not _is_intact(published, name, target / name)]
        if not lacking:
            return
        for name in lacking:
            (target / name).unlink(missing_ok=True)
        repo.download(published.commit, lacking, target, progress)
    changed = [name for name in lacking if not _is_intact(published, name, target / name)]
    if changed:
        raise HubUnreachableError(
            f"{changed[0]} came from {repo.id} with other bytes than it has there: run the same command again"
        )


def _is_intact(published: Published, name: str, path: Path) -> bool:
    """Whether a file is there, with the bytes that the listing names; a row file's own checks come later."""
    entry = published.entry(name)
    return path.is_file() and (entry is None or same_content(entry, path))
