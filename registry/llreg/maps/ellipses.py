"""How far points would move if the texts were others: covariances over maps of resampled texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from llreg.maps.align import procrustes
from llreg.maps.embedding import DENSE_ROWS, Settings, embed, kl_bits
from llreg.maps.pca import filled
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows


def resampled_ellipses(
    rows: Rows,
    xy: NDArray[np.float64],
    settings: Settings,
    resamples: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Covariance of each point over maps of resampled texts.

    Parameters
    ----------
    rows : Rows
    xy : float64 array of shape (n_models, 2)
        The map that the others are turned to.
    settings : Settings
        As the map was made.
    resamples : int
        How many; P2 takes 100.
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
    P2 (arXiv 2505.15428): texts are drawn uniformly with replacement, as many as there are; the map is made anew
    from them, turned to the first one by orthogonal Procrustes without scaling, and each point's 2x2 covariance
    gives its ellipse of one standard deviation. It holds what the choice of texts does to the map, t-SNE's own
    unrest included; a group that moves as a whole has large ellipses all over.
    """
    if resamples < 2:
        raise InputError(f"ellipses: expected 2 or more resamples; got {resamples}")
    if len(rows) > DENSE_ROWS:
        raise InputError(f"ellipses need whole KL matrices, up to {DENSE_ROWS:,} rows; got {len(rows):,}")
    whole = filled(rows) if settings.method == "pca" else rows
    maps = np.empty((resamples, len(rows), 2))
    for k in range(resamples):
        drawn = np.random.default_rng([settings.seed, k]).integers(len(rows.texts), size=len(rows.texts))
        counts = np.bincount(drawn, minlength=len(rows.texts)).astype(np.float64)
        again = embed(kl_bits(whole, counts=counts), settings, rows.labels).xy
        rotation, shift = procrustes(again, xy)
        maps[k] = again @ rotation + shift
        if progress:
            progress(k + 1, resamples)
    away = maps - maps.mean(axis=0)
    covariance = np.einsum("rmi,rmj->mij", away, away) / (resamples - 1)
    return np.stack([covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]], axis=1)
