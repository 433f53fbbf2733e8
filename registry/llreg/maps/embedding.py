"""Coordinates in the plane from rows, by one of four methods."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.rows import Rows
from llreg.maps.axes import axis_labels, classical_mds
from llreg.maps.nearest import Nearest, nearest
from llreg.maps.pca import filled, leading_axes
from llreg.maps.tsne import ITERATIONS, check_perplexity, default_perplexity, num_neighbors, tsne
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.stream import RowStream

Method = Literal["tsne", "pca", "mds", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)

DENSE_ROWS = 5000  # up to here maps are made of the whole KL matrix (200 MB), above of the nearest rows only
_FEWEST_NEIGHBORS = 10  # found for every method, for tables and pages
_UMAP_NEIGHBORS = 15  # umap-learn's own default


@dataclass(frozen=True)
class Settings:
    """How coordinates are made.

    Attributes
    ----------
    method : {"tsne", "pca", "mds", "umap"}
    seed : int
    perplexity : float or None
        Of t-SNE; None: 30, the papers', or the largest that the number of rows allows.
    iterations : int
        Of t-SNE.
    neighbors : int or None
        Of UMAP; None: 15, or as many other rows as there are.
    """

    method: Method = "tsne"
    seed: int = 42
    perplexity: float | None = None
    iterations: int = ITERATIONS
    neighbors: int | None = None

    def checked(self, count: int) -> Settings:
        """The settings for so many rows, with the perplexity and neighbours as numbers where they matter.

        Raises
        ------
        InputError
            If there is no such method, or there are too few rows for it.
        """
        if self.method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}; got {self.method!r}")
        if count < 2:
            raise InputError(f"a map needs two rows; got {count}: add some with llreg add MODEL")
        if self.method == "umap":
            neighbors = _UMAP_NEIGHBORS if self.neighbors is None else self.neighbors
            return replace(self, perplexity=None, neighbors=min(neighbors, count - 1))
        if self.method != "tsne":
            return replace(self, perplexity=None)
        perplexity = default_perplexity(count) if self.perplexity is None else self.perplexity
        check_perplexity(perplexity, count)
        if self.iterations < 1:
            raise InputError(f"iterations: expected 1 or more; got {self.iterations}")
        return replace(self, perplexity=perplexity)

    def to_json(self) -> dict[str, Any]:
        """What the method uses, for the map document."""
        if self.method == "tsne":
            return {"perplexity": self.perplexity, "iterations": self.iterations, "seed": self.seed}
        return {"seed": self.seed, "neighbors": self.neighbors} if self.method == "umap" else {}


@dataclass(frozen=True)
class Embedding:
    """Coordinates of rows.

    Attributes
    ----------
    xy : float64 array of shape (n_models, 2)
        Without unit for t-SNE and UMAP; sqrt(bit/byte) for PCA and MDS.
    axes : pair of str
        Axis labels; empty where an axis has no meaning of its own.
    nearest : Nearest or None
        Nearest rows of each, where the method has found them.
    errors : float64 array of shape (n_models, k) or None, bit/byte
        Standard errors of their KL, where they were computed; NaN where they were too costly.
    """

    xy: NDArray[np.float64]
    axes: tuple[str, str] = ("", "")
    nearest: Nearest | None = None
    errors: NDArray[np.float64] | None = None


def embed_rows(rows: Rows | RowStream, settings: Settings) -> Embedding:
    """Coordinates of rows.

    Parameters
    ----------
    rows : Rows or RowStream
        A stream for more than `DENSE_ROWS`, which are mapped without the KL matrix.
    settings : Settings
        As `Settings.checked` returns them.

    Raises
    ------
    InputError
        If all rows are identical, two rows share no texts, or there are too many rows for the method.
    MissingExtraError
        If openTSNE is not installed.
    """
    if not isinstance(rows, Rows):
        return _embed_stream(rows, settings)
    whole = filled(rows) if settings.method == "pca" else rows
    made = embed(kl_bits(whole), settings, rows.labels)
    return made if whole is rows else replace(made, nearest=None)  # of values that were put in


def _embed_stream(rows: RowStream, settings: Settings) -> Embedding:
    """Coordinates from the leading principal ones: exact enough to start t-SNE, and to find candidates for neighbours."""
    from llreg.maps.large import exact_neighbors, sketch, sketched_neighbors

    if settings.method in ("mds", "umap"):
        raise InputError(
            f"{settings.method} needs the whole KL matrix, up to {DENSE_ROWS:,} rows; got {len(rows):,}: use tsne or pca"
        )
    coordinates = sketch(rows)
    if settings.method == "pca":
        axes = leading_axes(rows, coordinates)
        return Embedding(axes.xy, axis_labels("PC", axes.shares))
    assert settings.perplexity is not None
    count = max(_FEWEST_NEIGHBORS, num_neighbors(settings.perplexity, len(rows)))
    candidates = sketched_neighbors(coordinates, min(len(rows) - 1, count + count // 3))
    found, errors = exact_neighbors(rows, candidates, count)
    found = Nearest(np.where(np.isnan(found.kl), -1, found.index), found.kl).complete(rows.labels)
    return Embedding(_tsne(found, coordinates[:, :2], settings), nearest=found, errors=errors)


def embed(kl: NDArray[np.float64], settings: Settings, labels: list[str] | None = None) -> Embedding:
    """Coordinates from a KL matrix.

    Parameters
    ----------
    kl : float64 array of shape (n_models, n_models), bit/byte
        Symmetric; "pca" expects it from rows without missing texts, see `filled`.
    settings : Settings
        As `Settings.checked` returns them.
    labels : list of str, optional
        Names of the rows, for messages.

    Raises
    ------
    InputError, MissingExtraError
        As `embed_rows`.
    """
    _check_complete(kl, labels or [f"row {k}" for k in range(len(kl))])
    axes = classical_mds(kl)
    perplexity = settings.perplexity
    count = _FEWEST_NEIGHBORS if perplexity is None else max(_FEWEST_NEIGHBORS, num_neighbors(perplexity, len(kl)))
    found = nearest(kl, min(count, len(kl) - 1), own=np.arange(len(kl)))
    if settings.method == "umap":
        return Embedding(_umap(kl, settings), nearest=found)
    if settings.method == "tsne":
        return Embedding(_tsne(found, axes.xy, settings), nearest=found)
    return Embedding(axes.xy, axis_labels("PC" if settings.method == "pca" else "MDS", axes.shares), found)


def kl_bits(rows: Rows, *, counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The KL matrix of rows, float64 array of shape (n_models, n_models), bit/byte.

    Parameters
    ----------
    rows : Rows
    counts : float64 array of shape (n_texts,), optional
        How often each text counts, for resampled texts.
    """
    if counts is not None:
        drawn = np.flatnonzero(counts)
        weights = counts if rows.weights is None else counts * rows.weights
        rows = replace(rows.take_texts(drawn), weights=weights[drawn])
    values: NDArray[np.float64] = kl_plain(rows, se=False, tail_share=False)["kl_bits_per_byte"].values
    return values


