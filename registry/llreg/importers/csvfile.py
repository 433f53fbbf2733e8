"""Tables of values in CSV files: a line a model, or a line a value."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llreg.importers.table import ABOUT, MISSING, MODEL, STAMP, TEXT, VALUES, Table, text_columns
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Lines = Iterator[tuple[int, list[str]]]


def read_csv(data: bytes, shown: str) -> Table:
    """Read a column ``model`` and a column a text, or columns ``model``, ``text`` and ``log_likelihood``.

    Raises
    ------
    InputError
        If it is not such a file; the message names the line.
    """
    lines = _lines(data, shown)
    _, first = next(lines, (0, []))
    header = [cell.strip() for cell in first]
    repeated = next((name for k, name in enumerate(header) if name in header[:k]), None)
    if repeated is not None:
        raise InputError(f"{shown}: two columns are named {repeated[:80]!r}; rename or remove one")
    lowered = [name.lower() for name in header]
    model = next((lowered.index(name) for name in MODEL if name in lowered), None)
    if model is None:
        raise InputError(f"{shown}: expected a column model; got {', '.join(header[:6])[:200] or 'nothing'}")
    return (_read_long if VALUES in lowered else _read_wide)(_whole(lines, header, shown), header, model, shown)


def _lines(data: bytes, shown: str) -> _Lines:
    """Lines with their number; what parts columns is what there is most of in the first line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{shown}, line {line}: not UTF-8; save the file as UTF-8") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{shown}, line {reader.line_num}: not CSV ({error})") from error


def _whole(lines: _Lines, header: Sequence[str], shown: str) -> _Lines:
    for line, row in lines:
        if len(row) != len(header):
            raise InputError(
                f"{shown}, line {line}: expected {len(header):,} cells, as in the header; got {len(row):,}"
            )
        yield line, row


def _read_wide(lines: _Lines, header: Sequence[str], model: int, shown: str) -> Table:
    columns, texts = text_columns(header)
    about = _columns(header, (*ABOUT, *STAMP))
    models: list[str] = []
    values: list[NDArray[np.float64]] = []
    told: dict[str, list[str]] = {name: [] for name in about}
    for line, row in lines:
        models.append(row[model].strip())
        values.append(np.array([_number(row[k], shown, line) for k in columns], dtype=np.float64))
        for name, k in about.items():
            told[name].append(row[k].strip())
    return Table(models, values, texts, told, _stamp(told, shown))


def _read_long(lines: _Lines, header: Sequence[str], model: int, shown: str) -> Table:
    value, about = _columns(header, [VALUES])[VALUES], _columns(header, (*ABOUT, *STAMP))
    text = next(iter(_columns(header, TEXT).values()), None)
    if text is None:
        raise InputError(f"{shown}: expected a column text beside {VALUES}, with the text's index or sha256")
    found: dict[str, dict[str, float]] = {}
    said: dict[str, list[str]] = {}
    for line, row in lines:
        name, key = row[model].strip(), row[text].strip().lower()
        mine = found.setdefault(name, {})
        if key in mine:
            raise InputError(f"{shown}, line {line}: {name} has text {key[:70]} twice")
        mine[key] = _number(row[value], shown, line)
        cells = [row[k].strip() for k in about.values()]
        if said.setdefault(name, cells) != cells:
            raise InputError(f"{shown}, line {line}: {name} is not described as on its lines before")
    texts = list(dict.fromkeys(key for mine in found.values() for key in mine))
    values = [np.array([mine.get(key, np.nan) for key in texts]) for mine in found.values()]
    told = {name: [cells[k] for cells in said.values()] for k, name in enumerate(about)}
    return Table(list(found), values, texts, told, _stamp(told, shown))


def _columns(header: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Where columns of these names are, in the order of the names, whatever their case."""
    lowered = [title.lower() for title in header]
    return {name: lowered.index(name) for name in names if name in lowered}


def _stamp(told: dict[str, list[str]], shown: str) -> dict[str, str]:
    """What an export says in every line alike."""
    stamp = {name: set(told.pop(name)) for name in STAMP if name in told}
    for name, values in stamp.items():
        if len(values) > 1:
            raise InputError(f"{shown}: {name} is not the same in every line; give files of one {name}")
    return {name: values.pop() for name, values in stamp.items() if values}


def _number(cell: str, shown: str, line: int) -> float:
    try:
        return np.nan if cell.strip().lower() in MISSING else float(cell)
    except ValueError:
        raise InputError(f"{shown}, line {line}: expected a log-likelihood; got {cell[:60]!r}") from None
