"""What a map shows: points, the columns that colour them, neighbours, and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Column:
    """One value a model, to colour points by and to show in tables.

    Attributes
    ----------
    name : str
        Name in tables, as "num_parameters".
    title : str
        What people read, as "parameters".
    kind : {"category", "number", "date"}
        How it is coloured: categories get a legend, numbers and dates a colour bar.
    values : sequence of str, float or None
        One a model; str for categories, float for numbers, ISO 8601 days ("2025-03-01") for dates; None where unknown.
    unit : str or None
        Unit of numbers, as "nat/text".
    log : bool
        Whether numbers spread better on a logarithmic scale.
    """

    name: str
    title: str
    kind: Literal["category", "number", "date"]
    values: Sequence[str | float | None]
    unit: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Scene:
    """A map ready to be drawn or tabulated; every name in it is untrusted text.

    Attributes
    ----------
    title, subtitle : str
    row_ids, names : sequence of str
        Row ids (unique) and model names (what is shown), one a model.
    xy : float64 array of shape (n_models, 2)
        Coordinates; without unit for t-SNE and UMAP, sqrt(bit/byte) for PCA and MDS.
    axes : pair of str
        Axis labels; empty where an axis has no meaning of its own.
    columns : sequence of Column
        The first one colours the map unless another is asked for.
    neighbors : int array of shape (n_models, k)
        Positions of the nearest rows, nearest first; -1 where there are fewer.
    kl, kl_se : float64 arrays of shape (n_models, k), bit/byte
        KL divergence to the neighbours and its standard error; NaN where there are fewer.
    edges : sequence of (int, int, str)
        Declared parent, child, and relation ("finetune", "quantized", …).
    trajectories : sequence of (str, sequence of int)
        Name and rows, in order, of a path of checkpoints or sizes.
    ellipses : float64 array of shape (n_models, 3) or None
        Covariance (xx, xy, yy) of each point under resampling of the texts.
    links : sequence of (str or None)
        https address of a model's page, where it has one.
    placed : bool array of shape (n_models,) or None
        Points that were placed into an existing map.
    facts : sequence of (str, str)
        How the map was made, for the foot of the page: registry, version, view, method, settings.
    """

    title: str
    subtitle: str
    row_ids: Sequence[str]
    names: Sequence[str]
    xy: NDArray[np.float64]
    axes: tuple[str, str] = ("", "")
    columns: Sequence[Column] = ()
    neighbors: NDArray[np.intp] = field(default_factory=lambda: np.empty((0, 0), np.intp))
    kl: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    kl_se: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    edges: Sequence[tuple[int, int, str]] = ()
    trajectories: Sequence[tuple[str, Sequence[int]]] = ()
    ellipses: NDArray[np.float64] | None = None
    links: Sequence[str | None] = ()
    placed: NDArray[np.bool_] | None = None
    facts: Sequence[tuple[str, str]] = ()
