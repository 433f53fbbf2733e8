"""Receiving a commit: what a registry lacks of it is downloaded and checked; what is bad is left out and named."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llreg.hub.client.repo import Progress, Repo, same_content
from llreg.hub.sync.holdings import check_document, held, is_sound_document
from llreg.hub.sync.incoming import Incoming, download, staging
from llreg.hub.sync.limits import check_size
from llreg.hub.sync.published import Published
from llreg.settings import SHARD_ROWS
from llreg.store.arrays import PAIR_VARIABLES
from llreg.store.contents import Contents, open_folder
from llreg.store.layout import CONFIG, RECIPE, STORE, TEXTS
from llreg.store.rowfile import Row, digest_in_name, row_path
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord, check
from llreg_schemas.errors import FormatVersionError, HubNotFoundError, InvalidFileError, LlregWarning

# What one request costs, in bytes that could have come in its time: decides between row files and a whole shard.
_REQUEST_BYTES = 100_000


class _PartialStore(StoreReader):
    """A store of which only the shards that are needed were downloaded."""

    def size(self, key: str) -> int | None:
        """Bytes of a file; 0 for one that was not downloaded: rows are read from the others only, and their digests checked."""
        return super().size(key) or 0


def receive(
    repo: Repo,
    published: Published,
    root: Path,
    local: Contents | None,
    known: Collection[str] = (),
    tables: Sequence[str] = (),
    progress: Progress | None = None,
) -> Incoming:
    """Download what the registry at `root` lacks of a commit and check it.

    Rows and documents that are not what they claim are left out with a warning, so that a bad one does not keep the good
    ones away. A row is taken from the build or from its file, whichever is good.

    Parameters
    ----------
    repo : Repo
    published : Published
    root : Path
        Directory of the registry.
    local : Contents or None
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
        If registry.json or the build is damaged, or larger than it can be; FormatVersionError if a newer llreg made it.
    """
    for name in (CONFIG, TEXTS):
        if name not in published.root and (name == CONFIG or not (root / name).is_file()):
            raise HubNotFoundError(f"{repo.id} on the Hub is not a registry: it has no {name}")
    arrival = _Arrival(repo, published, root, progress)
    arrival.take_documents(tables)
    here = {} if local is None else held(local)
    records = {record.digest: record for record in arrival.registry.store.records()}
    # The record of a row that was measured here and published by somebody else must be the published one.
    same = here.keys() & {*known, *records}
    wanted = [digest for digest in {**records, **published.rows} if digest not in same]
    arrival.take_rows(records, wanted)
    kept = {digest: _believed(here[digest], record) for digest, record in records.items() if digest in here}
    bad = frozenset(wanted) - arrival.rows.keys() - here.keys()
    return Incoming(
        published=arrival.published.listed_again(bad),
        registry=arrival.registry,
        records=kept | arrival.rows,
        files=arrival.files,
        new=frozenset(arrival.rows),
        downloaded=(len(arrival.sizes), sum(arrival.sizes.values())),
        bad=bad,
        left_out=arrival.tell(bad),
    )


def _believed(ours: RowRecord, theirs: RowRecord) -> RowRecord:
    """The published record of a row that is here; ours where it cannot be true: identity and values make the digest."""
    shown = f"{STORE}: {theirs.row_id}"
    try:
        if theirs != ours:
            check("row", theirs.to_json(), shown)
            if theirs.identity != ours.identity:
                raise InvalidFileError(shown, f"expected the identity of {ours.row_id}, whose digest it has")
    except InvalidFileError as error:
        warnings.warn(f"left out, {error}", LlregWarning, stacklevel=4)
        return ours
    return theirs


class _Arrival:
    """Files of a commit as they come, and which of them are good."""

    def __init__(self, repo: Repo, published: Published, root: Path, progress: Progress | None) -> None:
        self.published, self.sizes = published, dict[str, int]()
        self.rows, self.files = dict[str, RowRecord](), dict[str, Path]()  # good ones; those of them that have a file
        self._repo, self._root, self._progress = repo, root, progress
        self._target = staging(root, published.commit)
        self._reasons: dict[str, str] = {}  # what is wrong with a row, by digest, or a document, by path
        self._fetch(self._checked(self._or_copied(CONFIG)))
        self.registry = open_folder(self._target)
        self.registry.store = _PartialStore(self._target / STORE)
        self.registry.store.num_texts = self.registry.num_texts
        self.registry.store.variables = self.registry.variables

    def tell(self, bad: Collection[str]) -> tuple[str, ...]:
        """Warn of what was left out; what of it matters: not a row that is retracted anyway."""
        for digest in bad:
            self._reasons.setdefault(digest, f"{digest[:12]}: its values are not on the Hub")
        told = {key: reason for key, reason in self._reasons.items() if key in bad or not _is_digest(key)}
        for reason in told.values():
            warnings.warn(f"left out, {reason}", LlregWarning, stacklevel=4)
        retracted = self.published.names_in("retractions")
        return tuple(reason for key, reason in told.items() if key not in retracted)

    # Documents

    def take_documents(self, tables: Sequence[str]) -> None:
        """Documents that are not here, or not as they must be, and the part of the build that says which rows it holds."""
        published = self.published
        columns = tuple(f"{STORE}/{column}/c/" for column in ("digest", "record"))
        build = [name for name in published.store if name == f"{STORE}/zarr.json" or name.startswith(columns)]
        needed = self._checked([*self._or_copied(TEXTS), *build])
        recipe = [RECIPE] if RECIPE in published.root and not (self._root / RECIPE).is_file() else []
        documents = [path for path in published.documents if self._is_lacking(path)]
        taken = self._fitting([*recipe, *documents, *tables])
        self._fetch([*needed, *taken])
        left = set(documents).difference(taken)
        sound = {path: e for path, e in published.documents.items() if path not in left and self._settle(path, taken)}
        self.published = replace(published, documents=sound)

    def _or_copied(self, name: str) -> list[str]:
        """registry.json or the texts, to be downloaded; copied, where they are here as the Hub has them."""
        entry, here = self.published.root.get(name), self._root / name
        if entry is not None and not (here.is_file() and same_content(entry, here)):
            return [name]
        shutil.copyfile(here, self._target / name)
        return []

    def _is_lacking(self, path: str) -> bool:
        here = self._root / path
        if not here.is_file():
            return True
        if same_content(self.published.documents[path], here):
            return False
        # Of a version that differs one wants to know how.
        return path.startswith("versions/") or not is_sound_document(self._root, path, self.registry.info)

    def _settle(self, path: str, taken: Collection[str]) -> bool:
        """Whether a document is one to go by; what is not to be put in place is deleted where it came."""
        came, info = self._target / path, self.registry.info
        if path not in taken:
            came.unlink(missing_ok=True)  # of a pull that was cut off
            return True
        try:
            theirs = check_document(path, came.read_bytes(), info)
        except FormatVersionError:
            raise
        except InvalidFileError as error:
            came.unlink()
            self._reasons[path] = str(error)
            return False
        if is_sound_document(self._root, path, info):
            came.unlink()
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

    def take_rows(self, records: Mapping[str, RowRecord], wanted: Sequence[str]) -> None:
        """Values of the wanted rows, from where that is cheapest; of those that prove bad, from everywhere else."""
        paths = self.published.paths
        canonical = {digest: row_path(record).as_posix() for digest, record in records.items()}
        rows = {d: canonical[d] if canonical.get(d) in there else there[0] for d, there in paths.items()}
        self.published = replace(self.published, rows=rows)
        stored = list(records)
        names = self._take(_files_of_values(self.published, stored, wanted), set(wanted))
        self._check_stored([records[d] for d in wanted if d in records and rows.get(d) not in names])
        lacking = {digest: None for digest in wanted if digest not in self.rows}
        if lacking:
            files = [path for digest in lacking for path in paths.get(digest, ()) if path not in names]
            shards = {start // SHARD_ROWS for start, digest in enumerate(stored) if digest in lacking}
            self._take(
                [*files, *(name for shard in sorted(shards) for name in _shards(self.published, shard))], lacking
            )
            self._check_stored([records[d] for d in lacking if d in records and d not in self.rows])

    def _take(self, names: Sequence[str], wanted: Collection[str]) -> set[str]:
        """Download some files with values, and check the row files among them."""
        self._checked([name for name in names if name.startswith(f"{STORE}/")])
        fitting = self._fitting(names)
        self._fetch(fitting)
        for name in fitting:
            digest = digest_in_name(name.rpartition("/")[2])
            if digest is not None and digest in wanted and digest not in self.rows:
                try:
                    self.rows[digest] = self.registry.read_file(self._target / name).record
                    self.files[digest] = self._target / name
                except InvalidFileError as error:
                    self._reasons.setdefault(digest, str(error))
        return set(names)

    def _check_stored(self, records: Sequence[RowRecord]) -> None:
        for start in range(0, len(records), SHARD_ROWS):
            batch = records[start : start + SHARD_ROWS]
            rows = self._stored(batch)
            for record in batch:
                try:
                    _check_row(self.registry, record, rows.get(record.digest))
                    self.rows[record.digest] = record
                except InvalidFileError as error:
                    self._reasons.setdefault(record.digest, str(error))

    def _stored(self, records: Sequence[RowRecord]) -> dict[str, Row]:
        """Intact rows of the build; where a part of it is damaged, those of the other parts."""
        try:
            return self.registry.store.intact_rows(records)
        except InvalidFileError:
            if len(records) == 1:
                return {}
            return {digest: row for record in records for digest, row in self._stored([record]).items()}

    # Files

    def _checked(self, names: list[str]) -> list[str]:
        """The same, if none is larger than it can be: nothing can be read without them."""
        for name in names:
            self._check_size(name)
        return names

    def _check_size(self, name: str) -> None:
        entry = self.published.entry(name)
        if entry is not None:
            check_size(name, entry.size, None if name == CONFIG else self.registry.info["text_set"])

    def _fitting(self, names: Iterable[str]) -> list[str]:
        """Those that are no larger than they can be; one that was not listed again is checked when it has come."""
        found = []
        for name in names:
            try:
                self._check_size(name)
                found.append(name)
            except InvalidFileError as error:
                (self._target / name).unlink(missing_ok=True)
                self._reasons.setdefault(digest_in_name(name.rpartition("/")[2]) or name, str(error))
        return found

    def _fetch(self, names: Sequence[str]) -> None:
        download(self._repo, self.published, names, self._target, self._progress)
        self.sizes |= {name: path.stat().st_size for name in names if (path := self._target / name).is_file()}


def _is_digest(key: str) -> bool:
    """Whether a reason is of a row."""
    return "/" not in key and "." not in key


def _check_row(incoming: Contents, record: RowRecord, row: Row | None) -> None:
    shown = f"{STORE}: {record.row_id}"
    check("row", record.to_json(), shown)
    if row is None:
        raise InvalidFileError(shown, "expected values with the row's digest")
    incoming.check_row(row, shown)


def _files_of_values(published: Published, stored: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Which files bring the values of the wanted rows: whole shards, or row files where these are less."""
    lacking = set(wanted)
    names = [path for digest, path in published.rows.items() if digest in lacking.difference(stored)]
    for start in range(0, len(stored), SHARD_ROWS):
        rows = stored[start : start + SHARD_ROWS]
        shards = _shards(published, start // SHARD_ROWS)
        here = [digest for digest in rows if digest in lacking]
        files = [published.rows[digest] for digest in here if digest in published.rows]
        size = sum(published.store[name].size for name in shards)
        # A row takes about as many bytes in its file as in the shard.
        as_files = len(files) * (size // len(rows) + _REQUEST_BYTES)
        if here:
            names += files if len(files) == len(here) and as_files < size + len(shards) * _REQUEST_BYTES else shards
    return names


def _shards(published: Published, shard: int) -> list[str]:
    return [name for array in PAIR_VARIABLES if (name := f"{STORE}/{array}/c.{shard}.0") in published.store]
