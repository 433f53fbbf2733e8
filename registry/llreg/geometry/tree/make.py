"""Making trees of models from their distances: linkage, neighbour joining, bootstrap support over the texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.tree.tree import Tree
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

Method = Literal["average", "ward", "nj"]
METHODS: tuple[Method, ...] = get_args(Method)
_ROUNDING = 1e-12  # branches shorter than this share of the largest distance are rounding, and taken as 0


def make_tree(
    rows: Rows,
    *,
    method: Method = "average",
    bootstrap: int = 0,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> Tree:
    """A tree of models from their pairwise KL divergences.

    Behind `Registry.tree`, which describes parameters, result and errors. `rows` are seen through a view already.

    Notes
    -----
    Average and Ward linkage (`scipy.cluster.hierarchy.linkage`) give a rooted tree with a clock: the path between two
    models is as long as the height at which their groups merge. Heights of average linkage are mean KL divergences
    between groups, in bits per byte. Ward works on Euclidean distances; those of the coordinates
    q / sqrt(2 N B ln 2), scaled so that their squares are KL in bits per byte (Kishino et al., arXiv 2505.15353), are the roots of
    the KL divergences, so its heights are in sqrt(bit/byte), and q is not needed.

    Neighbour joining (Saitou & Nei 1987) has no clock and no root: a branch is as long as that model moved. It assumes
    distances that add up along the tree. Squared Euclidean distances do so when the moves on different branches are
    independent, as in Brownian motion, because their cross terms vanish; so it takes KL itself, not its root. Where a
    few texts carry all distances, the moves are not independent and many branches come out as 0: clip, or drop those.

    Support is Felsenstein's bootstrap (1985) with texts as sites: N texts are drawn with replacement (a text drawn k
    times has k times its weight), distances and tree are made anew, and the share of trees that have the
    same group is counted; for neighbour joining, the same split of the models in two.
    """
    if method not in METHODS:
        raise InputError(f"tree method: expected one of {', '.join(METHODS)}; got {method!r}")
    if bootstrap < 0:
        raise InputError(f"bootstrap: expected a number of resamples, 0 or more; got {bootstrap}")
    if len(rows) < 2:
        raise InputError(f"a tree needs two rows; got {len(rows)}")
    twice = [row_id for row_id, times in Counter(rows.row_ids).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice; a tree holds each row once")
    distances = _distances(rows)
    tree = _tree_of(distances, rows.labels, method)
    support = _bootstrap_support(tree, rows, method, bootstrap, seed, progress) if bootstrap else tree.support
    attrs = {
        "registry": rows.registry,
        "version": rows.version,
        "view": rows.view.id,
        "view_description": rows.view.describe(),
        "method": method,
        "bootstrap": bootstrap,
        "seed": seed if bootstrap else None,
        "cophenetic_correlation": _cophenetic_correlation(tree, distances),
    }
    return replace(tree, support=support, attrs=MappingProxyType(attrs))


def _distances(rows: Rows, where: str = "") -> NDArray[np.float64]:
    """KL divergences, float64 array of shape (n_models, n_models), bit/byte."""
    kl: NDArray[np.float64] = kl_plain(rows, se=False, tail_share=False)["kl_bits_per_byte"].values
    np.fill_diagonal(kl, 0.0)
    if np.isnan(kl).any():
        i, j = np.argwhere(np.isnan(kl))[0]
        raise InputError(
            f"no distance between {rows.labels[i]} and {rows.labels[j]}{where}: they share fewer than two texts; "
            "leave one of them out"
        )
    return kl


def _tree_of(distances: NDArray[np.float64], labels: Sequence[str], method: Method) -> Tree:
    """The tree of one distance matrix, without support."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if method == "nj":
        children, lengths = neighbor_joining(distances)
    else:
        condensed = squareform(np.sqrt(distances) if method == "ward" else distances, checks=False)
        merges = linkage(condensed, method=method)
        children = [(int(a), int(b)) for a, b in merges[:, :2]]
        # A branch is half as long as the heights of its ends differ, so that paths are heights.
        heights = np.concatenate([np.zeros(len(distances)), merges[:, 2]])  # of leaves, then of inner nodes
        lengths = np.zeros(len(heights))
        for node, pair in enumerate(children, start=len(distances)):
            lengths[list(pair)] = np.maximum(heights[node] - heights[list(pair)], 0.0) / 2
    unit = "sqrt(bit/byte)" if method == "ward" else "bit/byte"
    return Tree(tuple(labels), tuple(children), lengths, np.full(len(lengths), np.nan), method != "nj", unit)


