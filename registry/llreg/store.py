"""``store.zarr``: all accepted rows as one Zarr v3 group that plain xarray opens."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.rowfile import Row
from llreg.settings import CHUNK_BYTES, MAX_CHUNK_ROWS, SHARD_ROWS
from llreg.textset import TextIndex
from llreg_schemas import RowRecord, canonical_json, row_digest, version_id
from llreg_schemas.errors import FormatVersionError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STORE = "store.zarr"
_STRING_CHUNK = 4096  # rows a chunk of text metadata
_NUM_TOKENS_CHUNK = 64  # rows; models that share a tokenizer compress to almost nothing together

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
        "model_id": [identity.model for identity in identities],
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
    _write_values(group, rows, len(records), len(texts))
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


def _write_values(group: Any, rows: Iterable[Row], count: int, num_texts: int) -> None:
    import numpy as np
    from zarr.codecs import ZstdCodec

    shard = (SHARD_ROWS, num_texts)
    common: dict[str, Any] = {
        "shape": (count, num_texts),
        "dimension_names": ("model", "text"),
        # One file a shard, all in one directory: listing them over the Hub's API is one call.
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }
    # Left uncompressed: compression saves a tenth, doubles reading, and would tie bytes to a library version.
    values = group.create_array(
        "log_likelihood",
        dtype="float32",
        shards=shard,
        chunks=(chunk_rows(num_texts), num_texts),
        compressors=None,
        fill_value=float("nan"),
        attributes={"long_name": "log-likelihood of the text", "units": "nat"},
        **common,
    )
    tokens = group.create_array(
        "num_tokens",
        dtype="int32",
        shards=shard,
        chunks=(_NUM_TOKENS_CHUNK, num_texts),
        compressors=[ZstdCodec(level=3)],
        fill_value=0,
        attributes={"long_name": "tokens scored", "units": "1"},
        **common,
    )
    start, batch = 0, []
    for row in rows:
        batch.append(row)
        if len(batch) == SHARD_ROWS or start + len(batch) == count:
            end = start + len(batch)
            values[start:end] = np.stack([row.log_likelihood for row in batch])
            tokens[start:end] = np.stack([row.num_tokens for row in batch])
            start, batch = end, []


def _write_column(group: Any, name: str, values: list[Any], dim: str) -> None:
    import numpy as np

    numeric = name in ("text", "text_bytes", "num_parameters")
    array = group.create_array(
        name,
        shape=(len(values),),
        chunks=(max(1, min(_STRING_CHUNK, len(values))),),
        dtype="int64" if numeric else str,
        dimension_names=(dim,),
        attributes={"long_name": _LONG_NAMES[name]},
    )
    if values:
        array[:] = np.array(values, dtype=np.int64 if numeric else object)


class StoreReader:
    """Reads rows of a ``store.zarr`` by digest, also while another process swaps it.

    Parameters
    ----------
    path : Path
        The store; it may be missing, which reads as no rows.
    shown : str
        Name used in messages.
    """

    def __init__(self, path: Path, *, shown: str = STORE) -> None:
        self.path, self.shown = path, shown
        self._signature: tuple[int, int, int] | None = None
        self._group: Any = None
        self._positions: dict[str, int] = {}
        self._records: list[RowRecord] | None = None

    def digests(self) -> list[str]:
        """Digests of the store's rows, in its order."""
        self._refresh()
        return list(self._positions)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the group; empty if there is no store."""
        self._refresh()
        return dict(self._group.attrs) if self._group is not None else {}

    def records(self) -> list[RowRecord]:
        """Records of the store's rows, in its order."""
        self._refresh()
        if self._records is None:
            texts = [] if self._group is None else self._group["record"][:]
            self._records = [RowRecord.from_json(json.loads(text)) for text in texts]
        return list(self._records)

    def read(self, name: str, digests: Sequence[str], columns: slice | NDArray[np.intp]) -> NDArray[Any]:
        """Values of the named array for some rows.

        Parameters
        ----------
        name : {"log_likelihood", "num_tokens"}
        digests : sequence of str
        columns : slice or intp array
            Texts to read.

        Returns
        -------
        array of shape (len(digests), n_columns)

        Raises
        ------
        KeyError
            If a row is no longer in the store.
        """
        while True:
            self._refresh()
            before = self._signature
            if self._group is None and not digests:
                return _nothing(name)
            positions = [self._positions[digest] for digest in digests]
            try:
                values = _select(self._group[name], positions, columns)
            except (FileNotFoundError, ValueError):
                if self._current_signature() == before:
                    raise
                continue
            if self._current_signature() == before:  # else it was swapped meanwhile: rows may have moved
                return values

    def intact_rows(self, records: Sequence[RowRecord]) -> dict[str, Row]:
        """Those of the given rows that are in the store with the values their digest names, by digest."""
        there = set(self.digests())
        wanted = [record for record in records if record.digest in there]
        digests = [record.digest for record in wanted]
        values, tokens = (self.read(name, digests, slice(None)) for name in ("log_likelihood", "num_tokens"))
        rows = [Row(record, *pair) for record, *pair in zip(wanted, values, tokens, strict=True)]
        return {
            row.record.digest: row
            for row in rows
            if row_digest(row.record.identity.to_json(), row.log_likelihood, row.num_tokens) == row.record.digest
        }

    def _current_signature(self) -> tuple[int, int, int] | None:
        try:
            status = (self.path / "zarr.json").stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _refresh(self) -> None:
        """Open the store anew if it is not the one that was opened."""
        while (signature := self._current_signature()) != self._signature:
            try:
                group, positions = self._open() if signature else (None, {})
            except FileNotFoundError:
                if self._current_signature() == signature:
                    raise
                continue
            if self._current_signature() == signature:
                self._group, self._positions, self._signature = group, positions, signature
                self._records = None

    def _open(self) -> tuple[Any, dict[str, int]]:
        import zarr

        try:
            group = zarr.open_group(self.path, mode="r", use_consolidated=True)
            version: Any = group.attrs.get("build_format_version")
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise FormatVersionError(
                    self.shown,
                    f"expected build format {FORMAT_VERSION} or older; got {version}, "
                    "made by a newer llreg: pip install --upgrade llreg",
                )
            digests: Any = group["digest"]
            return group, {str(digest): position for position, digest in enumerate(digests[:])}
        except (ValueError, KeyError) as error:
            if isinstance(error, InvalidFileError):
                raise
            raise InvalidFileError(
                self.shown,
                f"cannot be read ({error}); delete the directory and run llreg build, the rows are not touched",
            ) from error


def _nothing(name: str) -> NDArray[Any]:
    import numpy as np

    return np.empty((0, 0), np.float32 if name == "log_likelihood" else np.int32)


def _select(array: Any, positions: Sequence[int], columns: slice | NDArray[np.intp]) -> NDArray[Any]:
    """Rows of a Zarr array: one contiguous read where they are neighbours."""
    import numpy as np

    if not positions:
        return np.empty(
            (0, len(range(*columns.indices(array.shape[1]))) if isinstance(columns, slice) else len(columns)),
            array.dtype,
        )
    first, count = positions[0], len(positions)
    if list(positions) == list(range(first, first + count)):
        rows: Any = slice(first, first + count)
    else:
        rows = np.asarray(positions)
    return np.asarray(array.oindex[rows, columns])
