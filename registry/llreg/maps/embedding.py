"""Coordinates in the plane from rows, by one of four methods, and how far they would move with other texts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.rows import Rows
from llreg.maps.axes import classical_mds, fill_missing, leading_axes
from llreg.maps.nearest import Nearest, exact_neighbors, nearest, sketch, sketched_neighbors
from llreg.maps.placement import procrustes
from llreg.maps.tsne import ITERATIONS, choose_perplexity, num_neighbors, tsne
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
        perplexity = choose_perplexity(self.perplexity, count)
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
    """

    xy: NDArray[np.float64]
    axes: tuple[str, str] = ("", "")
    nearest: Nearest | None = None


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
    if isinstance(rows, Rows):
        complete = fill_missing(rows) if settings.method == "pca" else rows
        embedding = embed(kl_bits(complete), settings, rows.labels)
        # Neighbours by values that were put in are not the rows' own.
        return embedding if complete is rows else replace(embedding, nearest=None)

    if settings.method in ("mds", "umap"):
        raise InputError(
            f"{settings.method} needs the whole KL matrix, up to {DENSE_ROWS:,} rows; got {len(rows):,}: use tsne or pca"
        )
    # Leading principal coordinates are exact enough to start t-SNE, and to find candidates for neighbours.
    coordinates = sketch(rows)  # (n_models, n_dims)
    if settings.method == "pca":
        axes = leading_axes(rows, coordinates)
        return Embedding(axes.xy, axes.labels("PC"))
    assert settings.perplexity is not None
    count = max(_FEWEST_NEIGHBORS, num_neighbors(settings.perplexity, len(rows)))
    candidates = sketched_neighbors(coordinates, min(len(rows) - 1, count + count // 3))
    neighbors = exact_neighbors(rows, candidates, count)
    neighbors = replace(neighbors, index=np.where(np.isnan(neighbors.kl), -1, neighbors.index))
    neighbors.check_complete(rows.labels)
    return Embedding(_tsne(neighbors, coordinates[:, :2], settings), nearest=neighbors)


def embed(kl: NDArray[np.float64], settings: Settings, labels: Sequence[str] | None = None) -> Embedding:
    """Coordinates from a KL matrix.

    Parameters
    ----------
    kl : float64 array of shape (n_models, n_models), bit/byte
        Symmetric; "pca" expects it from rows without missing texts, see `fill_missing`.
    settings : Settings
        As `Settings.checked` returns them.
    labels : sequence of str, optional
        Names of the rows, for messages.

    Raises
    ------
    InputError, MissingExtraError
        As `embed_rows`.
    """
    missing = np.argwhere(np.isnan(kl))
    if len(missing):
        first, second = (labels[k] if labels else f"row {k}" for k in missing[0])
        raise InputError(
            f"{first} and {second} share fewer than two texts and have no distance; "
            "make a map of the others by naming them"
        )
    axes = classical_mds(kl)
    count = _FEWEST_NEIGHBORS
    if settings.perplexity is not None:
        count = max(count, num_neighbors(settings.perplexity, len(kl)))
    neighbors = nearest(kl, min(count, len(kl) - 1), itself=np.arange(len(kl)))
    if settings.method == "umap":
        return Embedding(_umap(kl, settings), nearest=neighbors)
    if settings.method == "tsne":
        return Embedding(_tsne(neighbors, axes.xy, settings), nearest=neighbors)
    return Embedding(axes.xy, axes.labels("PC" if settings.method == "pca" else "MDS"), neighbors)


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


def _tsne(neighbors: Nearest, initial: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    assert settings.perplexity is not None
    neighbors = neighbors.first(num_neighbors(settings.perplexity, len(neighbors.index)))
    return tsne(
        neighbors.index,
        neighbors.kl,
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
    start = "spectral" if len(kl) > neighbors + 2 else "random"  # what umap-learn's eigenvectors need
    model = UMAP(metric="precomputed", n_neighbors=neighbors, random_state=settings.seed, n_jobs=1, init=start)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="using precomputed metric", category=UserWarning)
        return np.asarray(model.fit_transform(np.sqrt(kl)), dtype=np.float64)


def resampled_ellipses(
    rows: Rows | RowStream,
    xy: NDArray[np.float64],
    settings: Settings,
    resamples: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Covariance of each point over maps of resampled texts.

    Parameters
    ----------
    rows : Rows or RowStream
        At most `DENSE_ROWS`.
    xy : float64 array of shape (n_models, 2)
        The map that the others are turned to.
    settings : Settings
        As the map was made.
    resamples : int
        How many; the paper takes 100.
    progress : callable, optional
        Called with the number of maps made and of all, after each.

    Returns
    -------
    float64 array of shape (n_models, 3)
        Variance of x, covariance, variance of y; divisor resamples - 1.

    Raises
    ------
    InputError
        If there are fewer than two resamples, or too many rows.

    Notes
    -----
    Oyama et al. 2025b (arXiv 2505.15428): texts are drawn uniformly with replacement, as many as there are; the map is
    made anew from them, turned to the first one by orthogonal Procrustes without scaling, and each point's 2x2
    covariance gives its ellipse of one standard deviation. It holds what the choice of texts does to the map, t-SNE's
    own unrest included; a group that moves as a whole has large ellipses all over.
    """
    if not isinstance(rows, Rows) or len(rows) > DENSE_ROWS:
        raise InputError(f"ellipses need whole KL matrices, up to {DENSE_ROWS:,} rows; got {len(rows):,}")
    if resamples < 2:
        raise InputError(f"ellipses: expected 2 or more resamples; got {resamples}")
    complete = fill_missing(rows) if settings.method == "pca" else rows
    num_texts = len(rows.texts)
    maps = np.empty((resamples, len(rows), 2))
    for k in range(resamples):
        drawn = np.random.default_rng([settings.seed, k]).integers(num_texts, size=num_texts)
        counts = np.bincount(drawn, minlength=num_texts).astype(np.float64)
        resampled = embed(kl_bits(complete, counts=counts), settings, rows.labels).xy
        rotation, shift = procrustes(resampled, xy)
        maps[k] = resampled @ rotation + shift
        if progress:
            progress(k + 1, resamples)
    deviations = maps - maps.mean(axis=0)
    covariance = np.einsum("rmi,rmj->mij", deviations, deviations) / (resamples - 1)  # (n_models, 2, 2)
    return np.stack([covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]], axis=1)
