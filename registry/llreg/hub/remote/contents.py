"""A registry read from the Hub without a pull: at one commit, and only what is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llreg.hub.client.repo import Repo
from llreg.hub.remote.folder import HubFolder, commit_of
from llreg.settings import SHARD_ROWS
from llreg.store.arrays import is_count, store_variables
from llreg.store.contents import Contents
from llreg.store.layout import RETRACTIONS, STORE, TEXTS, version_file
from llreg.store.rowfile import Row, parse_row, row_limit
from llreg.store.zarr_profile import TOKENS_CHUNK_ROWS, check_tokens, chunk_rows, string_limit
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord
from llreg_schemas.errors import HubNotFoundError, InputError, InvalidFileError

_WHOLE_BYTES = 256 << 10  # 256 KiB: a file up to this size costs no more as a whole than by its parts
_WHOLE_SHARE = 4  # a shard is fetched as a whole where more than a quarter of its chunks is read


def find_folder(repo: str, revision: str | None = None) -> tuple[HubFolder, str | None]:
    """Where a registry on the Hub is read from: its files at one commit, and the named version that is meant.

    Parameters
    ----------
    repo : str
        ``org/name``.
    revision : str, optional
        A branch, tag, commit or ``refs/pr/N`` of the repository, or else a named version of the registry. A tag that
        is also a named version shows the rows and the view of that version.

    Returns
    -------
    HubFolder, and str or None
        The arguments of `RemoteContents`.

    Raises
    ------
    HubNotFoundError
        If there is no such repository or revision, or it is no registry.
    HubAccessError, HubUnreachableError
    """
    target = Repo(repo)
    manifest = version_file(str(revision))
    try:
        folder = HubFolder(target, commit_of(target, revision))
    except HubNotFoundError as error:
        if revision is None:
            raise
        # A named version need not be a tag of the repository: then main has it.
        try:
            folder = HubFolder(target, commit_of(target, None))
        except HubNotFoundError:
            raise error from None
        if not folder.has(manifest):
            raise HubNotFoundError(
                f"{repo} on the Hub has no branch, tag or commit {revision}, and no version of that name"
            ) from error
    return folder, revision if revision is not None and folder.has(manifest) else None


def open_remote(repo: str, revision: str | None = None) -> RemoteContents:
    """What a registry on the Hub holds, to read what is asked for and no more; as `find_folder`."""
    folder, version = find_folder(repo, revision)
    return RemoteContents(folder, revision=version)


class RemoteContents(Contents):
    """What a registry holds at one commit on the Hub; it can be read only.

    Parameters
    ----------
    folder : HubFolder
    revision : str, optional
        A named version's tag.

    Attributes
    ----------
    repo : str
        ``org/name``.
    commit : str
        40 hex digits: what is read is of this commit, whatever is pushed meanwhile.
    """

    def __init__(self, folder: HubFolder, *, revision: str | None = None) -> None:
        self.repo, self.commit = folder.repo.id, folder.commit
        self._hub = folder
        super().__init__(folder, HubStoreReader(folder), revision=revision)

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return f"{self.repo}@{self.commit[:8]} on the Hub"

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        return open_remote, (self.repo, self.revision or self.commit)

    def check_changeable(self, doing: str = "change it") -> None:
        """Refuse: what is on the Hub changes by a push."""
        raise InputError(f"{self.repo} is on the Hub and only read here; to {doing}, first: llreg pull {self.repo}")

    def _texts_file(self) -> Path | io.RawIOBase:
        """The file of the texts: sizes, hashes and segments are a small part of a large one, and only their columns are fetched."""
        size = self._hub.size(TEXTS) or 0
        if size <= _WHOLE_BYTES or self._hub.is_here(TEXTS):
            return super()._texts_file()
        return _RangeFile(self._hub, TEXTS, size)

    def _kept_files(self) -> list[Path]:
        """None: what would be on the Hub is a stranger's."""
        return []

    def _file_reader(self, path: Path) -> tuple[Callable[[int, int], bytes], int]:
        """What reads a range of a file's bytes, each a request, and how many these are."""
        name = path.relative_to(self.path).as_posix()
        return partial(self._hub.read, name), self._hub.size(name) or 0

    def row(self, name: str) -> Row:
        """One row with its values, from its own file: one request; `name` as in `find`."""
        record = self.find(name)
        path = self.row_files().get(record.digest)
        if path is not None and record.digest in self.build_records():  # else its record was read from the file already
            file = path.relative_to(self.path).as_posix()
            size = self._hub.size(file) or 0
            if 0 < size <= row_limit(self.num_texts, self.info.num_segments):
                with suppress(InvalidFileError):  # the store may have it intact
                    row = parse_row(self._hub.read(file, 0, size), self.num_texts, self.info.num_segments, label=file)
                    if (row.record.digest, row.record.identity) == (record.digest, record.identity):
                        return replace(row, record=record)
        # From the store, or else from the file as a whole, with the errors that either gives.
        row = super().row(name)
        if row.record.identity != record.identity:
            raise InvalidFileError(STORE, f"names {record.row_id} a row that is {row.record.row_id}")
        return row

    def _accepted_records(self, strict: bool) -> dict[str, RowRecord]:
        # What will be read one after the other is fetched at once.
        stored = set(self.store.digests())
        unbuilt = [path for digest, path in self.row_files().items() if strict or digest not in stored]
        names = [path.relative_to(self.path).as_posix() for path in unbuilt]
        limit = row_limit(self.num_texts, self.info.num_segments)
        retracted = self._hub.files(RETRACTIONS)
        self._hub.fetch_all([*retracted, *(name for name in names if (self._hub.size(name) or 0) <= limit)])
        return super()._accepted_records(strict)


