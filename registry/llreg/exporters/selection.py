"""What is exported: some rows, raw or through a view, with metadata and where they are from; read in blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg._version import __version__
from llreg.exporters.columns import Column, annotated_columns, row_columns
from llreg.geometry.kl.rows import Rows, load_rows
from llreg.geometry.view.view import View
from llreg.store.arrays import dimension_of, is_fine_only
from llreg.store.dataset import RowSource
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

ROWS = 256  # at a time: 10 MB of float32 for 10,000 texts, and a row group of a Parquet file
_VALUES = 1 << 22  # at a time, where there are more texts


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows to export.

    Attributes
    ----------
    registry : Contents
    source : RowSource
    records : sequence of RowRecord
    version : str
    view : View
        The one that leaves all values as they are, if they are exported raw.
    raw : bool
    texts : intp array of shape (n_texts,)
        Indices of the view's texts.
    """

    registry: Contents
    source: RowSource
    records: Sequence[RowRecord]
    version: str
    view: View
    raw: bool
    texts: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def row_ids(self) -> list[str]:
        """Row ids."""
        return [record.row_id for record in self.records]

    @cached_property
    def stamp(self) -> dict[str, str]:
        """What every export says of itself: version, text_set, protocol, view (ids), and values: raw or view."""
        return self.make_stamp("raw" if self.raw else "view")

    def make_stamp(self, values: str) -> dict[str, str]:
        """Ids of what an export is of, and what its values are: raw, view, or kl, distances through the view."""
        return {
            "version": self.version,
            "text_set": self.registry.info.text_set.id,
            "protocol": self.registry.info.protocol_id,
            "view": self.view.id,
            "values": values,
        }

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The stamp with the registry's name, the view's document, the unit, and what wrote the file."""
        return {
            "registry": self.registry.name,
            **self.stamp,
            "view_document": self.view.to_json(),
            "unit": "nat/text",
            "written_by": f"llreg {__version__}",
        }

    @cached_property
    def columns(self) -> list[Column]:
        """Metadata and annotations; the first is `model`, the row id."""
        columns = row_columns(self.records)
        return columns + annotated_columns(self.registry, self.records, [column.name for column in columns])

    @cached_property
    def text_columns(self) -> Mapping[str, NDArray[Any]]:
        """What is known of the texts, arrays of shape (n_texts,); `text_weight` only if the view weights them."""
        index = self.registry.text_index
        columns: dict[str, NDArray[Any]] = {
            "text": self.texts.astype(np.int64),
            "subset": np.asarray(index.subset, dtype=np.str_)[self.texts],
            "text_bytes": np.asarray(index.num_bytes, dtype=np.int64)[self.texts],
            "text_sha256": np.asarray(index.sha256, dtype=np.str_)[self.texts],
        }
        weights = self.view.text_weights(index)
        return columns if weights is None else {**columns, "text_weight": weights}

    def load(self) -> Rows:
        """The rows in memory through the view, for distances between them."""
        return load_rows(self.registry, self.row_ids, self.view, common=True)

    def blocks(self, size: int = ROWS, *, progress: Callable[[int, int], None] | None = None) -> Iterator[slice]:
        """Positions of all rows in order, a block at a time; `progress` is called with (done, rows) after each."""
        step = max(1, min(size, _VALUES // len(self.texts)))
        for start in range(0, len(self), step):
            block = slice(start, min(start + step, len(self)))
            yield block
            if progress:
                progress(block.stop, len(self))

    def values(self, block: slice) -> NDArray[np.float32]:
        """Log-likelihoods, or the view's PMI, float32 array of shape (n_block, n_texts), nats; NaN where not scored."""
        parts = [self.read(name, block) for name in self.view.variables]
        if self.view.clip is not None:
            for part in parts:
                np.maximum(part, np.float32(self.view.clip), out=part)  # NaN stays NaN
        return parts[0] if len(parts) == 1 else parts[0] - parts[1]

    def tokens(self, block: slice) -> NDArray[np.int32]:
        """Tokens scored, int32 array of shape (n_block, n_texts); of PMI those of the response given its prompt."""
        return self.read(self.view.variables[0].replace("log_likelihood", "num_tokens"), block)

    @property
    def vector(self) -> str:
        """What `values` are: "log_likelihood", "log_likelihood_response" or "pmi"."""
        return "pmi" if self.view.vector == "pmi" else self.view.variables[0]

    @property
    def further(self) -> tuple[str, ...]:
        """Variables of raw rows beside log_likelihood and num_tokens, one value a text.

        Those of the responses alone, in rows of pairs; counts of correct tokens, if any row has segments (-1 in the others).
        """
        fine = any(record.is_fine for record in self.records)
        names = [name for name in self.registry.variables[2:] if dimension_of(name) == "text"]
        return tuple(name for name in names if fine or not is_fine_only(name)) if self.raw else ()

    def read(self, name: str, block: slice) -> NDArray[Any]:
        """A variable as it is stored, array of shape (n_block, n_texts)."""
        total = self.registry.num_texts
        columns = slice(None) if len(self.texts) == total else self.texts
        return self.source.read(name, [record.digest for record in self.records[block]], columns)


def select(registry: Contents, models: Sequence[str] | None, view: View | None) -> Selection:
    """Rows of a registry to export.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or None
        Which rows, as in `Contents.find`; None for all.
    view : View or None
        None: raw values.

    Raises
    ------
    NotFoundError
        If a name means no row.
    InputError
        If a name means several rows, one is given twice, there is none, or the view does not fit the text set.
    """
    records, version = registry.select(models)
    if not records:
        raise InputError(f"{registry.name} has no rows to export; add one with: llreg add MODEL")
    counts = Counter(record.row_id for record in records)
    repeated = next((row_id for row_id, count in counts.items() if count > 1), None)
    if repeated:
        raise InputError(f"{repeated} is given twice; an export holds each row once")
    texts = np.arange(registry.num_texts) if view is None else view.texts(registry.text_index)
    return Selection(registry, registry.row_source(), records, version, view or View(), view is None, texts)
