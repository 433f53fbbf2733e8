"""t-SNE with the papers' settings, through openTSNE: whole maps, and rows placed into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llreg_schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of the maps of resampled texts in Oyama et al. 2025b; its map of 1,018 models has 10,000 iterations.
PERPLEXITY, ITERATIONS = 30.0, 1000
EARLY_ITERATIONS = 250  # with early exaggeration 12, the first of ITERATIONS
PLACING_PERPLEXITY = 5.0  # small, so that a placed row goes to its nearest ones and not between groups
_PLACING_ITERATIONS = 250
_INITIAL_SD = 1e-4  # of the first axis; scikit-learn's and openTSNE's
_JITTER = 0.01  # of that, so that rows on a line can leave it, and seeds differ

# One thread: openTSNE's Barnes-Hut sums in the order in which threads end, and two are no faster on a thousand rows.
_THREADS = 1


def choose_perplexity(perplexity: float | None, count: int) -> float:
    """A perplexity that so many rows allow: by default the papers', or the largest.

    Raises
    ------
    InputError
        If it is below 1 or above a third of the neighbours that a row can have, (count - 1) / 3.
    """
    largest = (count - 1) / 3
    if largest < 1:
        raise InputError(f"t-SNE needs 4 rows or more; got {count}: choose another method, as pca")
    if perplexity is None:
        return min(PERPLEXITY, largest)
    if not 1 <= perplexity <= largest:
        raise InputError(
            f"perplexity: expected 1 to {largest:.4g}, a third of the other rows ({count - 1}); got {perplexity:g}"
        )
    return perplexity


def num_neighbors(perplexity: float, count: int) -> int:
    """Neighbours that a row's affinities reach to: as scikit-learn has it, 3 times the perplexity and one."""
    return min(count - 1, int(3 * perplexity + 1))


def tsne(
    neighbors: NDArray[np.intp],
    kl: NDArray[np.float64],
    initial: NDArray[np.float64],
    *,
    perplexity: float,
    iterations: int = ITERATIONS,
    seed: int = 42,
) -> NDArray[np.float64]:
    """A t-SNE map.

    Parameters
    ----------
    neighbors : intp array of shape (n_models, k)
        Nearest rows of each, nearest first; k as `num_neighbors` says.
    kl : float64 array of shape (n_models, k)
        KL divergences to them, in any unit.
    initial : float64 array of shape (n_models, 2)
        Where to start from, in any scale: the first two principal axes.
    perplexity : float
    iterations : int
        The first 250 are with early exaggeration.
    seed : int
        Of a jitter of 1 % on the initial coordinates.

    Returns
    -------
    float64 array of shape (n_models, 2)
        The same for the same input, whatever the number of threads.

    Raises
    ------
    MissingExtraError
        If openTSNE is not installed.

    Notes
    -----
    The papers' maps (Oyama et al. 2025, arXiv 2502.16173; script of Oyama et al. 2025b, arXiv 2505.15428) are
    scikit-learn's TSNE with metric "sqeuclidean" on q. scikit-learn squares whatever its metric returns, so that the
    Gaussian kernel acts on the squared KL divergence: p_j|i = exp(-b_i KL_ij**2) / sum. openTSNE squares distances in
    the same way, and gets KL as the distance.
    """
    opentsne = _opentsne()
    # Where to start: the axes scaled to a standard deviation of 1e-4, with a jitter of 1 % of it.
    scaled = np.round((initial - initial.mean(axis=0)) / initial[:, 0].std(), 6)
    points, point_of = np.unique(scaled, axis=0, return_inverse=True)
    jitter = np.random.default_rng(seed).normal(0, _JITTER, points.shape)  # one a point: identical rows stay together
    start = (scaled + jitter[point_of.reshape(-1)]) * _INITIAL_SD  # (n_models, 2)

    affinities = opentsne.affinity.PrecomputedAffinities(
        _affinities(neighbors, kl, perplexity, symmetrize=True), normalize=False
    )
    early = min(EARLY_ITERATIONS, iterations)
    estimator = opentsne.TSNE(
        early_exaggeration_iter=early, n_iter=iterations - early, n_jobs=_THREADS, random_state=seed
    )
    return np.array(estimator.fit(affinities=affinities, initialization=start), dtype=np.float64)


def place(
    xy: NDArray[np.float64], neighbors: NDArray[np.intp], kl: NDArray[np.float64], *, perplexity: float
) -> NDArray[np.float64]:
    """Place rows into a t-SNE map without moving it; each as if it were the only one.

    Parameters
    ----------
    xy : float64 array of shape (n_models, 2)
        The map.
    neighbors : intp array of shape (n_new, k)
        The nearest rows of the map, nearest first, for each new one.
    kl : float64 array of shape (n_new, k)
        KL divergences to them.
    perplexity : float
        At most k / 3.

    Returns
    -------
    float64 array of shape (n_new, 2)

    Notes
    -----
    openTSNE's embedding of new points (Poličar, Stražar and Zupan 2019): they start at the median of their nearest
    and go down the gradient of t-SNE's cost towards a map that stays.
    """
    from scipy.sparse import csr_matrix

    opentsne = _opentsne()
    weights = _affinities(neighbors, kl, perplexity, symmetrize=False, num_reference=len(xy))
    # The map stays as it is: its points have no affinities to each other.
    no_affinities = opentsne.affinity.PrecomputedAffinities(csr_matrix((len(xy), len(xy))), normalize=False)
    reference = opentsne.TSNEEmbedding(xy, affinities=no_affinities)
    start = np.median(xy[neighbors[:, : max(1, round(perplexity))]], axis=1)
    # FFT interpolation would centre the reference: Barnes-Hut whatever the size.
    partial = opentsne.PartialTSNEEmbedding(
        start, reference, weights, negative_gradient_method="bh", n_jobs=_THREADS, theta=0.5, dof=1
    )
    placed = partial.optimize(
        _PLACING_ITERATIONS, learning_rate=0.1, exaggeration=1.5, momentum=0.8, max_grad_norm=0.25, max_step_norm=5
    )
    return np.array(placed, dtype=np.float64)


def _affinities(
    neighbors: NDArray[np.intp],
    kl: NDArray[np.float64],
    perplexity: float,
    *,
    symmetrize: bool,
    num_reference: int | None = None,
) -> Any:
    """Sparse affinities; of each row for itself (sum 1 a row) unless symmetrised (sum 1 in all)."""
    # Affinities do not depend on a row's unit. Single precision hides what a matrix product on another machine, or
    # with other threads, rounds in another way: t-SNE would make another map of it.
    furthest = kl[:, -1:]
    distances = np.divide(kl, furthest, out=np.zeros_like(kl), where=furthest > 0).astype(np.float32)
    return _opentsne().affinity.joint_probabilities_nn(
        neighbors.astype(np.int32),
        distances.astype(np.float64),
        [perplexity],
        symmetrize=symmetrize,
        normalization="pair-wise" if symmetrize else "point-wise",
        n_reference_samples=num_reference,
        n_jobs=_THREADS,
    )


def _opentsne() -> Any:
    try:
        import openTSNE
    except ImportError as error:
        raise MissingExtraError("openTSNE", "map") from error
    return openTSNE
