"""Tables of values in CSV files: a line a model, or a line a value.

Python's reader, not pyarrow's: a message names the line, what parts columns is found out, and lines of one value name
their model and text in any order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llreg.importers.table import ABOUT, MISSING, MODEL, STAMP, TEXT, VALUES, Format, Table, text_columns
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Lines = Iterator[tuple[str, list[str]]]


def read_csv(data: bytes, name: str) -> Table:
    """Read a column ``model`` and a column a text, or columns ``model``, ``text`` and ``log_likelihood``.

    Raises
    ------
    InputError
        If it is not such a file; the message names the line.
    """
    lines = _lines(data, name)
    _, cells = next(lines, ("", []))
    header = [cell.strip() for cell in cells]
    repeated = next((title for k, title in enumerate(header) if title in header[:k]), None)
    if repeated is not None:
        raise InputError(f"{name}: two columns are named {repeated[:80]!r}; rename or remove one")
    model = next(iter(_columns(header, MODEL).values()), None)
    if model is None:
        raise InputError(f"{name}: expected a column model; got {', '.join(header[:6])[:200] or 'nothing'}")
    is_long = VALUES in map(str.lower, header)
    return (_read_long if is_long else _read_wide)(lines, header, model, name)


def _lines(data: bytes, name: str) -> _Lines:
    """Location and cells of each line that is not empty; all are as long as the first, the header."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}, line {number}: not UTF-8; save the file as UTF-8") from error
    # The separator is what there is most of in the first line.
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    width = 0
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            location = f"{name}, line {reader.line_num}"
            width = width or len(cells)
            if len(cells) != width:
                raise InputError(f"{location}: expected {width:,} cells, as in the header; got {len(cells):,}")
            yield location, cells
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV ({error})") from error


def _read_wide(lines: _Lines, header: Sequence[str], model: int, name: str) -> Table:
    """A line a model."""
    columns = text_columns(header)
    about_columns = _columns(header, (*ABOUT, *STAMP))
    models: list[str] = []
    values: list[NDArray[np.float64]] = []
    about: dict[str, list[str]] = {title: [] for title in about_columns}
    for location, cells in lines:
        models.append(cells[model].strip())
        values.append(np.array([_number(cells[k], location) for k in columns], dtype=np.float64))
        for title, k in about_columns.items():
            about[title].append(cells[k].strip())
    stamp = _pop_stamp(about, name)
    return Table(models, values, None, about, stamp, [header[k] for k in columns])


def _read_long(lines: _Lines, header: Sequence[str], model: int, name: str) -> Table:
    """A line a value."""
    value = _columns(header, [VALUES])[VALUES]
    about_columns = _columns(header, (*ABOUT, *STAMP))
    text = next(iter(_columns(header, TEXT).values()), None)
    if text is None:
        raise InputError(f"{name}: expected a column text beside {VALUES}, with the text's index or sha256")
    values: dict[str, dict[str, float]] = {}  # by model, then by text
    descriptions: dict[str, list[str]] = {}
    for location, cells in lines:
        model_name, text_name = cells[model].strip(), cells[text].strip().lower()
        row = values.setdefault(model_name, {})  # models in the order of their first lines
        if text_name in row:
            raise InputError(f"{location}: {model_name} has text {text_name[:70]} twice")
        row[text_name] = _number(cells[value], location)
        description = [cells[k].strip() for k in about_columns.values()]
        if descriptions.setdefault(model_name, description) != description:
            raise InputError(f"{location}: {model_name} is not described as on its lines before")
    # Models may have values of different texts: what one lacks is NaN.
    texts = list(dict.fromkeys(text_name for row in values.values() for text_name in row))
    vectors = [np.array([row.get(text_name, np.nan) for text_name in texts]) for row in values.values()]
    about = {title: [cells[k] for cells in descriptions.values()] for k, title in enumerate(about_columns)}
    return Table(list(values), vectors, texts, about, _pop_stamp(about, name))


def _columns(header: Sequence[str], titles: Sequence[str]) -> dict[str, int]:
    """Columns of these titles, in their order, whatever the case in the header."""
    lowered = [title.lower() for title in header]
    return {title: lowered.index(title) for title in titles if title in lowered}


def _pop_stamp(about: dict[str, list[str]], name: str) -> dict[str, str]:
    """What an export says in every line alike, taken out of the columns."""
    stamp = {}
    for title in STAMP:
        values = set(about.pop(title, ()))
        if len(values) > 1:
            raise InputError(f"{name}: {title} is not the same in every line; give files of one {title}")
        if values:
            stamp[title] = values.pop()
    return stamp


def _number(cell: str, location: str) -> float:
    try:
        return np.nan if cell.strip().lower() in MISSING else float(cell)
    except ValueError:
        raise InputError(f"{location}: expected a log-likelihood; got {cell[:60]!r}") from None


CSV = Format(
    read_csv,
    """A CSV file: a column model and a column a text, or columns model, text and log_likelihood.

    Texts are named by index or sha256, in the column text or in the header, where the number in titles like text_10 is the
    index; under other headers they are taken in the registry's order. Columns as revision and weight_dtype are understood; see: llreg import npz --help
    """,
)
