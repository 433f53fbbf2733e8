"""Neighbour joining: the tree whose path lengths come closest to given distances, without a clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDING = 1e-12  # branches shorter than this share of the largest distance are rounding, and taken as 0


def neighbor_joining(distances: NDArray[np.float64]) -> tuple[list[tuple[int, ...]], NDArray[np.float64]]:
    """Join the two nearest neighbours, as the whole matrix sees them, until three nodes are left.

    Parameters
    ----------
    distances : float64 array of shape (n, n)
        Symmetric, finite, zero on the diagonal, n >= 2. Additive along a tree, ideally; any unit.

    Returns
    -------
    children : list of tuple of int
        Of the inner nodes n, n + 1, …, in the order they were made. The last one has three children (two if n = 2):
        the tree has no root, it is only written down from there.
    lengths : float64 array of shape (n_nodes,)
        Length of the branch above each node, in the unit of the distances; 0 for the last.

    Notes
    -----
    Saitou & Nei 1987 in the form of Studier & Keppler 1988: of all pairs the one with the smallest
    (m - 2) d_ij - r_i - r_j is joined, with the row sums r over the m nodes that are left; O(n**3) time, O(n**2)
    memory. It gives back any tree whose path lengths the distances are. A branch that comes out negative is set to 0
    and its sister takes the difference, so that the path between the two keeps its length (Kuhner & Felsenstein 1994).
    """
    count = len(distances)
    left = distances.astype(np.float64)
    np.fill_diagonal(left, np.inf)  # a node is no neighbour of itself
    sums = distances.sum(axis=1)
    nodes = list(range(count))
    children: list[tuple[int, ...]] = []
    lengths = np.zeros(max(2 * count - 2, 3))
    scratch = np.empty(count * count)
    while len(nodes) > 3:
        i, j = _nearest(left, sums, scratch)
        lengths[nodes[i]], lengths[nodes[j]] = _branches(left[i, j], (sums[i] - sums[j]) / (len(nodes) - 2))
        children.append((nodes[i], nodes[j]))
        left, sums = _join(left, sums, i, j)
        nodes[i] = count + len(children) - 1
        nodes[j] = nodes[-1]
        nodes.pop()
    lengths[nodes] = _last(left)
    children.append(tuple(nodes))
    lengths[lengths < _ROUNDING * distances.max(initial=0.0)] = 0.0
    return children, lengths


def _nearest(left: NDArray[np.float64], sums: NDArray[np.float64], scratch: NDArray[np.float64]) -> tuple[int, int]:
    """The pair to join, i < j. The criterion is taken as d_ij - s_j first, so that a row's part is added only once."""
    size = len(left)
    share = sums / (size - 2)
    criterion = np.subtract(left, share, out=scratch[: size * size].reshape(size, size))
    best = criterion.argmin(axis=1)
    i = int(np.argmin(criterion[np.arange(size), best] - share))
    j = int(best[i])
    return (i, j) if i < j else (j, i)


def _branches(distance: float, difference: float) -> tuple[float, float]:
    """Lengths of the two branches of a pair, neither of them negative."""
    first = min(max((distance + difference) / 2, 0.0), max(distance, 0.0))
    return first, max(distance, 0.0) - first


def _join(
    left: NDArray[np.float64], sums: NDArray[np.float64], i: int, j: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put the joined node in the place of i, and the last node in the place of j."""
    last = len(left) - 1
    joined = (left[i] + left[j] - left[i, j]) / 2
    joined[[i, j]] = 0.0
    sums = sums + joined - left[i] - left[j]  # those of i and j are set below
    sums[i] = joined.sum()
    left[i, :] = left[:, i] = joined
    left[i, i] = np.inf
    left[j, :] = left[last, :]
    left[:, j] = left[:, last]
    left[j, j] = np.inf
    sums[j] = sums[last]
    return left[:last, :last], sums[:last]


def _last(left: NDArray[np.float64]) -> list[float]:
    """Branches to the last two or three nodes; a negative one is 0, and the others take the difference."""
    if len(left) == 2:
        return [left[0, 1] / 2] * 2
    pairs = left[0, 1], left[0, 2], left[1, 2]
    half = sum(pairs) / 2
    branches = np.array([half - pairs[2], half - pairs[1], half - pairs[0]])
    short = int(np.argmin(branches))
    if branches[short] < 0:
        branches[np.arange(3) != short] += branches[short]
        branches[short] = 0.0
    return [max(float(length), 0.0) for length in branches]
