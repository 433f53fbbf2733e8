"""What a commit of a registry's repository holds, from listings alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from llreg.hub.client.repo import Entry, Repo
from llreg.store.annotations import is_table
from llreg.store.layout import ANNOTATIONS, CONFIG, STORE
from llreg.store.pin import Pin, RowFolder
from llreg.store.rowfile import digest_in_name, row_path
from llreg_schemas import RowRecord

ATTRIBUTES = ".gitattributes"
# Documents that are added and never changed, and what their names may be: a name becomes a path here.
DOCUMENTS = {
    "retractions": re.compile(r"[0-9a-f]{64}\.json"),
    "subsets": re.compile(r"[0-9a-f]{64}\.json"),
    "versions": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json"),
}
_FOLDER = re.compile(r"[0-9a-f]{2}")
_STORE_FILE = re.compile(rf"{re.escape(STORE)}(/[A-Za-z0-9_][A-Za-z0-9_.]*)+")


@dataclass(frozen=True)
class Published:
    """Files of a commit.

    Attributes
    ----------
    commit : str
    root : mapping of str to Entry
        Files and folders of the root, by name.
    rows : mapping of str to str
        Paths of row files, by digest: where several claim one, any of them.
    folders : mapping of str to RowFolder
        The same by folder, as a pin keeps them.
    documents : mapping of str to Entry
        Retractions, subsets and versions, by path.
    store : mapping of str to Entry
        Files of ``store.zarr``, by path.
    tables : mapping of str to Entry
        Annotations, by path.
    listed : mapping of str to Entry
        Row files of the folders that changed since the pin, by path.
    paths : mapping of str to tuple of str
        All row files that claim a digest.
    """

    commit: str
    root: Mapping[str, Entry]
    rows: Mapping[str, str]
    folders: Mapping[str, RowFolder]
    documents: Mapping[str, Entry]
    store: Mapping[str, Entry]
    tables: Mapping[str, Entry] = field(default_factory=dict)
    listed: Mapping[str, Entry] = field(default_factory=dict)
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def holds(self, record: RowRecord) -> bool:
        """Whether a row's file is there, by the one name that it may have."""
        return row_path(record).as_posix() in self.paths.get(record.digest, ())

    @property
    def is_registry(self) -> bool:
        """Whether the commit holds a registry."""
        return CONFIG in self.root

    def listed_again(self, bad: Collection[str]) -> Published:
        """The same, but what is pinned has the folders of these digests listed again: with the sizes of their files."""
        folders = {digest[:2] for digest in bad}
        known = {name: RowFolder("" if name in folders else f.oid, f.names) for name, f in self.folders.items()}
        return replace(self, folders=known)

    def entry(self, name: str) -> Entry | None:
        """What the listing says of a file; None for a row file of a folder that was not listed again."""
        return (
            self.store.get(name)
            or self.documents.get(name)
            or self.tables.get(name)
            or self.listed.get(name)
            or self.root.get(name)
        )

    def names_in(self, folder: str) -> set[str]:
        """Stems of the documents of a folder: digests, ids or tags."""
        return {
            path.rpartition("/")[2].removesuffix(".json") for path in self.documents if path.startswith(folder + "/")
        }


def look(repo: Repo, commit: str, pin: Pin | None = None) -> Published:
    """List what a commit holds; row folders that did not change since the pin are not listed again.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubUnreachableError
    """
    root = {entry.name: entry for entry in repo.listing(commit)}
    folders, listed = _row_folders(repo, commit, pin) if "rows" in root else ({}, {})
    names = [(folder, name) for folder, listed in folders.items() for name in listed.names]
    paths: dict[str, tuple[str, ...]] = {}
    for folder, name in names:
        if digest := digest_in_name(name):
            paths[digest] = (*paths.get(digest, ()), f"rows/{folder}/{name}")
    rows = {digest: there[0] for digest, there in paths.items()}
    documents = {
        entry.path: entry
        for folder, allowed in DOCUMENTS.items()
        if folder in root
        for entry in repo.listing(commit, folder, oid=root[folder].oid)
        if not entry.is_folder and allowed.fullmatch(entry.name)
    }
    store = repo.listing(commit, STORE, recursive=True) if STORE in root else []
    files = {entry.path: entry for entry in store if not entry.is_folder and _STORE_FILE.fullmatch(entry.path)}
    annotated = repo.listing(commit, ANNOTATIONS, oid=root[ANNOTATIONS].oid) if ANNOTATIONS in root else []
    tables = {entry.path: entry for entry in annotated if not entry.is_folder and is_table(entry.name)}
    return Published(commit, root, rows, folders, documents, files, tables, listed, paths)


def _row_folders(repo: Repo, commit: str, pin: Pin | None) -> tuple[dict[str, RowFolder], dict[str, Entry]]:
    """All folders of row files, and the files of those that were listed."""
    known = {} if pin is None else {name: folder for name, folder in pin.rows.items() if folder.oid}
    there = [e for e in repo.listing(commit, "rows") if e.is_folder and _FOLDER.fullmatch(e.name)]
    changed = [entry for entry in there if entry.name not in known or known[entry.name].oid != entry.oid]
    names: dict[str, list[str]] = {entry.name: [] for entry in changed}
    listed = {}
    for file in repo.files(commit, "rows", changed) if changed else ():
        folder = file.path.split("/")[1]
        digest = digest_in_name(file.name)
        if digest and digest[:2] == folder and not file.is_folder:
            names[folder].append(file.name)
            listed[file.path] = file
    fresh = {entry.name: RowFolder(entry.oid, tuple(sorted(names[entry.name]))) for entry in changed}
    return {entry.name: fresh.get(entry.name) or known[entry.name] for entry in there}, listed
