"""Where two models differ: by subset of the texts, and text by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.distance import kl_matrix
from llreg.geometry.kl.pairs import records_along
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
    by_text = records_along(widest_texts(rows, texts), "text") if texts else None
    for record in by_text or ():
        start = beginning(registry.texts.texts[record["text"]])[: 4 * _SNIPPET]  # enough left when blanks are joined
        record["start"] = " ".join(start.split())[:_SNIPPET]
    return Contrast(rows, records_along(by_subset(rows), "subset") if subsets else None, by_text)


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

    square, used = _squares(rows)
    names = list(dict.fromkeys(str(name) for name in rows.subsets))
    columns = {name: np.flatnonzero(rows.subsets == name) for name in names}
    parts = [_one_subset(rows.take_texts(texts)) for texts in columns.values()]
    total = square.sum()
    shares = [square[texts].sum() / total if total > 0 else 0.0 for texts in columns.values()]
    counts = [int(used[texts].sum()) for texts in columns.values()]
    kl, kl_se, difference = (np.array(values) for values in zip(*parts, strict=True))
    bits = {"units": "bit/byte"}
    return xr.Dataset(
        {
            "kl_bits_per_byte": ("subset", kl, bits),
            "kl_bits_per_byte_se": ("subset", kl_se, bits),
            "share": ("subset", np.array(shares), {"units": "1"}),
            "mean_difference": ("subset", difference, bits),
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

    square, used = _squares(rows)
    total = square.sum()
    order = np.argsort(-np.where(used, square, -1.0), kind="stable")[: min(count, int(used.sum()))]
    difference = rows.values[0] - rows.values[1]
    deviation = difference - np.average(difference[used], weights=_text_weights(rows)[used])
    share = square / total if total > 0 else square
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
    """Each text's part of the weighted sum of squared centred differences, and which texts both rows have."""
    if len(rows) != 2:
        raise InputError(f"a comparison by text takes two models; got {len(rows)}")
    difference = rows.values[0] - rows.values[1]
    used = ~np.isnan(difference)
    if used.sum() < 2:
        raise InputError(
            f"{rows.labels[0]} and {rows.labels[1]} have {used.sum()} scored texts in common; a distance needs two"
        )
    weights = _text_weights(rows)
    used &= weights > 0
    centred = difference - np.average(difference[used], weights=weights[used])
    return np.where(used, weights * centred**2, 0.0), used


def _text_weights(rows: Rows) -> NDArray[np.float64]:
    """The view's weights times those of the samples that rows were scored on, float64 array of shape (n_texts,)."""
    weights = np.ones(len(rows.texts)) if rows.weights is None else rows.weights
    for design in {design for design in rows.designs if design is not None}:
        weights = weights * design.weights
    return weights


def _one_subset(rows: Rows) -> tuple[float, float, float]:
    result = kl_matrix(
        rows.values[:1],
        rows.num_bytes,
        clip=None,
        others=rows.values[1:],
        weights=rows.weights,
        designs=rows.designs[:1],
        other_designs=rows.designs[1:],
        tail_share=False,
    )
    difference = rows.values[0] - rows.values[1]
    weights = np.where(np.isnan(difference), 0.0, _text_weights(rows))
    bits = result["kl"].item() / result["kl_bits_per_byte"].item() if result["kl"].item() > 0 else rows.bits
    mean = float(np.average(np.nan_to_num(difference), weights=weights)) / bits if weights.any() else np.nan
    return result["kl_bits_per_byte"].item(), result["kl_bits_per_byte_se"].item(), mean
