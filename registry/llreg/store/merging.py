"""One build from several places that hold rows: this registry's files and store, and what a pull brought."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from llreg.settings import SHARD_ROWS
from llreg.store.layout import STORE
from llreg.store.rowfile import Row
from llreg_schemas import RowRecord
from llreg_schemas.errors import InvalidFileError

Source = Callable[[Sequence[RowRecord]], Iterable[Row]]


def gather(records: Sequence[RowRecord], sources: Sequence[Source]) -> Iterator[Row]:
    """Rows with the given records, a shard's worth in memory.

    Parameters
    ----------
    records : sequence of RowRecord
    sources : sequence of callable
        Each gives those of some rows that it has, intact; asked in this order.

    Raises
    ------
    InvalidFileError
        If no source has a row.
    """
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        found: dict[str, Row] = {}
        for source in sources:
            lacking = [record for record in batch if record.digest not in found]
            if lacking:
                found |= {row.record.digest: row for row in source(lacking)}
        for record in batch:
            if record.digest not in found:
                raise InvalidFileError(
                    STORE,
                    f"the values of {record.row_id} were changed and its row file is not here; get it again from where it came",
                )
            row = found[record.digest]
            # Two contributors may have measured the same values: which record counts is for the caller to say.
            yield replace(row, record=record)
