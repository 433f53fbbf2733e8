"""Newick: names, lengths and support survive a round trip through a parser that knows only the grammar."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.geometry.tree.tree import Tree, newick_label
from llreg.printable import printable

Parsed = tuple[list[Any], str, float | None]  # children, label, length


def parse(text: str) -> Parsed:
    """A tree in Newick: quotes, doubled quotes, nesting, lengths; nothing of llreg is used."""
    node, end = _node(text, 0)
    assert text[end:] == ";\n"
    return node


def _node(text: str, at: int) -> tuple[Parsed, int]:
    children: list[Any] = []
    if text[at] == "(":
        while text[at] in "(,":
            child, at = _node(text, at + 1)
            children.append(child)
        assert text[at] == ")"
        at += 1
    label, at = _label(text, at)
    if text[at] != ":":
        return (children, label, None), at
    end = at + 1
    while text[end] not in ",);":
        end += 1
    return (children, label, float(text[at + 1 : end])), end


def _label(text: str, at: int) -> tuple[str, int]:
    if text[at] != "'":
        end = at
        while text[end] not in ":,();":
            assert text[end] not in " \t\n'[]_", f"{text[end]!r} needs quotes"
            end += 1
        return text[at:end], end
    label = ""
    at += 1
    while True:
        if text[at] != "'":
            label += text[at]
        elif text[at + 1] == "'":
            label += "'"
            at += 1
        else:
            return label, at + 1
        at += 1


def tree_of(labels: list[str], support: float = math.nan, length: float = 0.1) -> Tree:
    """A comb: the first two leaves together, then one leaf at a time."""
    count = len(labels)
    children = tuple((0, 1) if k == 0 else (count + k - 1, k + 1) for k in range(count - 1))
    lengths = np.append(np.full(2 * count - 2, length), 0.0)
    shares = np.full(2 * count - 1, math.nan)
    shares[count:-1] = support
    return Tree(tuple(labels), children, lengths, shares, True, "bit/byte")


def leaves(node: Parsed) -> list[str]:
    return [name for child in node[0] for name in leaves(child)] if node[0] else [node[1]]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("org/model-7b.v1", "org/model-7b.v1"),
        ("under_score", "'under_score'"),
        ("it's", "'it''s'"),
        ("''", "''''''"),
        ("a b", "'a b'"),
        ("(a,b):1;", "'(a,b):1;'"),
        ("[comment]", "'[comment]'"),
        ("$x^2$", "'$x^2$'"),
        ("模型", "'模型'"),
        ("line\nend", "'line\\nend'"),
        ("turn\u202eed", "'turn\\u202eed'"),
        ("\x00", "'\\x00'"),
        ("", "''"),
    ],
)
def test_names(name: str, written: str) -> None:
    assert newick_label(name) == written
    parsed = parse(tree_of([name, "other"]).newick())
    assert sorted(leaves(parsed)) == sorted([printable(name), "other"])


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6), st.floats(0, 1), st.floats(0, 1e300))
def test_round_trip(names: list[str], support: float, length: float) -> None:
    text = tree_of(names, support, length).newick()
    assert text.count("\n") == 1
    node = parse(text)
    depth = 0
    while node[0]:
        first, second = node[0]
        assert (first[2], second[2]) == (length, length)
        if len(names) - depth > 2:
            assert float(first[1]) == support
            assert second[1] == printable(names[len(names) - 1 - depth])
        depth += 1
        node = first
    assert (depth, node[1]) == (len(names) - 1, printable(names[0]))


def test_without_support_inner_nodes_have_no_label() -> None:
    assert tree_of(["a", "b", "c"]).newick() == "((a:0.1,b:0.1):0.1,c:0.1);\n"
    assert tree_of(["a", "b", "c"], support=0.5).newick() == "((a:0.1,b:0.1)0.5:0.1,c:0.1);\n"


def test_a_comb_of_thousands_is_written() -> None:
    names = [f"m{k}" for k in range(3000)]
    text = tree_of(names).newick()
    assert (text.count("("), text.count(","), text.startswith("(" * 2999 + "m0:")) == (2999, 2999, True)
