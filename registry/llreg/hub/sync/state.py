"""The state of a registry's repository at one commit, from listings alone; and which of it the registry here has already."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llreg.atomic import state_dir
from llreg.hub.client.repo import Entry, Repo, blob_oid, same_content
from llreg.settings import SHARD_ROWS
from llreg.store.annotations import is_table
from llreg.store.contents import Contents, open_folder
from llreg.store.documents import read_manifest
from llreg.store.layout import ANNOTATIONS, CONFIG, RETRACTIONS, ROWS, STORE, SUBSETS, VERSIONS
from llreg.store.pin import Pin, RowFolder
from llreg.store.rowfile import digest_in_name, row_path
from llreg.store.subsets import check_subset
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord, parse
from llreg_schemas.errors import FormatVersionError, InvalidFileError, LlregWarning

ATTRIBUTES = ".gitattributes"
# Documents are added and never changed. What their names may be: a name becomes a path on this machine.
DOCUMENTS = {
    RETRACTIONS: re.compile(r"[0-9a-f]{64}\.json"),
    SUBSETS: re.compile(r"[0-9a-f]{64}\.json"),
    VERSIONS: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json"),
}
_ROW_FOLDER = re.compile(r"[0-9a-f]{2}")
_STORE_FILE = re.compile(rf"{re.escape(STORE)}(/[A-Za-z0-9_][A-Za-z0-9_.]*)+")


@dataclass(frozen=True)
class RemoteState:
    """Files of a commit.

    Attributes
    ----------
    commit : str
        40 hex digits; "" of a repository that is still to be made.
    root : mapping of str to Entry
        Files and folders of the root, by name.
    rows : mapping of str to tuple of str
        Paths of the row files that claim a digest, by digest.
    row_folders : mapping of str to RowFolder
        The same by folder, as a pin stores them.
    row_entries : mapping of str to Entry
        Row files of the folders that changed since the pin, by path.
    documents : mapping of str to Entry
        Retractions, subsets and versions, by path.
    store : mapping of str to Entry
        Files of ``store.zarr``, by path.
    tables : mapping of str to Entry
        Annotations, by path.
    """

    commit: str = ""
    root: Mapping[str, Entry] = field(default_factory=dict)
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    row_folders: Mapping[str, RowFolder] = field(default_factory=dict)
    row_entries: Mapping[str, Entry] = field(default_factory=dict)
    documents: Mapping[str, Entry] = field(default_factory=dict)
    store: Mapping[str, Entry] = field(default_factory=dict)
    tables: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def is_registry(self) -> bool:
        """Whether the commit holds a registry."""
        return CONFIG in self.root

    def has_file_of(self, record: RowRecord) -> bool:
        """Whether it has a row's file, by the one name that it may have."""
        return row_path(record).as_posix() in self.rows.get(record.digest, ())

    def entry(self, name: str) -> Entry | None:
        """What the listing says of a file; None for a row file of a folder that was not listed again."""
        for entries in (self.store, self.documents, self.tables, self.row_entries, self.root):
            if name in entries:
                return entries[name]
        return None

    def document_names(self, folder: str) -> set[str]:
        """Stems of the documents of a folder: digests, ids or tags."""
        return {Path(path).stem for path in self.documents if path.startswith(f"{folder}/")}

    def with_stale(self, digests: Collection[str]) -> RemoteState:
        """The same; a pin of it has the row folders of some digests listed again by the next pull, with the file sizes."""
        stale = {digest[:2] for digest in digests}
        folders = {
            name: RowFolder("", folder.names) if name in stale else folder for name, folder in self.row_folders.items()
        }
        return replace(self, row_folders=folders)


def list_state(repo: Repo, commit: str, pin: Pin | None = None) -> RemoteState:
    """List what a commit holds; row folders that did not change since the pin are not listed again.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubUnreachableError
    """
    root = {entry.name: entry for entry in repo.listing(commit)}

    # Row files. A folder's hash is that of all its files: where it is the pinned one, so are they.
    pinned = {} if pin is None else {name: folder for name, folder in pin.rows.items() if folder.oid}
    listing = repo.listing(commit, ROWS) if ROWS in root else []
    folders = [entry for entry in listing if entry.is_folder and _ROW_FOLDER.fullmatch(entry.name)]
    changed = [entry for entry in folders if entry.name not in pinned or pinned[entry.name].oid != entry.oid]
    # Of the folders that changed; a file whose name does not fit its folder is no row.
    names: dict[str, list[str]] = {entry.name: [] for entry in changed}
    row_entries: dict[str, Entry] = {}
    for file in repo.files(commit, ROWS, changed) if changed else ():
        folder = file.path.split("/")[1]
        digest = digest_in_name(file.name)
        if digest and digest[:2] == folder and not file.is_folder:
            names[folder].append(file.name)
            row_entries[file.path] = file
    current = pinned | {entry.name: RowFolder(entry.oid, tuple(sorted(names[entry.name]))) for entry in changed}
    row_folders = {entry.name: current[entry.name] for entry in folders}
    rows: dict[str, tuple[str, ...]] = {}
    for name, row_folder in row_folders.items():
        # Several files may claim one digest: whoever reads them finds the good one.
        for file_name in row_folder.names:
            if digest := digest_in_name(file_name):
                rows[digest] = (*rows.get(digest, ()), f"{ROWS}/{name}/{file_name}")

    # All else.
    documents = {
        entry.path: entry
        for folder, allowed in DOCUMENTS.items()
        if folder in root
        for entry in repo.listing(commit, folder, oid=root[folder].oid)
        if not entry.is_folder and allowed.fullmatch(entry.name)
    }
    listing = repo.listing(commit, STORE, recursive=True) if STORE in root else []
    store = {entry.path: entry for entry in listing if not entry.is_folder and _STORE_FILE.fullmatch(entry.path)}
    listing = repo.listing(commit, ANNOTATIONS, oid=root[ANNOTATIONS].oid) if ANNOTATIONS in root else []
    tables = {entry.path: entry for entry in listing if not entry.is_folder and is_table(entry.name)}
    return RemoteState(commit, root, rows, row_folders, row_entries, documents, store, tables)


