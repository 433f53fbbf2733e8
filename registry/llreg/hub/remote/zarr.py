"""``store.zarr`` on the Hub: columns as whole files, values by ranges of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from llreg.hub.remote.folder import HubFolder

Check = Callable[[str, int, bytes], None]


class HubStore(Store):
    """A folder of a repository as a Zarr store that can be read only.

    Parameters
    ----------
    folder : HubFolder
    name : str
        The store's folder.
    is_large : callable
        Whether a file, by its key, is one of which only parts are asked for.
    check : callable
        Called with the key of a large file and what Zarr is about to get of it, where that begins and its bytes; raises
        ValueError to refuse it.
    """

    def __init__(self, folder: HubFolder, name: str, is_large: Callable[[str], bool], check: Check) -> None:
        super().__init__(read_only=True)
        self._folder, self._name, self._is_large, self._check = folder, name, is_large, check

    def __eq__(self, value: object) -> bool:
        return isinstance(value, HubStore) and value._folder is self._folder and value._name == self._name

    def __hash__(self) -> int:
        return hash((id(self._folder), self._name))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A file, or a part of it; None if there is none of that name."""
        size = self._folder.size(f"{self._name}/{key}")
        if size is None:
            return None
        data = await asyncio.to_thread(self._read, key, size, byte_range)
        return prototype.buffer.from_bytes(data)

    def _read(self, key: str, size: int, byte_range: ByteRequest | None) -> bytes:
        # First byte, and the one after the last.
        start, end = 0, size
        if isinstance(byte_range, RangeByteRequest):
            start, end = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            start = size - byte_range.suffix
        if not 0 <= start < end <= size:
            raise ValueError(f"bytes {start:,} to {end:,} of a file of {size:,}")
        # Small files are downloaded as a whole, and read from the disk from then on.
        name, large = f"{self._name}/{key}", self._is_large(key)
        if byte_range is None or not large:
            self._folder.fetch(self._folder.root / name)
        data = self._folder.read(name, start, end)
        if large and not isinstance(byte_range, SuffixByteRequest):  # which is a shard's index
            self._check(key, start, data)
        return data

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several parts of files, at a time."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is a file of that name."""
        return self._folder.has(f"{self._name}/{key}")

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names in a folder."""
        start = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        for name in sorted({key[len(start) :].partition("/")[0] for key in self._keys() if key.startswith(start)}):
            yield name

    def _keys(self) -> Sequence[str]:
        return [name[len(self._name) + 1 :] for name in self._folder.files(self._name)]
