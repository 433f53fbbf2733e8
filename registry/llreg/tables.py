"""Tables of scores: from CSV or Parquet files, or from Python."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llreg_schemas.errors import InputError

# Where models stand; taken in this order, whatever their case.
MODEL_COLUMNS = ("row_id", "model", "model_id", "model_name", "name")


@dataclass(frozen=True, eq=False)
class Table:
    """Cells, and where they are.

    Attributes
    ----------
    header : list of str
        Column names.
    cells : list of list
        Row by row: text from CSV, any value from elsewhere.
    places : list of str
        Where each row is, as messages say it.
    source : str
        The file, or "scores".
    """

    header: list[str]
    cells: list[list[Any]]
    places: list[str]
    source: str

    def column(self, k: int) -> list[Any]:
        """The cells of a column."""
        return [row[k] for row in self.cells]


def read_table(source: Any) -> Table:
    """Read a file, or columns from Python.

    Raises
    ------
    InputError
        If it is no CSV or Parquet file, holds nothing, or names two columns alike.
    """
    in_file = isinstance(source, (str, Path))
    table = _read_file(Path(source)) if in_file else _from_columns(_columns(source), "scores", "row")
    repeated = [name for name, count in Counter(name for name in table.header if name).items() if count > 1]
    if repeated:
        raise InputError(f"{table.source}: two columns are named {repeated[0]!r}; rename or remove one")
    if not table.cells:
        raise InputError(f"{table.source} holds no scores; give a header, then one line a model: model,benchmark")
    return table


def _read_file(path: Path) -> Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV or Parquet file with scores")
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        return _read_parquet(path)
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or b"\0" in data[:4096]:
        raise InputError(f"{path}: expected scores as CSV (.csv, .tsv, .txt) or Parquet; export them as one of these")
    try:
        return _read_csv(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _read_csv(text: str, source: str) -> Table:
    delimiter = _delimiter(text, source)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    cells: list[list[Any]] = []
    places: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            place = f"{source}, line {reader.line_num}"
            if not header:
                header = [cell.strip() for cell in row]
                continue
            if len(row) > len(header):
                raise InputError(
                    f"{place}: {len(row)} cells under {len(header)} column names; quote cells with {delimiter!r}"
                )
            cells.append(row + [""] * (len(header) - len(row)))
            places.append(place)
    except csv.Error as error:
        raise InputError(f"{source}, line {reader.line_num}: not CSV ({error}); export the scores again") from error
    return Table(header, cells, places, source)


def _delimiter(text: str, source: str) -> str:
    """The one of comma, semicolon and tab that makes most columns of the first line."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return max(",;\t", key=lambda char: len(next(csv.reader([first], delimiter=char), [])))
    except csv.Error as error:
        raise InputError(f"{source}, first line: not CSV ({error}); export the scores again") from error


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.ParquetFile(path).read().to_pydict()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not readable as Parquet; export the scores again, or as CSV") from error
    return _from_columns(columns, str(path), "row")


def _columns(source: Any) -> Mapping[str, Sequence[Any]]:
    """Columns of a mapping, a DataFrame or a pyarrow.Table."""
    if hasattr(source, "to_pydict"):
        columns: Mapping[str, Sequence[Any]] = source.to_pydict()
        return columns
    if hasattr(source, "to_dict") and hasattr(source, "index"):
        columns = {str(name): list(values) for name, values in source.to_dict("list").items()}
        has_models = any(name.strip().lower() in MODEL_COLUMNS for name in columns)
        return columns if has_models else {"model": list(source.index), **columns}
    if not isinstance(source, Mapping):
        raise InputError(f"scores: expected a file, a mapping or a DataFrame; got {type(source).__name__}")
    if source and all(isinstance(value, Mapping) for value in source.values()):
        tasks = list(dict.fromkeys(str(task) for scores in source.values() for task in scores))
        by_task = {task: [scores.get(task) for scores in source.values()] for task in tasks}
        return {"model": list(source), **by_task}
    single = [name for name, value in source.items() if isinstance(value, str) or not hasattr(value, "__len__")]
    if single:
        raise InputError(
            f"scores: expected a list a column, or a mapping a model; got {type(source[single[0]]).__name__} for "
            f"{single[0]!r}"
        )
    return {str(name): list(values) for name, values in source.items()}


def _from_columns(columns: Mapping[str, Sequence[Any]], source: str, unit: str) -> Table:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        short = min(lengths, key=lambda name: lengths[name])
        raise InputError(f"{source}: column {short!r} has {lengths[short]} cells, others {max(lengths.values())}")
    cells = [list(row) for row in zip(*columns.values(), strict=True)]
    return Table(
        [name.strip() for name in columns], cells, [f"{source}, {unit} {k + 1}" for k in range(len(cells))], source
    )
