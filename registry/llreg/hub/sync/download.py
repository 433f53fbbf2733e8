"""Downloading a commit: what the registry here lacks of it comes beside it and is checked; what is bad is left out and named.

Nothing in this module changes the registry; `llreg.hub.sync.pull.apply` puts a `Download` into it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llreg.atomic import state_dir
from llreg.hub.client.repo import Progress, Repo, same_content
from llreg.hub.sync.sizes import check_size
from llreg.hub.sync.state import RemoteState, check_document, intact_records, is_valid_document
from llreg.names import is_hidden
from llreg.settings import SHARD_ROWS
from llreg.store.arrays import store_variables
from llreg.store.contents import Contents, open_folder
from llreg.store.fine import store_form
from llreg.store.layout import CONFIG, RECIPE, RETRACTIONS, STORE, TEXTS, VERSIONS
from llreg.store.rowfile import Row, digest_in_name, row_path
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord, check
from llreg_schemas.errors import (
    FormatVersionError,
    HubNotFoundError,
    HubUnreachableError,
    InvalidFileError,
    LlregWarning,
    storage_errors,
)

_TRIES = 2  # for a download that comes with other bytes than the Hub lists
# What one request costs, in bytes that could have come in its time: decides between row files and a whole shard.
_REQUEST_BYTES = 100_000
_SEGMENT_BYTES = 3  # about what gzip makes of the four of a segment


@dataclass(frozen=True)
class Download:
    """Rows and documents of a commit that a local registry lacks.

    Attributes
    ----------
    remote : RemoteState
        The commit.
    registry : Contents
        Over the downloaded files.
    records : mapping of str to RowRecord
        Rows of the commit, retracted ones and those that are here already too, by digest: of the build, and new row files.
    row_files : mapping of str to Path
        Downloaded row files by digest.
    new_rows : frozenset of str
        Digests of rows whose values came.
    missing : frozenset of str
        Digests of rows of the commit that are not here and came neither, for nothing good of them is on the Hub.
    left_out : tuple of str
        What was left out and why, "file: reason".
    num_files, num_bytes : int
        What was downloaded.
    """

    remote: RemoteState
    registry: Contents
    records: Mapping[str, RowRecord]
    row_files: Mapping[str, Path]
    new_rows: frozenset[str]
    missing: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()
    num_files: int = 0
    num_bytes: int = 0

    @property
    def root(self) -> Path:
        """Directory of the downloaded files."""
        return self.registry.path

    def rows(self, records: Sequence[RowRecord]) -> Iterator[Row]:
        """Those of some rows whose values came."""
        in_store = self.new_rows - self.row_files.keys()
        stored = self.registry.store.intact_rows([record for record in records if record.digest in in_store])
        for record in records:
            if record.digest in self.row_files:
                yield self.registry.read_file(self.row_files[record.digest])
            elif record.digest in stored:
                yield stored[record.digest]


def download(
    repo: Repo,
    remote: RemoteState,
    root: Path,
    local: Contents | None,
    unchanged: Collection[str] = (),
    tables: Sequence[str] = (),
    progress: Progress | None = None,
) -> Download:
    """Download what the registry at `root` lacks of a commit and check it.

    Rows and documents that are not what they claim are left out with a warning, so that a bad one does not keep the good
    ones away. A row is taken from the build or from its file, whichever is good.

    Parameters
    ----------
    repo : Repo
    remote : RemoteState
    root : Path
        Directory of the registry.
    local : Contents or None
        It, if there is one already.
    unchanged : collection of str
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
        If registry.json or the build is damaged, or larger than it can be; FormatVersionError if a newer llreg made it.
    """
    for name in (CONFIG, TEXTS):
        if name not in remote.root and (name == CONFIG or not (root / name).is_file()):
            raise HubNotFoundError(f"{repo.id} on the Hub is not a registry: it has no {name}")
    downloader = _Downloader(repo, remote, root, progress)
    downloader.take_documents(tables)
    # What is here counts only where its values are still those that the digest names.
    ours = {} if local is None else intact_records(local)
    built = {record.digest: record for record in downloader.registry.store.records()}
    # The record of a row that was measured here and published by somebody else must be the published one: such a row is
    # downloaded even though its values are here, unless the build has its record.
    settled = ours.keys() & {*unchanged, *built}
    needed = [digest for digest in {**built, **remote.rows} if digest not in settled]
    downloader.take_rows(built, needed)
    trusted = {digest: _trusted_record(ours[digest], record) for digest, record in built.items() if digest in ours}
    # A row that was needed for its published record, and is here with another, is not missing.
    missing = frozenset(needed) - downloader.rows.keys() - ours.keys()
    return Download(
        remote=downloader.remote.with_stale(missing),
        registry=downloader.registry,
        records=trusted | downloader.rows,
        row_files=downloader.row_files,
        new_rows=frozenset(downloader.rows),
        missing=missing,
        left_out=downloader.warn_of_problems(missing),
        num_files=len(downloader.sizes),
        num_bytes=sum(downloader.sizes.values()),
    )


def _trusted_record(ours: RowRecord, theirs: RowRecord) -> RowRecord:
    """The published record of a row that is here; ours where it cannot be true: identity and values make the digest."""
    file = f"{STORE}: {theirs.row_id}"
    try:
        if theirs != ours:
            check("row", theirs.to_json(), file)
            if (theirs.identity, theirs.segments_sha256) != (ours.identity, ours.segments_sha256):
                raise InvalidFileError(
                    file, f"expected the identity and segments of {ours.row_id}, whose digest it has"
                )
    except InvalidFileError as error:
        warnings.warn(f"left out, {error}", LlregWarning, stacklevel=4)
        return ours
    return theirs


def download_directory(root: Path, commit: str) -> Path:
    """Where the files of a commit are kept until a pull is over.

    Those of an older commit, whose pull was cut off, are taken over: most of its files are in this one, too, and
    `fetch_files` checks each.
    """
    target = state_dir(root) / "pull" / commit
    with storage_errors(target):
        target.parent.mkdir(exist_ok=True)
        for old in sorted(path for path in target.parent.iterdir() if not is_hidden(path.name)):
            if not target.exists():
                old.rename(target)
            elif old != target:
                shutil.rmtree(old, ignore_errors=True)
        target.mkdir(exist_ok=True)
    return target


def fetch_files(
    repo: Repo, remote: RemoteState, names: Sequence[str], target: Path, progress: Progress | None = None
) -> None:
    """Download those of some files that are not in a directory as the commit lists them.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubUnreachableError
    """

    def differing() -> list[str]:
        # A row file of a folder that was not listed again has no entry; its own digest is checked later.
        entries = [(name, remote.entry(name), target / name) for name in names]
        return [
            name
            for name, entry, path in entries
            if not path.is_file() or (entry is not None and not same_content(entry, path))
        ]

    # The client compares sizes alone; content is compared here, and what differs is asked for again.
    for _ in range(_TRIES):
        lacking = differing()
        if not lacking:
            return
        for name in lacking:
            (target / name).unlink(missing_ok=True)
        repo.download(remote.commit, lacking, target, progress)
    if changed := differing():
        raise HubUnreachableError(
            f"{changed[0]} came from {repo.id} with other bytes than it has there: run the same command again"
        )


class _PartialStore(StoreReader):
    """A store of which only the shards that are needed were downloaded."""

    def size(self, key: str) -> int | None:
        """Bytes of a file; 0 for one that was not downloaded: rows are read from the others only, and their digests checked."""
        return super().size(key) or 0


class _Downloader:
    """Downloads files of a commit and sorts the good ones from the bad.

    Attributes
    ----------
    remote : RemoteState
        The commit; after `take_documents` without the documents that are bad.
    registry : Contents
        Over the downloaded files.
    rows : dict of str to RowRecord
        Good rows that came, by digest.
    row_files : dict of str to Path
        Those of them that have a file.
    sizes : dict of str to int
        Bytes of the files that came.
    """

    def __init__(self, repo: Repo, remote: RemoteState, root: Path, progress: Progress | None) -> None:
        self.remote, self._repo, self._root, self._progress = remote, repo, root, progress
        self.sizes: dict[str, int] = {}
        self.rows: dict[str, RowRecord] = {}
        self.row_files: dict[str, Path] = {}
        self._document_problems: dict[str, str] = {}  # by path
        self._row_problems: dict[str, str] = {}  # by digest
        self._target = download_directory(root, remote.commit)
        # registry.json first: it says how large all other files may be.
        if not self._copy_ours(CONFIG):
            check_size(CONFIG, remote.root[CONFIG].size)
            self._fetch([CONFIG])
        self.registry = open_folder(self._target)
        self.registry.store = _PartialStore(self._target / STORE)
        self.registry.store.form = store_form(self.registry.info)

    def warn_of_problems(self, missing: Collection[str]) -> tuple[str, ...]:
        """Warn of what was left out; what of it matters: not a row that is retracted anyway."""
        for digest in missing:
            self._row_problems.setdefault(digest, f"{digest[:12]}: its values are not on the Hub")
        # A row that was bad in one place may have come from another.
        rows = {digest: problem for digest, problem in self._row_problems.items() if digest in missing}
        problems = self._document_problems | rows
        for problem in problems.values():
            warnings.warn(f"left out, {problem}", LlregWarning, stacklevel=4)
        retracted = self.remote.document_names(RETRACTIONS)
        return tuple(problem for key, problem in problems.items() if key not in retracted)

    # Documents

    def take_documents(self, tables: Sequence[str]) -> None:
        """Documents that are not here, or not as they must be, and the part of the build that says which rows it holds."""
        remote = self.remote
        columns = tuple(f"{STORE}/{column}/c/" for column in ("digest", "record"))
        # These must be good, or nothing of the commit can be read.
        required = [name for name in remote.store if name == f"{STORE}/zarr.json" or name.startswith(columns)]
        if not self._copy_ours(TEXTS):
            required.insert(0, TEXTS)
        for name in required:
            self._check_size(name)
        recipe = [RECIPE] if RECIPE in remote.root and not (self._root / RECIPE).is_file() else []
        documents = []
        for path, entry in remote.documents.items():
            ours = self._root / path
            is_same = ours.is_file() and same_content(entry, ours)
            # Of a version that differs one wants to know how; another document that is valid here says the same there.
            is_version = path.startswith(f"{VERSIONS}/")
            if not is_same and (is_version or not is_valid_document(self._root, path, self.registry.info)):
                documents.append(path)
        optional = self._of_allowed_size([*recipe, *documents, *tables])
        self._fetch([*required, *optional])
        # A document that was refused for its size is not in the commit for anything that follows.
        oversized = set(documents).difference(optional)
        good = {
            path: entry
            for path, entry in remote.documents.items()
            if path not in oversized and self._accept_document(path, downloaded=path in optional)
        }
        self.remote = replace(remote, documents=good)

    def _copy_ours(self, name: str) -> bool:
        """Copy registry.json or the texts, where they are here as the Hub has them; whether they are."""
        entry, ours = self.remote.root.get(name), self._root / name
        if entry is not None and not (ours.is_file() and same_content(entry, ours)):
            return False
        shutil.copyfile(ours, self._target / name)
        return True

    def _accept_document(self, path: str, *, downloaded: bool) -> bool:
        """Whether a document is one to go by; what is not to be put in place is deleted where it came."""
        copy, info = self._target / path, self.registry.info
        if not downloaded:
            copy.unlink(missing_ok=True)  # of a pull that was cut off
            return True
        try:
            theirs = check_document(path, copy.read_bytes(), info)
        except FormatVersionError:
            raise
        except InvalidFileError as error:
            copy.unlink()
            self._document_problems[path] = str(error)
            return False
        # Both are sound and differ: the one here stays.
        if is_valid_document(self._root, path, info):
            copy.unlink()
            ours = check_document(path, (self._root / path).read_bytes(), info)
            if ours["version"] != theirs["version"]:
                warnings.warn(
                    f"version {ours['tag']} is {ours['version'][:12]} here ({len(ours['rows']):,} rows) and "
                    f"{theirs['version'][:12]} on the Hub ({len(theirs['rows']):,} rows); yours is kept here: to take "
                    f"theirs, delete {path} and pull again",
                    LlregWarning,
                    stacklevel=4,
                )
        return True

    # Rows

    def take_rows(self, built: Mapping[str, RowRecord], needed: Sequence[str]) -> None:
        """Values of the needed rows, from where that is cheapest; of those that prove bad, from everywhere else.

        Parameters
        ----------
        built : mapping of str to RowRecord
            Records of the build's rows, in its order.
        needed : sequence of str
            Digests.
        """
        # Several files may claim a digest: the one of the right name goes first.
        names = {digest: row_path(record).as_posix() for digest, record in built.items()}
        row_files = {d: names[d] if names.get(d) in paths else paths[0] for d, paths in self.remote.rows.items()}
        order = list(built)
        segment_bytes = _SEGMENT_BYTES * self.registry.info.num_segments
        files = _cheapest_files(self.remote, order, row_files, needed, segment_bytes)
        tried = set(files)
        self._take_files(files, set(needed))
        self._take_built([built[d] for d in needed if d in built and row_files.get(d) not in tried])

        # Second round: for rows that proved bad, every other file and shard that claims them.
        lacking = dict.fromkeys(digest for digest in needed if digest not in self.rows)
        if lacking:
            claims = [path for digest in lacking for path in self.remote.rows.get(digest, ()) if path not in tried]
            shards = sorted({position // SHARD_ROWS for position, digest in enumerate(order) if digest in lacking})
            self._take_files(
                [*claims, *(name for shard in shards for name in _shard_files(self.remote, shard))], lacking
            )
            self._take_built([built[d] for d in lacking if d in built and d not in self.rows])

    def _take_files(self, names: Sequence[str], needed: Collection[str]) -> None:
        """Download some files with values, and check the row files among them."""
        for name in names:
            if name.startswith(f"{STORE}/"):
                self._check_size(name)
        allowed = self._of_allowed_size(names)
        self._fetch(allowed)
        for name in allowed:
            digest = digest_in_name(name.rpartition("/")[2])
            if digest is not None and digest in needed and digest not in self.rows:
                try:
                    self.rows[digest] = self.registry.read_file(self._target / name).record
                    self.row_files[digest] = self._target / name
                except InvalidFileError as error:
                    self._row_problems.setdefault(digest, str(error))

    def _take_built(self, records: Sequence[RowRecord]) -> None:
        """Take the good ones of some rows of the build, whose shards were downloaded."""
        for start in range(0, len(records), SHARD_ROWS):
            batch = records[start : start + SHARD_ROWS]
            rows = self._intact_rows(batch)
            for record in batch:
                file = f"{STORE}: {record.row_id}"
                try:
                    check("row", record.to_json(), file)
                    if record.digest not in rows:
                        raise InvalidFileError(file, "expected values with the row's digest")
                    self.registry.check_row(rows[record.digest], file)
                    self.rows[record.digest] = record
                except InvalidFileError as error:
                    self._row_problems.setdefault(record.digest, str(error))

    def _intact_rows(self, records: Sequence[RowRecord]) -> dict[str, Row]:
        """Intact rows of the build; where a part of it is damaged, those of the other parts."""
        try:
            return self.registry.store.intact_rows(records)
        except InvalidFileError:
            if len(records) == 1:
                return {}
            return {digest: row for record in records for digest, row in self._intact_rows([record]).items()}

    # Files

    def _check_size(self, name: str) -> None:
        entry = self.remote.entry(name)
        if entry is not None:
            check_size(name, entry.size, self.registry.info)

    def _of_allowed_size(self, names: Iterable[str]) -> list[str]:
        """Those that are no larger than they can be; one that was not listed again is checked when it has come."""
        allowed = []
        for name in names:
            try:
                self._check_size(name)
                allowed.append(name)
            except InvalidFileError as error:
                (self._target / name).unlink(missing_ok=True)
                if digest := digest_in_name(name.rpartition("/")[2]):
                    self._row_problems.setdefault(digest, str(error))
                else:
                    self._document_problems.setdefault(name, str(error))
        return allowed

    def _fetch(self, names: Sequence[str]) -> None:
        fetch_files(self._repo, self.remote, names, self._target, self._progress)
        self.sizes |= {name: path.stat().st_size for name in names if (path := self._target / name).is_file()}


def _cheapest_files(
    remote: RemoteState,
    built: Sequence[str],
    row_files: Mapping[str, str],
    needed: Sequence[str],
    segment_bytes: int = 0,
) -> list[str]:
    """Which files bring the values of the needed rows: whole shards, or row files where these are less.

    Parameters
    ----------
    remote : RemoteState
    built : sequence of str
        Digests of the build's rows, in its order.
    row_files : mapping of str to str
        Path of the file of each published row, by digest.
    needed : sequence of str
        Digests.
    segment_bytes : int
        About what a row's segments take in its file, which the build has not.
    """
    lacking = set(needed)
    # Rows that no build holds yet have only their files.
    unbuilt = lacking.difference(built)
    names = [path for digest, path in row_files.items() if digest in unbuilt]
    for start in range(0, len(built), SHARD_ROWS):
        shard = built[start : start + SHARD_ROWS]
        rows = [digest for digest in shard if digest in lacking]
        if not rows:
            continue
        shard_files = _shard_files(remote, start // SHARD_ROWS)
        files = [row_files[digest] for digest in rows if digest in row_files]
        # A row takes about as many bytes in its file as in the shard; those of a folder that was listed are known.
        shard_bytes = sum(remote.store[name].size for name in shard_files)
        guess = shard_bytes // len(shard) + segment_bytes
        entries = [remote.entry(name) for name in files]
        cost_of_files = sum(_REQUEST_BYTES + (entry.size if entry else guess) for entry in entries)
        cost_of_shard = shard_bytes + len(shard_files) * _REQUEST_BYTES
        names += files if len(files) == len(rows) and cost_of_files < cost_of_shard else shard_files
    return names


def _shard_files(remote: RemoteState, shard: int) -> list[str]:
    return [
        name
        for array in store_variables(pairs=True, fine=True)
        if (name := f"{STORE}/{array}/c.{shard}.0") in remote.store
    ]