class HubStoreReader(StoreReader):
    """Reads rows of a ``store.zarr`` on the Hub: its columns as files, its values by chunks.

    Parameters
    ----------
    folder : HubFolder
    """

    def __init__(self, folder: HubFolder) -> None:
        super().__init__(folder.root / STORE)
        self._folder = folder

    def signature(self) -> tuple[int, int, int] | None:
        """The same for good: a commit has one store or none."""
        size = self.size("zarr.json")
        return None if size is None else (0, 0, size)

    def source(self) -> Any:
        """The store as `zarr.open_group` takes it."""
        from llreg.hub.remote.zarr import HubStore

        return HubStore(self._folder, STORE, _is_shard, self._check_part)

    def size(self, key: str) -> int | None:
        """Bytes of one of the store's files; None if there is none of that name."""
        return self._folder.size(f"{STORE}/{key}")

    def load(self, key: str, start: int, end: int) -> bytes:
        """Bytes `start` up to `end` of one of the store's files; small ones are downloaded whole."""
        name = f"{STORE}/{key}"
        if not _is_shard(key):
            self._folder.fetch(self._folder.root / name)
        return self._folder.read(name, start, end)

    def prepare(self, name: str, positions: Sequence[int]) -> None:
        """Download the shards of which much is read; of the others, chunks are read as they are needed."""
        rows = TOKENS_CHUNK_ROWS if is_count(name) else chunk_rows(self._form.width(name))
        chunks: dict[str, set[int]] = {}  # that are read, by shard
        for position in positions:
            key = f"{name}/c.{position // SHARD_ROWS}.0"
            chunks.setdefault(key, set()).add(position % SHARD_ROWS // rows)
        whole = []
        for key, needed in chunks.items():
            first_row = int(key.split(".")[1]) * SHARD_ROWS
            # The last shard may hold fewer rows.
            num_chunks = -(-min(SHARD_ROWS, len(self._positions) - first_row) // rows)
            if len(needed) * _WHOLE_SHARE > num_chunks or (self.size(key) or 0) <= _WHOLE_BYTES:
                whole.append(f"{STORE}/{key}")  # which may be missing: `fetch` asks for nothing that is not listed
        self._folder.fetch_all(whole)
        super().prepare(name, positions)

    def check_shard(self, key: str) -> None:
        """As for a local store where the shard is here; else its chunks are checked as they come."""
        if self._folder.is_here(f"{STORE}/{key}"):
            super().check_shard(key)

    def _check_part(self, key: str, start: int, data: bytes) -> None:
        """Check what Zarr is about to get of a shard: a chunk, or several that lie together."""

        def read(first: int, end: int) -> bytes:
            if start <= first < start + len(data):
                return data[first - start : end - start]
            return self.load(key, first, end)  # the index, which was read before

        if is_count(key):
            check_tokens(
                key.partition("/")[0], read, self.size(key) or 0, self._form.num_texts, (start, start + len(data))
            )

    def _open(self, signature: tuple[int, int, int] | None) -> None:
        if signature is not None:
            columns = [*self._folder.files(f"{STORE}/digest/c"), *self._folder.files(f"{STORE}/record/c")]
            limit = string_limit("record", len(columns) * SHARD_ROWS)
            names = [f"{STORE}/zarr.json", *columns]
            self._folder.fetch_all(name for name in names if (self._folder.size(name) or 0) <= limit)
        super()._open(signature)


def _is_shard(key: str) -> bool:
    return key.startswith(tuple(f"{name}/c." for name in store_variables(pairs=True, fine=True)))


class _RangeFile(io.RawIOBase):
    """A file on the Hub of which only the parts that are read are fetched."""

    def __init__(self, folder: HubFolder, name: str, size: int) -> None:
        super().__init__()
        self._folder, self._name, self._size, self._position = folder, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = min(max(start + offset, 0), self._size)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if end <= self._position:
            return b""
        data = self._folder.read(self._name, self._position, end)
        self._position = end
        return data
