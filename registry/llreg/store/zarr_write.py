"""``store.zarr``: all accepted rows as one Zarr v3 group that plain xarray opens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llreg.settings import CHUNK_BYTES, MAX_CHUNK_ROWS, SHARD_ROWS
from llreg.store.arrays import attributes, dtype_of, is_count, row_variables
from llreg.store.rowfile import Row
from llreg.texts.textset import TextIndex
from llreg_schemas import RowRecord, canonical_json, version_id
from llreg_schemas.records import FORMAT_VERSION

STRING_CHUNK_ROWS = 4096  # text metadata
TOKENS_CHUNK_ROWS = 64  # models that share a tokenizer compress to almost nothing together

_LONG_NAMES = {
    "model": "row id: model name @ first 8 hex digits of the digest",
    "model_id": "Hub id, or name of a local model",
    "revision": "commit on the Hub, or sha256 of a local model's files",
    "weight_dtype": "dtype of the weights while scoring",
    "quantization": "how the weights were quantised; empty if not",
    "architecture": "class of the model, as its config declares it",
    "base_model": "models it was derived from, as declared, space-separated",
    "num_parameters": "parameters, as declared; -1 if unknown",
    "licence": "licence, as declared",
    "added_at": "time the row was computed, UTC",
    "digest": "sha256 of the row's identity and values",
    "record": "the row's full record, JSON",
    "text": "index of the text",
    "subset": "subset of the text",
    "text_bytes": "UTF-8 bytes of the text",
    "text_sha256": "sha256 of the text's UTF-8 bytes",
}


def model_columns(records: Sequence[RowRecord]) -> dict[str, list[Any]]:
    """Metadata of rows as columns: what stands beside the values in the store and the table."""
    identities = [record.identity for record in records]
    declared = [record.declared for record in records]
    return {
        "model": [record.row_id for record in records],
        "model_id": [identity.name for identity in identities],
        "revision": [identity.revision or "" for identity in identities],
        "weight_dtype": [identity.weight_dtype for identity in identities],
        "quantization": [identity.quantization or "" for identity in identities],
        "architecture": [entry.get("architecture") or "" for entry in declared],
        "base_model": [" ".join(entry.get("base_model") or ()) for entry in declared],
        "num_parameters": [-1 if (n := entry.get("num_parameters")) is None else n for entry in declared],
        "licence": [entry.get("licence") or "" for entry in declared],
        "added_at": [str(record.provenance["added_at"]) for record in records],
        "digest": [record.digest for record in records],
    }


def text_columns(texts: TextIndex) -> dict[str, list[Any]]:
    """Metadata of texts as columns."""
    return {
        "text": list(range(len(texts))),
        "subset": list(texts.subset),
        "text_bytes": list(texts.num_bytes),
        "text_sha256": list(texts.sha256),
    }


def chunk_rows(num_texts: int) -> int:
    """Rows in a chunk: a power of two that keeps one row over HTTP at `CHUNK_BYTES` or one row."""
    rows = 1
    while rows < MAX_CHUNK_ROWS and 2 * rows * 4 * num_texts <= CHUNK_BYTES:
        rows *= 2
    return rows


def write_store(
    path: Path, rows: Iterable[Row], records: Sequence[RowRecord], texts: TextIndex, attrs: Mapping[str, Any]
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
    """
    import zarr

    group = zarr.create_group(path, zarr_format=3, attributes=_group_attributes(records, texts, attrs))
    _write_values(group, rows, len(records), texts)
    columns: dict[str, list[Any]] = {**model_columns(records), "record": [canonical_json(r.to_json()) for r in records]}
    for name, values in columns.items():
        _write_column(group, name, values, "model")
    for name, values in text_columns(texts).items():
        _write_column(group, name, values, "text")
    with warnings.catch_warnings():
        # Consolidated metadata is not yet in the v3 specification, but every reader over HTTP needs it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)


def _group_attributes(records: Sequence[RowRecord], texts: TextIndex, attrs: Mapping[str, Any]) -> dict[str, Any]:
    coordinates = [*model_columns([]), "record", *text_columns(texts)]
    return {
        **attrs,
        "build_format_version": FORMAT_VERSION,
        "version": version_id(record.digest for record in records),
        "coordinates": " ".join(name for name in coordinates if name not in ("model", "text")),
    }


def _write_values(group: Any, rows: Iterable[Row], count: int, texts: TextIndex) -> None:
    import numpy as np

    arrays = {
        name: _create_array(group, name, (count, len(texts)), pairs=texts.has_pairs)
        for name in row_variables(pairs=texts.has_pairs)
    }
    start, batch = 0, []
    for row in rows:
        batch.append(row.arrays)
        if len(batch) == SHARD_ROWS or start + len(batch) == count:
            end = start + len(batch)
            for name, array in arrays.items():
                array[start:end] = np.stack([values[name] for values in batch])
            start, batch = end, []


def _create_array(group: Any, name: str, shape: tuple[int, int], *, pairs: bool) -> Any:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    num_texts = shape[1]
    common: dict[str, Any] = {
        "shape": shape,
        "dtype": dtype_of(name),
        "shards": (SHARD_ROWS, num_texts),
        "dimension_names": ("model", "text"),
        # One file a shard, all in one directory: listing them over the Hub's API is one call.
        "chunk_key_encoding": {"name": "default", "separator": "."},
        "attributes": attributes(name, pairs=pairs),
    }
    if is_count(name):
        return group.create_array(
            name,
            chunks=(TOKENS_CHUNK_ROWS, num_texts),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            fill_value=0,
            config={"write_empty_chunks": True},  # imported rows have 0 throughout; a shard that is missing is damage
            **common,
        )
    # Checksummed, not compressed: zstd saves 14 %, doubles reading, and would tie bytes to a library version
    # (benchmarks/RESULTS.md).
    return group.create_array(
        name,
        chunks=(chunk_rows(num_texts), num_texts),
        compressors=[Crc32cCodec()],
        fill_value=float("nan"),
        **common,
    )


def _write_column(group: Any, name: str, values: list[Any], dim: str) -> None:
    import numpy as np

    numeric = name in ("text", "text_bytes", "num_parameters")
    array = group.create_array(
        name,
        shape=(len(values),),
        chunks=(max(1, min(STRING_CHUNK_ROWS, len(values))),),
        dtype="int64" if numeric else str,
        dimension_names=(dim,),
        attributes={"long_name": _LONG_NAMES[name]},
    )
    if values:
        array[:] = np.array(values, dtype=np.int64 if numeric else object)
