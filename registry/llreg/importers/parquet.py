"""Tables of values in Parquet files: a list a model, or a column a text."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import settings
from llreg.importers.table import ABOUT, MODEL, STAMP, VALUES, Format, Table, text_columns
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_parquet(data: bytes, name: str) -> Table:
    """Read a column ``model`` or ``model_id``, and ``log_likelihood``, a list a model, or a column a text.

    Raises
    ------
    InputError
        If it is not such a file.
    """
    import pyarrow as pa

    table = _read_table(data, name)
    titles = table.column_names
    model = next((title for title in MODEL if title in titles), None)
    if model is None:
        raise InputError(f"{name}: expected a column model; got {', '.join(titles[:6])[:200]}")
    models = [str(value) for value in table[model].to_pylist()]
    about = {title: table[title].to_pylist() for title in ABOUT if title in titles}

    # What an export of llreg says that it is of, and the texts in its lists.
    stamp, texts = {}, None
    metadata = table.schema.metadata or {}
    if b"llreg" in metadata:
        try:
            facts = json.loads(metadata[b"llreg"])
            stamp = {title: str(facts[title]) for title in STAMP if title in facts}
            texts = [str(text) for text in facts["texts"]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"{name}: its metadata llreg is not that of an export; remove it or export again"
            ) from error

    if VALUES in titles:
        kind = table[VALUES].type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise InputError(f"{name}: expected a list of numbers a model in {VALUES}; got {kind}")
        values = [_floats(cell.values, f"{name}: {VALUES}") for cell in table[VALUES]]
        return Table(models, values, texts, about, stamp)
    columns = text_columns(titles)
    vectors = [_floats(table[k].combine_chunks(), f"{name}: column {titles[k][:60]}") for k in columns]
    matrix = np.stack(vectors, axis=1) if vectors else np.empty((len(models), 0))  # (n_models, n_texts)
    return Table(models, list(matrix), None, about, stamp, [titles[k] for k in columns])


def _read_table(data: bytes, name: str) -> Any:
    """The file as a pyarrow table, if it is not too large unpacked and no two columns are named alike."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit = settings.MAX_IMPORT_BYTES
    try:
        # Its metadata say how much is in it, before anything is unpacked.
        file = pq.ParquetFile(io.BytesIO(data))
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(k).total_byte_size for k in groups) > limit:
            raise InputError(f"{name}: expected at most {limit:,} bytes when unpacked")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: expected a Parquet file; {str(error)[:200]}") from error
    titles = table.column_names
    repeated = next((title for k, title in enumerate(titles) if title in titles[:k]), None)
    if repeated is not None:
        raise InputError(f"{name}: two columns are named {repeated[:80]!r}; rename or remove one")
    return table


def _floats(array: Any, location: str) -> NDArray[np.float64]:
    """A column or a list of numbers, float64; null is NaN."""
    import pyarrow as pa

    if array is None:
        raise InputError(f"{location}: expected a list of numbers for every model; one is null")
    try:
        numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise InputError(f"{location}: expected numbers; {str(error)[:200]}") from error
    return np.asarray(numbers, dtype=np.float64)


PARQUET = Format(
    read_parquet,
    """A Parquet file: a list column log_likelihood, as in a build's models.parquet, or a column a text.

    Models are in a column model or model_id; other columns as in: llreg import csv --help
    """,
)
