"""The build: ``store.zarr``, ``models.parquet`` and the card, a pure function of the rows."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import atomic
from llreg.settings import SHARD_ROWS
from llreg.store.arrays import is_count, row_variables
from llreg.store.card import make_card
from llreg.store.columns import ROW_COLUMNS
from llreg.store.fine import FineMap, stored_row
from llreg.store.folder import files_below
from llreg.store.layout import CARD, STORE, TABLE
from llreg.store.rowfile import Row, write_kept, write_row
from llreg.store.zarr_write import write_store
from llreg.texts.textset import TextIndex
from llreg_schemas import RowRecord, version_id
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import RegistryInfo

if TYPE_CHECKING:
    import pyarrow as pa

    from llreg.store.contents import Contents

# The Dataset Viewer reads by row group, and refuses one of more than 286 MiB; uncompressed, metadata aside.
_GROUP_ROWS, _GROUP_BYTES = 256, 100 << 20

Source = Callable[[Sequence[RowRecord]], Iterable[Row]]  # of some rows, those that it has, intact


# Making a registry's build


def build(registry: Contents) -> str:
    """Make the build from the accepted rows and put it in the place of the old one.

    Behind `Registry.build`, which describes parameters, result and errors.
    """
    registry.check_changeable()
    atomic.sweep(registry.path)
    with atomic.lock(registry.path, "build"), atomic.staging_directory(registry.path) as staging:
        records = stage_build(registry, staging)
        save_dropped_rows(registry, records)
        put_build(registry.path, staging)
    return version_id(record.digest for record in records)


def check_build(registry: Contents) -> list[str]:
    """Build anew beside the build and say what differs; an empty list if it is current."""
    registry.check_changeable()
    with atomic.staging_directory(registry.path) as staging:
        stage_build(registry, staging)
        return differences(registry.path, staging)


def stage_build(registry: Contents, directory: Path) -> list[RowRecord]:
    """Write the build of the accepted rows into an empty directory, made if it is missing; return their records."""
    records = registry.records(strict=True)
    retracted, fine = registry.retractions(), registry.fine_map
    rows = gather(records, row_sources(registry), fine)
    write_build(directory, rows, records, registry.text_index, registry.info, retracted, fine)
    return records


def row_sources(registry: Contents) -> list[Source]:
    """Where a registry's rows are: their files, else the build."""
    files = registry.row_files()

    def from_files(records: Sequence[RowRecord]) -> Iterator[Row]:
        return (registry.read_file(files[record.digest]) for record in records if record.digest in files)

    return [from_files, lambda records: registry.store.intact_rows(records).values()]


def gather(records: Sequence[RowRecord], sources: Sequence[Source], fine: FineMap | None) -> Iterator[Row]:
    """Rows with the given records as the store has them, a shard's worth in memory.

    Parameters
    ----------
    records : sequence of RowRecord
    sources : sequence of callable
        Each gives those of some rows that it has, intact; asked in this order.
    fine : FineMap or None
        None in a registry of format 1.

    Raises
    ------
    InvalidFileError
        If no source has a row.
    """
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        rows: dict[str, Row] = {}
        for source in sources:
            missing = [record for record in batch if record.digest not in rows]
            if missing:
                rows |= {row.record.digest: stored_row(row, fine) for row in source(missing)}
        for record in batch:
            if record.digest not in rows:
                raise InvalidFileError(
                    STORE,
                    f"the values of {record.row_id} were changed and its row file is not here; get it again from where it came",
                )
            # Two contributors may have measured the same values: which record counts is for the caller to say.
            yield replace(rows[record.digest], record=record)


def save_dropped_rows(registry: Contents, records: Iterable[RowRecord]) -> None:
    """Write the row files of rows that only the old build holds and the new one leaves out: no row is ever lost.

    Of a fine row, whose segments no build has, what the build has is kept on this machine.
    """
    # Rows in the new build, or with a file of their own.
    safe = {record.digest for record in records} | set(registry.row_files())
    dropped = [record for record in registry.store.records() if record.digest not in safe]
    for row in registry.store.intact_rows(dropped).values():
        if row.record.is_fine:
            write_kept(registry.path, row)
        else:
            write_row(registry.path, row)


def put_build(root: Path, new: Path) -> None:
    """Put a build in the place of a registry's; one rename makes its rows change for readers."""
    atomic.swap_directory(root, new / STORE, root / STORE)
    # Readers of rows go by the store alone; table and card may follow.
    for name in (TABLE, CARD):
        atomic.write_atomic(root, root / name, (new / name).read_bytes())


# Writing its parts


