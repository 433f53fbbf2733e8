"""Trees of models: nodes, branch lengths and support, paths between leaves, and their Newick text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Without quotes an underscore means a blank, and brackets, commas, colons and semicolons are the grammar.
_PLAIN = re.compile(r"[A-Za-z0-9.+/@|-]+")


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
        return f"<llreg.geometry.tree.Tree of {len(self)} models by {self.attrs.get('method', 'unknown')}>"

    def newick(self) -> str:
        """The tree as one line of Newick, ending in a newline.

        Names are quoted where they hold anything but letters, digits and ``. + - / @ |``; a quote in a name is doubled.
        Branch lengths are written so that they read back as the same float64, in the tree's unit. Labels of inner nodes
        are the bootstrap support of the branch above them, from 0 to 1.
        """
        texts = [newick_label(label) for label in self.labels]
        for node, children in self.inner():
            inside = ",".join(f"{texts[child]}:{float(self.lengths[child])!r}" for child in children)
            for child in children:
                texts[child] = ""  # kept once: a tree that is one long comb would be kept n times over
            support = float(self.support[node])
            texts.append(f"({inside})" + ("" if math.isnan(support) else repr(support)))
        return f"{texts[-1]};\n"

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

        Node k then has the positions ``starts[k]`` to ``starts[k] + sizes[k] - 1``; a leaf's position is its start.
        """
        # The lowest leaf below each node breaks ties of size: an order that does not depend on how the tree was found.
        lowest = list(range(len(self)))
        for _, children in self.inner():
            lowest.append(min(lowest[child] for child in children))
        starts = np.zeros(len(self.lengths), dtype=np.intp)
        for node, children in reversed(self.inner()):
            start = starts[node]
            for child in sorted(children, key=lambda k: (self.sizes[k], lowest[k])):
                starts[child] = start
                start += self.sizes[child]
        return starts

    def paths(self) -> NDArray[np.float64]:
        """Path lengths between leaves, float64 array of shape (n_leaves, n_leaves)."""
        positions = self.starts[: len(self)]
        depth = self.depths[: len(self)][np.argsort(positions)]  # (position,)
        paths = np.zeros((len(self), len(self)))  # (position, position): a node's leaves are then one block
        for node, children in self.inner():
            blocks = [slice(self.starts[child], self.starts[child] + self.sizes[child]) for child in children]
            for a, b in combinations(blocks, 2):  # leaves whose paths turn at this node
                paths[b, a] = depth[b, None] + depth[a] - 2 * self.depths[node]
                paths[a, b] = paths[b, a].T
        return np.asarray(paths[np.ix_(positions, positions)])

    def groups(self) -> dict[int, int]:
        """Inner nodes by the group of leaves below them, as the bits of an integer (leaf k is bit k).

        In an unrooted tree the group is the side of the branch without leaf 0. Left out are groups that every tree has
        (all leaves, single leaves) and those above which the branch has length 0, as their order is arbitrary.
        """
        bits = [1 << leaf for leaf in range(len(self))]
        everything = (1 << len(self)) - 1
        groups = {}
        for node, children in self.inner():
            bits.append(sum(bits[child] for child in children))  # the children share no leaf
            group = bits[node] if self.rooted or not bits[node] & 1 else everything ^ bits[node]
            if group.bit_count() > 1 and bits[node] != everything and self.lengths[node] > 0:
                groups[group] = node
        return groups

    def inner(self) -> list[tuple[int, tuple[int, ...]]]:
        """Inner nodes with their children, which come before them."""
        return list(enumerate(self.children, start=len(self.labels)))

    def midpoint(self) -> Tree:
        """The unrooted tree with a root halfway between the two leaves farthest apart; a rooted one as it is."""
        if self.rooted or len(self) < 3:
            return self
        parents = {child: node for node, children in self.inner() for child in children}
        paths = self.paths()
        ends = np.unravel_index(int(paths.argmax()), paths.shape)
        # Half of the path is walked up from the deeper end: the midpoint cannot lie beyond the old root from there.
        node, rest = max((int(leaf) for leaf in ends), key=lambda leaf: self.depths[leaf]), float(paths[ends]) / 2
        while rest > self.lengths[node] and node in parents:
            rest -= float(self.lengths[node])
            node = parents[node]
        return self if node not in parents else self._rerooted(node, rest, parents)

    def _rerooted(self, below: int, distance: float, parents: Mapping[int, int]) -> Tree:
        """Root on the branch above node `below`, at a distance from it: branches up to the old root turn over."""
        # node -> its children, each with length and support of the branch to it
        branches: dict[int, list[tuple[int, float, float]]] = {
            node: [(child, float(self.lengths[child]), float(self.support[child])) for child in children]
            for node, children in self.inner()
        }
        length, support, root = float(self.lengths[below]), float(self.support[below]), len(self.lengths)
        branches[root] = [(below, distance, support), (parents[below], max(length - distance, 0.0), math.nan)]
        child, node = below, parents[below]
        while True:
            branches[node] = [branch for branch in branches[node] if branch[0] != child]
            if node not in parents:
                break
            branches[node].append((parents[node], float(self.lengths[node]), float(self.support[node])))
            child, node = node, parents[node]
        # Number the inner nodes anew, children before their parents.
        order, stack = [], [root]
        while stack:
            node = stack.pop()
            order.append(node)
            stack += [child for child, _, _ in branches[node] if child in branches]
        number = {node: len(self) + k for k, node in enumerate(reversed(order))}
        lengths, shares = np.zeros(len(self) + len(order)), np.full(len(self) + len(order), np.nan)
        children = []
        for node in reversed(order):
            children.append(tuple(number.get(child, child) for child, _, _ in branches[node]))
            for child, length, support in branches[node]:
                lengths[number.get(child, child)], shares[number.get(child, child)] = length, support
        return replace(self, children=tuple(children), lengths=lengths, support=shares, rooted=True)


def newick_label(name: str) -> str:
    """A name as a Newick label; characters that are not printable are escaped."""
    text = printable(name)
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "''") + "'"
