"""Newick: trees as text that other programs read."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.tree.tree import Tree

# Without quotes an underscore means a blank, and brackets, commas, colons and semicolons are the grammar.
_PLAIN = re.compile(r"[A-Za-z0-9.+/@|-]+")


def newick(tree: Tree) -> str:
    """The tree as one line of Newick, ending in a newline.

    Names are quoted where they hold anything but letters, digits and ``. + - / @ |``; a quote in a name is doubled.
    Branch lengths are written so that they read back as the same float64, in the tree's unit. Labels of inner nodes are
    the bootstrap support of the branch above them, from 0 to 1.
    """
    texts = [quoted(label) for label in tree.labels]
    for node, children in enumerate(tree.children, start=len(texts)):  # children come before their parents
        inside = ",".join(f"{texts[child]}:{float(tree.lengths[child])!r}" for child in children)
        for child in children:
            texts[child] = ""  # kept once: a tree that is one long comb would be kept n times over
        support = float(tree.support[node])
        texts.append(f"({inside})" + ("" if math.isnan(support) else repr(support)))
    return f"{texts[-1]};\n"


def quoted(name: str) -> str:
    """A name as a Newick label; characters that are not printable are escaped."""
    shown = printable(name)
    return shown if _PLAIN.fullmatch(shown) else "'" + shown.replace("'", "''") + "'"