def write_build(
    directory: Path,
    rows: Iterable[Row],
    records: Sequence[RowRecord],
    texts: TextIndex,
    info: RegistryInfo,
    retracted: Collection[str] = (),
    fine: FineMap | None = None,
) -> None:
    """Write the build's parts into an empty directory; it is made if it is missing.

    Parameters
    ----------
    directory : Path
    rows : iterable of Row
        In the order of `records`, which must be sorted by `RowRecord.sort_key`; each is read once.
    records : sequence of RowRecord
    texts : TextIndex
    info : RegistryInfo
    retracted : collection of str
        Digests of the retracted rows: readers go by the store while a pull has not written the files yet.
    fine : FineMap, optional
        Of a registry whose texts are cut into segments.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(exist_ok=True)
    vectors = [name for name in row_variables(pairs=texts.has_pairs) if not is_count(name)]
    # The columns that load_dataset and the Dataset Viewer show: metadata, one mean, and a row's vector as one list.
    arrow_types = {"text": pa.string(), "integer": pa.int64(), "list": pa.list_(pa.string())}
    schema = pa.schema(
        [
            *((column.name, arrow_types[column.kind]) for column in ROW_COLUMNS),
            ("mean_log_likelihood", pa.float64()),
            *((name, pa.list_(pa.float32())) for name in vectors),
        ]
    )
    with pq.ParquetWriter(directory / TABLE, schema, compression="zstd", use_dictionary=False) as table:
        row_bytes = 4 * len(texts) * len(vectors)
        group_rows = max(1, min(_GROUP_ROWS, _GROUP_BYTES // max(1, row_bytes)))

        def written(rows: Iterable[Row]) -> Iterator[Row]:
            """The rows, each written to the table on its way to the store."""
            batch: list[Row] = []
            for row in rows:
                batch.append(row)
                if len(batch) == group_rows:
                    table.write_table(_to_table(batch, schema, vectors))
                    batch = []
                yield row
            if batch:
                table.write_table(_to_table(batch, schema, vectors))

        write_store(directory / STORE, written(rows), records, texts, store_attributes(info, retracted), fine)
    (directory / CARD).write_text(make_card(info, records), encoding="utf-8")


def store_attributes(info: RegistryInfo, retracted: Collection[str] = ()) -> dict[str, Any]:
    """Attributes of the store: what its rows have in common, and the digests that were retracted."""
    return {
        **({"retracted": sorted(retracted)} if retracted else {}),
        "title": f"{info.name}: log-likelihoods of language models",
        "registry": info.name,
        "text_set": info.text_set.id,
        "protocol": info.protocol_id,
        "view": info.view["id"],
        "licence": info.licence,
        "Conventions": "llreg-1",
    }


def _to_table(rows: Sequence[Row], schema: pa.Schema, vectors: Sequence[str]) -> pa.Table:
    """Some lines of ``models.parquet``."""
    import numpy as np
    import pyarrow as pa

    records = [row.record for row in rows]
    columns: dict[str, list[Any]] = {column.name: column.values(records) for column in ROW_COLUMNS}
    columns["mean_log_likelihood"] = [
        # A mean over a sample that favours some texts would not compare with the others.
        None if row.record.identity.subset else float(np.nanmean(row.log_likelihood.astype(np.float64)))
        for row in rows
    ]
    columns |= {name: [row.arrays[name] for row in rows] for name in vectors}
    return pa.table(columns, schema=schema)


# Comparing two builds


def differences(current: Path, fresh: Path) -> list[str]:
    """Which parts of the build at `current` do not say what those at `fresh` say.

    Bytes decide; where only bytes differ, as after another library version wrote them, content does.
    """

    def state(name: str, same_content: Callable[[Path, Path], bool]) -> str | None:
        ours, theirs = current / name, fresh / name
        if not (ours.is_dir() if name == STORE else ours.is_file()):
            return f"{name} is missing"
        same = _bytes_below(ours) == _bytes_below(theirs) or same_content(ours, theirs)
        return None if same else f"{name} differs from the rows"

    states = [state(STORE, _same_store), state(TABLE, _same_table), state(CARD, lambda ours, theirs: False)]
    return [text for text in states if text]


def _bytes_below(path: Path) -> dict[Path, bytes]:
    """Content of a file, or of all files below a directory."""
    files = [file for file in files_below(path) if file.is_file()] if path.is_dir() else [path]
    return {file.relative_to(path): file.read_bytes() for file in files}


def _same_store(a: Path, b: Path) -> bool:
    import numpy as np
    import zarr

    try:
        ours, theirs = zarr.open_group(a, mode="r"), zarr.open_group(b, mode="r")
        if dict(ours.attrs) != dict(theirs.attrs) or sorted(ours.array_keys()) != sorted(theirs.array_keys()):
            return False
        for name in ours.array_keys():
            # What plain xarray sees; chunks and codecs may differ.
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

    def content(path: Path) -> Any:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
        return table.schema.remove_metadata(), [repr(column.to_pylist()) for column in table.columns]

    try:
        return bool(content(a) == content(b))
    except (pa.ArrowException, OSError):
        return False
