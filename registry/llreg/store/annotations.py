"""A user's own columns beside the rows: scores, families, notes. Tables by model; rows are never touched."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import write_atomic
from llreg.store.layout import ANNOTATIONS
from llreg.tables import MODEL_COLUMNS, read_table
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

    from llreg.store.contents import Contents

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL = "model"
MAX_TABLE_BYTES = 256 << 20  # 256 MiB, a file


@dataclass(frozen=True, eq=False)
class Annotations:
    """One table.

    Attributes
    ----------
    name : str
    columns : mapping of str to list
        Values by column, one a line of the table.
    models : list of str
        What each line is about: a model's name (all its rows), a row id or a digest.
    """

    name: str
    columns: Mapping[str, list[Any]]
    models: list[str]

    def lines_of(self, records: Sequence[RowRecord]) -> list[int | None]:
        """The line about each row: that of its digest or id before that of its model; None where there is none."""
        index = {model: line for line, model in enumerate(self.models)}
        keys = ((record.digest, record.row_id, record.identity.name) for record in records)
        return [next((index[key] for key in names if key in index), None) for names in keys]

    def unknown(self, records: Sequence[RowRecord]) -> list[str]:
        """Models in the table that have no row."""
        known = {key for record in records for key in (record.digest, record.row_id, record.identity.name)}
        return [model for model in self.models if model not in known]


def annotate(registry: Contents, source: Any, *, name: str | None = None) -> Annotations:
    """Keep a table beside the rows, under a name; one of that name is replaced.

    Parameters
    ----------
    registry : Contents
    source : path, mapping or DataFrame
        As `llreg.geometry.predict.scores.read_scores` takes it: CSV or Parquet, a column `model` and others.
    name : str, optional
        By default the file's.

    Raises
    ------
    InputError
        If it is no table with a column of models, a model stands there twice, or two names differ only in case.
    StorageError
    """
    registry.check_changeable("annotate it")
    if name is None:
        if not isinstance(source, (str, Path)):
            raise InputError("name: a table that is no file needs one")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).lstrip("._-") or "annotations"
    table = read_table(source)
    place = next(
        (k for wanted in MODEL_COLUMNS for k, title in enumerate(table.header) if title.lower() == wanted), None
    )
    if place is None:
        raise InputError(f"{table.source}: expected a column 'model' with model names or row ids")
    models = [str(cell).strip() if cell is not None else "" for cell in table.column(place)]
    _check_models(models, table.places)
    columns = {title: table.column(k) for k, title in enumerate(table.header) if k != place}
    write_annotations(registry, name, to_table({_MODEL: models, **{t: _typed(c) for t, c in columns.items()}}))
    return read_one(registry, name)


def write_annotations(registry: Contents, name: str, table: pa.Table) -> Path:
    """Write ``annotations/<name>.parquet``; a table of that name is replaced.

    Parameters
    ----------
    registry : Contents
    name : str
        Letters, digits, ".", "_" and "-".
    table : pyarrow.Table
        With a column `model`.

    Raises
    ------
    InputError
        If the name cannot be a file's, or another differs only in case.
    StorageError
    """
    import pyarrow.parquet as pq

    if not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: use letters, digits, '.', '_' and '-', for example scores")
    other = next((there for there in names(registry) if there != name and there.lower() == name.lower()), None)
    if other:
        raise InputError(f"name {name}: there is {other}, which differs only in case; use that name or another one")
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = _path(registry, name)
    write_atomic(registry.path, path, buffer.getvalue())
    return path


def to_table(columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Columns of Python values as a table; a column of mixed kinds becomes text."""
    import pyarrow as pa

    def array(values: Sequence[Any]) -> pa.Array:
        try:
            return pa.array(list(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array([None if value is None else str(value) for value in values])

    return pa.table({name: array(values) for name, values in columns.items()})


def names(registry: Contents) -> list[str]:
    """Names of the tables."""
    found = registry.folder.names(registry.path / ANNOTATIONS)
    return [name.removesuffix(".parquet") for name in found if name.endswith(".parquet")]


def is_table(file: str) -> bool:
    """Whether that is the file name of a table."""
    return file.endswith(".parquet") and _NAME.fullmatch(file.removesuffix(".parquet")) is not None


def read_one(registry: Contents, name: str) -> Annotations:
    """One table.

    Raises
    ------
    NotFoundError
    InvalidFileError
        If the file is damaged, or has no column of models.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if name not in names(registry):
        raise NotFoundError(f"no annotations {name!r}; there are: {', '.join(names(registry)) or 'none'}")
    path = _path(registry, name)
    registry.folder.fetch(path)
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InvalidFileError(registry.label(path), f"expected at most {MAX_TABLE_BYTES:,} bytes")
        columns = pq.read_table(io.BytesIO(path.read_bytes())).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise InvalidFileError(registry.label(path), f"expected a Parquet file; {error}") from error
    if _MODEL not in columns:
        raise InvalidFileError(registry.label(path), f"expected a column {_MODEL!r}")
    models = [str(model) for model in columns.pop(_MODEL)]
    return Annotations(name, columns, models)


def read_annotations(registry: Contents) -> list[Annotations]:
    """All tables, by name."""
    return [read_one(registry, name) for name in names(registry)]


def annotations_of(registry: Contents, record: RowRecord) -> dict[str, dict[str, Any]]:
    """What the tables say of a row: column and value by table; values that are missing are left out."""
    found = {}
    for table in read_annotations(registry):
        (line,) = table.lines_of([record])
        if line is not None:
            values = {column: cells[line] for column, cells in table.columns.items()}
            found[table.name] = {column: value for column, value in values.items() if not _missing(value)}
    return found


def column_of(registry: Contents, name: str, records: Sequence[RowRecord]) -> list[Any]:
    """A column, given as ``column`` or ``table.column``, laid over rows; None where a row has no value.

    Raises
    ------
    NotFoundError
        If no table has such a column.
    InputError
        If several have.
    """
    tables = read_annotations(registry)
    found = [(t, c) for t in tables for c in t.columns if name in (c, f"{t.name}.{c}")]
    if not found:
        known = ", ".join(f"{table.name}.{column}" for table in tables for column in table.columns)
        raise NotFoundError(f"no annotated column {name!r}; there are: {known or 'none; see: llreg annotate'}")
    if len(found) > 1:
        raise InputError(f"{name} is in {len(found)} tables; name one: {', '.join(f'{t.name}.{c}' for t, c in found)}")
    table, column = found[0]
    values = [None if line is None else table.columns[column][line] for line in table.lines_of(records)]
    return [None if _missing(value) else value for value in values]


def table_file(registry: Contents, given: Path | str) -> Path:
    """A file that was given, or the table of that name where there is no such file."""
    path = Path(given)
    if path.exists() or str(given) not in names(registry):
        return path
    table = _path(registry, str(given))
    registry.folder.fetch(table)
    return table


def _path(registry: Contents, name: str) -> Path:
    return registry.path / ANNOTATIONS / f"{name}.parquet"


def _check_models(models: Sequence[str], places: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for k, model in enumerate(models):
        if not model:
            raise InputError(f"{places[k]}: no model name; fill it in or remove the line")
        other = seen.setdefault(model.lower(), k)
        if other != k:
            same = "stands there" if models[other] == model else f"differs only in case from {models[other]}"
            raise InputError(f"{places[k]}: {model} {same} ({places[other]}); keep one of the two")


def _typed(cells: Sequence[Any]) -> list[Any]:
    """Text cells as numbers where all that are not empty are numbers."""
    if not all(cell is None or isinstance(cell, str) for cell in cells):
        return list(cells)
    texts = [None if cell is None or not cell.strip() else cell.strip() for cell in cells]
    for kind in (int, float):
        try:
            return [None if text is None else kind(text) for text in texts]
        except ValueError:
            continue
    return texts


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
