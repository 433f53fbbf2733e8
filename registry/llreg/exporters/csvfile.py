"""Export as CSV: a line a model, or a line a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llreg.atomic import output_file
from llreg.printable import harmless

if TYPE_CHECKING:
    import pyarrow as pa

    from llreg.exporters.selection import Selection

_ID_DIGITS = 12  # as everywhere
_LONG_ROWS = 16  # at a time: each value is a line of its own


def write_csv(
    selection: Selection, path: Path, *, long: bool = False, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write rows as CSV, a block at a time.

    Parameters
    ----------
    selection : Selection
    path : Path
    long : bool
        A line a scored value, with columns model (row id), model_id, text, subset, log_likelihood, num_tokens (of raw
        rows of pairs both also with the ending _response). By default a line a model: metadata, then a column a text,
        named ``t`` and the text's index in the text set.
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    StorageError
        If it cannot be written.

    Notes
    -----
    Log-likelihoods are nats, in the shortest digits that give the same float32; empty where not scored. CSV has no
    place for what a file is of, and readers trip over comments: version, text_set, protocol, view (12 digits of their
    ids) and values ("raw" or "view") are columns, the same in every line. A text that a spreadsheet would take for a
    formula gets an apostrophe.
    """
    import pyarrow as pa
    from pyarrow import csv

    tables = _long(selection, progress) if long else _wide(selection, progress)
    first = next(tables)
    with output_file(path) as temp, temp.open("wb") as file:
        options = csv.WriteOptions(quoting_style="needed", batch_size=256)
        with csv.CSVWriter(pa.PythonFile(file, "w"), first.schema, write_options=options) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _wide(selection: Selection, progress: Callable[[int, int], None] | None) -> Iterator[pa.Table]:
    import pyarrow as pa

    head = {harmless(column.name): column.cells() for column in selection.columns}
    head |= _stamp(selection, len(selection))
    names = [*head, *(f"t{text}" for text in selection.texts)]
    for block in selection.blocks(progress=progress):
        values = np.ascontiguousarray(selection.values(block).T)  # (n_texts, n_block)
        columns = [array[block.start : block.stop] for array in head.values()]
        yield pa.table([*columns, *(pa.array(text, from_pandas=True) for text in values)], names=names)


def _long(selection: Selection, progress: Callable[[int, int], None] | None) -> Iterator[pa.Table]:
    import pyarrow as pa

    row_ids = pa.array([harmless(row_id) for row_id in selection.row_ids])
    names = pa.array([harmless(record.identity.name) for record in selection.records])
    subsets = pa.array([harmless(str(subset)) for subset in selection.text_columns["subset"]])
    for block in selection.blocks(_LONG_ROWS, progress=progress):
        values, tokens = selection.values(block), selection.tokens(block)
        further = {name: selection.read(name, block) for name in selection.further}
        rows, texts = np.nonzero(~np.isnan(values))  # positions of the scored values, (n_values,) each
        yield pa.table(
            {
                "model": row_ids.take(pa.array(rows + block.start)),
                "model_id": names.take(pa.array(rows + block.start)),
                "text": pa.array(selection.texts[texts]),
                "subset": subsets.take(pa.array(texts)),
                selection.vector: pa.array(values[rows, texts]),
                "num_tokens": pa.array(tokens[rows, texts]),
                **{name: pa.array(array[rows, texts], from_pandas=True) for name, array in further.items()},
                **_stamp(selection, len(rows)),
            }
        )


def _stamp(selection: Selection, count: int) -> dict[str, pa.Array]:
    import pyarrow as pa

    return {name: pa.repeat(value[:_ID_DIGITS], count) for name, value in selection.stamp.items()}
