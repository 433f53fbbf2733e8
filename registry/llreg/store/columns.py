"""The table of metadata columns of rows and texts: the store, ``models.parquet``, datasets and exports take them from here.

A new column of rows is one more entry of `ROW_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llreg_schemas import RowRecord, canonical_json


@dataclass(frozen=True)
class Column:
    """A metadata column.

    Attributes
    ----------
    name : str
    long_name : str
        What it holds, for people.
    get : callable
        Of a column of rows: RowRecord -> value. Of a column of texts: TextIndex -> the values of all texts.
    kind : {"text", "integer", "list"}
        Kind of the values; lists are of texts. Where a value is unknown, it is "", None or [].
    """

    name: str
    long_name: str
    get: Callable[[Any], Any]
    kind: Literal["text", "integer", "list"] = "text"

    def values(self, records: Sequence[RowRecord]) -> list[Any]:
        """The column of some rows."""
        return [self.get(record) for record in records]

    def stored(self, records: Sequence[RowRecord]) -> list[Any]:
        """The column of some rows as ``store.zarr`` holds it: lists joined by blanks, -1 for an unknown integer."""
        values = self.values(records)
        if self.kind == "list":
            return [" ".join(texts) for texts in values]
        if self.kind == "integer":
            return [-1 if number is None else number for number in values]
        return values


ROW_COLUMNS = (
    Column("model", "row id: model name @ first 8 hex digits of the digest", lambda record: record.row_id),
    Column("model_id", "Hub id, or name of a local model", lambda record: record.identity.name),
    Column(
        "revision",
        "commit on the Hub, or sha256 of a local model's files",
        lambda record: record.identity.revision or "",
    ),
    Column("weight_dtype", "dtype of the weights while scoring", lambda record: record.identity.weight_dtype),
    Column(
        "quantization",
        "how the weights were quantised; empty if not",
        lambda record: record.identity.quantization or "",
    ),
    Column("architecture", "class of the model, as its config declares it", lambda record: record.architecture or ""),
    Column(
        "base_model",
        "models it was derived from, as declared, space-separated",
        lambda record: record.base_models,
        "list",
    ),
    Column("num_parameters", "parameters, as declared; -1 if unknown", lambda record: record.num_parameters, "integer"),
    Column("licence", "licence, as declared", lambda record: record.licence or ""),
    Column("added_at", "time the row was computed, UTC", lambda record: record.added_at),
    Column("digest", "sha256 of the row's identity and values", lambda record: record.digest),
)

# The store keeps all of a record, so that row files can be made from it again.
STORE_COLUMNS = (
    *ROW_COLUMNS,
    Column("record", "the row's full record, JSON", lambda record: canonical_json(record.to_json())),
)

TEXT_COLUMNS = (
    Column("text", "index of the text", lambda texts: list(range(len(texts))), "integer"),
    Column("subset", "subset of the text", lambda texts: list(texts.subset)),
    Column("text_bytes", "UTF-8 bytes of the text", lambda texts: list(texts.num_bytes), "integer"),
    Column("text_sha256", "sha256 of the text's UTF-8 bytes", lambda texts: list(texts.sha256)),
)
