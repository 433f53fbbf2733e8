"""Rows as a view shows them: what every estimate is computed from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.noise import noise_variances, rounding_floor
from llreg.geometry.kl.patterns import Pattern, pair_texts
from llreg.geometry.view.view import Estimator, View, clip_values, double_centred
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
    unclipped : float array of shape (n_models, n_texts) or None, nats
        The values before clipping; None: the view clips nothing.
    fine : float32 array of shape (n_models, n_coordinates) or None, nats
        Fine coordinates of the texts, NaN in a row that has none; see `llreg.store.fine.FineMap`. None: the view's estimator is
        "text", or the registry's rows have no segments.
    fine_text : intp array of shape (n_coordinates,) or None
        The column of `values` whose text a coordinate is of, ascending.
    rounding : float, nats per text
        What the rounding of segments adds to a KL of fine rows; see `llreg.geometry.kl.noise.rounding_floor`.
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
    unclipped: NDArray[np.floating] | None = None
    fine: NDArray[np.float32] | None = None
    fine_text: NDArray[np.intp] | None = None
    rounding: float = 0.0

    @property
    def raw(self) -> NDArray[np.floating]:
        """The values before clipping, float array of shape (n_models, n_texts), nats."""
        return self.values if self.unclipped is None else self.unclipped

    @property
    def clipped_share(self) -> NDArray[np.float64]:
        """Share of each row's texts that the view raises to its threshold, float64 array of shape (n_models,)."""
        if self.view.clip is None:
            return np.zeros(len(self.values))
        clipped, scored = (self.raw < self.view.clip).sum(axis=1), (~np.isnan(self.raw)).sum(axis=1)
        return np.asarray(clipped / np.maximum(scored, 1))

    @property
    def cost(self) -> NDArray[np.float64]:
        """What a text costs each model on average, minus its log-likelihood: float64 array of shape (n_models,), nats."""
        scored = ~np.isnan(self.raw)
        weights = scored * (1.0 if self.weights is None else self.weights)
        total = (np.where(scored, self.raw, 0.0) * weights).sum(axis=1, dtype=np.float64)
        return np.asarray(-total / np.maximum(weights.sum(axis=1), 1e-300))

    @cached_property
    def has_fine(self) -> NDArray[np.bool_]:
        """Whether each row has fine coordinates, bool array of shape (n_models,)."""
        if self.fine is None:
            return np.zeros(len(self.values), dtype=bool)
        return np.asarray(~np.isnan(self.fine).all(axis=1))

    @property
    def estimator(self) -> Estimator:
        """What a distance between any two of the rows is estimated by: "fine" if all rows have segments."""
        return "fine" if self.fine is not None and self.has_fine.all() else "text"

    @property
    def columns(self) -> NDArray[np.float64]:
        """What squared distances are sums over: fine coordinates, or values of texts less the row's weighted mean.

        Returns
        -------
        float64 array of shape (n_models, n_columns), nats
            One a fine coordinate or a text; 0 where a text was not scored.
        """
        if self.fine is not None and self.estimator == "fine":
            return np.nan_to_num(self.fine, nan=0.0).astype(np.float64)
        present = ~np.isnan(self.values)
        filled = np.where(present, self.values, 0.0)
        weights = np.ones(filled.shape[1]) if self.weights is None else self.weights
        means = (filled @ weights) / np.maximum(present @ weights, 1e-300)
        return np.asarray(np.where(present, filled - means[:, None], 0.0))

    @property
    def column_weights(self) -> NDArray[np.float64] | None:
        """Weight of each of the `columns`, float64 array of shape (n_columns,); None if all are equal."""
        return self.weights if self.weights is None or self.estimator == "text" else self.weights[self.fine_text]

    @property
    def bits(self) -> float:
        """Nats per text in a bit per byte: mean bytes of the texts times ln 2 (Kishino et al., arXiv 2505.15353)."""
        return float(np.average(self.num_bytes, weights=self.weights) * np.log(2))

    @cached_property
    def q(self) -> NDArray[np.float64]:
        """Double-centred coordinates, float64 array of shape (n_models, n_columns), nats; 0 where not scored.

        Of fine rows these are their fine coordinates less the mean row; else, one a text, those of Oyama et al. 2025
        (arXiv 2502.16173); times the roots of the text weights. If some rows were scored on a sample of the texts, all are
        seen on that sample, weighted as in Oyama et al. 2025b (arXiv 2505.15428): squared distances of the coordinates are
        then estimates of those on all texts.

        Raises
        ------
        InputError
            If rows were scored on different samples: no coordinates give all their distances.
        """
        designs = list({design for design in self.designs if design is not None})
        if len(designs) > 1:
            raise InputError(
                f"coordinates need rows of one text subset; these have {len(designs)}: name the rows, or use distances"
            )
        if self.estimator == "fine":
            factors = np.ones(len(self.texts)) if self.weights is None else self.weights / self.weights.mean()
            if designs:
                everywhere = Pattern(np.arange(len(self)), np.ones(len(self.texts), dtype=bool), designs[0])
                texts = pair_texts(everywhere, everywhere, self.weights, len(self.texts))
                factors = np.zeros(len(self.texts))
                factors[texts.columns] = len(self.texts) / texts.total * (1 if texts.weights is None else texts.weights)
            return np.asarray((self.columns - self.columns.mean(axis=0)) * np.sqrt(factors[self.fine_text]))
        if designs:
            return self._sampled_q(designs[0])
        if self.weights is None:
            return np.nan_to_num(double_centred(self.values))
        weights = self.weights * (len(self.weights) / self.weights.sum())
        row_weights = np.where(np.isnan(self.values), 0.0, weights)  # (n_models, n_texts)
        means = (np.nan_to_num(self.values) * row_weights).sum(axis=1) / np.maximum(row_weights.sum(axis=1), 1e-300)
        centred = np.where(row_weights > 0, self.values - means[:, None], 0.0)
        return np.asarray((centred - centred.mean(axis=0)) * np.sqrt(weights))

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
        """Some of the rows, in the order of the positions."""
        rows = [int(k) for k in positions]
        return replace(
            self,
            records=[self.records[k] for k in rows],
            values=self.values[rows],
            unclipped=None if self.unclipped is None else self.unclipped[rows],
            designs=[self.designs[k] for k in rows],
            noise=None if self.noise is None else self.noise[rows],
            fine=None if self.fine is None else self.fine[rows],
        )

    def take_texts(self, columns: NDArray[np.intp]) -> Rows:
        """Some of the texts, by their columns in ascending order."""
        fine, fine_text = self.fine, self.fine_text
        if fine is not None and fine_text is not None:
            chosen = np.flatnonzero(np.isin(fine_text, columns))
            fine, fine_text = fine[:, chosen], np.searchsorted(columns, fine_text[chosen])
        return replace(
            self,
            values=self.values[:, columns],
            unclipped=None if self.unclipped is None else self.unclipped[:, columns],
            num_bytes=self.num_bytes[columns],
            texts=self.texts[columns],
            subsets=self.subsets[columns],
            weights=None if self.weights is None else self.weights[columns],
            designs=view_designs(self.designs, columns),
            fine=fine,
            fine_text=fine_text,
        )


