"""Pairs of models: their KL divergences as plain values and as the cells of a table, what `llreg dist` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llreg.geometry.kl.distance import kl_rows
from llreg.geometry.kl.rows import load_rows
from llreg.geometry.view.view import View, view_of
from llreg.printable import short_names
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from xarray import Dataset

    from llreg.store.contents import Contents


class Column(NamedTuple):
    """One number of a pair.

    Attributes
    ----------
    name : str
        Key in `Pairs.pairs` and in JSON.
    variable : str
        Variable of `llreg.geometry.kl.distance.kl_rows`; "{kl}" becomes kl or kl_bits_per_byte.
    title : str
        Heading of the printed table; "{unit}" becomes BITS/BYTE or NATS/TEXT.
    cell : str
        Format of a printed value.
    """

    name: str
    variable: str
    title: str
    cell: str


# A new column of `llreg dist` needs a line here, and its variable in `kl_rows`.
COLUMNS = (
    Column("kl", "{kl}", "{unit}", "{:.6f}"),
    Column("se", "{kl}_se", "SE", "± {:.6f}"),
    Column("tail_share", "tail_share", "TAIL", "{:.2f}"),
    Column("num_texts", "num_texts", "TEXTS", "{}"),
)
_VERDICT_CELLS = {"identical": "identical", "same within noise": "within noise"}  # the others stay empty


@dataclass(frozen=True)
class Pairs:
    """KL divergences of pairs of rows.

    Attributes
    ----------
    pairs : list of dict
        Keys model and other (row ids), unit ("bit/byte" or "nat/text"), those of `COLUMNS` (without tail_share, if there are too
        many pairs for it), estimator ("fine" or "text"), mark (see `llreg.geometry.kl.distance.marks`), and verdict ("identical", "same within noise", "different" or "unknown").
    labels : mapping of str to str
        For each row id the model's name where it is unique among these rows, else the row id.
    registry, version : str
    view : View
    """

    pairs: list[dict[str, Any]]
    labels: Mapping[str, str]
    registry: str
    version: str
    view: View

    def to_json(self) -> dict[str, Any]:
        """Plain values: registry, version, id of the view, pairs."""
        return {"registry": self.registry, "version": self.version, "view": self.view.id, "pairs": self.pairs}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, a line a pair: two labels, `COLUMNS`, the estimator, and the verdict where it is news."""
        unit = "NATS/TEXT" if self.pairs[0]["unit"] == "nat/text" else "BITS/BYTE"
        header = ["MODEL", "OTHER", *(column.title.format(unit=unit) for column in COLUMNS), "BY", ""]
        lines = [
            [
                self.labels[pair["model"]],
                self.labels[pair["other"]],
                *(column.cell.format(pair[column.name]) if column.name in pair else "" for column in COLUMNS),
                pair["estimator"],
                _VERDICT_CELLS.get(pair["verdict"], "") or pair["mark"],
            ]
            for pair in self.pairs
        ]
        return header, lines


def list_pairs(
    registry: Contents,
    models: Sequence[str] | None = None,
    *,
    to: str | None = None,
    view: View | None = None,
    nats: bool = False,
) -> Pairs:
    """KL divergences of every two rows, or of one row to the others.

    Parameters
    ----------
    registry : Contents
    models : sequence of str, optional
        Which rows, as in `Contents.find`; all by default.
    to : str, optional
        Only the pairs of this row, nearest first; it need not be among `models`.
    view : View, optional
        The registry's own by default.
    nats : bool
        Nats per text instead of bits per byte.

    Raises
    ------
    NotFoundError
        If a name means no row.
    InputError
        If a name means several rows, the view does not fit the text set, or there is no pair.
    """
    view = view_of(registry, view)
    rows = load_rows(registry, models, view)
    result = kl_rows(rows) if to is None else kl_rows(load_rows(registry, [to], view), rows)
    row_ids, other_ids = ([str(row_id) for row_id in result[dim].values] for dim in ("model", "other"))
    kl, unit = ("kl", "nat/text") if nats else ("kl_bits_per_byte", "bit/byte")
    variables = {column.name: column.variable.format(kl=kl) for column in COLUMNS}
    values = {name: result[variable].values for name, variable in variables.items() if variable in result}
    fine, verdict, mark = (result[name].values for name in ("fine", "verdict", "mark"))
    pairs = [
        {
            "model": row_ids[i],
            "other": other_ids[j],
            "unit": unit,
            **{name: matrix[i, j].item() for name, matrix in values.items()},
            "estimator": "fine" if fine[i, j] else "text",
            "verdict": verdict[i, j],
            "mark": mark[i, j],
        }
        for i in range(len(row_ids))
        for j in range(i + 1 if to is None else 0, len(other_ids))
        if row_ids[i] != other_ids[j]
    ]
    if to is not None:  # nearest first; a pair without common texts has no distance, and comes last
        pairs.sort(key=lambda pair: (math.isnan(pair["kl"]), pair["kl"]))
    if not pairs:
        raise InputError("a distance needs two rows; see: llreg ls")
    names = {
        str(row_id): str(name)
        for dim in ("model", "other")
        for row_id, name in zip(result[dim].values, result[f"{dim}_id"].values, strict=True)
    }
    labels = dict(zip(names, short_names(list(names.values()), list(names)), strict=True))
    return Pairs(pairs, labels, rows.registry, rows.version, view)


def records_of(data: Dataset, names: Sequence[str]) -> list[dict[str, Any]]:
    """Variables and coordinates of one dim as plain values: a dict for each label, with these keys."""
    columns = [data[name].values.tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
