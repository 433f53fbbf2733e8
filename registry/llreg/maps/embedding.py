"""Coordinates in the plane from rows, by one of four methods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llreg.maps.axes import Axes, axis_labels, classical_mds
from llreg.maps.nearest import Nearest, nearest, nearest_rows
from llreg.maps.tsne import ITERATIONS, check_perplexity, default_perplexity, num_neighbors, tsne
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.rows import Rows

Method = Literal["tsne", "pca", "mds", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)

DENSE_ROWS = 3000  # up to here maps are made of the whole KL matrix (72 MB), above of the nearest rows only
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
    """

    method: Method = "tsne"
    seed: int = 42
    perplexity: float | None = None
    iterations: int = ITERATIONS

    def checked(self, count: int) -> Settings:
        """The settings for so many rows, with the perplexity as a number where it matters.

        Raises
        ------
        InputError
            If there is no such method, or there are too few rows for it.
        """
        if self.method not in METHODS:
            raise InputError(f"method: expected one of {', '.join(METHODS)}; got {self.method!r}")
        if count < 2:
            raise InputError(f"a map needs two rows; got {count}: add some with llreg add MODEL")
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
        return {"seed": self.seed, "neighbors": _UMAP_NEIGHBORS} if self.method == "umap" else {}


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


def embed_rows(rows: Rows, settings: Settings) -> Embedding:
    """Coordinates of rows.

    Parameters
    ----------
    rows : Rows
    settings : Settings
        As `Settings.checked` returns them.

    Raises
    ------
    InputError
        If all rows are identical, two rows share no texts, or there are too many rows for the method.
    MissingExtraError
        If openTSNE is not installed.
    """
    if len(rows) <= DENSE_ROWS:
        return embed(kl_bits(filled(rows) if settings.method == "pca" else rows), settings, rows.labels)
    if settings.method in ("mds", "umap"):
        raise InputError(
            f"{settings.method} needs the whole KL matrix, up to {DENSE_ROWS:,} rows; got {len(rows):,}: use tsne or pca"
        )
    axes = principal_axes(rows)
    if settings.method == "pca":
        return Embedding(axes.xy, axis_labels("PC", axes.shares))
    assert settings.perplexity is not None
    found = nearest_rows(rows, None, num_neighbors(settings.perplexity, len(rows))).complete(rows.labels)
    return Embedding(_tsne(found, axes, settings), nearest=found)


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
    if settings.method == "umap":
        return Embedding(_umap(kl, settings.seed))
    if settings.method != "tsne":
        return Embedding(axes.xy, axis_labels("PC" if settings.method == "pca" else "MDS", axes.shares))
    assert settings.perplexity is not None
    found = nearest(kl, num_neighbors(settings.perplexity, len(kl)), own=np.arange(len(kl)))
    return Embedding(_tsne(found, axes, settings), nearest=found)


def kl_bits(rows: Rows, *, counts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The KL matrix of rows, float64 array of shape (n_models, n_models), bit/byte.

    Parameters
    ----------
    rows : Rows
    counts : float64 array of shape (n_texts,), optional
        How often each text counts, for resampled texts.
    """
    from llreg.geometry.distance import kl_rows

    if counts is not None:
        drawn = np.flatnonzero(counts)
        weights = counts if rows.weights is None else counts * rows.weights
        rows = replace(rows.take_texts(drawn), weights=weights[drawn])
    values: NDArray[np.float64] = kl_rows(rows, se=False, tail_share=False)["kl_bits_per_byte"].values
    return values


def filled(rows: Rows) -> Rows:
    """Rows with a value for each missing text: the one that makes its q zero.

    PCA needs coordinates, and so a value everywhere; a row that misses texts is drawn towards the middle.
    """
    missing = np.isnan(rows.values)
    if not missing.any():
        return rows
    centred = rows.values - _row_means(rows)
    expected = np.nan_to_num(np.nanmean(centred, axis=0)) + _row_means(rows)
    return replace(rows, values=np.where(missing, expected, rows.values), designs=[None] * len(rows))


def principal_axes(rows: Rows) -> Axes:
    """PCA of rows without their KL matrix: for more rows than a matrix can hold.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    Axes
        As `classical_mds` of the KL matrix of the filled rows.
    """
    from scipy.sparse.linalg import LinearOperator, svds

    count, texts = rows.values.shape
    weights = np.ones(texts) if rows.weights is None else rows.weights
    scale = np.sqrt(weights / (2 * weights.sum() * rows.bits))  # so that squared distances are KL in bits per byte
    centre = _column_means(rows)
    blocks = [slice(start, start + 256) for start in range(0, count, 256)]

    def q(block: slice) -> NDArray[np.float64]:
        part = rows.values[block]
        return np.asarray(np.nan_to_num(part - _means(part, rows.weights) - centre) * scale)

    def times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([q(block) @ vector for block in blocks])

    def transposed_times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(sum(q(block).T @ vector[block] for block in blocks))

    operator = LinearOperator((count, texts), matvec=times, rmatvec=transposed_times, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=min(count, texts))
    left, values, _ = svds(operator, k=2, v0=start)
    total = float(sum((q(block) ** 2).sum() for block in blocks))
    xy = (left * values)[:, ::-1]
    signs = np.where(xy[np.abs(xy).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return Axes(xy * signs, (float(values[1] ** 2) / total, float(values[0] ** 2) / total))


def _tsne(found: Nearest, axes: Axes, settings: Settings) -> NDArray[np.float64]:
    assert settings.perplexity is not None
    return tsne(
        found.index,
        found.kl,
        axes.xy,
        perplexity=settings.perplexity,
        iterations=settings.iterations,
        seed=settings.seed,
    )


def _umap(kl: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError("UMAP needs umap-learn, which no extra of llreg brings: pip install umap-learn") from error
    neighbors = min(_UMAP_NEIGHBORS, len(kl) - 1)
    if len(kl) < 4:
        raise InputError(f"UMAP needs 4 rows or more; got {len(kl)}: choose another method, as pca")
    start = "spectral" if len(kl) > neighbors + 2 else "random"
    model = UMAP(metric="precomputed", n_neighbors=neighbors, random_state=seed, n_jobs=1, init=start)
    return np.asarray(model.fit_transform(np.sqrt(kl)), dtype=np.float64)


def _check_complete(kl: NDArray[np.float64], labels: list[str]) -> None:
    missing = np.argwhere(np.isnan(kl))
    if len(missing):
        one, other = (labels[k] for k in missing[0])
        raise InputError(
            f"{one} and {other} share fewer than two texts and have no distance; make a map of the others by naming them"
        )


def _means(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Mean of each row over its texts, as a column."""
    present = ~np.isnan(values)
    weight = present * (1.0 if weights is None else weights)
    total = (np.where(present, values, 0.0) * weight).sum(axis=1)
    return np.asarray((total / np.maximum(weight.sum(axis=1), 1e-300))[:, None])


def _row_means(rows: Rows) -> NDArray[np.float64]:
    return _means(rows.values, rows.weights)


def _column_means(rows: Rows) -> NDArray[np.float64]:
    """Mean of the row-centred values of each text, float64 array of shape (n_texts,), a block of rows at a time."""
    total, count = np.zeros(rows.values.shape[1]), np.zeros(rows.values.shape[1])
    for start in range(0, len(rows), 256):
        part = rows.values[start : start + 256]
        centred = part - _means(part, rows.weights)
        total += np.nan_to_num(centred).sum(axis=0)
        count += ~np.isnan(centred)
    return np.asarray(total / np.maximum(count, 1))
