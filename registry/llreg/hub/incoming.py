"""What a pull brings: downloaded beside the registry, checked, not yet part of it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llreg.contents import RECIPE
from llreg.files import state_dir
from llreg.hub.published import CONFIG, TEXTS, Published
from llreg.hub.repo import Progress, Repo, same_content
from llreg.registry import Registry
from llreg.rowfile import Row
from llreg.settings import SHARD_ROWS
from llreg.store import STORE
from llreg.storereader import StoreReader
from llreg_schemas import RowRecord, check
from llreg_schemas.errors import (
    HubNotFoundError,
    HubUnreachableError,
    InvalidFileError,
    LlregWarning,
    storage_errors,
)

# What one request costs, in bytes that could have come in its time: decides between row files and a whole shard.
_REQUEST_BYTES = 100_000
_ARRAYS = ("log_likelihood", "num_tokens")
_TRIES = 2  # for a download that comes with other bytes than the Hub lists


class _PartialStore(StoreReader):
    """A store of which only the shards that are needed were downloaded."""

    def size(self, key: str) -> int | None:
        """Bytes of a file; 0 for one that was not downloaded: rows are read from the others only, and their digests checked."""
        return super().size(key) or 0


@dataclass(frozen=True)
class Incoming:
    """Rows and documents of a commit that a local registry lacks.

    Attributes
    ----------
    published : Published
        The commit.
    registry : Registry
        Over the downloaded files.
    records : mapping of str to RowRecord
        Rows of the commit, retracted ones and those that are here already too, by digest: of the build, and new row files.
    files : mapping of str to Path
        Downloaded row files by digest.
    new : frozenset of str
        Digests of rows whose values came.
    downloaded : tuple of (int, int)
        Files and bytes.
    """

    published: Published
    registry: Registry
    records: dict[str, RowRecord]
    files: dict[str, Path]
    new: frozenset[str]
    downloaded: tuple[int, int]

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


def receive(
    repo: Repo,
    published: Published,
    root: Path,
    local: Registry | None,
    known: Collection[str] = (),
    tables: Sequence[str] = (),
    progress: Progress | None = None,
) -> Incoming:
    """Download what the registry at `root` lacks of a commit and check it.

    Parameters
    ----------
    repo : Repo
    published : Published
    root : Path
        Directory of the registry.
    local : Registry or None
        It, if there is one already.
    known : collection of str
        Digests of published rows that are here as they were published.
    tables : sequence of str
        Annotations to take.
    progress : callable, optional
        Called with (files done, files in all).

    Raises
    ------
    HubNotFoundError
        If the repository holds no registry.
    HubUnreachableError
        If a download was cut off, or came changed. What came is kept: the next call goes on from there.
    InvalidFileError
        If registry.json or the build is damaged.
    """
    if not published.is_registry:
        raise HubNotFoundError(f"{repo.id} on the Hub is not a registry: it has no {CONFIG}")
    target = staging(root, published.commit)
    small = [*_small_files(published, root), *tables]
    download(repo, published, small, target, progress)
    for name in (CONFIG, TEXTS):
        if name not in small:
            shutil.copyfile(root / name, target / name)
    incoming = Registry(target)
    incoming.store = _PartialStore(target / STORE)
    records = {record.digest: record for record in incoming.store.records()}
    here = set() if local is None else set(local.row_files()) | set(local.store.digests())
    # The record of a row that was measured here and published by somebody else must be the published one.
    same = here.intersection(known) | here.intersection(records)
    wanted = [digest for digest in {**records, **published.rows} if digest not in same]
    values = _files_of_values(published, list(records), wanted)
    download(repo, published, values, target, progress)
    sizes = [path.stat().st_size for name in (*small, *values) if (path := target / name).is_file()]
    files = {digest: target / path for digest, path in published.rows.items() if path in set(values)}
    good = _check_rows(incoming, records, files, wanted)
    kept = {digest: record for digest, record in records.items() if digest in good or digest in here}
    sound = {digest: path for digest, path in files.items() if digest in good}
    return Incoming(published, incoming, kept, sound, good, (len(sizes), sum(sizes)))


def nothing_new(published: Published, local: Registry) -> Incoming:
    """What a commit brings to a registry that is pinned to it."""
    there = {digest: record for digest, record in local.all_records().items() if digest in published.rows}
    return Incoming(published, local, there, {}, frozenset(), (0, 0))


def _small_files(published: Published, root: Path) -> list[str]:
    """Documents that are not here, and the part of the build that says which rows it holds."""
    texts, config = published.root.get(TEXTS), published.root[CONFIG]
    names = []
    if not (root / CONFIG).is_file() or not same_content(config, root / CONFIG):
        names.append(CONFIG)
    if texts is not None and not ((root / TEXTS).is_file() and same_content(texts, root / TEXTS)):
        names.append(TEXTS)
    if RECIPE in published.root and not (root / RECIPE).is_file():
        names.append(RECIPE)
    names += [path for path in published.documents if not (root / path).is_file()]
    columns = tuple(f"{STORE}/{column}/c/" for column in ("digest", "record"))
    return names + [path for path in published.store if path == f"{STORE}/zarr.json" or path.startswith(columns)]


def _files_of_values(published: Published, stored: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Which files bring the values of the wanted rows: whole shards, or row files where these are less."""
    lacking = set(wanted)
    names = [path for digest, path in published.rows.items() if digest in lacking.difference(stored)]
    for start in range(0, len(stored), SHARD_ROWS):
        rows = stored[start : start + SHARD_ROWS]
        shards = [
            name for array in _ARRAYS if (name := f"{STORE}/{array}/c.{start // SHARD_ROWS}.0") in published.store
        ]
        here = [digest for digest in rows if digest in lacking]
        files = [published.rows[digest] for digest in here if digest in published.rows]
        size = sum(published.store[name].size for name in shards)
        # A row takes about as many bytes in its file as in the shard.
        as_files = len(files) * (size // len(rows) + _REQUEST_BYTES)
        if here:
            names += files if len(files) == len(here) and as_files < size + len(shards) * _REQUEST_BYTES else shards
    return names


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


def _check_rows(
    incoming: Registry, records: dict[str, RowRecord], files: Mapping[str, Path], wanted: Sequence[str]
) -> frozenset[str]:
    """Digests of the rows that are what they claim; the others are left out with a warning, so that one bad row does
    not keep the good ones away."""
    good = set()
    for digest, path in files.items():
        try:
            records.setdefault(digest, incoming.read_file(path).record)
            good.add(digest)
        except InvalidFileError as error:
            warnings.warn(f"left out, {error}", LlregWarning, stacklevel=4)
    stored = [records[digest] for digest in wanted if digest in records and digest not in files]
    for start in range(0, len(stored), SHARD_ROWS):
        batch = stored[start : start + SHARD_ROWS]
        rows = incoming.store.intact_rows(batch)
        for record in batch:
            try:
                _check_stored(incoming, record, rows.get(record.digest))
                good.add(record.digest)
            except InvalidFileError as error:
                warnings.warn(f"left out, {error}", LlregWarning, stacklevel=4)
    return frozenset(good)


def _check_stored(incoming: Registry, record: RowRecord, row: Row | None) -> None:
    shown = f"{STORE}: {record.row_id}"
    check("row", record.to_json(), shown)
    if row is None:
        raise InvalidFileError(shown, "expected values with the row's digest")
    incoming.check_row(row, shown)
