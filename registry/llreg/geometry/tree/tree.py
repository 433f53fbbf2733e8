"""Trees of models: hierarchical clustering and neighbour joining, with bootstrap support over the texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llreg.geometry.kl.distance import kl_rows
from llreg.geometry.tree.joining import neighbor_joining
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows

Method = Literal["average", "ward", "nj"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree with models as leaves.

    Attributes
    ----------
    labels : tuple of str
        Names of the leaves, which are nodes 0 to n_leaves - 1, in the order of the rows. Untrusted text.
    children : tuple of tuple of int
        Of the inner nodes n_leaves, n_leaves + 1, …; children come before their parents, and the last node is the root.
    lengths : float64 array of shape (n_nodes,)
        Length of the branch above each node, in `unit`; 0 for the root.
    support : float64 array of shape (n_nodes,)
        Share of the resamples that have the group below each node; NaN for leaves, for the root, where a branch
        of length 0 makes the group arbitrary, and everywhere if there was no bootstrap.
    rooted : bool
        False if the root is only where the tree is written down from (neighbour joining).
    unit : str
        Of the lengths: "bit/byte" or "sqrt(bit/byte)".
    attrs : mapping
        How it was made: method, bootstrap, seed, cophenetic_correlation, registry, version, view, view_description.
    """

    labels: tuple[str, ...]
    children: tuple[tuple[int, ...], ...]
    lengths: NDArray[np.float64]
    support: NDArray[np.float64]
    rooted: bool
    unit: str
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<llreg.geometry.Tree of {len(self)} models by {self.attrs.get('method', 'unknown')}>"

    def newick(self) -> str:
        """The tree in Newick format; see `llreg.geometry.tree.newick.newick`."""
        from llreg.geometry.tree.newick import newick

        return newick(self)

    def to_json(self) -> dict[str, Any]:
        """How it was made, its unit, and the tree in Newick format."""
        return {**self.attrs, "rooted": self.rooted, "unit": self.unit, "newick": self.newick().strip()}

    @cached_property
    def sizes(self) -> NDArray[np.intp]:
        """Leaves below each node, intp array of shape (n_nodes,)."""
        sizes = np.ones(len(self.lengths), dtype=np.intp)
        for node, children in self.inner():
            sizes[node] = sizes[list(children)].sum()
        return sizes

    @cached_property
    def depths(self) -> NDArray[np.float64]:
        """Path length from the root to each node, float64 array of shape (n_nodes,)."""
        depths = np.zeros(len(self.lengths))
        for node, children in reversed(self.inner()):
            depths[list(children)] = depths[node] + self.lengths[list(children)]
        return depths

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Where each node's leaves start when the tree is laid out, smaller groups first, shape (n_nodes,).

        Node k then has the places ``starts[k]`` to ``starts[k] + sizes[k] - 1``; a leaf's place is its start.
        """
        starts = np.zeros(len(self.lengths), dtype=np.intp)
        for node, children in reversed(self.inner()):
            place = starts[node]
            for child in sorted(children, key=lambda k: (self.sizes[k], self._first[k])):
                starts[child] = place
                place += self.sizes[child]
        return starts

    def paths(self) -> NDArray[np.float64]:
        """Path lengths between leaves, float64 array of shape (n_leaves, n_leaves)."""
        count = len(self)
        places, order = self.starts[:count], np.argsort(self.starts[:count])
        depth = self.depths[:count][order]
        paths = np.zeros((count, count))  # by place: a node's leaves are then one block
        for node, children in self.inner():
            blocks = [slice(self.starts[child], self.starts[child] + self.sizes[child]) for child in children]
            for k, one in enumerate(blocks):
                for other in blocks[:k]:
                    paths[one, other] = depth[one, None] + depth[other] - 2 * self.depths[node]
                    paths[other, one] = paths[one, other].T
        return np.asarray(paths[np.ix_(places, places)])

    def groups(self) -> dict[int, int]:
        """Inner nodes by the group of leaves below them, as the bits of an integer (leaf k is bit k).

        In an unrooted tree the group is the side of the branch without leaf 0. Left out are groups that every tree has
        (all leaves, single leaves) and those above which the branch has length 0, as their order is arbitrary.
        """
        bits = [1 << leaf for leaf in range(len(self))]
        everything = (1 << len(self)) - 1
        found = {}
        for node, children in self.inner():
            bits.append(sum(bits[child] for child in children))  # the children share no leaf
            group = bits[node] if self.rooted or not bits[node] & 1 else everything ^ bits[node]
            if group.bit_count() > 1 and bits[node] != everything and self.lengths[node] > 0:
                found[group] = node
        return found

    def midpoint(self) -> Tree:
        """The unrooted tree with a root halfway between the two leaves farthest apart; a rooted one as it is."""
        if self.rooted or len(self) < 3:
            return self
        paths = self.paths()
        far = np.unravel_index(int(paths.argmax()), paths.shape)
        node = max((int(leaf) for leaf in far), key=lambda leaf: self.depths[leaf])
        rest, parents = float(paths[far]) / 2, self._parents()
        while rest > self.lengths[node] and node in parents:
            rest -= float(self.lengths[node])
            node = parents[node]
        return self if node not in parents else self._rerooted(node, rest, parents)

    def inner(self) -> list[tuple[int, tuple[int, ...]]]:
        """Inner nodes with their children, which come before them."""
        return list(enumerate(self.children, start=len(self.labels)))

    @cached_property
    def _first(self) -> list[int]:
        """The first leaf below each node: an order that does not depend on how the tree was found."""
        first = list(range(len(self.labels)))
        for _, children in self.inner():
            first.append(min(first[child] for child in children))
        return first

    def _parents(self) -> dict[int, int]:
        return {child: node for node, children in self.inner() for child in children}

    def _rerooted(self, below: int, distance: float, parents: Mapping[int, int]) -> Tree:
        """Root on the branch above node `below`, at a distance from it: branches up to the old root turn over."""
        # node -> its new children, each with length and support of the branch to it
        new: dict[int, list[tuple[int, float, float]]] = {
            node: [(child, float(self.lengths[child]), float(self.support[child])) for child in children]
            for node, children in self.inner()
        }
        branch, root = (float(self.lengths[below]), float(self.support[below])), len(self.lengths)
        new[root] = [(below, distance, branch[1]), (parents[below], max(branch[0] - distance, 0.0), math.nan)]
        child, node = below, parents[below]
        while True:
            new[node] = [entry for entry in new[node] if entry[0] != child]
            if node not in parents:
                break
            new[node].append((parents[node], float(self.lengths[node]), float(self.support[node])))
            child, node = node, parents[node]
        return self._renumbered(root, new)

    def _renumbered(self, root: int, new: Mapping[int, Sequence[tuple[int, float, float]]]) -> Tree:
        order, stack = [], [root]
        while stack:
            node = stack.pop()
            order.append(node)
            stack += [child for child, _, _ in new[node] if child in new]
        number = {node: len(self) + k for k, node in enumerate(reversed(order))}
        lengths, support = np.zeros(len(self) + len(order)), np.full(len(self) + len(order), np.nan)
        children = []
        for node in reversed(order):
            entries = [(number.get(child, child), length, share) for child, length, share in new[node]]
            children.append(tuple(child for child, _, _ in entries))
            for child, length, share in entries:
                lengths[child], support[child] = length, share
        return replace(self, children=tuple(children), lengths=lengths, support=support, rooted=True)


def make_tree(
    rows: Rows,
    *,
    method: Method = "average",
    bootstrap: int = 0,
    seed: int = 42,
    progress: Callable[[int, int], None] | None = None,
) -> Tree:
    """A tree of models from their pairwise KL divergences.

    Parameters
    ----------
    rows : Rows
        At least two.
    method : {"average", "ward", "nj"}
        Average linkage on KL; Ward linkage on scaled coordinates; neighbour joining on KL.
    bootstrap : int
        Resamples of the texts that give the support of each group; 0 for none.
    seed : int
        Of the resamples. The same rows, method and seed give the same tree.
    progress : callable, optional
        Called with (done, bootstrap) after each resample.

    Raises
    ------
    InputError
        With fewer than two rows, a row that is given twice, an unknown method, or two rows without common texts.

    Notes
    -----
    Average and Ward linkage (`scipy.cluster.hierarchy.linkage`) give a rooted tree with a clock: the path between two
    models is as long as the height at which their groups merge. Heights of average linkage are mean KL divergences
    between groups, in bits per byte. Ward works on Euclidean distances; those of the coordinates
    q / sqrt(2 N B ln 2), scaled so that their squares are KL in bits per byte (P3, arXiv 2505.15353), are the roots of
    the KL divergences, so its heights are in sqrt(bit/byte), and q is not needed.

    Neighbour joining (Saitou & Nei 1987) has no clock and no root: a branch is as long as that model moved. It assumes
    distances that add up along the tree. Squared Euclidean distances do so when the moves on different branches are
    independent, as in Brownian motion, because their cross terms vanish; so it takes KL itself, not its root. Where a
    few texts carry all distances, the moves are not independent and many branches come out as 0: clip, or drop those.

    Support is Felsenstein's bootstrap (1985) with texts as sites: N texts are drawn with replacement (a text drawn k
    times has k times its weight), distances and tree are made anew, and the share of trees that have the
    same group is counted; for neighbour joining, the same split of the models in two.
    """
    _check(rows, method, bootstrap)
    distances = _distances(rows)
    tree = _grow(distances, rows.labels, method)
    support = tree.support
    if bootstrap:
        support = _support(tree, rows, method, bootstrap, seed, progress)
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


def _check(rows: Rows, method: str, bootstrap: int) -> None:
    if method not in METHODS:
        raise InputError(f"tree method: expected one of {', '.join(METHODS)}; got {method!r}")
    if bootstrap < 0:
        raise InputError(f"bootstrap: expected a number of resamples, 0 or more; got {bootstrap}")
    if len(rows) < 2:
        raise InputError(f"a tree needs two rows; got {len(rows)}")
    twice = [row_id for row_id, times in Counter(rows.row_ids).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice; a tree holds each row once")


def _distances(rows: Rows, where: str = "") -> NDArray[np.float64]:
    """KL divergences, float64 array of shape (n_models, n_models), bit/byte."""
    kl: NDArray[np.float64] = kl_rows(rows, se=False, tail_share=False)["kl_bits_per_byte"].values
    np.fill_diagonal(kl, 0.0)
    if np.isnan(kl).any():
        one, other = (rows.labels[k] for k in np.argwhere(np.isnan(kl))[0])
        raise InputError(
            f"no distance between {one} and {other}{where}: they share fewer than two texts; leave one of them out"
        )
    return kl


def _grow(distances: NDArray[np.float64], labels: Sequence[str], method: Method) -> Tree:
    """The tree of one distance matrix, without support."""
    if method == "nj":
        children, lengths = neighbor_joining(distances)
    else:
        children, lengths = _linkage(np.sqrt(distances) if method == "ward" else distances, method)
    unit = "sqrt(bit/byte)" if method == "ward" else "bit/byte"
    return Tree(tuple(labels), tuple(children), lengths, np.full(len(lengths), np.nan), method != "nj", unit)


def _linkage(distances: NDArray[np.float64], method: str) -> tuple[list[tuple[int, ...]], NDArray[np.float64]]:
    """Children of the inner nodes, and branch lengths: half the difference of the heights."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    merges = linkage(squareform(distances, checks=False), method=method)
    children: list[tuple[int, ...]] = [(int(one), int(other)) for one, other in merges[:, :2]]
    heights = np.concatenate([np.zeros(len(distances)), merges[:, 2]])
    lengths = np.zeros(len(heights))
    for node, pair in enumerate(children, start=len(distances)):
        lengths[list(pair)] = np.maximum(heights[node] - heights[list(pair)], 0.0) / 2
    return children, lengths


