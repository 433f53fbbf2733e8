"""A registry's dataset repository on the Hub: commits, listings, files. Everything over huggingface_hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from llreg_extract.files.hub_errors import DATASET, hub_errors
from llreg_schemas.errors import HubAccessError, HubNotFoundError, InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 30.0  # seconds for the Hub to answer about a repository
_THREADS = 8
_PAGE = 1000  # entries in a page of a listing
_SINGLY = 8  # changed folders up to which each is listed alone; beyond, the listing of all is less requests

Progress = Callable[[int, int], None]


class Entry(NamedTuple):
    """A file or folder in a commit.

    Attributes
    ----------
    path : str
        In the repository.
    oid : str
        Hash of its content: of a folder the git tree's, of a file in LFS the sha256 of its bytes, of another the git blob's.
    size : int
        Bytes; 0 for a folder.
    is_folder, is_lfs : bool
    """

    path: str
    oid: str
    size: int
    is_folder: bool
    is_lfs: bool

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]


def is_repo_id(text: str) -> bool:
    """Whether `text` can be a registry on the Hub: org/name."""
    return _ID.fullmatch(text) is not None


def same_content(entry: Entry, data: bytes | Path) -> bool:
    """Whether a file on the Hub has these bytes."""
    content = data if isinstance(data, bytes) else data.read_bytes()
    if entry.size != len(content):
        return False
    return entry.oid == (hashlib.sha256(content).hexdigest() if entry.is_lfs else blob_oid(content))


def blob_oid(content: bytes) -> str:
    """Hash of a file's content as git names it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """A dataset repository.

    Parameters
    ----------
    id : str
        ``org/name``.

    Raises
    ------
    InputError
        If that is no id.
    """

    def __init__(self, id: str) -> None:
        if not is_repo_id(id):
            raise InputError(f"{id!r} is no Hub id: expected org/name")
        self.id = id
        self._listings: dict[str, list[Entry]] = {}  # by the folder's oid: its content never changes

    @cached_property
    def api(self) -> HfApi:
        """The client, with the user's endpoint and token."""
        from huggingface_hub import HfApi

        return HfApi(library_name="llreg")

    def errors(self, revision: str | None = None) -> AbstractContextManager[None]:
        """A context in which the client library's errors become llreg's, with one sentence for each.

        Raises
        ------
        HubNotFoundError, HubAccessError, HubConflictError, HubUnreachableError, HubError, InputError
        """
        return hub_errors(self.id, revision, DATASET)

    def url(self, *parts: object) -> str:
        """Address of a page of the repository, for people."""
        from huggingface_hub import constants

        return "/".join([constants.ENDPOINT, "datasets", self.id, *map(str, parts)])

    # Commits

    def commit_of(self, revision: str | None = None) -> str:
        """The commit, 40 hex digits, that a branch, tag, commit or ``refs/pr/N`` is at.

        Raises
        ------
        HubNotFoundError, HubAccessError, HubUnreachableError
        """
        with self.errors(revision):
            # Without `expand` the answer names every file of the repository.
            info = self.api.dataset_info(self.id, revision=revision or MAIN, timeout=_TIMEOUT, expand=["sha"])
        return str(info.sha)

    def user(self) -> str:
        """Name of the user whose token is used.

        Raises
        ------
        HubAccessError
            If nobody is logged in.
        """
        with self.errors():
            return str(self.api.whoami()["name"])

    def may_write(self) -> bool:
        """Whether the user may commit to the repository."""
        try:
            with self.errors():
                self.api.auth_check(self.id, repo_type="dataset", write=True)
        except (HubAccessError, HubNotFoundError):
            return False
        except TypeError:  # a client before 2.0 cannot ask; a commit will tell
            return True
        return True

    def create(self, *, private: bool) -> None:
        """Make the repository, if it is still missing."""
        try:
            with self.errors():
                self.api.create_repo(self.id, repo_type="dataset", private=private, exist_ok=True)
        except HubAccessError as error:
            raise HubAccessError(
                f"there is no dataset {self.id} that you can see, and you may not make it: check the name and that you are "
                f"logged in ({error})"
            ) from error

    def tag_missing(self, names: Sequence[str], commit: str) -> tuple[str, ...]:
        """Put tags that the repository has not yet on a commit; the names of those that were."""
        with self.errors(commit):
            existing = {tag.name for tag in self.api.list_repo_refs(self.id, repo_type="dataset").tags}
            missing = tuple(name for name in names if name not in existing)
            for name in missing:
                self.api.create_tag(self.id, tag=name, revision=commit, repo_type="dataset", exist_ok=True)
        return missing

    # Listings

    def listing(self, commit: str, folder: str = "", *, recursive: bool = False, oid: str | None = None) -> list[Entry]:
        """Files and folders in a folder of a commit; none if it is missing.

        Parameters
        ----------
        commit : str
        folder : str
            "" for the root.
        recursive : bool
            With everything below.
        oid : str, optional
            The folder's hash, where it is known: a folder that was listed before is not asked for again.
        """
        from huggingface_hub.errors import EntryNotFoundError

        if oid is not None and not recursive and oid in self._listings:
            # The same content may be in another folder.
            return [entry._replace(path=f"{folder}/{entry.name}".lstrip("/")) for entry in self._listings[oid]]
        with self.errors(commit):
            try:
                entries = [_entry_of(item) for item in self._tree(commit, folder, recursive)]
            except EntryNotFoundError:
                entries = []
        if oid is not None and not recursive:
            self._listings[oid] = entries
        return entries

    def _tree(self, commit: str, folder: str, recursive: bool) -> Iterable[Any]:
        """The client's own answer, page by page; a review bounds it."""
        return self.api.list_repo_tree(
            self.id, folder or None, recursive=recursive, revision=commit, repo_type="dataset"
        )

    def list_folders(self, commit: str, parent: str, folders: Sequence[Entry]) -> None:
        """List some folders of a folder at once, where many were not listed before; fewer are listed one by one later."""
        unlisted = [entry for entry in folders if entry.oid not in self._listings]
        if len(unlisted) <= _SINGLY:
            return
        entries: dict[str, list[Entry]] = {entry.path: [] for entry in unlisted}
        # One listing with everything below, sorted into its folders.
        for entry in self.listing(commit, parent, recursive=True):
            folder = entry.path.rpartition("/")[0]
            if folder in entries:
                entries[folder].append(entry)
        self._listings |= {entry.oid: entries[entry.path] for entry in unlisted}

    def files(self, commit: str, parent: str, folders: Sequence[Entry]) -> list[Entry]:
        """What is in some folders of a folder, in as few requests as possible."""
        self.list_folders(commit, parent, folders)
        return [file for entry in folders for file in self.listing(commit, entry.path, oid=entry.oid)]

    # Files

    def cached(self, commit: str, name: str) -> Path:
        """Path of a file in the Hub client's cache, downloaded if need be."""
        from huggingface_hub import hf_hub_download

        with self.errors(commit):
            return Path(hf_hub_download(self.id, name, repo_type="dataset", revision=commit, library_name="llreg"))

    def download(self, commit: str, names: Sequence[str], target: Path, progress: Progress | None = None) -> None:
        """Download files into a directory; files that are there whole are not downloaded again.

        Raises
        ------
        HubNotFoundError, HubAccessError, HubUnreachableError
            What came is kept, also of the file that was cut off.
        """
        from huggingface_hub import hf_hub_download

        def fetch(name: str) -> None:
            with self.errors(commit):
                hf_hub_download(
                    self.id, name, repo_type="dataset", revision=commit, local_dir=target, library_name="llreg"
                )

        # The first error is raised here; downloads that have begun are finished.
        with ThreadPoolExecutor(_THREADS) as pool:
            for count, _ in enumerate(pool.map(fetch, names), 1):
                if progress:
                    progress(count, len(names))

    def read_range(self, commit: str, name: str, start: int, end: int) -> bytes:
        """Bytes of a file from `start` up to `end`: one request."""
        from huggingface_hub import hf_hub_url

        address = hf_hub_url(self.id, name, repo_type="dataset", revision=commit)
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        answer = self.get(address, commit, headers)
        content = bytes(answer.content)
        # 200: a server or proxy that knows no ranges sent all of it.
        return content[start:end] if answer.status_code == 200 else content

    def get(self, address: str, commit: str, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
        """The answer to one request of a commit, where the client library has no method that sends just that one."""
        import huggingface_hub.utils

        hub: Any = huggingface_hub.utils
        all_headers = {**hub.build_hf_headers(library_name="llreg"), **headers}
        with self.errors(commit):
            answer = hub.http_backoff("GET", address, headers=all_headers, timeout=_TIMEOUT)
            hub.hf_raise_for_status(answer)
        return answer


def _entry_of(item: Any) -> Entry:
    """From the client library's RepoFile or RepoFolder."""
    if hasattr(item, "tree_id"):
        return Entry(item.path, item.tree_id, 0, True, False)
    if item.lfs is not None:
        return Entry(item.path, item.lfs.sha256, item.size, False, True)
    return Entry(item.path, item.blob_id, item.size, False, False)
