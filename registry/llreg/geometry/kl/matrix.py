"""The whole KL matrix of many rows, written to disk block by block; also by the workers of a Dask cluster."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llreg.atomic import check_place
from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.stream import BLOCK, RowStream, stream_rows
from llreg.geometry.view.view import View
from llreg.store.contents import Contents
from llreg_schemas.errors import InputError, storage_errors

Opener = tuple[Callable[..., Contents], tuple[str, str | None]]  # what `__reduce__` gives: a function and its arguments
Block = tuple[int, int]  # first row and first column


def write_kl(
    registry: Contents,
    path: Path,
    *,
    models: Sequence[str] | None = None,
    view: View | None = None,
    cluster: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the KL matrix of many rows as a Zarr store, with memory for a few blocks only.

    Parameters
    ----------
    registry : Contents
    path : Path
        Directory to make, ending in ``.zarr``.
    models : sequence of str, optional
        Which rows, as in `Contents.find`; all by default.
    view : View, optional
        The registry's own by default.
    cluster : str, optional
        "local" for worker processes on this machine, or the address of a Dask scheduler whose workers see the same
        files; by default this process does it. The values are the same.
    progress : callable, optional
        Called with blocks done and blocks in all.

    Raises
    ------
    InputError
        If there are fewer than two rows, or `path` exists.
    MissingExtraError
        If a cluster is asked for and distributed is not installed.
    StorageError
        If it cannot be written.

    Notes
    -----
    float32 ``kl``, bit/byte, dims (model, other), in chunks of 1,024 x 1,024; formulas as `llreg.geometry.kl_matrix`. The
    blocks above the diagonal are computed and mirrored. It opens with ``xarray.open_zarr``. A store that was interrupted has
    no ``complete`` attribute and stands under the name ``.partial``.
    """
    import zarr

    rows = stream_rows(registry, models, view)
    if len(rows) < 2:
        raise InputError("a distance needs two rows; see: llreg ls")
    if path.exists():
        raise InputError(f"{path} is there already; choose another name, or remove it")
    check_place(path)
    # Under another name until it is complete: what lies at `path` is always whole.
    partial = path.with_name(path.name + ".partial")
    pairs = [(i, j) for i in range(0, len(rows), BLOCK) for j in range(i, len(rows), BLOCK)]
    with storage_errors(path):
        _create(partial, rows)
        written = _write_on_cluster(rows, partial, pairs, cluster) if cluster else _write_blocks(rows, partial, pairs)
        for count, _ in enumerate(written, 1):
            if progress:
                progress(count, len(pairs))
        # Mark the store as complete, and collect its metadata.
        group = zarr.open_group(partial, mode="r+")
        group.attrs["complete"] = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # consolidated metadata is not in the v3 specification yet
            zarr.consolidate_metadata(group.store)
        partial.rename(path)


def _create(path: Path, rows: RowStream) -> None:
    """A store without values: labels of the rows, and the array of KL."""
    import shutil

    import zarr

    shutil.rmtree(path, ignore_errors=True)
    group = zarr.create_group(
        path,
        zarr_format=3,
        attributes={
            "registry": rows.registry,
            "version": rows.version,
            "view": rows.view.to_json(),
            "coordinates": "model_id other_id",
        },
    )
    count = len(rows)
    group.create_array(
        "kl",
        shape=(count, count),
        chunks=(min(BLOCK, count), min(BLOCK, count)),
        dtype="float32",
        fill_value=float("nan"),
        dimension_names=("model", "other"),
        attributes={"long_name": "KL divergence", "units": "bit/byte"},
    )
    # Row ids are the index of both dims; names of models are a coordinate beside each.
    for dim in ("model", "other"):
        for name, values in ((dim, rows.row_ids), (f"{dim}_id", rows.names)):
            column = group.create_array(
                name, shape=(count,), chunks=(min(4096, count),), dtype=str, dimension_names=(dim,)
            )
            column[:] = np.array(values, dtype=object)


def _write_blocks(rows: RowStream, path: Path, pairs: Sequence[Block]) -> Iterator[Block]:
    """In this process; the rows of a line of blocks are read once."""
    start, left = -1, None
    for i, j in pairs:
        if i != start:
            start, left = i, rows.read(slice(i, i + BLOCK))
        _write_block(path, i, j, left, left if i == j else rows.read(slice(j, j + BLOCK)))
        yield i, j


def _write_block(path: Path, i: int, j: int, left: Any, right: Any) -> None:
    """KL between the rows from i and the rows from j, and its mirror image below the diagonal."""
    import zarr

    result = kl_plain(left, None if i == j else right, se=False, tail_share=False)
    block = result["kl_bits_per_byte"].values.astype(np.float32)
    array: Any = zarr.open_group(path, mode="r+")["kl"]
    array[i : i + len(left), j : j + len(right)] = block
    if i != j:
        array[j : j + len(right), i : i + len(left)] = block.T


# On a cluster


def _write_on_cluster(rows: RowStream, path: Path, pairs: Sequence[Block], cluster: str) -> Iterator[Block]:
    """Blocks as tasks; a task whose worker dies runs again elsewhere, and writes the same bytes."""
    from llreg.dask_client import connect

    opener = rows.source.__reduce__()  # how a worker opens the registry, once for all its blocks
    arguments = opener, json.dumps(rows.view.to_json(), sort_keys=True), rows.version, str(path.resolve())
    with connect(cluster) as client:  # says what to install where distributed is missing
        from distributed import as_completed

        # A few tasks a worker wait at the scheduler, however many blocks there are.
        limit = 4 * max(len(client.scheduler_info()["workers"]), 1)
        running = as_completed([])
        for count, pair in enumerate(pairs, 1):
            running.add(client.submit(_write_remote_block, *arguments, *pair, pure=False, retries=3))
            if count >= limit:
                yield next(running).result()
        for future in running:
            yield future.result()


def _write_remote_block(opener: Opener, view: str, version: str, path: str, i: int, j: int) -> Block:
    """One block, on a worker that sees the registry's and the store's files."""
    rows = _open_rows(opener, view, path)
    if rows.version != version:
        raise InputError(f"{opener[1][0]} on this worker is at version {rows.version[:12]}, not {version[:12]}")
    left = rows.read(slice(i, i + BLOCK))
    _write_block(Path(path), i, j, left, left if i == j else rows.read(slice(j, j + BLOCK)))
    return i, j


@lru_cache(maxsize=4)
def _open_rows(opener: Opener, view: str, path: str) -> RowStream:
    """The rows of the store, once a worker: their records are the costly part."""
    import zarr

    names: Any = zarr.open_group(path, mode="r")["model"]
    open_registry, arguments = opener
    registry = open_registry(*arguments)
    by_id = {record.row_id: record for record in registry.records()}
    rows = stream_rows(registry, [], View.from_json(json.loads(view)))
    return RowStream(registry, [by_id[str(name)] for name in names[:]], rows.view, rows.version)
