"""Columns of a map: what points are coloured by and tables hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.families import families_of
from llreg.geometry.kl.rows import Rows
from llreg.maps.scene import Column
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.stream import RowStream
    from llreg_schemas import RowRecord

# Columns that every table of a map has of itself.
TABLE_COLUMNS = ("row_id", "model", "x", "y", "placed", "nearest", "nearest_kl", "nearest_kl_se", "neighbors")


def map_columns(rows: Rows | RowStream, scores: Path | str | None = None) -> list[Column]:
    """Columns of rows: declared metadata, likelihood through the view, and scores of a file.

    Parameters
    ----------
    rows : Rows or RowStream
    scores : Path, optional
        A table of scores as `llreg predict` takes it: models down, benchmarks across.

    Returns
    -------
    list of Column
        Those that are known for at least one row; first the one that a map is coloured by at first, the first one
        with two values or more.
    """
    found = [*_declared(rows.records), *_measured(rows), *_identity(rows.records)]
    found += _scored(rows, scores, taken={*TABLE_COLUMNS, *(column.name for column in found)})
    known = [column for column in found if any(value is not None for value in column.values)]
    telling = [column for column in known if len({value for value in column.values if value is not None}) > 1]
    return sorted(known, key=lambda column: column not in telling[:1])  # stable: the rest keep their order


def find_column(columns: Sequence[Column], name: str) -> Column:
    """The column of a name or title.

    Raises
    ------
    InputError
        If there is none; the message lists those there are.
    """
    for column in columns:
        if name.casefold() in (column.name.casefold(), column.title.casefold()):
            return column
    raise InputError(f"no column {name!r}; there are: {', '.join(column.name for column in columns) or 'none'}")


def _declared(records: Sequence[RowRecord]) -> list[Column]:
    def values(field: str) -> list[Any]:
        return [record.declared.get(field) or None for record in records]

    return [
        Column("family", "family", "category", families_of(records)),
        Column("architecture", "architecture", "category", values("architecture")),
        Column("num_parameters", "parameters", "number", [_number(n) for n in values("num_parameters")], log=True),
        Column("created", "created", "date", [_day(day) for day in values("created")]),
        Column("licence", "licence", "category", values("licence")),
    ]


def _identity(records: Sequence[RowRecord]) -> list[Column]:
    identities = [record.identity for record in records]
    provenance = [record.provenance for record in records]
    return [
        Column("weight_dtype", "weight dtype", "category", [identity.weight_dtype for identity in identities]),
        Column("quantization", "quantisation", "category", [entry.quantization or "none" for entry in identities]),
        Column("contributor", "contributor", "category", [entry.get("contributor") for entry in provenance]),
        Column("added_at", "added", "date", [_day(entry["added_at"]) for entry in provenance]),
    ]


def _measured(rows: Rows | RowStream) -> list[Column]:
    """Mean log-likelihood over the scored texts of the view, and the same as bits per byte."""
    mean, bits = np.empty(len(rows)), np.empty(len(rows))
    blocks = [(slice(0, len(rows)), rows)] if isinstance(rows, Rows) else rows.blocks()
    for block, part in blocks:
        weights = np.ones(len(part.texts)) if part.weights is None else part.weights
        for k, (values, design) in enumerate(zip(part.values, part.designs, strict=True), start=block.start):
            there = ~np.isnan(values)
            weight = there * weights * (1.0 if design is None else design.weights)
            total = float(values[there] @ weight[there])
            mean[k] = total / weight.sum()
            bits[k] = -total / np.log(2) / (weight @ part.num_bytes)
    return [
        Column("mean_log_likelihood", "mean log-likelihood", "number", _known(mean), unit="nat/text"),
        Column("bits_per_byte", "bits per byte", "number", _known(bits), unit="bit/byte"),
    ]


def _scored(rows: Rows | RowStream, scores: Path | str | None, taken: set[str]) -> list[Column]:
    if scores is None:
        return []
    from llreg.geometry.predict.scores import read_scores

    found = read_scores(scores)
    matched = found.match(rows.records)
    names = [f"score_{task}" if task.casefold() in taken else task for task in found.tasks]
    return [
        Column(name, task, "number", _known(values))
        for name, task, values in zip(names, found.tasks, matched.values.T, strict=True)
    ]


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _number(value: Any) -> float | None:
    return None if value is None or value <= 0 else float(value)  # on a logarithmic scale


def _day(value: Any) -> str | None:
    """The day of a date as a card or a record holds it; None for text that is no date."""
    try:
        return date.fromisoformat(str(value)[:10]).isoformat()
    except ValueError:
        return None
