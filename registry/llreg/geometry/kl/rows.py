"""Rows as a view shows them: what every estimate is computed from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.patterns import Pattern, pair_texts
from llreg.geometry.kl.vectors import read_parts, seen_values, vector_noise
from llreg.geometry.view.view import View, double_centred
from llreg.printable import short_names
from llreg.texts.design import Design
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, LlregWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents


class Labelled:
    """What rows are called, from their records."""

    records: Sequence[RowRecord]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def row_ids(self) -> list[str]:
        """Row ids."""
        return [record.row_id for record in self.records]

    @property
    def names(self) -> list[str]:
        """Model names; not unique where a model has several rows."""
        return [record.identity.name for record in self.records]

    @cached_property
    def labels(self) -> list[str]:
        """Model names where they are unique among these rows, else row ids."""
        return short_names(self.names, self.row_ids)


@dataclass(frozen=True)
class Rows(Labelled):
    """Some rows of a registry, clipped and restricted to the texts of a view.

    Attributes
    ----------
    records : sequence of RowRecord
    values : float64 array of shape (n_models, n_texts), nats
        NaN where a text was not scored.
    num_bytes : float64 array of shape (n_texts,)
        UTF-8 bytes of the texts.
    texts : intp array of shape (n_texts,)
        Their indices in the text set.
    subsets : object array of shape (n_texts,)
        Their subsets.
    weights : float64 array of shape (n_texts,) or None
        The view's text weights; None if all are equal.
    designs : sequence of (Design or None)
        One a row: how its texts were drawn, for a row that was scored on a sample of the texts.
    view : View
    registry, version : str
        Where the rows are from.
    noise : float64 array of shape (n_models,) or None, nats**2
        Variance of the error that arithmetic puts on a text; see `llreg.geometry.kl.noise`. None: not known.
    """

    records: Sequence[RowRecord]
    values: NDArray[np.float64]
    num_bytes: NDArray[np.float64]
    texts: NDArray[np.intp]
    subsets: NDArray[np.object_]
    weights: NDArray[np.float64] | None
    designs: Sequence[Design | None]
    view: View
    registry: str
    version: str
    noise: NDArray[np.float64] | None = None

    @property
    def bits(self) -> float:
        """Nats per text in a bit per byte: mean bytes of the texts times ln 2 (P3, arXiv 2505.15353)."""
        return float(np.average(self.num_bytes, weights=self.weights) * np.log(2))

    @cached_property
    def q(self) -> NDArray[np.float64]:
        """Double-centred coordinates, float64 array of shape (n_models, n_texts), nats; 0 where not scored (P1).

        If some rows were scored on a sample of the texts, all are seen on that sample, weighted as P2 does (arXiv
        2505.15428): squared distances of the coordinates are then estimates of those on all texts.

        Raises
        ------
        InputError
            If rows were scored on different samples: no coordinates give all their distances.
        """
        designs = list({design for design in self.designs if design is not None})
        if not designs:
            return self._weighted_q()
        if len(designs) > 1:
            raise InputError(
                f"coordinates need rows of one text subset; these have {len(designs)}: name the rows, or use distances"
            )
        return self._sampled_q(designs[0])

    def _weighted_q(self) -> NDArray[np.float64]:
        if self.weights is None:
            return np.nan_to_num(double_centred(self.values))
        weights = self.weights * (len(self.weights) / self.weights.sum())
        there = np.where(np.isnan(self.values), 0.0, weights)
        means = (np.nan_to_num(self.values) * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1e-300)
        rows = np.where(there > 0, self.values - means[:, None], 0.0)
        return np.asarray((rows - rows.mean(axis=0)) * np.sqrt(weights))

    def _sampled_q(self, design: Design) -> NDArray[np.float64]:
        everywhere = np.ones(len(self.texts), dtype=bool)
        pattern = Pattern(np.arange(len(self)), everywhere, design)
        texts = pair_texts(pattern, pattern, self.weights, len(self.texts))
        q = np.zeros_like(self.values)
        if texts.weights is None or not texts.count:
            return q
        values = np.ma.masked_invalid(self.values[:, texts.columns])
        values -= np.ma.average(values, axis=1, weights=texts.weights)[:, None]
        values -= values.mean(axis=0)
        q[:, texts.columns] = np.ma.filled(values, 0.0) * texts.roots * np.sqrt(len(self.texts) / texts.total)
        return q

    def take(self, positions: Sequence[int] | NDArray[np.intp]) -> Rows:
        """Some of the rows, in the given order."""
        chosen = [int(k) for k in positions]
        return replace(
            self,
            records=[self.records[k] for k in chosen],
            values=self.values[chosen],
            designs=[self.designs[k] for k in chosen],
            noise=None if self.noise is None else self.noise[chosen],
        )

    def take_texts(self, columns: NDArray[np.intp]) -> Rows:
        """Some of the texts."""
        return replace(
            self,
            values=self.values[:, columns],
            num_bytes=self.num_bytes[columns],
            texts=self.texts[columns],
            subsets=self.subsets[columns],
            weights=None if self.weights is None else self.weights[columns],
            designs=seen_designs(self.designs, columns),
        )


def seen_designs(designs: Sequence[Design | None], texts: NDArray[np.intp]) -> list[Design | None]:
    """What a view of some texts shows of how each row's texts were drawn."""
    return [None if design is None else design.take(texts) for design in designs]