def _support(
    tree: Tree,
    rows: Rows,
    method: Method,
    bootstrap: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float64]:
    """Share of the resampled trees that have the group below each node."""
    generator = np.random.Generator(np.random.PCG64(seed))
    groups, seen = tree.groups(), Counter[int]()
    for done in range(1, bootstrap + 1):
        counts = generator.multinomial(len(rows.texts), np.full(len(rows.texts), 1 / len(rows.texts)))
        distances = _distances(_resampled(rows, counts), where=" in a resample")
        seen.update(_grow(distances, rows.labels, method).groups().keys())
        if progress:
            progress(done, bootstrap)
    support = np.full(len(tree.lengths), np.nan)
    for group, node in groups.items():
        support[node] = seen[group] / bootstrap
    return support


def _resampled(rows: Rows, counts: NDArray[np.int64]) -> Rows:
    """The texts that were drawn, with how often as weights."""
    drawn = np.flatnonzero(counts)
    taken = rows.take_texts(drawn)
    times = counts[drawn].astype(np.float64)
    return replace(taken, weights=times if taken.weights is None else times * taken.weights)


def _cophenetic_correlation(tree: Tree, distances: NDArray[np.float64]) -> float:
    """Pearson correlation of path lengths in the tree with the distances it was made of; NaN if either does not vary.

    The cophenetic correlation of Sokal & Rohlf 1962; for Ward the distances are the roots of the KL divergences.
    """
    upper = np.triu_indices(len(tree), k=1)
    paths = tree.paths()[upper]
    given = (np.sqrt(distances) if tree.unit.startswith("sqrt") else distances)[upper]
    if np.ptp(paths) == 0 or np.ptp(given) == 0:
        return math.nan
    return float(np.corrcoef(paths, given)[0, 1])