def view_designs(designs: Sequence[Design | None], texts: NDArray[np.intp]) -> list[Design | None]:
    """What a view of some texts shows of how each row's texts were drawn."""
    return [None if design is None else design.take(texts) for design in designs]


def load_rows(registry: Contents, models: Sequence[str] | None, view: View, *, common: bool = False) -> Rows:
    """Rows of a registry through a view.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or None
        Which rows, as in `Contents.find`; None for all.
    view : View
    common : bool
        Whether all their distances must be of one estimator; see `common_view`.

    Raises
    ------
    NotFoundError
        If a name means no row.
    InputError
        If a name means several rows, or the view does not fit the text set.
    """
    records, version = registry.select(models)
    return view_rows(registry, records, common_view(registry, records, view) if common else view, version)


def full_rows(registry: Contents, view: View) -> Rows:
    """The rows that were scored on all texts and have any of the view's, for what is measured on whole rows."""
    rows = load_rows(registry, None, view, common=True)
    full = np.array([design is None for design in rows.designs], dtype=bool)
    return rows.take(np.flatnonzero(full & ~np.isnan(rows.values).all(axis=1)))


def view_rows(registry: Contents, records: Sequence[RowRecord], view: View, version: str) -> Rows:
    """Rows of some records through a view; as `load_rows`, for records that are found already."""
    index = registry.text_index
    texts = view.texts(index)
    parts = read_parts(registry, records, view)
    values = view_values(parts, view, texts)
    designs = view_designs(registry.designs(records), texts)
    outside = [record.row_id for record, design in zip(records, designs, strict=True) if design and not design.covers]
    if outside:
        warnings.warn(
            f"no distance in this view for {_first_three(outside)}: scored on a sample of another view's texts; use a view "
            "within that one (the subset file serves as --view)",
            LlregWarning,
            stacklevel=2,
        )
    fine, fine_text = fine_values(registry, view, texts, lambda variable: registry.values(records, variable=variable))
    return Rows(
        records=records,
        values=values,
        num_bytes=index.bytes_per_text[texts],
        texts=texts,
        subsets=np.asarray(index.subset, dtype=object)[texts],
        weights=view.text_weights(index),
        designs=designs,
        view=view,
        registry=registry.name,
        version=version,
        noise=vector_noise(records, parts, view),
        unclipped=None if view.clip is None else view_values(parts, replace(view, clip=None), texts).astype(np.float32),
        fine=fine,
        fine_text=fine_text,
        rounding=rounding_floor(registry.info.num_segments / registry.num_texts),
    )


