"""What a pull request changes: its commit against the newest one that it shares with main, in few requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from llreg.hub.client.repo import Entry, Repo
from llreg.store.layout import RETRACTIONS, ROWS, SUBSETS
from llreg_schemas.errors import HubNotFoundError, InputError

# Only these folders are looked into; of any other that differs, the name is enough to refuse it.
_OPENED = re.compile(rf"{ROWS}|{ROWS}/[0-9a-f]{{2}}|{RETRACTIONS}|{SUBSETS}")
_MOST_PAGES = 60  # of history a side; with the Hub's 50 commits a page, 3,000 commits
_MOST_ENTRIES = (
    20_000  # of a listing, beyond what the registry has: 21 requests; forty times what may be merged at once
)


class Change(NamedTuple):
    """A file, or a folder with all in it, that a pull request changes.

    Attributes
    ----------
    kind : {"added", "modified", "deleted"}
    entry : Entry
        As the pull request has it; of what it deletes, as it was.
    """

    kind: Literal["added", "modified", "deleted"]
    entry: Entry

    @property
    def path(self) -> str:
        """Path in the repository; that of a folder ends in a slash."""
        return self.entry.path + "/" * self.entry.is_folder


class TooManyFilesError(InputError):
    """A listing is longer than that of any pull request that could be merged."""


class _BoundedRepo(Repo):
    """A repository whose listings end: a pull request may hold any number of files."""

    def __init__(self, id: str, most: int) -> None:
        super().__init__(id)
        self._most = most

    def _tree(self, commit: str, folder: str, recursive: bool) -> Iterable[Any]:
        for count, item in enumerate(super()._tree(commit, folder, recursive)):
            if count == self._most:
                raise TooManyFilesError(
                    f"expected at most {self._most:,} files and folders in {folder or 'its root'}; there are more: split it"
                )
            yield item


class Trees:
    """What commits hold, folder by folder; a folder that was seen once, in whichever commit, is not asked for again.

    Parameters
    ----------
    repo : Repo
    num_rows : int
        Rows that main holds: a listing may have so many entries, and some thousands besides.
    """

    def __init__(self, repo: Repo, num_rows: int = 0) -> None:
        self._repo = _BoundedRepo(repo.id, num_rows + _MOST_ENTRIES)
        self._roots: dict[str, dict[str, Entry]] = {}

    def root(self, commit: str) -> dict[str, Entry]:
        """Files and folders in a commit's root, by name."""
        if commit not in self._roots:
            self._roots[commit] = _by_name(self._repo.listing(commit))
        return self._roots[commit]

    def children(self, commit: str, folder: Entry) -> dict[str, Entry]:
        """Files and folders in a folder of a commit, by name."""
        return _by_name(self._repo.listing(commit, folder.path, oid=folder.oid))

    def has(self, commit: str, path: str) -> bool:
        """Whether a commit holds a file."""
        *folders, name = path.split("/")
        entries = self.root(commit)
        for folder in folders:
            entry = entries.get(folder)
            if entry is None or not entry.is_folder:
                return False
            entries = self.children(commit, entry)
        return name in entries and not entries[name].is_folder

    def changes(self, base: str, head: str) -> list[Change]:
        """What `head` changed since `base`, by path."""
        return sorted(self._compare(base, self.root(base), head, self.root(head)), key=lambda change: change.path)

    def _compare(self, base: str, old: dict[str, Entry], head: str, new: dict[str, Entry]) -> Iterator[Change]:
        """Changes between the entries of one folder at two commits, and of the folders in it that are looked into."""
        differing = []
        for name in {**old, **new}:
            before, after = old.get(name), new.get(name)
            if before is None or after is None or (before.oid, before.is_folder) != (after.oid, after.is_folder):
                differing.append((before, after))
        opened = [pair for pair in differing if any(map(_is_opened, pair))]
        # Changed folders of rows are listed ahead, many in one request.
        for commit, entries in ((base, [before for before, _ in opened]), (head, [after for _, after in opened])):
            rows = [entry for entry in entries if entry and entry.is_folder and entry.path.startswith(f"{ROWS}/")]
            self._repo.list_folders(commit, ROWS, rows)
        for before, after in differing:
            # A file, or a folder that no pull request may touch: named as a whole.
            if not any(map(_is_opened, (before, after))):
                if after is not None:
                    yield Change("added" if before is None else "modified", after)
                elif before is not None:
                    yield Change("deleted", before)
                continue
            if before is not None and not before.is_folder:  # a file that made way for a folder, or the other way round
                yield Change("deleted", before)
            if after is not None and not after.is_folder:
                yield Change("added", after)
            yield from self._compare(base, self._inside(base, before), head, self._inside(head, after))

    def _inside(self, commit: str, folder: Entry | None) -> dict[str, Entry]:
        return self.children(commit, folder) if folder is not None and folder.is_folder else {}


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _is_opened(entry: Entry | None) -> bool:
    return entry is not None and entry.is_folder and _OPENED.fullmatch(entry.path) is not None


class History:
    """The commits of main, as far as they were asked for.

    Parameters
    ----------
    repo : Repo
    head : str
        Its newest commit.
    """

    def __init__(self, repo: Repo, head: str) -> None:
        self._repo = repo
        self._commits: set[str] = {head}
        self._more = self._pages(head)

    def base_of(self, head: str) -> str | None:
        """The newest commit that another shares with main; None if there is none, or none near enough.

        Both histories are read newest first and in turn. A commit of main that is not in what was read of main has no
        child there either, so the first that is found is the newest.
        """
        commits: list[str] = []  # of the pull request

        def shared() -> str | None:
            return next((commit for commit in commits if commit in self._commits), None)

        pages = self._pages(head)
        for _ in range(_MOST_PAGES):
            # A page of the pull request's history, then one of main's.
            page = next(pages, [])
            commits += page
            if base := shared():
                return base
            main_page = next(self._more, [])
            self._commits.update(main_page)
            if base := shared():
                return base
            if not page and not main_page:
                return None
        return None

    def _pages(self, commit: str) -> Iterator[list[str]]:
        """Commits up to one, newest first, a page a request: the client's own list would ask for all pages."""
        from huggingface_hub import constants

        address: str | None = f"{constants.ENDPOINT}/api/datasets/{self._repo.id}/commits/{commit}"
        while address:
            answer = self._repo.get(address, commit)
            yield [str(item["id"]) for item in answer.json()]
            address = answer.links.get("next", {}).get("url")


def pull_request_heads(repo: Repo) -> dict[str, str]:
    """Commits of main ("main") and of every pull request (its number), in one request.

    Raises
    ------
    HubNotFoundError
        If the repository has no main branch.
    """
    with repo.errors():
        refs = repo.api.list_repo_refs(repo.id, repo_type="dataset", include_pull_requests=True)
    heads = {ref.name: ref.target_commit for ref in refs.branches if ref.name == "main"}
    if not heads:
        raise HubNotFoundError(f"{repo.id} on the Hub has no branch main: publish the registry first with: llreg push")
    for ref in refs.pull_requests or ():
        heads[ref.ref.rpartition("/")[2]] = ref.target_commit
    return heads