# Rows and documents of this machine


def readable(registry: Contents) -> Contents:
    """The registry; with no store, if the one it has cannot be opened: a pull builds another."""
    try:
        registry.store.records()
    except FormatVersionError:
        raise
    except InvalidFileError as error:
        warnings.warn(f"made anew, {error}", LlregWarning, stacklevel=4)
        storeless = open_folder(registry.path)
        storeless.store = StoreReader(state_dir(registry.path) / STORE)  # there is none
        return storeless
    return registry


def intact_records(registry: Contents) -> dict[str, RowRecord]:
    """Records, by digest, of the rows that are here with the values their digests name."""
    intact: dict[str, RowRecord] = {}
    records = registry.store.records()
    for start in range(0, len(records), SHARD_ROWS):
        with suppress(InvalidFileError):  # rows of a damaged shard are downloaded again
            rows = registry.store.intact_rows(records[start : start + SHARD_ROWS])
            intact |= {digest: row.record for digest, row in rows.items()}
    # Rows that are not in the build yet, or damaged in it.
    for digest, path in registry.row_files().items():
        if digest not in intact and registry.is_sound(path):
            intact[digest] = registry.file_record(path)
    return intact


def has_rows(registry: Contents, digests: Collection[str], retracted: Collection[str]) -> bool:
    """Whether some rows, but for those that are retracted, are all here, intact."""
    return set(digests) - set(retracted) <= intact_records(registry).keys()


def differing_part(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What keeps rows of two registries from being compared: its name and the two ids, shortened; None if nothing does.

    Parameters
    ----------
    ours, theirs : mapping
        Their registry.json.
    """
    for part, word in (("text_set", "text set"), ("protocol", "protocol"), ("segments", "segments")):
        # A registry of format 1 has no segments.
        one, other = (info.get(part, {}).get("id", "none") for info in (ours, theirs))
        if one != other:
            return word, one[:12], other[:12]
    return None


def check_document(path: str, data: bytes, info: Mapping[str, Any]) -> dict[str, Any]:
    """A retraction, subset or version, if it is what its name says.

    Parameters
    ----------
    path : str
        In the registry.
    data : bytes
    info : mapping
        registry.json.

    Raises
    ------
    InvalidFileError
    """
    folder, stem = path.partition("/")[0], Path(path).stem
    if folder == VERSIONS:
        return read_manifest(stem, data, path)
    if folder == SUBSETS:
        document, key = check_subset(parse("subset", data, path), info, path), "id"
    else:
        document, key = parse("retraction", data, path), "digest"
    if document[key] != stem:
        raise InvalidFileError(path, f"expected {stem[:12]}…; got {str(document[key])[:12]}…", field=key)
    return document


def is_valid_document(root: Path, path: str, info: Mapping[str, Any]) -> bool:
    """Whether the registry at `root` has a document, and it is what its name says."""
    try:
        check_document(path, (root / path).read_bytes(), info)
    except (InvalidFileError, OSError):
        return False
    return True


# Annotations: unlike all other files they may be replaced, here and on the Hub


def tables_to_download(remote: RemoteState, root: Path, pin: Pin) -> list[str]:
    """Tables of a commit that a pull brings: those that are missing here, or not changed here since the last one.

    Of one that was changed on both sides ours is kept, with a warning.
    """
    paths = []
    for path, entry in remote.tables.items():
        ours = root / path
        if not ours.is_file():
            paths.append(path)
        elif not same_content(entry, ours):
            data = ours.read_bytes()
            # The pinned hash is of a large file or of another, as the repository had it.
            if pin.tables.get(path) in (hashlib.sha256(data).hexdigest(), blob_oid(data)):
                paths.append(path)
            elif pin.tables.get(path) != entry.oid:
                warnings.warn(
                    f"{path} was changed here and on the Hub; yours is kept, and your next push replaces theirs: to take "
                    "theirs, delete yours and pull again",
                    LlregWarning,
                    stacklevel=4,
                )
    return paths


def tables_to_upload(remote: RemoteState, root: Path, pin: Pin) -> dict[str, Path]:
    """Tables that a push sends: those the commit lacks, and those changed here only."""
    tables = {}
    for path in sorted(path for path in (root / ANNOTATIONS).glob("*.parquet") if is_table(path.name)):
        name = path.relative_to(root).as_posix()
        entry = remote.tables.get(name)
        if entry is None or (pin.tables.get(name) == entry.oid and not same_content(entry, path)):
            tables[name] = path
    return tables
