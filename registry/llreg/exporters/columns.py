"""Columns beside the values: metadata of the rows, and a user's own."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from llreg.printable import harmless, printable
from llreg.store.annotations import read_annotations
from llreg.store.arrays import CORRECT_VARIABLES, PAIR_VARIABLES
from llreg.store.columns import ROW_COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

Kind = Literal["text", "list", "integer", "number", "flag"]
STAMP = ("version", "text_set", "protocol", "view", "values")  # in every export; ids but for the last: raw or view
_DECLARED = ("relation", "created", "context_length", "downloads", "tags")  # where a row declares them
_OTHERS = (
    "label",
    "registry",
    "view_document",
    "mean_log_likelihood",
    "pmi",
    *PAIR_VARIABLES,
    *CORRECT_VARIABLES,
    "text",
)
_OF_TEXTS = ("subset", "text_bytes", "text_sha256", "text_weight")
_TEXT_COLUMN = re.compile(r"t\d+")
_AWKWARD = re.compile(r"[^\w .,+%()@=-]")  # in names of zip members and of HDF5 groups


@dataclass(frozen=True, eq=False)
class Column:
    """One value a row.

    Attributes
    ----------
    name : str
        Untrusted text, as the values of text columns.
    kind : {"text", "list", "integer", "number", "flag"}
        Lists are of texts.
    values : sequence
        None where unknown.
    """

    name: str
    kind: Kind
    values: Sequence[Any]

    def text(self, position: int) -> str | None:
        """A value as text; items of a list with blanks between them."""
        value = self.values[position]
        if value is None:
            return None
        if self.kind == "list":
            return " ".join(value)
        return str(value).lower() if self.kind == "flag" else str(value)

    def texts(self) -> list[str | None]:
        """All values as text."""
        return [self.text(position) for position in range(len(self.values))]

    def array(self) -> NDArray[Any]:
        """As an array of shape (n_models,): int64, bool, float64, or fixed-width unicode.

        Unknown is empty text or NaN, for which integers and flags become float64. Control characters are escaped.
        """
        import numpy as np

        if self.kind in ("text", "list"):
            return np.array([printable(text or "") for text in self.texts()], dtype=np.str_)
        if any(value is None for value in self.values):
            return np.array([np.nan if value is None else float(value) for value in self.values])
        types: dict[Kind, type[np.generic]] = {"integer": np.int64, "number": np.float64, "flag": np.bool_}
        return np.array(self.values, dtype=types[self.kind])

    def arrow(self) -> pa.Array:
        """As a pyarrow array, null where unknown."""
        import pyarrow as pa

        types = {
            "text": pa.string(),
            "list": pa.list_(pa.string()),
            "integer": pa.int64(),
            "number": pa.float64(),
            "flag": pa.bool_(),
        }
        return pa.array(list(self.values), type=types[self.kind])

    def cells(self) -> pa.Array:
        """As `arrow`, for CSV: no lists, and no text that a spreadsheet takes for a formula."""
        import pyarrow as pa

        if self.kind not in ("text", "list"):
            return self.arrow()
        return pa.array([None if text is None else harmless(text) for text in self.texts()], type=pa.string())


def make_column(name: str, values: Iterable[Any]) -> Column:
    """A column of the narrowest kind that holds the values exactly; NaN is unknown."""
    values = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    known = [value for value in values if value is not None]
    types = {type(value) for value in known}
    integers = [value for value in known if type(value) is int]
    if types == {bool}:
        return Column(name, "flag", values)
    if types == {int} and all(-(1 << 63) <= value < 1 << 63 for value in integers):
        return Column(name, "integer", values)
    # float64 holds integers exactly up to 2**53
    if types and types <= {int, float, Decimal} and all(abs(value) <= 1 << 53 for value in integers):
        return Column(name, "number", [None if value is None else float(value) for value in values])
    if types == {list}:
        return Column(name, "list", [None if value is None else [_text(item) for item in value] for value in values])
    return Column(name, "text", [None if value is None else _text(value) for value in values])


def row_columns(records: Sequence[RowRecord]) -> list[Column]:
    """Metadata as ``models.parquet`` has it, the sample of texts a row was scored on, and more that rows declare."""
    columns = [
        Column(column.name, column.kind, column.values(records))
        for column in sorted(ROW_COLUMNS, key=lambda column: column.kind != "text")
    ]
    columns += [
        Column("source", "text", [record.identity.source for record in records]),
        Column("text_subset", "text", [record.identity.subset or "" for record in records]),
    ]
    more = [make_column(name, [record.declared.get(name) for record in records]) for name in _DECLARED]
    return columns + [column for column in more if any(value is not None for value in column.values)]


def annotated_columns(registry: Contents, records: Sequence[RowRecord], reserved: Iterable[str]) -> list[Column]:
    """Columns of all annotations; named ``table.column`` where the column's name alone is reserved or not unique."""
    tables = read_annotations(registry)
    counts = Counter(title for table in tables for title in table.columns)
    used = {*reserved, *STAMP, *_OTHERS, *_OF_TEXTS}
    columns = []
    for table in tables:
        lines = table.lines_of(registry, records)
        for title, cells in table.columns.items():
            is_free = title and counts[title] == 1 and title not in used and not _TEXT_COLUMN.fullmatch(title)
            name = _unused(title if is_free else f"{table.name}.{title}", used)
            columns.append(make_column(name, [None if line is None else cells[line] for line in lines]))
    return columns


def keys(names: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """Names as members of an archive may have them: no slashes and control characters, and no two alike."""
    used = set(reserved)
    return [_unused(_AWKWARD.sub("_", printable(name)).lstrip(".") or "_", used) for name in names]


def _unused(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name


def _text(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
