"""Principal axes: classical MDS of KL divergences, which is PCA of the rows, and points added to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.kl.stream import RowStream

_FULL = 64  # models up to which all eigenvectors are computed; above, only the first ones
_NOTHING = 1e-12  # an eigenvalue below this share of the largest is rounding


@dataclass(frozen=True)
class Axes:
    """Coordinates on the first two principal axes.

    Attributes
    ----------
    xy : float64 array of shape (n_models, 2)
        Squared distances, over all axes, are the KL divergences that they were made of.
    shares : pair of float
        Share of the sum of all squared distances that each axis shows.
    """

    xy: NDArray[np.float64]
    shares: tuple[float, float]

    def labels(self, name: str) -> tuple[str, str]:
        """Axis labels with the share that each axis shows, as "PC1 (sqrt(bit/byte), 43 %)"."""
        first, second = (f"{name}{k} (sqrt(bit/byte), {100 * share:.0f} %)" for k, share in enumerate(self.shares, 1))
        return first, second


def classical_mds(kl: NDArray[np.float64]) -> Axes:
    """Coordinates whose squared distances are KL divergences, on the two axes that show most of them.

    Parameters
    ----------
    kl : float64 array of shape (n_models, n_models)
        KL divergences; symmetric, without NaN.

    Raises
    ------
    InputError
        If all are 0.

    Notes
    -----
    Classical scaling (Torgerson 1952; Gower 1966): eigenvectors of B = -J KL J / 2 with J = I - 11'/n, times the roots
    of their eigenvalues. As KL is the squared distance of the double-centred rows q up to a scale (Oyama et al. 2025,
    arXiv 2502.16173), B is the Gram matrix of the scaled q, and this is PCA of q; with KL in bits per byte the scale is
    q / sqrt(2 N B ln 2) (Kishino et al., arXiv 2505.15353). Where texts are missing KL is still right for every pair,
    but may not be a squared Euclidean distance; shares are then of the trace, negative eigenvalues included.
    """
    means = kl.mean(axis=0)
    gram = (means + means[:, None] - kl - means.mean()) / 2  # B: the mean of the points is the origin
    total = float(np.trace(gram))
    if not total > 0:
        raise InputError(f"the {len(kl)} rows are all identical; a map needs rows that differ")
    if len(gram) <= _FULL:
        values, vectors = np.linalg.eigh(gram)
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).normal(size=len(gram))  # fixed: the same matrix gives the same vectors
        values, vectors = eigsh(gram, k=2, which="LA", v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    # The two largest, which stand last; vectors are columns: (n_models, 2)
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    values = np.where(values > _NOTHING * values[0], values, 0.0)
    vectors = vectors * axis_signs(vectors)
    return Axes(vectors * np.sqrt(values), (float(values[0]) / total, float(values[1]) / total))


def add_points(
    xy: NDArray[np.float64], mean_kl: NDArray[np.float64], kl_to_new: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Place points among principal coordinates without moving them.

    Parameters
    ----------
    xy : float64 array of shape (n_models, 2)
        Coordinates of the models on the map, also turned or mirrored.
    mean_kl : float64 array of shape (n_models,)
        Mean KL divergence of each of them from all of them, itself included.
    kl_to_new : float64 array of shape (n_new, n_models)

    Returns
    -------
    float64 array of shape (n_new, 2)

    Notes
    -----
    Gower's formula (1968): with squared distances d to a new point and squared norms b of the old ones about their
    mean, x = (X'X)^-1 X'(b - d) / 2. A point that made the coordinates gets its own back.
    """
    centre = xy.mean(axis=0)
    centred = xy - centre
    norms = mean_kl - mean_kl.mean() / 2
    solution = np.linalg.pinv(centred) @ (norms[:, None] - kl_to_new.T) / 2  # pinv: an axis may be empty
    return np.asarray(centre + solution.T)


def axis_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signs that make the largest entry of each column positive: eigenvectors have none of their own."""
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.asarray(np.where(signs == 0, 1.0, signs))


def fill_missing(rows: Rows) -> Rows:
    """Rows with a value for each missing text: what the row would have there if it were the mean of all rows.

    PCA needs coordinates, and so a value everywhere; a row that misses texts is drawn towards the middle.
    """
    if rows.fine is not None and rows.estimator == "fine":  # they are centred for each text, and so 0 is the mean
        return replace(rows, fine=np.where(np.isnan(rows.fine), np.nanmean(rows.fine, axis=0), rows.fine))
    missing = np.isnan(rows.values)
    if not missing.any():
        return rows
    means = _row_means(rows)
    centred = rows.values - means
    expected = np.nan_to_num(centred).sum(axis=0) / np.maximum((~missing).sum(axis=0), 1)  # (n_texts,)
    return replace(rows, values=np.where(missing, means + expected, rows.values), designs=[None] * len(rows))


def leading_axes(rows: RowStream, coordinates: NDArray[np.float64]) -> Axes:
    """The first two of many principal coordinates, with the share of all squared distances that they show.

    Parameters
    ----------
    rows : RowStream
    coordinates : float64 array of shape (n_models, n_dims), sqrt(bit/byte)
        Of these rows, largest axis first.
    """
    # Sum of the squared lengths of all rows' coordinates about their mean, over all texts: squares - n mean'mean.
    squares, mean, scale = 0.0, np.zeros(1), 1.0
    for _, block in rows.blocks():
        weights = np.ones(len(block.texts)) if block.weights is None else block.weights
        centred = block.columns  # (n_block, n_columns)
        if block.column_weights is not None:
            centred *= np.sqrt(block.column_weights)
        squares += float((centred**2).sum())
        mean = mean + centred.sum(axis=0) / len(rows)
        scale = 2 * weights.sum() * block.bits  # nats**2 in a bit per byte; the same in every block
    total = float(squares - len(rows) * (mean @ mean)) / scale

    xy = coordinates[:, :2]
    first, second = ((xy - xy.mean(axis=0)) ** 2).sum(axis=0) / total
    return Axes(xy * axis_signs(xy), (float(first), float(second)))


def _row_means(rows: Rows) -> NDArray[np.float64]:
    """Weighted mean of each row over its scored texts, as a column: (n_models, 1)."""
    scored = ~np.isnan(rows.values)
    weight = scored * (1.0 if rows.weights is None else rows.weights)
    total = (np.where(scored, rows.values, 0.0) * weight).sum(axis=1)
    return np.asarray((total / np.maximum(weight.sum(axis=1), 1e-300))[:, None])
