"""Benchmark scores of models, from a file or from Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.store.contents import find_record
from llreg.tables import MODEL_COLUMNS, Table, read_table
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The first of these that there is, whatever its case.
FAMILY_COLUMNS = ("family", "model_type", "type", "group")
_MISSING = {"", "-", "–", "—", "?", "na", "n/a", "nan", "none", "null"}  # noqa: RUF001
_FIRST = 5  # names that a message shows


@dataclass(frozen=True, eq=False)
class Scores:
    """Benchmark scores as they were given, not yet matched to rows.

    Attributes
    ----------
    models : list of str
        Model names, row ids or digests.
    tasks : list of str
    values : float64 array of shape (n_given, n_tasks)
        NaN where there is no score.
    families : list of (str or None), or None
        Family of each model as given; None if there is no such column.
    places : list of str
        Where each line is, for messages.
    source : str
        The file, or "scores".
    notes : tuple of str
        What was read in a way that may surprise.
    """

    models: list[str]
    tasks: list[str]
    values: NDArray[np.float64]
    families: list[str | None] | None
    places: list[str]
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
        index = _index(records)
        positions = [
            _position(records, index, name, place) for name, place in zip(self.models, self.places, strict=True)
        ]
        unknown = [name for name, k in zip(self.models, positions, strict=True) if k is None]
        if unknown and (strict or len(unknown) == len(self.models)):
            raise NotFoundError(f"{self.source}: {_unknown(unknown, len(self.models))}; names as in: llreg ls")
        values = np.full((len(records), len(self.tasks)), np.nan)
        families: list[str | None] = [None] * len(records)
        taken: dict[int, int] = {}
        for line, k in enumerate(positions):
            if k is None:
                continue
            if k in taken:
                raise InputError(
                    f"{self.places[line]}: {self.models[line]} is the row {records[k].row_id}, which "
                    f"{self.places[taken[k]]} names already; keep one of the two"
                )
            taken[k] = line
            values[k] = self.values[line]
            families[k] = self.families[line] if self.families else None
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
        """What to tell about unknown models."""
        if not self.unknown:
            return None
        count = len(self.unknown)
        subject = "1 scored model has no row and is" if count == 1 else f"{count:,} scored models have no row and are"
        return f"{subject} left out: {_first(self.unknown)}"


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
    model_at = _model_column(table)
    models = [str(cell).strip() if cell is not None else "" for cell in table.column(model_at)]
    _check_models(table, models)
    family_at = _family_column(table, family, model_at)
    taken, ignored = _task_columns(table, tasks, {model_at, family_at})
    notes = []
    if family_at is not None:
        notes.append(f"families are those of the column {table.header[family_at]!r}")
    if ignored:
        notes.append(f"{table.source}: columns without numbers are left out: {_first(ignored)}")
    return Scores(
        models=models,
        tasks=[table.header[k] for k in taken],
        values=np.array([_numbers(table, k) for k in taken], dtype=np.float64).T.reshape(len(models), len(taken)),
        families=None if family_at is None else [_label(cell) for cell in table.column(family_at)],
        places=table.places,
        source=table.source,
        notes=tuple(notes),
    )


# Columns


def _model_column(table: Table) -> int:
    lower = [name.lower() for name in table.header]
    for wanted in MODEL_COLUMNS:
        if wanted in lower:
            return lower.index(wanted)
    if lower and lower[0] == "" and _share_of_numbers(table.column(0)) == 0:
        return 0  # what DataFrame.to_csv makes of an index
    found = ", ".join(repr(name) for name in table.header[:_FIRST])
    raise InputError(f"{table.source}: expected a column 'model' with model names or row ids; got {found}")


def _check_models(table: Table, models: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for k, name in enumerate(models):
        if not name:
            raise InputError(f"{table.places[k]}: no model name; fill it in or remove the line")
        if name in seen:
            raise InputError(f"{table.places[k]}: {name} has scores already in {table.places[seen[name]]}; keep one")
        seen[name] = k


def _family_column(table: Table, given: str | None, model_at: int) -> int | None:
    if given is not None:
        return _named_column(table, given)
    lower = [name.lower() for name in table.header]
    return next((lower.index(name) for name in FAMILY_COLUMNS if name in lower and lower.index(name) != model_at), None)


def _named_column(table: Table, name: str) -> int:
    if name in table.header:
        return table.header.index(name)
    alike = [k for k, column in enumerate(table.header) if column.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise InputError(
        f"{table.source}: no column {name!r}; it has: {', '.join(column for column in table.header if column)}"
    )


def _task_columns(table: Table, tasks: Sequence[str] | None, other: set[int | None]) -> tuple[list[int], list[str]]:
    """Columns of scores, and the names of those that hold no numbers."""
    if tasks:
        return list(dict.fromkeys(_named_column(table, task) for task in tasks)), []
    named = [k for k, name in enumerate(table.header) if name and k not in other and name.lower() not in MODEL_COLUMNS]
    taken = [k for k in named if _share_of_numbers(table.column(k)) >= 0.5]
    if not taken:
        raise InputError(f"{table.source}: no column of numbers; give a column of scores a benchmark beside the models")
    return taken, [table.header[k] for k in named if k not in taken]


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
    held = [cell for cell in cells if not _is_missing(cell)]
    return sum(_number(cell) is not None for cell in held) / len(held) if held else 0.0


def _numbers(table: Table, k: int) -> list[float]:
    """A column of scores; NaN where missing."""
    cells, name = table.column(k), table.header[k]
    held = [row for row, cell in enumerate(cells) if not _is_missing(cell)]
    numbers = {row: _number(cells[row]) for row in held}
    bad = next((row for row in held if numbers[row] is None), None)
    if bad is not None:
        shown = str(cells[bad])[:60]
        raise InputError(f"{table.places[bad]}, column {name!r}: expected a number; got {shown!r}{_hint(shown)}")
    percent = [row for row in held if isinstance(cells[row], str) and cells[row].strip().endswith("%")]
    if percent and len(percent) < len(held):
        raise InputError(
            f"{table.places[percent[0]]}, column {name!r}: {cells[percent[0]]!r} has a percent sign and others have "
            f"none; write them all alike"
        )
    return [math.nan if (value := numbers.get(row)) is None else value for row in range(len(cells))]


def _hint(text: str) -> str:
    whole, comma, part = text.strip().partition(",")
    return (
        "; write decimals with a point"
        if comma and (whole + part).lstrip("+-").isdigit()
        else "; leave it empty if there is no score"
    )


def _label(cell: Any) -> str | None:
    return None if _is_missing(cell) else str(cell).strip()


# Rows


def _index(records: Sequence[RowRecord]) -> dict[str, list[int]]:
    """Positions by model name and by row id."""
    index: dict[str, list[int]] = {}
    for k, record in enumerate(records):
        index.setdefault(record.identity.name, []).append(k)
    return index | {record.row_id: [k] for k, record in enumerate(records)}


def _position(records: Sequence[RowRecord], index: Mapping[str, list[int]], name: str, place: str) -> int | None:
    """The row that a name means; None if there is none."""
    found = index.get(name)
    if found is not None and len(found) == 1:
        return found[0]
    if found is None and not _is_digest(name):
        return None
    try:
        record = find_record(records, name)
    except NotFoundError:
        return None
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return index[record.row_id][0]


def _is_digest(name: str) -> bool:
    return len(name) >= 6 and set(name) <= set("0123456789abcdef")


def _unknown(unknown: Sequence[str], count: int) -> str:
    if len(unknown) == count:
        return f"none of its {count:,} models has a row in this registry ({_first(unknown)})"
    return f"{len(unknown):,} of {count:,} models have no row in this registry: {_first(unknown)}"


def _first(names: Sequence[str]) -> str:
    more = len(names) - _FIRST
    return ", ".join(names[:_FIRST]) + (f" and {more:,} more" if more > 0 else "")
