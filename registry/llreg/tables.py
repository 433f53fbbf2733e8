"""Tables that people bring, scores or annotations by model: from CSV or Parquet files, or from Python."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llreg_schemas.errors import InputError

# Names of the column of models; taken in this order, whatever their case.
MODEL_COLUMNS = ("row_id", "model", "model_id", "model_name", "name")


@dataclass(frozen=True, eq=False)
class Table:
    """Cells, and where they are from.

    Attributes
    ----------
    header : list of str
        Column names.
    cells : list of list
        Row by row: text from CSV, any value from elsewhere.
    origins : list of str
        File and line of each row, as messages say it.
    source : str
        The file, or "scores".
    """

    header: list[str]
    cells: list[list[Any]]
    origins: list[str]
    source: str

    def column(self, k: int) -> list[Any]:
        """The cells of a column."""
        return [row[k] for row in self.cells]

    def find_column(self, names: Sequence[str]) -> int | None:
        """Position of the first of some lower-case names that is a column's, whatever its case."""
        lower = [name.lower() for name in self.header]
        return next((lower.index(name) for name in names if name in lower), None)


def read_table(source: Any) -> Table:
    """Read a file, or columns from Python.

    Parameters
    ----------
    source : path, mapping, DataFrame or pyarrow.Table
        CSV is read with Python's own module, as text: messages name lines, and a line may lack its last cells.

    Raises
    ------
    InputError
        If it is no CSV or Parquet file, holds nothing, or names two columns alike.
    """
    if isinstance(source, (str, Path)):
        table = _read_file(Path(source))
    else:
        table = _from_columns(_python_columns(source), "scores")
    repeated = [name for name, count in Counter(table.header).items() if name and count > 1]
    if repeated:
        raise InputError(f"{table.source}: two columns are named {repeated[0]!r}; rename or remove one")
    if not table.cells:
        raise InputError(f"{table.source} holds no scores; give a header, then one line a model: model,benchmark")
    return table


def _read_file(path: Path) -> Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV or Parquet file with scores")
    data = path.read_bytes()
    if data[:4] == b"PAR1":  # Parquet, whatever the file is called
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return _from_columns(pq.ParquetFile(path).read().to_pydict(), str(path))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not readable as Parquet; export the scores again, or as CSV") from error
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") or b"\0" in data[:4096]:
        raise InputError(f"{path}: expected scores as CSV (.csv, .tsv, .txt) or Parquet; export them as one of these")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    return _read_csv(text, str(path))


def _read_csv(text: str, source: str) -> Table:
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = None
    lines: list[list[str]] = []
    origins: list[str] = []
    try:
        # The one of comma, semicolon and tab that makes most columns of the first line.
        delimiter = max(",;\t", key=lambda char: len(next(csv.reader([first], delimiter=char), [])))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(row)
                origins.append(f"{source}, line {reader.line_num}")
    except csv.Error as error:
        line = f"line {reader.line_num}" if reader else "first line"
        raise InputError(f"{source}, {line}: not CSV ({error}); export the scores again") from error
    header = [cell.strip() for cell in lines[0]] if lines else []
    for row, origin in zip(lines[1:], origins[1:], strict=True):
        if len(row) > len(header):
            raise InputError(
                f"{origin}: {len(row)} cells under {len(header)} column names; quote cells with {delimiter!r}"
            )
        # Spreadsheets leave out the empty cells at the end of a line.
        row += [""] * (len(header) - len(row))
    return Table(header, lines[1:], origins[1:], source)


def _python_columns(source: Any) -> Mapping[str, Sequence[Any]]:
    """Columns of a mapping, a DataFrame or a pyarrow.Table."""
    # By what they can do, so that neither library is imported.
    if hasattr(source, "to_pydict"):
        columns: Mapping[str, Sequence[Any]] = source.to_pydict()
        return columns
    if hasattr(source, "to_dict") and hasattr(source, "index"):
        columns = {str(name): list(values) for name, values in source.to_dict("list").items()}
        has_models = any(name.strip().lower() in MODEL_COLUMNS for name in columns)
        return columns if has_models else {"model": list(source.index), **columns}
    if not isinstance(source, Mapping):
        raise InputError(f"scores: expected a file, a mapping or a DataFrame; got {type(source).__name__}")
    if source and all(isinstance(value, Mapping) for value in source.values()):  # scores by model
        tasks = list(dict.fromkeys(str(task) for scores in source.values() for task in scores))
        by_task = {task: [scores.get(task) for scores in source.values()] for task in tasks}
        return {"model": list(source), **by_task}
    for name, value in source.items():  # a text would count as a list of letters
        if isinstance(value, str) or not hasattr(value, "__len__"):
            raise InputError(
                f"scores: expected a list a column, or a mapping a model; got {type(value).__name__} for {name!r}"
            )
    return {str(name): list(values) for name, values in source.items()}


def _from_columns(columns: Mapping[str, Sequence[Any]], source: str) -> Table:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        short = min(lengths, key=lambda name: lengths[name])
        raise InputError(f"{source}: column {short!r} has {lengths[short]} cells, others {max(lengths.values())}")
    cells = [list(row) for row in zip(*columns.values(), strict=True)]
    origins = [f"{source}, row {k + 1}" for k in range(len(cells))]
    return Table([name.strip() for name in columns], cells, origins, source)
