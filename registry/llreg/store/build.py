"""The build: ``store.zarr``, ``models.parquet`` and the card, a pure function of the rows."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llreg.store.arrays import is_count, row_variables
from llreg.store.card import make_card
from llreg.store.layout import CARD, STORE, TABLE
from llreg.store.rowfile import Row
from llreg.store.zarr_write import model_columns, write_store
from llreg.texts.textset import TextIndex
from llreg_schemas import RowRecord

_ROW_GROUP = 256  # rows; the Dataset Viewer reads by row group


def store_attributes(info: Mapping[str, Any], retracted: Collection[str] = ()) -> dict[str, Any]:
    """Attributes of the store: what its rows have in common, and the digests that were retracted."""
    return {
        **({"retracted": sorted(retracted)} if retracted else {}),
        "title": f"{info['name']}: log-likelihoods of language models",
        "registry": info["name"],
        "text_set": info["text_set"]["id"],
        "protocol": info["protocol"]["id"],
        "view": info["view"]["id"],
        "licence": info["licence"],
        "Conventions": "llreg-1",
    }


def write_build(
    directory: Path,
    rows: Iterable[Row],
    records: Sequence[RowRecord],
    texts: TextIndex,
    info: Mapping[str, Any],
    retracted: Collection[str] = (),
) -> None:
    """Write the build's parts into an empty directory; it is made if it is missing.

    Parameters
    ----------
    directory : Path
    rows : iterable of Row
        In the order of `records`, which must be sorted by `RowRecord.sort_key`.
    records : sequence of RowRecord
    texts : TextIndex
    info : mapping
        registry.json.
    retracted : collection of str
        Digests of the retracted rows: readers go by the store while a pull has not written the files yet.
    """
    directory.mkdir(exist_ok=True)
    table = _TableWriter(directory / TABLE, pairs=texts.has_pairs)
    write_store(directory / STORE, table.passing(rows), records, texts, store_attributes(info, retracted))
    table.close()
    (directory / CARD).write_text(make_card(info, records), encoding="utf-8")


class _TableWriter:
    """``models.parquet``: one line a row, the vector as one list<float32> column; of pairs a second one."""

    def __init__(self, path: Path, *, pairs: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa = pa
        names = model_columns([])
        kinds = {name: pa.int64() if name == "num_parameters" else pa.string() for name in names}
        kinds["base_model"] = pa.list_(pa.string())
        self._vectors = [name for name in row_variables(pairs=pairs) if not is_count(name)]
        vectors = [(name, pa.list_(pa.float32())) for name in self._vectors]
        self._schema = pa.schema([*kinds.items(), ("mean_log_likelihood", pa.float64()), *vectors])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=False)
        self._batch: list[Row] = []

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Hand the rows on, writing each on its way, so that they are read once."""
        for row in rows:
            self._batch.append(row)
            if len(self._batch) == _ROW_GROUP:
                self._flush()
            yield row

    def _flush(self) -> None:
        import numpy as np

        columns: dict[str, list[Any]] = model_columns([row.record for row in self._batch])
        columns["num_parameters"] = [None if n < 0 else n for n in columns["num_parameters"]]
        columns["base_model"] = [list(row.record.declared.get("base_model") or ()) for row in self._batch]
        columns["mean_log_likelihood"] = [
            # A mean over a sample that favours some texts would not compare with the others.
            None if row.record.identity.subset else float(np.nanmean(row.log_likelihood.astype(np.float64)))
            for row in self._batch
        ]
        for name in self._vectors:
            columns[name] = [row.arrays[name] for row in self._batch]
        self._writer.write_table(self._pa.table(columns, schema=self._schema))
        self._batch = []

    def close(self) -> None:
        if self._batch:
            self._flush()
        self._writer.close()


def differences(current: Path, fresh: Path) -> list[str]:
    """Which parts of the build at `current` do not say what those at `fresh` say.

    Bytes decide; where only bytes differ, as after another library version wrote them, content does.
    """
    found = []
    if not (current / STORE).is_dir():
        found.append(f"{STORE} is missing")
    elif _tree(current / STORE) != _tree(fresh / STORE) and not _same_store(current / STORE, fresh / STORE):
        found.append(f"{STORE} differs from the rows")
    if not (current / TABLE).is_file():
        found.append(f"{TABLE} is missing")
    elif not _same_file(current / TABLE, fresh / TABLE) and not _same_table(current / TABLE, fresh / TABLE):
        found.append(f"{TABLE} differs from the rows")
    if not (current / CARD).is_file():
        found.append(f"{CARD} is missing")
    elif not _same_file(current / CARD, fresh / CARD):
        found.append(f"{CARD} differs from the rows")
    return found


def _same_file(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _same_store(a: Path, b: Path) -> bool:
    import numpy as np
    import zarr

    try:
        ours, theirs = zarr.open_group(a, mode="r"), zarr.open_group(b, mode="r")
        if dict(ours.attrs) != dict(theirs.attrs) or sorted(ours.array_keys()) != sorted(theirs.array_keys()):
            return False
        for name in ours.array_keys():
            x: Any = ours[name]
            y: Any = theirs[name]
            if x.shape != y.shape or x.dtype != y.dtype or dict(x.attrs) != dict(y.attrs):
                return False
            if not np.array_equal(x[:], y[:], equal_nan=x.dtype.kind == "f"):
                return False
    except (ValueError, KeyError, FileNotFoundError, RuntimeError):
        return False  # unreadable is different
    return True


def _same_table(a: Path, b: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def columns(path: Path) -> Any:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        return table.schema.remove_metadata(), [repr(column.to_pylist()) for column in table.columns]

    try:
        return bool(columns(a) == columns(b))
    except (pa.ArrowException, OSError):
        return False
