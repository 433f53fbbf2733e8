"""Chunk and shard shapes: the measurement behind ``settings.CHUNK_BYTES`` and ``SHARD_ROWS``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from _measure import markdown, seconds, show_bytes, show_seconds, size
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import LocalStore, WrapperStore

from llreg.settings import SHARD_ROWS
from llreg.store.zarr_profile import chunk_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNKS, SHARDS = (1, 2, 4, 8, 16, 64), (64, 256, 1024)  # rows
COMPRESSORS: dict[str, Any] = {
    "none": None,
    "zstd": [ZstdCodec(level=3)],
    "blosc-shuffle": [BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=4)],
}
HEADER = ("chunk rows", "shard rows", "compression", "write", "read all", "read one row", "one row: requests, bytes")


class CountingStore(WrapperStore[LocalStore]):
    """Counts what is asked of the store: what would go over HTTP."""

    requests = size = 0

    async def get(self, *args: Any, **options: Any) -> Any:
        """As the store, counted."""
        value = await self._store.get(*args, **options)
        self.requests += 1
        self.size += len(value) if value is not None else 0
        return value


def shapes_table(values: NDArray[np.float32], path: Path, repeats: int) -> str:
    """Markdown table of every combination; the one that llreg uses is bold."""
    return markdown((*HEADER, "size"), list(_lines(values, path, repeats)))


def _lines(values: NDArray[np.float32], path: Path, repeats: int) -> Iterator[tuple[str, ...]]:
    used = (chunk_rows(values.shape[1]), SHARD_ROWS, "none")
    for chunk, shard, compression in product(CHUNKS, SHARDS, COMPRESSORS):
        cells = [str(chunk), str(shard), compression, *_measure(values, path, chunk, shard, compression, repeats)]
        bold = (chunk, shard, compression) == used
        yield tuple(f"**{cell}**" if bold else cell for cell in cells)


def _measure(
    values: NDArray[np.float32], path: Path, chunk: int, shard: int, compression: str, repeats: int
) -> Iterator[str]:
    width = values.shape[1]
    yield show_seconds(seconds(partial(_write, values, path, (chunk, width), (shard, width), compression), repeats))
    array: Any = zarr.open_array(path, mode="r")
    yield show_seconds(seconds(lambda: array[:], repeats))
    row = len(values) // 2
    yield show_seconds(seconds(lambda: array[row], max(repeats, 20)))
    yield _asked(path, row)
    yield str(size(path))


def _write(
    values: NDArray[np.float32], path: Path, chunks: tuple[int, int], shards: tuple[int, int], compression: str
) -> None:
    if path.exists():
        shutil.rmtree(path)
    array = zarr.create_array(
        path, shape=values.shape, dtype="float32", chunks=chunks, shards=shards, compressors=COMPRESSORS[compression]
    )
    for start in range(0, len(values), shards[0]):
        array[start : start + shards[0]] = values[start : start + shards[0]]


def _asked(path: Path, row: int) -> str:
    """Requests and bytes of one row, the shard's index with it and the array's metadata not."""
    store = CountingStore(LocalStore(path, read_only=True))
    array: Any = zarr.open_array(store, mode="r")
    before = store.requests, store.size
    array[row]
    return f"{store.requests - before[0]}, {show_bytes(store.size - before[1])}"
