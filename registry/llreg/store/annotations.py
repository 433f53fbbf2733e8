"""A user's own columns beside the rows: scores, families, notes. Tables by model; rows are never touched."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import write_atomic
from llreg.store.layout import ANNOTATIONS, annotation_file
from llreg.store.lookup import ambiguous_names
from llreg.tables import MODEL_COLUMNS, read_table
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError

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

    def lines_of(self, registry: Contents, records: Sequence[RowRecord]) -> list[int | None]:
        """The line about each row: that of its digest or id before that of its model; None where there is none.

        A name whose rows are by now of different weights is none of them, with a warning.
        """
        lines = {model: line for line, model in enumerate(self.models)}
        ambiguous = ambiguous_names(registry.records())
        # The most specific first: a line about one row counts before one about its model.
        keys_of_rows = [(record.digest, record.row_id, record.identity.name) for record in records]
        keys = [next((key for key in keys if key in lines), None) for keys in keys_of_rows]
        for name in sorted({key for key in keys if key in ambiguous}):
            warnings.warn(f"{self.name}: left out, {_ambiguity(name, ambiguous[name])}", LlregWarning, stacklevel=3)
        return [None if key is None or key in ambiguous else lines[key] for key in keys]

    def unknown(self, records: Sequence[RowRecord]) -> list[str]:
        """Models in the table that have no row."""
        keys = {key for record in records for key in (record.digest, record.row_id, record.identity.name)}
        return [model for model in self.models if model not in keys]


def annotate(registry: Contents, source: Any, *, name: str | None = None) -> Annotations:
    """Keep a table beside the rows, under a name; one of that name is replaced.

    Behind `Registry.annotate`, which describes parameters, result and errors.
    """
    registry.check_changeable("annotate it")
    if name is None:
        if not isinstance(source, (str, Path)):
            raise InputError("name: a table that is no file needs one")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).lstrip("._-") or "annotations"
    table = read_table(source)
    models_at = table.find_column(MODEL_COLUMNS)
    if models_at is None:
        raise InputError(f"{table.source}: expected a column 'model' with model names or row ids")
    models = [str(cell).strip() if cell is not None else "" for cell in table.column(models_at)]
    lines: dict[str, int] = {}  # by model; names that differ only in case would be one name on some file systems
    for line, model in enumerate(models):
        if not model:
            raise InputError(f"{table.origins[line]}: no model name; fill it in or remove the line")
        first = lines.setdefault(model.lower(), line)
        if first != line:
            clash = "stands there" if models[first] == model else f"differs only in case from {models[first]}"
            raise InputError(f"{table.origins[line]}: {model} {clash} ({table.origins[first]}); keep one of the two")
    # Whatever it says of such a name, it says of one of its rows only.
    ambiguous = ambiguous_names(registry.records())
    for model, origin in zip(models, table.origins, strict=True):
        if model in ambiguous:
            raise InputError(f"{origin}: {_ambiguity(model, ambiguous[model])}")
    columns = {title: _typed(table.column(k)) for k, title in enumerate(table.header) if k != models_at}
    write_annotations(registry, name, to_table({_MODEL: models, **columns}))
    return read_annotation(registry, name)


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
    for taken in annotation_names(registry):
        if taken != name and taken.lower() == name.lower():
            raise InputError(f"name {name}: there is {taken}, which differs only in case; use that name or another one")
    # Written in memory first: a table that cannot be encoded must leave the old one.
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = registry.path / annotation_file(name)
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


def annotation_names(registry: Contents) -> list[str]:
    """Names of the tables."""
    files = registry.folder.names(registry.path / ANNOTATIONS)
    return [file.removesuffix(".parquet") for file in files if file.endswith(".parquet")]


def is_table(file: str) -> bool:
    """Whether that is the file name of a table."""
    return file.endswith(".parquet") and _NAME.fullmatch(file.removesuffix(".parquet")) is not None


def read_annotation(registry: Contents, name: str) -> Annotations:
    """One table.

    Raises
    ------
    NotFoundError
    InvalidFileError
        If the file is damaged, or has no column of models.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = annotation_names(registry)
    if name not in names:
        raise NotFoundError(f"no annotations {name!r}; there are: {', '.join(names) or 'none'}")
    label = annotation_file(name)
    path = registry.path / label
    registry.folder.fetch(path)
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InvalidFileError(label, f"expected at most {MAX_TABLE_BYTES:,} bytes")
        columns = pq.read_table(io.BytesIO(path.read_bytes())).to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise InvalidFileError(label, f"expected a Parquet file; {error}") from error
    if _MODEL not in columns:
        raise InvalidFileError(label, f"expected a column {_MODEL!r}")
    models = [str(model) for model in columns.pop(_MODEL)]
    return Annotations(name, columns, models)


def read_annotations(registry: Contents) -> list[Annotations]:
    """All tables, by name."""
    return [read_annotation(registry, name) for name in annotation_names(registry)]


def annotations_of(registry: Contents, record: RowRecord) -> dict[str, dict[str, Any]]:
    """What the tables say of a row: column and value by table; values that are missing are left out."""
    annotations = {}
    for table in read_annotations(registry):
        (line,) = table.lines_of(registry, [record])
        if line is not None:
            values = {column: cells[line] for column, cells in table.columns.items()}
            annotations[table.name] = {column: value for column, value in values.items() if not _missing(value)}
    return annotations


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
    columns = {f"{table.name}.{column}": (table, column) for table in tables for column in table.columns}
    matches = [full for full, (_, column) in columns.items() if name in (column, full)]
    if not matches:
        hint = ", ".join(columns) or "none; see: llreg annotate"
        raise NotFoundError(f"no annotated column {name!r}; there are: {hint}")
    if len(matches) > 1:
        raise InputError(f"{name} is in {len(matches)} tables; name one: {', '.join(matches)}")
    table, column = columns[matches[0]]
    values = [None if line is None else table.columns[column][line] for line in table.lines_of(registry, records)]
    return [None if _missing(value) else value for value in values]


def table_file(registry: Contents, source: Path | str) -> Path:
    """A file, or the table of that name where there is no such file."""
    path = Path(source)
    if path.exists() or str(source) not in annotation_names(registry):
        return path
    table = registry.path / annotation_file(str(source))
    registry.folder.fetch(table)
    return table


def _typed(cells: Sequence[Any]) -> list[Any]:
    """Text cells as numbers where all that are not empty are numbers."""
    if not all(cell is None or isinstance(cell, str) for cell in cells):
        return list(cells)  # from Parquet or Python: typed already
    texts = [None if cell is None or not cell.strip() else cell.strip() for cell in cells]
    # Empty cells are None of either kind.
    for kind in (int, float):
        try:
            return [None if text is None else kind(text) for text in texts]
        except ValueError:
            continue
    return texts


def _ambiguity(name: str, row_ids: Sequence[str]) -> str:
    shown = ", ".join(row_ids[:4]) + (", …" if len(row_ids) > 4 else "")
    return f"{name} is the name of rows of different weights: name one by its id: {shown}"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
