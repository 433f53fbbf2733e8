"""Benchmark scores of models, from a file or from Python, and the rows that they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.store.lookup import find_record
from llreg.tables import MODEL_COLUMNS, Table, read_table
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The first of these that there is, whatever its case.
FAMILY_COLUMNS = ("family", "model_type", "type", "group")
_MISSING = {"", "-", "–", "—", "?", "na", "n/a", "nan", "none", "null"}  # noqa: RUF001
_MAX_NAMES = 5  # names that a message lists


@dataclass(frozen=True, eq=False)
class Scores:
    """Benchmark scores as they were given, not yet matched to rows.

    Attributes
    ----------
    models : list of str
        Model names, row ids or digests.
    tasks : list of str
    values : float64 array of shape (n_lines, n_tasks)
        NaN where there is no score.
    families : list of (str or None), or None
        Family of each model as given; None if there is no such column.
    origins : list of str
        Where each line is from, for messages.
    source : str
        The file, or "scores".
    notes : tuple of str
        What was read in a way that may surprise.
    """

    models: list[str]
    tasks: list[str]
    values: NDArray[np.float64]
    families: list[str | None] | None
    origins: list[str]
    source: str
    notes: tuple[str, ...] = ()

    def match(self, records: Sequence[RowRecord], *, strict: bool = False) -> Matched:
        """Lay the scores over rows.

        Parameters
        ----------
        records : sequence of RowRecord
        strict : bool
            Whether a model without a row is an error; otherwise it is left out.

        Raises
        ------
        NotFoundError
            If no model has a row, or (strict) one has none.
        InputError
            If a name means several rows, or two lines mean one row.
        """
        positions: dict[str, list[int]] = {}  # of rows, by model name and by row id
        for k, record in enumerate(records):
            positions.setdefault(record.identity.name, []).append(k)
        positions |= {record.row_id: [k] for k, record in enumerate(records)}
        values = np.full((len(records), len(self.tasks)), np.nan)
        families: list[str | None] = [None] * len(records)
        line_of_row: dict[int, int] = {}
        unknown: list[str] = []
        for line, (model, origin) in enumerate(zip(self.models, self.origins, strict=True)):
            row = _find_position(records, positions, model, origin)
            if row is None:
                unknown.append(model)
                continue
            if row in line_of_row:
                raise InputError(
                    f"{origin}: {model} is the row {records[row].row_id}, which {self.origins[line_of_row[row]]} names "
                    "already; keep one of the two"
                )
            line_of_row[row] = line
            values[row] = self.values[line]
            families[row] = self.families[line] if self.families else None
        count = len(self.models)
        if unknown and len(unknown) == count:
            raise NotFoundError(
                f"{self.source}: none of its {count:,} models has a row in this registry ({_list_names(unknown)}); "
                "names as in: llreg ls"
            )
        if unknown and strict:
            raise NotFoundError(
                f"{self.source}: {len(unknown):,} of {count:,} models have no row in this registry: "
                f"{_list_names(unknown)}; names as in: llreg ls"
            )
        return Matched(values, families, unknown)


@dataclass(frozen=True, eq=False)
class Matched:
    """Scores laid over rows.

    Attributes
    ----------
    values : float64 array of shape (n_models, n_tasks)
        NaN where a row has no score.
    families : list of (str or None)
        One a row, as given with the scores.
    unknown : list of str
        Models that have no row.
    """

    values: NDArray[np.float64]
    families: list[str | None]
    unknown: list[str]

    @property
    def note(self) -> str | None:
        """A sentence on unknown models; None if there are none."""
        if not self.unknown:
            return None
        count = len(self.unknown)
        subject = "1 scored model has no row and is" if count == 1 else f"{count:,} scored models have no row and are"
        return f"{subject} left out: {_list_names(self.unknown)}"


def read_scores(source: Any, *, tasks: Sequence[str] | None = None, family: str | None = None) -> Scores:
    """Read benchmark scores.

    Parameters
    ----------
    source : path, mapping, DataFrame or pyarrow.Table
        A file: CSV (UTF-8; comma, semicolon or tab) or Parquet. From Python: columns by name, one of them the
        models; or scores by model, ``{"org/name": {"arc": 58.6}}``.
    tasks : sequence of str, optional
        Columns to take; by default all that hold numbers.
    family : str, optional
        The column that groups models into families; by default the first of family, model_type, type, group.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        If there is no such file, or no column of models or of numbers; if a column of numbers holds text; if a model
        stands there twice. The message says where.

    Notes
    -----
    The models stand in a column row_id, model, model_id, model_name or name. A column counts as numbers if at least
    half of what it holds are numbers. Empty cells, NaN and the usual words for them are missing scores. Percent signs
    are dropped where a whole column has them.
    """
    table = read_table(source)
    model_column, models = _read_models(table)
    if family is not None:
        family_column: int | None = _named_column(table, family)
    else:
        family_column = table.find_column(FAMILY_COLUMNS)
    notes = []
    if family_column is not None:
        notes.append(f"families are those of the column {table.header[family_column]!r}")
    # Columns of scores: those asked for, or else all that look like numbers.
    if tasks:
        columns = list(dict.fromkeys(_named_column(table, task) for task in tasks))
    else:
        candidates = [
            k
            for k, name in enumerate(table.header)
            if name and k not in (model_column, family_column) and name.lower() not in MODEL_COLUMNS
        ]
        columns = [k for k in candidates if _share_of_numbers(table.column(k)) >= 0.5]
        if not columns:
            raise InputError(
                f"{table.source}: no column of numbers; give a column of scores a benchmark beside the models"
            )
        ignored = [table.header[k] for k in candidates if k not in columns]
        if ignored:
            notes.append(f"{table.source}: columns without numbers are left out: {_list_names(ignored)}")
    families = None
    if family_column is not None:
        families = [None if _is_missing(cell) else str(cell).strip() for cell in table.column(family_column)]
    values = np.array([_read_numbers(table, k) for k in columns], dtype=np.float64)  # (n_tasks, n_lines)
    return Scores(
        models=models,
        tasks=[table.header[k] for k in columns],
        values=values.T.reshape(len(models), len(columns)),
        families=families,
        origins=table.origins,
        source=table.source,
        notes=tuple(notes),
    )


# Columns


def _read_models(table: Table) -> tuple[int, list[str]]:
    """The column of models, and their names, none empty and none twice."""
    column = table.find_column(MODEL_COLUMNS)
    if column is None:
        # A first column without a name, and without numbers, is what DataFrame.to_csv makes of an index.
        if not table.header or table.header[0] != "" or _share_of_numbers(table.column(0)) > 0:
            names = ", ".join(repr(name) for name in table.header[:_MAX_NAMES])
            raise InputError(f"{table.source}: expected a column 'model' with model names or row ids; got {names}")
        column = 0
    models = [str(cell).strip() if cell is not None else "" for cell in table.column(column)]
    first_line: dict[str, int] = {}
    for line, name in enumerate(models):
        if not name:
            raise InputError(f"{table.origins[line]}: no model name; fill it in or remove the line")
        if name in first_line:
            earlier = table.origins[first_line[name]]
            raise InputError(f"{table.origins[line]}: {name} has scores already in {earlier}; keep one")
        first_line[name] = line
    return column, models


def _named_column(table: Table, name: str) -> int:
    """The column of exactly this name, else the only one of it in another case."""
    if name in table.header:
        return table.header.index(name)
    alike = [k for k, column in enumerate(table.header) if column.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise InputError(
        f"{table.source}: no column {name!r}; it has: {', '.join(column for column in table.header if column)}"
    )


# Cells


def _is_missing(cell: Any) -> bool:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        return True
    return isinstance(cell, (float, np.floating)) and math.isnan(cell)


def _number(cell: Any) -> float | None:
    """A finite number, its percent sign dropped; None for anything else."""
    if isinstance(cell, (bool, np.bool_)):
        return None
    text = cell.strip().removesuffix("%") if isinstance(cell, str) else cell
    if isinstance(text, str) and "_" in text:  # float() would read 1_0 as 10
        return None
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _share_of_numbers(cells: Sequence[Any]) -> float:
    """Share of numbers among the cells that are not missing; 0 if all are."""
    are_numbers = [_number(cell) is not None for cell in cells if not _is_missing(cell)]
    return sum(are_numbers) / len(are_numbers) if are_numbers else 0.0


def _read_numbers(table: Table, column: int) -> list[float]:
    """A column of scores; NaN where missing."""
    name = table.header[column]
    numbers: list[float] = []
    percent: list[int] = []  # lines with a percent sign
    plain: list[int] = []
    for line, cell in enumerate(table.column(column)):
        if _is_missing(cell):
            numbers.append(math.nan)
            continue
        value = _number(cell)
        if value is None:
            text = str(cell)[:60]
            whole, comma, decimals = text.strip().partition(",")
            is_comma = comma and (whole + decimals).lstrip("+-").isdigit()
            hint = "write decimals with a point" if is_comma else "leave it empty if there is no score"
            raise InputError(f"{table.origins[line]}, column {name!r}: expected a number; got {text!r}; {hint}")
        (percent if isinstance(cell, str) and cell.strip().endswith("%") else plain).append(line)
        numbers.append(value)
    if percent and plain:
        raise InputError(
            f"{table.origins[percent[0]]}, column {name!r}: {table.cells[percent[0]][column]!r} has a percent sign and "
            "others have none; write them all alike"
        )
    return numbers


# Rows


def _find_position(
    records: Sequence[RowRecord], positions: Mapping[str, list[int]], model: str, origin: str
) -> int | None:
    """Position of the row that a name, row id or digest means; None if there is none."""
    of_name = positions.get(model)
    if of_name is not None and len(of_name) == 1:
        return of_name[0]
    # No name: a row id or the beginning of a digest, which only the store's own search knows.
    is_digest = len(model) >= 6 and set(model) <= set("0123456789abcdef")
    if of_name is None and not is_digest:
        return None
    try:
        record = find_record(records, model)  # raises on several rows, with their ids
    except NotFoundError:
        return None
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return positions[record.row_id][0]


def _list_names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")
