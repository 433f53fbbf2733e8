"""A registry's files at one commit on the Hub: fetched when they are asked for, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from llreg import atomic
from llreg.hub.client.repo import MAIN, Entry, Repo
from llreg.names import is_hidden
from llreg.store.layout import CONFIG
from llreg_schemas.errors import HubNotFoundError, HubUnreachableError, LlregError

_THREADS = 8


class AnswerCache:
    """Answers of the Hub that stay true: listings of commits, parts of files; and where revisions were, for offline use.

    It is in the assets folder of the Hub client's cache; whole files are in that cache itself.

    Parameters
    ----------
    repo : str
        ``org/name``.
    """

    def __init__(self, repo: str) -> None:
        self._repo = repo

    def get(self, kind: str, name: str) -> bytes | None:
        """What was put under a name; None if nothing was."""
        try:
            return self._path(kind, name).read_bytes()
        except OSError:
            return None

    def put(self, kind: str, name: str, data: bytes) -> None:
        """Keep an answer; a cache that cannot be written keeps nothing."""
        with suppress(OSError, LlregError):
            atomic.write_output(self._path(kind, name), data)

    def _path(self, kind: str, name: str) -> Path:
        from huggingface_hub import cached_assets_path

        return cached_assets_path(library_name="llreg", namespace=self._repo, subfolder=kind) / quote(name, safe="")


class HubFolder:
    """The files of a registry at a commit, as `llreg.store.folder.Folder`.

    One listing says what there is; nothing is asked for that is not in it.

    Parameters
    ----------
    repo : Repo
    commit : str
        40 hex digits.

    Attributes
    ----------
    root : Path
        The commit's folder in the Hub client's cache.

    Raises
    ------
    HubNotFoundError
        If it holds no registry.
    HubAccessError, HubUnreachableError
    """

    def __init__(self, repo: Repo, commit: str) -> None:
        self.repo, self.commit = repo, commit
        self._cache = AnswerCache(repo.id)

        # Whatever else is read, registry.json is, and it tells where the client keeps the commit's files.
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(repo.id, CONFIG, revision=commit, repo_type="dataset")
        if isinstance(cached, str):
            config = Path(cached)
        else:
            self._need_connection(CONFIG)
            try:
                config = repo.cached(commit, CONFIG)
            except HubNotFoundError as error:
                raise HubNotFoundError(
                    f"{repo.id} on the Hub is not a registry at {commit[:8]}: it has no {CONFIG}"
                ) from error
        self.root = config.parent

    # As llreg.store.folder.Folder

    def fetch(self, path: Path) -> None:
        """Download a file, if there is one of that name and it is not here."""
        name = self._name(path)
        if name in self._entries and not path.exists():
            self._need_connection(name)
            self.repo.cached(self.commit, name)

    def names(self, directory: Path) -> list[str]:
        """Names of the files in a directory, sorted."""
        return self._inside(directory, 0)

    def folders(self, directory: Path) -> list[str]:
        """Names of the directories in one, sorted."""
        return self._inside(directory, 1)

    def below(self, directory: Path) -> list[Path]:
        """Every file below a directory, sorted."""
        return [self.root / name for name in self.files(self._name(directory))]

    def is_file(self, path: Path) -> bool:
        """Whether there is a file of that name."""
        return self.has(self._name(path))

    def _inside(self, directory: Path, which: int) -> list[str]:
        return sorted(
            name for name in self._directories.get(self._name(directory), ([], []))[which] if not is_hidden(name)
        )

    # Of the Hub

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none of that name."""
        entry = self._entries.get(name)
        return None if entry is None else entry.size

    def files(self, folder: str) -> list[str]:
        """Names of all files below a folder, sorted."""
        return sorted(
            name
            for name in self._entries
            if name.startswith(folder + "/") and not any(map(is_hidden, name[len(folder) + 1 :].split("/")))
        )

    def is_here(self, name: str) -> bool:
        """Whether a file was downloaded whole."""
        return (self.root / name).exists()

    def fetch_all(self, names: Iterable[str]) -> None:
        """Download files, several at a time."""
        missing = [name for name in names if not self.is_here(name)]
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda name: self.fetch(self.root / name), missing))

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` up to `end` of a file that is there: one request, and none the second time."""
        if self.is_here(name):
            with (self.root / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        part = f"{self._entries[name].oid}-{start}-{end}"  # of the content: other commits have the same file
        # A part that was cut off when it was stored is asked for again.
        cached = self._cache.get("ranges", part)
        if cached is not None and len(cached) == end - start:
            return cached
        self._need_connection(name)
        data = self.repo.read_range(self.commit, name, start, end)
        if len(data) != end - start:
            raise HubUnreachableError(
                f"the Hub sent {len(data):,} bytes of {name} where {end - start:,} were asked for: run the same command again"
            )
        self._cache.put("ranges", part, data)
        return data

    def _name(self, path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        return "" if name == "." else name

    def _need_connection(self, name: str) -> None:
        from huggingface_hub import is_offline_mode

        if is_offline_mode():
            raise HubUnreachableError(
                f"HF_HUB_OFFLINE is set, and {name} of {self.repo.id} was not read before; to have all of it offline, "
                f"while online: llreg pull {self.repo.id}"
            )

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        """Files of the commit by name."""
        cached = self._cache.get("listings", self.commit)
        if cached is not None:
            with suppress(ValueError, TypeError):  # a damaged listing is asked for again
                return {entry.path: entry for entry in (Entry(*fields) for fields in json.loads(cached))}
        self._need_connection("the list of files")
        # All at once: a page of 1,000 entries a request, and most registries have a few pages.
        listing = self.repo.listing(self.commit, recursive=True)
        files = [entry for entry in listing if not entry.is_folder and _is_safe(entry.path)]
        self._cache.put("listings", self.commit, json.dumps(files).encode())
        return {entry.path: entry for entry in files}

    @cached_property
    def _directories(self) -> dict[str, tuple[set[str], set[str]]]:
        """Names of the files and of the directories in each directory."""
        directories: dict[str, tuple[set[str], set[str]]] = {}
        for path in self._entries:
            # Upwards: the file in its folder, that folder in its own, and so on.
            child, which = path, 0
            while child:
                parent, _, name = child.rpartition("/")
                directories.setdefault(parent, (set(), set()))[which].add(name)
                child, which = parent, 1
        return directories


def _is_safe(name: str) -> bool:
    """Whether a name can become a path below a folder: git would let nobody commit another, a server could send it."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)


def commit_of(repo: Repo, revision: str | None) -> str:
    """As `Repo.commit_of`; offline where the revision was when it was last asked for.

    Raises
    ------
    HubNotFoundError, HubAccessError, HubUnreachableError
    """
    from huggingface_hub import is_offline_mode

    cache, name = AnswerCache(repo.id), revision or MAIN
    if not is_offline_mode():
        commit = repo.commit_of(revision)
        cache.put("revisions", name, commit.encode())
        return commit
    cached = cache.get("revisions", name)
    if cached is None:
        raise HubUnreachableError(
            f"HF_HUB_OFFLINE is set, and {repo.id} at {name} was not read before; while online: llreg pull {repo.id}"
        )
    return cached.decode()