def _tsne(found: Nearest, initial: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    assert settings.perplexity is not None
    found = found.first(num_neighbors(settings.perplexity, len(found.index)))
    return tsne(
        found.index,
        found.kl,
        initial,
        perplexity=settings.perplexity,
        iterations=settings.iterations,
        seed=settings.seed,
    )


def _umap(kl: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError("UMAP needs umap-learn, which no extra of llreg brings: pip install umap-learn") from error
    neighbors = settings.neighbors
    assert neighbors is not None
    if len(kl) < 4:
        raise InputError(f"UMAP needs 4 rows or more; got {len(kl)}: choose another method, as pca")
    start = "spectral" if len(kl) > neighbors + 2 else "random"
    model = UMAP(metric="precomputed", n_neighbors=neighbors, random_state=settings.seed, n_jobs=1, init=start)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="using precomputed metric", category=UserWarning)
        return np.asarray(model.fit_transform(np.sqrt(kl)), dtype=np.float64)


def _check_complete(kl: NDArray[np.float64], labels: list[str]) -> None:
    missing = np.argwhere(np.isnan(kl))
    if len(missing):
        one, other = (labels[k] for k in missing[0])
        raise InputError(
            f"{one} and {other} share fewer than two texts and have no distance; make a map of the others by naming them"
        )
