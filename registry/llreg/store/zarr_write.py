"""``store.zarr``: all accepted rows as one Zarr v3 group that plain xarray opens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llreg.settings import SHARD_ROWS
from llreg.store.arrays import UNKNOWN, array_attributes, dimension_of, dtype_of, is_count, is_fine_only
from llreg.store.columns import STORE_COLUMNS, TEXT_COLUMNS, Column
from llreg.store.fine import FineMap, store_arrays
from llreg.store.rowfile import Row
from llreg.store.zarr_profile import TOKENS_CHUNK_ROWS, StoreForm, chunk_rows, string_chunk
from llreg.texts.textset import TextIndex
from llreg_schemas import RowRecord, version_id
from llreg_schemas.records import FINE_VERSION, FORMAT_VERSION


def write_store(
    path: Path,
    rows: Iterable[Row],
    records: Sequence[RowRecord],
    texts: TextIndex,
    attrs: Mapping[str, Any],
    fine: FineMap | None = None,
) -> None:
    """Write a new store at `path`, which must not exist.

    Parameters
    ----------
    path : Path
    rows : iterable of Row
        In the order of `records`; taken a shard at a time, so memory does not grow with the registry.
    records : sequence of RowRecord
    texts : TextIndex
    attrs : mapping
        Attributes of the group.
    fine : FineMap, optional
        Of a registry whose texts are cut into segments.
    """
    import zarr

    # xarray takes the arrays in "coordinates" for coordinates; those of a dimension's name it takes by itself.
    names = [column.name for column in (*STORE_COLUMNS, *TEXT_COLUMNS)]
    names += [] if fine is None else ["coordinate_text"]
    attributes = {
        **attrs,
        "build_format_version": FORMAT_VERSION if fine is None else FINE_VERSION,
        "version": version_id(record.digest for record in records),
        "coordinates": " ".join(name for name in names if name not in ("model", "text")),
    }
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    _write_values(group, rows, len(records), texts, fine)
    for column in STORE_COLUMNS:
        _write_column(group, column, column.stored(records), "model")
    for column in TEXT_COLUMNS:
        _write_column(group, column, column.get(texts), "text")
    if fine is not None:
        # In a file of its own and small: only the reader that plain xarray is needs it.
        group.create_array(
            "coordinate_text",
            data=fine.text,
            chunks=fine.text.shape,
            dimension_names=("coordinate",),
            attributes={"long_name": "index of the text of a fine coordinate"},
        )
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the v3 specification, but every reader over HTTP needs it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)


def _write_values(group: Any, rows: Iterable[Row], count: int, texts: TextIndex, fine: FineMap | None) -> None:
    import numpy as np
    from zarr.codecs import Crc32cCodec, ZstdCodec

    form = StoreForm(len(texts), 0 if fine is None else len(fine.text), texts.has_pairs)
    arrays = {}
    for name in form.variables:
        width = form.width(name)
        chunks: dict[str, Any]
        if is_count(name):
            chunks = {
                "chunks": (TOKENS_CHUNK_ROWS, width),
                "compressors": [ZstdCodec(level=3), Crc32cCodec()],
                "fill_value": UNKNOWN if is_fine_only(name) else 0,
                # Imported rows have 0 throughout; a shard that is missing must be damage. One of what fine rows alone
                # have is missing where there is none among its rows.
                "config": {"write_empty_chunks": not is_fine_only(name)},
            }
        else:
            # Checksummed, not compressed: zstd saves 14 %, doubles reading, and would tie bytes to a library version
            # (benchmarks/RESULTS.md).
            chunks = {
                "chunks": (chunk_rows(width), width),
                "compressors": [Crc32cCodec()],
                "fill_value": float("nan"),
            }
        arrays[name] = group.create_array(
            name,
            shape=(count, width),
            dtype=dtype_of(name),
            shards=(SHARD_ROWS, width),
            dimension_names=("model", dimension_of(name)),
            # One file a shard, all in one directory: listing them over the Hub's API is one call.
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=array_attributes(name, pairs=texts.has_pairs),
            **chunks,
        )
    # A whole shard at a time: writing a part of one reads and writes all of it.
    start, batch = 0, []
    for row in rows:
        batch.append(store_arrays(row, form, fine))
        if len(batch) == SHARD_ROWS or start + len(batch) == count:
            end = start + len(batch)
            for name, array in arrays.items():
                array[start:end] = np.stack([values[name] for values in batch])  # (n_batch, n_texts), or coordinates
            start, batch = end, []


def _write_column(group: Any, column: Column, values: list[Any], dim: str) -> None:
    import numpy as np

    is_integer = column.kind == "integer"
    array = group.create_array(
        column.name,
        shape=(len(values),),
        chunks=(string_chunk(len(values)),),
        dtype="int64" if is_integer else str,
        dimension_names=(dim,),
        attributes={"long_name": column.long_name},
    )
    if values:
        array[:] = np.array(values, dtype=np.int64 if is_integer else object)
