"""Export as Parquet: ``models.parquet`` with a user's own columns, a row group at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llreg.atomic import output_file
from llreg.store.arrays import is_count
from llreg_schemas import canonical_json

if TYPE_CHECKING:
    from llreg.exporters.selection import Selection


def write_parquet(selection: Selection, path: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write rows as Parquet, one line a row.

    Parameters
    ----------
    selection : Selection
    path : Path
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    StorageError
        If it cannot be written.

    Notes
    -----
    Metadata and annotations; ``mean_log_likelihood``, nats per text, empty for a row that was scored on a sample; and
    the vectors, ``log_likelihood`` list<float32>, nats, NaN where not scored (through a view of another vector of pairs
    ``pmi`` or ``log_likelihood_response``), and ``num_tokens`` list<int32>; of raw rows of pairs both also with the
    ending ``_response``. The file's metadata holds, under ``llreg``, JSON with version, text_set, protocol, view (ids),
    values ("raw" or "view"), the view's document and ``texts``: indices in the text set of the texts in the lists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    head = {column.name: column.arrow() for column in selection.columns}
    facts = canonical_json({**selection.facts, "texts": selection.texts.tolist()})
    kinds = [(name, array.type) for name, array in head.items()]
    names = [selection.vector, "num_tokens", *selection.further]
    vectors = [(name, pa.list_(pa.int32() if is_count(name) else pa.float32())) for name in names]
    schema = pa.schema([*kinds, ("mean_log_likelihood", pa.float64()), *vectors], metadata={"llreg": facts})
    with (
        output_file(path) as temp,
        temp.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for block in selection.blocks(progress=progress):
            values = selection.values(block)  # (n_block, n_texts)
            means = [
                # A mean over a sample that favours some texts would not compare with the others.
                None
                if record.identity.subset is not None or np.isnan(row).all()
                else float(np.nanmean(row.astype(np.float64)))
                for record, row in zip(selection.records[block], values, strict=True)
            ]
            columns = [array[block.start : block.stop] for array in head.values()]
            arrays = [values, selection.tokens(block), *(selection.read(name, block) for name in selection.further)]
            lists = [
                # Of n_texts values each, one behind another.
                pa.ListArray.from_arrays(
                    pa.array(np.arange(len(array) + 1, dtype=np.int32) * np.int32(array.shape[1])),
                    pa.array(array.ravel()),
                )
                for array in arrays
            ]
            writer.write_table(pa.table([*columns, pa.array(means, type=pa.float64()), *lists], schema=schema))