def fine_values(
    registry: Contents, view: View, texts: NDArray[np.intp], read: Callable[[str], NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.intp]] | tuple[None, None]:
    """Fine coordinates of a view's vectors, shape (n_models, n_coordinates), and the column of the text of each.

    `read` gives a variable's of all texts. They are linear in the log-likelihoods, so those of a PMI are a difference, too.
    """
    text = registry.coordinate_text if view.estimator == "fine" else None
    if text is None:
        return None, None
    chosen = np.flatnonzero(np.isin(text, texts)) if len(texts) < registry.num_texts else slice(None)
    parts = [read(variable.replace("log_likelihood", "fine_coordinate"))[:, chosen] for variable in view.variables]
    fine = parts[0] if len(parts) == 1 else parts[0] - parts[1]
    return fine, np.searchsorted(texts, text[chosen])


def common_view(registry: Contents, records: Sequence[RowRecord], view: View) -> View:
    """A view whose estimator all rows can have: distances by segments and by whole texts do not go into one map or tree."""
    if view.estimator == "text":
        return view
    lacking = [record.row_id for record in records if not registry.has_segments(record)]
    if not lacking:
        return view
    if len(lacking) < len(records):  # else there is nothing to choose
        warnings.warn(
            f"distances are estimated from whole texts: no segments in {_first_three(lacking)}; name the other rows for "
            "estimates from segments",
            LlregWarning,
            stacklevel=3,
        )
    return replace(view, estimator="text")


def with_distances(rows: Rows) -> Rows:
    """The rows that can have a distance in their view; one with fewer than two values there is left out, with a warning."""
    enough = np.count_nonzero(~np.isnan(rows.values), axis=1) >= 2
    if enough.all():
        return rows
    lacking = [rows.row_ids[k] for k in np.flatnonzero(~enough)]
    warnings.warn(
        f"left out, with fewer than two scored texts in this view: {_first_three(lacking)}", LlregWarning, stacklevel=3
    )
    return rows.take(np.flatnonzero(enough))


def _first_three(row_ids: Sequence[str]) -> str:
    return ", ".join(row_ids[:3]) + (" …" if len(row_ids) > 3 else "")


def read_parts(registry: Contents, records: Sequence[RowRecord], view: View) -> list[NDArray[np.float32]]:
    """The log-likelihoods that a view's vector is made of, raw.

    Returns
    -------
    list of float32 arrays of shape (n_models, n_texts), nats
        One for each of the view's `variables`; all texts of the set, NaN where not scored.
    """
    return [registry.values(records, variable=variable) for variable in view.variables]


def view_values(parts: Sequence[NDArray[np.floating]], view: View, texts: NDArray[np.intp]) -> NDArray[np.float64]:
    """A view's vectors on its texts, from the log-likelihoods that they are made of.

    Parameters
    ----------
    parts : sequence of float arrays of shape (n_models, n_texts), nats
        As `read_parts` gives them.
    view : View
    texts : intp array of shape (n_kept,)
        Indices of the view's texts.

    Returns
    -------
    float64 array of shape (n_models, n_kept), nats

    Notes
    -----
    PMI_i(x, y) = ln p_i(y | x) - ln p_i(y) (arXiv 2603.18593). Both log-likelihoods are clipped at the view's threshold
    before the difference is taken, as both sides of a distance are: it is the log-likelihood of a text that a model
    cannot predict which is of no size to compare.
    """
    columns = [part if len(texts) == part.shape[1] else part[:, texts] for part in parts]
    clipped = [clip_values(values, view.clip) for values in columns]
    return clipped[0] if len(clipped) == 1 else clipped[0] - clipped[1]


def vector_noise(
    records: Sequence[RowRecord], parts: Sequence[NDArray[np.floating]], view: View
) -> NDArray[np.float64]:
    """Variance of the error of one text's value, by row: that of a difference is the sum of its parts'.

    Parameters
    ----------
    records : sequence of RowRecord
    parts : sequence of float arrays of shape (n_models, n_texts), nats
        As `read_parts` gives them.
    view : View

    Returns
    -------
    float64 array of shape (n_models,), nats**2
        See `llreg.geometry.kl.noise.noise_variances`.
    """
    variances = [
        noise_variances(records, np.count_nonzero(~np.isnan(part), axis=1), variable.removeprefix("log_likelihood"))
        for variable, part in zip(view.variables, parts, strict=True)
    ]
    return np.asarray(np.sum(variances, axis=0))
