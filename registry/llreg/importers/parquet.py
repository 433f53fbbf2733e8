"""Tables of values in Parquet files: a list a model, or a column a text."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llreg.importers.bounded import MAX_BYTES
from llreg.importers.table import ABOUT, MODEL, STAMP, VALUES, Table, text_columns
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_parquet(data: bytes, shown: str) -> Table:
    """Read a column ``model`` or ``model_id``, and ``log_likelihood``, a list a model, or a column a text.

    Raises
    ------
    InputError
        If it is not such a file.
    """
    table = _load(data, shown)
    names = table.column_names
    model = next((name for name in MODEL if name in names), None)
    if model is None:
        raise InputError(f"{shown}: expected a column model; got {', '.join(names[:6])[:200]}")
    models = [str(name) for name in table[model].to_pylist()]
    about = {name: table[name].to_pylist() for name in ABOUT if name in names}
    stamp, texts = _stamp(table.schema.metadata or {}, shown)
    if VALUES in names:
        return Table(models, _lists(table[VALUES], shown), texts, about, stamp)
    columns, texts = text_columns(names)
    vectors = [_floats(table[k].combine_chunks(), f"{shown}: column {names[k][:60]}") for k in columns]
    values = np.stack(vectors, axis=1) if vectors else np.empty((len(models), 0))
    return Table(models, list(values), texts, about, stamp)


def _load(data: bytes, shown: str) -> Any:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(k).total_byte_size for k in groups) > MAX_BYTES:
            raise InputError(f"{shown}: expected at most {MAX_BYTES:,} bytes when unpacked")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown}: expected a Parquet file; {str(error)[:200]}") from error
    repeated = next((name for k, name in enumerate(table.column_names) if name in table.column_names[:k]), None)
    if repeated is not None:
        raise InputError(f"{shown}: two columns are named {repeated[:80]!r}; rename or remove one")
    return table


def _stamp(metadata: dict[bytes, bytes], shown: str) -> tuple[dict[str, str], list[str] | None]:
    """What an export of llreg says that it is of, and the texts in its lists."""
    if b"llreg" not in metadata:
        return {}, None
    try:
        facts = json.loads(metadata[b"llreg"])
        stamp = {name: str(facts[name]) for name in STAMP if name in facts}
        return stamp, [str(text) for text in facts["texts"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{shown}: its metadata llreg is not that of an export; remove it or export again") from error


def _lists(column: Any, shown: str) -> list[NDArray[np.float64]]:
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(f"{shown}: expected a list of numbers a model in {VALUES}; got {kind}")
    return [_floats(cell.values, f"{shown}: {VALUES}") for cell in column]


def _floats(array: Any, place: str) -> NDArray[np.float64]:
    """A column or a list of numbers, float64; null is NaN."""
    if array is None:
        raise InputError(f"{place}: expected a list of numbers for every model; one is null")
    try:
        numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise InputError(f"{place}: expected numbers; {str(error)[:200]}") from error
    return np.asarray(numbers, dtype=np.float64)
