"""Principal axes: classical MDS of KL divergences, which is PCA of the rows, and points added to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    of their eigenvalues. As KL is the squared distance of the double-centred rows q up to a scale (P1, arXiv
    2502.16173), B is the Gram matrix of the scaled q, and this is PCA of q; with KL in bits per byte the scale is
    q / sqrt(2 N B ln 2) (P3, arXiv 2505.15353). Where texts are missing KL is still right for every pair, but may not
    be a squared Euclidean distance; shares are then of the trace, negative eigenvalues included.
    """
    gram = centred_gram(kl)
    total = float(np.trace(gram))
    if not total > 0:
        raise InputError(f"the {len(kl)} rows are all identical; a map needs rows that differ")
    values, vectors = _leading(gram)
    values = np.where(values > _NOTHING * values[0], values, 0.0)
    vectors = vectors * axis_signs(vectors)
    return Axes(vectors * np.sqrt(values), (float(values[0]) / total, float(values[1]) / total))


def centred_gram(kl: NDArray[np.float64]) -> NDArray[np.float64]:
    """B = -J KL J / 2: inner products of the points, with their mean as origin."""
    means = kl.mean(axis=0)
    return np.asarray((means + means[:, None] - kl - means.mean()) / 2)


def add_points(
    xy: NDArray[np.float64], mean_kl: NDArray[np.float64], kl_to_new: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Place points among principal coordinates without moving them.

    Parameters
    ----------
    xy : float64 array of shape (n_models, 2)
        Coordinates of the models that are there, also turned or mirrored.
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


def axis_labels(name: str, shares: tuple[float, float]) -> tuple[str, str]:
    """Axis labels with the share that each axis shows, as "PC1 (sqrt(bit/byte), 43 %)"."""
    first, second = (f"{name}{k} (sqrt(bit/byte), {100 * share:.0f} %)" for k, share in enumerate(shares, 1))
    return first, second


def axis_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signs that make the largest entry of each column positive: eigenvectors have none of their own."""
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.asarray(np.where(signs == 0, 1.0, signs))


def _leading(gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two largest eigenvalues, and their vectors as columns of shape (n_models, 2)."""
    if len(gram) <= _FULL:
        values, vectors = np.linalg.eigh(gram)
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).normal(size=len(gram))  # fixed: the same matrix gives the same vectors
        values, vectors = eigsh(gram, k=2, which="LA", v0=start)
        order = np.argsort(values)
        values, vectors = values[order], vectors[:, order]
    values, vectors = values[::-1][:2], vectors[:, ::-1][:, :2]
    return values, vectors
