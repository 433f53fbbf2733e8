"""Where two models differ: by subset of the texts, and text by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.pairs import records_of
from llreg.geometry.kl.rows import Rows, load_rows
from llreg.geometry.view.view import View, view_of
from llreg.texts.items import beginning
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.store.contents import Contents

_SNIPPET = 60  # characters of a text that are shown


@dataclass(frozen=True)
class Contrast:
    """Where two rows differ.

    Attributes
    ----------
    rows : Rows
        The two.
    subsets : list of dict, or None
        The variables of `by_subset`, a dict for each subset.
    texts : list of dict, or None
        The variables of `widest_texts`, a dict for each text, and ``start``, its first characters on one line (of a pair
        those of the response; empty where the text is not on this machine).
    """

    rows: Rows
    subsets: list[dict[str, Any]] | None = None
    texts: list[dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: models (row ids), version, id of the view, and what was asked for of subsets and texts."""
        parts = {"subsets": self.subsets, "texts": self.texts}
        return {
            "models": self.rows.row_ids,
            "version": self.rows.version,
            "view": self.rows.view.id,
            **{name: records for name, records in parts.items() if records is not None},
        }


def contrast(
    registry: Contents, models: Sequence[str], *, view: View | None = None, subsets: bool = True, texts: int = 0
) -> Contrast:
    """Where two rows differ: by subset, and in which texts most.

    Parameters
    ----------
    registry : Contents
    models : sequence of str
        Two rows, as in `Contents.find`.
    view : View, optional
        The registry's own by default.
    subsets : bool
        Whether to compare them by subset.
    texts : int
        How many texts to name; 0 for none.

    Raises
    ------
    NotFoundError
        If a name means no row.
    InputError
        If these are not two rows, or they share fewer than two texts.
    """
    rows = load_rows(registry, models, view_of(registry, view))
    by_text: list[dict[str, Any]] | None = None
    if texts:
        widest = widest_texts(rows, texts)
        by_text = records_of(widest, ["text", *map(str, widest.data_vars), "subset"])
    for record in by_text or ():
        start = beginning(registry.texts.texts[record["text"]])[: 4 * _SNIPPET]  # enough left when blanks are joined
        record["start"] = " ".join(start.split())[:_SNIPPET]
    of_subsets = by_subset(rows) if subsets else None
    return Contrast(
        rows,
        None if of_subsets is None else records_of(of_subsets, ["subset", *map(str, of_subsets.data_vars)]),
        by_text,
    )


def by_subset(rows: Rows) -> Dataset:
    """KL between two rows within each subset of the texts.

    Parameters
    ----------
    rows : Rows
        Two rows.

    Returns
    -------
    xarray.Dataset
        Dim (subset): float64 ``kl_bits_per_byte`` and its standard error, of the subset taken as a text set of its own;
        ``share``, what its texts carry of the whole KL (sums to 1); ``mean_difference``, mean log-likelihood of the first
        row less that of the second, bits per byte; int64 ``num_texts``, texts used. NaN where fewer than two texts are used.
    """
    import xarray as xr

    squares, used = _squares(rows)
    total = squares.sum()
    names = list(dict.fromkeys(str(name) for name in rows.subsets))
    columns: dict[str, list[float]] = {name: [] for name in ("kl_bits_per_byte", "kl_bits_per_byte_se")}
    shares, differences, counts = [], [], []
    for name in names:
        texts = np.flatnonzero(rows.subsets == name)
        part = rows.take_texts(texts)
        result = kl_plain(part.take([0]), part.take([1]), tail_share=False)
        for variable, values in columns.items():
            values.append(result[variable].item())
        counts.append(int(used[texts].sum()))
        shares.append(squares[texts].sum() / total if total > 0 else 0.0)
        # Bits per byte over the texts used, which may be fewer than those of the subset.
        kl = result["kl"].item()
        bits = kl / result["kl_bits_per_byte"].item() if kl > 0 else part.bits
        difference = part.values[0] - part.values[1]
        weights = np.where(np.isnan(difference), 0.0, text_weights(part))
        mean = float(np.average(np.nan_to_num(difference), weights=weights)) if weights.any() else np.nan
        differences.append(mean / bits)
    bits_attrs = {"units": "bit/byte"}
    return xr.Dataset(
        {
            **{name: ("subset", np.array(values), bits_attrs) for name, values in columns.items()},
            "share": ("subset", np.array(shares), {"units": "1"}),
            "mean_difference": ("subset", np.array(differences), bits_attrs),
            "num_texts": ("subset", np.array(counts, dtype=np.int64), {"units": "1"}),
        },
        {"subset": np.array(names, dtype=object)},
        {"version": rows.version, "view": rows.view.id},
    )


def widest_texts(rows: Rows, count: int) -> Dataset:
    """The texts that carry most of the distance between two rows.

    Parameters
    ----------
    rows : Rows
        Two rows.
    count : int
        How many texts.

    Returns
    -------
    xarray.Dataset
        Dim (text), largest share first, with the index of the text as coordinate and its subset: float64 ``difference``, log-
        likelihood of the first row less that of the second, nats; ``deviation``, the same less its mean over all texts;
        ``share`` of the whole KL.
    """
    import xarray as xr

    squares, used = _squares(rows)
    total = squares.sum()
    order = np.argsort(-np.where(used, squares, -1.0), kind="stable")[: min(count, int(used.sum()))]
    difference = rows.values[0] - rows.values[1]
    deviation = difference - np.average(difference[used], weights=text_weights(rows)[used])
    share = squares / total if total > 0 else squares
    return xr.Dataset(
        {
            "difference": ("text", difference[order], {"units": "nat"}),
            "deviation": ("text", deviation[order], {"units": "nat"}),
            "share": ("text", share[order], {"units": "1"}),
        },
        {"text": rows.texts[order], "subset": ("text", rows.subsets[order])},
        {"version": rows.version, "view": rows.view.id},
    )


def _squares(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each text's part of the weighted sum of squares that the KL is, and which texts both rows have.

    They are squared differences of fine coordinates, or of log-likelihoods about their mean.
    """
    if len(rows) != 2:
        raise InputError(f"a comparison by text takes two models; got {len(rows)}")
    difference = rows.values[0] - rows.values[1]
    used = ~np.isnan(difference)
    if used.sum() < 2:
        raise InputError(
            f"{rows.labels[0]} and {rows.labels[1]} have {used.sum()} scored texts in common; a distance needs two"
        )
    weights = text_weights(rows)
    used &= weights > 0  # a text that was not drawn stands for nothing
    if rows.fine_text is not None and rows.estimator == "fine":
        squares = np.bincount(rows.fine_text, (rows.columns[0] - rows.columns[1]) ** 2)
    else:
        squares = (difference - np.average(difference[used], weights=weights[used])) ** 2
    return np.where(used, weights * squares, 0.0), used


def text_weights(rows: Rows) -> NDArray[np.float64]:
    """The view's weights times those of the samples that rows were scored on, float64 array of shape (n_texts,)."""
    weights = np.ones(len(rows.texts)) if rows.weights is None else rows.weights
    for design in {design for design in rows.designs if design is not None}:
        weights = weights * design.weights
    return weights