def load_rows(registry: Contents, models: Sequence[str] | None, view: View) -> Rows:
    """Rows of a registry through a view.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or None
        Which rows, as in `Contents.find`; None for all.
    view : View

    Raises
    ------
    NotFoundError
        If a name means no row.
    InputError
        If a name means several rows, or the view does not fit the text set.
    """
    records, version = registry.select(models)
    return view_rows(registry, records, view, version)


def full_rows(registry: Contents, view: View) -> Rows:
    """The rows that were scored on all texts and have any of the view's, for what is measured on whole rows."""
    rows = load_rows(registry, None, view)
    full = np.array([design is None for design in rows.designs], dtype=bool)
    return rows.take(np.flatnonzero(full & ~np.isnan(rows.values).all(axis=1)))


def view_rows(registry: Contents, records: Sequence[RowRecord], view: View, version: str) -> Rows:
    """Rows of some records through a view; as `load_rows`, for records that are found already."""
    index = registry.text_index
    texts = view.texts(index)
    parts = read_parts(registry, records, view)
    designs = seen_designs(registry.designs(records), texts)
    _warn_uncovered(records, designs)
    return Rows(
        records=records,
        values=seen_values(parts, view, texts),
        num_bytes=index.bytes_per_text[texts],
        texts=texts,
        subsets=np.asarray(index.subset, dtype=object)[texts],
        weights=view.text_weights(index),
        designs=designs,
        view=view,
        registry=registry.name,
        version=version,
        noise=vector_noise(records, parts, view),
    )


def with_distances(rows: Rows) -> Rows:
    """The rows that can have a distance in their view; one with fewer than two values there is left out, with a warning."""
    there = np.count_nonzero(~np.isnan(rows.values), axis=1) >= 2
    if there.all():
        return rows
    out = [rows.row_ids[k] for k in np.flatnonzero(~there)]
    warnings.warn(
        f"left out, with fewer than two scored texts in this view: {', '.join(out[:3])}{' …' if len(out) > 3 else ''}",
        LlregWarning,
        stacklevel=3,
    )
    return rows.take(np.flatnonzero(there))


def _warn_uncovered(records: Sequence[RowRecord], designs: Sequence[Design | None]) -> None:
    outside = [record.row_id for record, design in zip(records, designs, strict=True) if design and not design.covers]
    if outside:
        warnings.warn(
            f"no distance in this view for {', '.join(outside[:3])}{' …' if len(outside) > 3 else ''}: scored on a sample "
            "of another view's texts; use a view within that one (the subset file serves as --view)",
            LlregWarning,
            stacklevel=3,
        )
