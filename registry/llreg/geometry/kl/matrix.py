"""The whole KL matrix of many rows, written to disk block by block; also by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import check_place
from llreg.geometry.kl.distance import kl_rows
from llreg.geometry.kl.stream import BLOCK, RowStream, stream_rows
from llreg.geometry.view.view import View
from llreg.store.contents import Contents
from llreg_schemas.errors import InputError, storage_errors

if TYPE_CHECKING:
    from distributed import Client

Opener = tuple[Callable[..., Contents], tuple[str, str | None]]
Pair = tuple[int, int]


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
    rows = stream_rows(registry, models, view)
    if len(rows) < 2:
        raise InputError("a distance needs two rows; see: llreg ls")
    if path.exists():
        raise InputError(f"{path} is there already; choose another name, or remove it")
    check_place(path)
    partial = path.with_name(path.name + ".partial")
    pairs = [(i, j) for i in range(0, len(rows), BLOCK) for j in range(i, len(rows), BLOCK)]
    with storage_errors(path):
        _create(partial, rows)
        done = _on_cluster(rows, partial, pairs, cluster) if cluster else _here(rows, partial, pairs)
        for count, _ in enumerate(done, 1):
            if progress:
                progress(count, len(pairs))
        _finish(partial)
        partial.rename(path)


def _create(path: Path, rows: RowStream) -> None:
    import shutil

    import zarr

    shutil.rmtree(path, ignore_errors=True)
    names = {"model": [record.row_id for record in rows.records], "model_id": [r.identity.name for r in rows.records]}
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
    for dim, prefix in (("model", "model"), ("other", "other")):
        for name, values in (("", names["model"]), ("_id", names["model_id"])):
            column = group.create_array(
                prefix + name, shape=(count,), chunks=(min(4096, count),), dtype=str, dimension_names=(dim,)
            )
            column[:] = np.array(values, dtype=object)


def _finish(path: Path) -> None:
    import warnings

    import zarr

    group = zarr.open_group(path, mode="r+")
    group.attrs["complete"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the v3 specification yet
        zarr.consolidate_metadata(group.store)


def _here(rows: RowStream, path: Path, pairs: Sequence[Pair]) -> Iterator[Pair]:
    last: tuple[int, Any] = (-1, None)
    for i, j in pairs:
        if last[0] != i:
            last = i, rows.read(slice(i, i + BLOCK))
        _write_block(path, i, j, last[1], last[1] if i == j else rows.read(slice(j, j + BLOCK)))
        yield i, j


def _write_block(path: Path, i: int, j: int, left: Any, right: Any) -> None:
    import zarr

    result = kl_rows(left, None if i == j else right, se=False, tail_share=False)
    block = result["kl_bits_per_byte"].values.astype(np.float32)
    array: Any = zarr.open_group(path, mode="r+")["kl"]
    array[i : i + len(left), j : j + len(right)] = block
    if i != j:
        array[j : j + len(right), i : i + len(left)] = block.T


def _on_cluster(rows: RowStream, path: Path, pairs: Sequence[Pair], cluster: str) -> Iterator[Pair]:
    """Blocks as tasks; a task whose worker dies runs again elsewhere, and writes the same bytes."""
    from llreg.dask_client import connect

    where = rows.source.__reduce__()  # how a worker opens it, once for all its blocks
    with connect(cluster) as client:
        yield from _results(client, where, rows, path.resolve(), pairs)


def _results(client: Client, where: Opener, rows: RowStream, path: Path, pairs: Sequence[Pair]) -> Iterator[Pair]:
    from distributed import as_completed

    document, version = rows.view.to_json(), rows.version
    waiting = iter(pairs)
    limit = 4 * max(len(client.scheduler_info()["workers"]), 1)
    running = as_completed([])
    for count, pair in enumerate(waiting):
        running.add(client.submit(_remote, where, document, version, str(path), *pair, pure=False, retries=3))
        if count + 1 >= limit:
            yield next(running).result()
    for future in running:
        yield future.result()


def _remote(where: Opener, view: Mapping[str, Any], version: str, path: str, i: int, j: int) -> Pair:
    """One block, on a worker that sees the registry's and the store's files."""
    rows = _open(where, _key(view), path)
    if rows.version != version:
        raise InputError(f"{where[1][0]} on this worker is at version {rows.version[:12]}, not {version[:12]}")
    left = rows.read(slice(i, i + BLOCK))
    _write_block(Path(path), i, j, left, left if i == j else rows.read(slice(j, j + BLOCK)))
    return i, j


def _key(view: Mapping[str, Any]) -> str:
    import json

    return json.dumps(view, sort_keys=True)


@lru_cache(maxsize=4)
def _open(where: Opener, view: str, path: str) -> RowStream:
    """The rows of the store, once a worker: their records are the costly part."""
    import json

    import zarr

    names: Any = zarr.open_group(path, mode="r")["model"]
    opener, arguments = where
    registry = opener(*arguments)
    by_id = {record.row_id: record for record in registry.records()}
    rows = stream_rows(registry, [], View.from_json(json.loads(view)))
    return RowStream(registry, [by_id[str(name)] for name in names[:]], rows.view, rows.version)