def _bootstrap_support(
    tree: Tree,
    rows: Rows,
    method: Method,
    bootstrap: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float64]:
    """Share of the resampled trees that have the group below each node, float64 array of shape (n_nodes,)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    uniform = np.full(len(rows.texts), 1 / len(rows.texts))
    times = Counter[int]()  # how many resampled trees have a group
    for done in range(1, bootstrap + 1):
        counts = generator.multinomial(len(rows.texts), uniform)
        texts = np.flatnonzero(counts)
        drawn, weights = rows.take_texts(texts), counts[texts].astype(np.float64)
        resample = replace(drawn, weights=weights if drawn.weights is None else weights * drawn.weights)
        times.update(_tree_of(_distances(resample, " in a resample"), rows.labels, method).groups().keys())
        if progress:
            progress(done, bootstrap)
    support = np.full(len(tree.lengths), np.nan)
    for group, node in tree.groups().items():
        support[node] = times[group] / bootstrap
    return support


def _cophenetic_correlation(tree: Tree, distances: NDArray[np.float64]) -> float:
    """Pearson correlation of path lengths in the tree with the distances it was made of; NaN if either does not vary.

    The cophenetic correlation of Sokal & Rohlf 1962; for Ward the distances are the roots of the KL divergences.
    """
    upper = np.triu_indices(len(tree), k=1)
    paths = tree.paths()[upper]
    distances = (np.sqrt(distances) if tree.unit.startswith("sqrt") else distances)[upper]
    if np.ptp(paths) == 0 or np.ptp(distances) == 0:
        return math.nan
    return float(np.corrcoef(paths, distances)[0, 1])


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
    rest = distances.astype(np.float64)  # (m, m), distances between the nodes that are left to join
    np.fill_diagonal(rest, np.inf)  # a node is no neighbour of itself
    sums = distances.sum(axis=1)  # (m,), the r of the notes
    nodes = list(range(count))
    children: list[tuple[int, ...]] = []
    lengths = np.zeros(max(2 * count - 2, 3))
    scratch = np.empty(count * count)  # one buffer for the criterion of all steps
    while len(nodes) > 3:
        # The pair i < j that minimises the criterion, divided by m - 2: d_ij - s_i - s_j with s = r / (m - 2).
        size, last = len(rest), len(rest) - 1
        share = sums / (size - 2)  # (m,)
        # d_ij - s_j for the whole matrix; s_i moves no minimum within a row, and is taken off the minima only.
        criterion = np.subtract(rest, share, out=scratch[: size * size].reshape(size, size))
        nearest = criterion.argmin(axis=1)
        k = int(np.argmin(criterion[np.arange(size), nearest] - share))
        i, j = sorted((k, int(nearest[k])))
        # Branches to the new node, neither of them negative.
        distance, difference = max(rest[i, j], 0.0), (sums[i] - sums[j]) / (size - 2)
        lengths[nodes[i]] = min(max((rest[i, j] + difference) / 2, 0.0), distance)
        lengths[nodes[j]] = distance - lengths[nodes[i]]
        children.append((nodes[i], nodes[j]))
        # Distances and row sums after joining: the new node takes the position of i, and the last node that of j.
        to_new = (rest[i] + rest[j] - rest[i, j]) / 2  # (m,)
        to_new[[i, j]] = 0.0
        sums = sums + to_new - rest[i] - rest[j]  # those of i and j are set below
        sums[i] = to_new.sum()
        rest[i, :] = rest[:, i] = to_new
        rest[i, i] = np.inf
        rest[j, :] = rest[last, :]
        rest[:, j] = rest[:, last]
        rest[j, j] = np.inf
        sums[j] = sums[last]
        rest, sums = rest[:last, :last], sums[:last]
        nodes[i] = count + len(children) - 1
        nodes[j] = nodes[-1]
        nodes.pop()
    lengths[nodes] = _last_branches(rest)
    children.append(tuple(nodes))
    lengths[lengths < _ROUNDING * distances.max(initial=0.0)] = 0.0
    return children, lengths


def _last_branches(rest: NDArray[np.float64]) -> list[float]:
    """Branches to the last two or three nodes; a negative one is 0, and the others take the difference."""
    if len(rest) == 2:
        return [rest[0, 1] / 2] * 2
    pairs = rest[0, 1], rest[0, 2], rest[1, 2]
    half = sum(pairs) / 2
    branches = np.array([half - pairs[2], half - pairs[1], half - pairs[0]])
    short = int(np.argmin(branches))
    if branches[short] < 0:
        branches[np.arange(3) != short] += branches[short]
        branches[short] = 0.0
    return [max(float(length), 0.0) for length in branches]
