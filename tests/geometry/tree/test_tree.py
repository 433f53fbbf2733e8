"""Trees: beside scipy and plain path metrics, support by resampling, and what happens at the edges."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist, squareform

from llreg.cli.tree import note_tree
from llreg.geometry.kl.rows import Rows
from llreg.geometry.tree.make import METHODS, make_tree, neighbor_joining
from llreg.geometry.tree.tree import Tree
from llreg.geometry.view.view import View
from llreg.maps.draw.dendrogram import Categories, categories, draw_tree, round_length, write_tree
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg.texts.design import Design
from llreg_schemas import Identity, RowRecord
from llreg_schemas.errors import InputError, MissingExtraError

Array = np.ndarray[Any, Any]
Cli = Callable[..., Any]
Fill = Callable[..., list[Row]]
MakeRow = Callable[..., Row]


def rows_of(values: Array, names: list[str] | None = None, **over: Any) -> Rows:
    """Rows with these values; every text has 1,000 bytes, so that bits per byte are nats / (1000 ln 2)."""
    names = names or [f"m{k}" for k in range(len(values))]
    records = [
        RowRecord(Identity(name, "local", "r", "float32", "t", "p"), {}, {}, f"{k:064x}"[::-1])
        for k, name in enumerate(names)
    ]
    count = values.shape[1]
    given = {
        "records": records,
        "values": values.astype(np.float64),
        "num_bytes": np.full(count, 1000.0),
        "texts": np.arange(count),
        "subsets": np.full(count, "all", dtype=object),
        "weights": None,
        "designs": [None] * len(names),
        "view": View(),
        "registry": "test",
        "version": "0" * 64,
    }
    return Rows(**{**given, **over})


def random_rows(count: int, texts: int, seed: int = 0) -> Rows:
    return rows_of(np.random.default_rng(seed).normal(-500, 40, (count, texts)))


def plain_kl(values: Array, weights: Array | None = None) -> Array:
    """Bits per byte, from the formula."""
    difference = values[:, None] - values[None]
    mean = np.average(difference, axis=2, weights=weights)
    square = (difference - mean[:, :, None]) ** 2
    return np.asarray(np.average(square, axis=2, weights=weights) / 2 / (1000 * math.log(2)))


def splits(tree: Tree) -> dict[frozenset[int], float]:
    """Every split of the leaves in two, by the side without leaf 0, with the length of its branch."""
    below: list[frozenset[int]] = [frozenset([leaf]) for leaf in range(len(tree))]
    for children in tree.children:
        below.append(frozenset().union(*(below[child] for child in children)))
    everything = below[-1]
    found: dict[frozenset[int], float] = {}
    for node, group in enumerate(below[:-1]):
        side = everything - group if 0 in group else group
        found[side] = found.get(side, 0.0) + float(tree.lengths[node])  # two branches at a root are one
    return found


# Linkage


def test_average_linkage_is_scipy_s_on_kl() -> None:
    rows = random_rows(14, 40)
    tree = make_tree(rows, method="average")
    expected = linkage(squareform(plain_kl(rows.values), checks=False), "average")
    np.testing.assert_allclose(squareform(tree.paths(), checks=False), cophenet(expected), rtol=1e-12)
    assert [set(children) for children in tree.children] == [{int(a), int(b)} for a, b in expected[:, :2]]
    assert (tree.unit, tree.rooted, len(tree)) == ("bit/byte", True, 14)
    correlation, _ = cophenet(expected, squareform(plain_kl(rows.values), checks=False))
    assert tree.attrs["cophenetic_correlation"] == pytest.approx(correlation, rel=1e-9)


def test_ward_is_scipy_s_on_scaled_coordinates() -> None:
    rows = random_rows(14, 40)
    scaled = rows.q / math.sqrt(2 * 40 * 1000 * math.log(2))
    expected = linkage(scaled, "ward")
    tree = make_tree(rows, method="ward")
    np.testing.assert_allclose(squareform(tree.paths(), checks=False), cophenet(expected), rtol=1e-9)
    assert [set(children) for children in tree.children] == [{int(a), int(b)} for a, b in expected[:, :2]]
    assert tree.unit == "sqrt(bit/byte)"
    correlation, _ = cophenet(expected, pdist(scaled))
    assert tree.attrs["cophenetic_correlation"] == pytest.approx(correlation, rel=1e-9)


def test_missing_texts_are_left_out_pairwise() -> None:
    rows = random_rows(6, 30)
    holes = rows.values.copy()
    holes[2, :7] = np.nan
    tree = make_tree(replace(rows, values=holes), method="average")
    expected = np.zeros((6, 6))
    for i, j in combinations(range(6), 2):
        used = ~np.isnan(holes[[i, j]]).any(axis=0)
        expected[i, j] = expected[j, i] = plain_kl(holes[[i, j]][:, used])[0, 1]
    merges = linkage(squareform(expected), "average")
    np.testing.assert_allclose(squareform(tree.paths(), checks=False), cophenet(merges), rtol=1e-10)


# Neighbour joining


@st.composite
def additive_trees(draw: st.DrawFn) -> tuple[dict[frozenset[int], float], Array]:
    """An unrooted binary tree with lengths above 0: its splits, and path lengths by breadth-first walks."""
    count = draw(st.integers(2, 12))
    length = st.floats(0.01, 10)
    edges: dict[frozenset[int], float] = {frozenset([0, 1]): draw(length)}
    top = count  # inner nodes are numbered from here
    for leaf in range(2, count):  # a leaf at a time is hung in the middle of an edge
        edge = draw(st.sampled_from(sorted(edges, key=sorted)))
        del edges[edge]
        for end in (*edge, leaf):
            edges[frozenset([end, top])] = draw(length)
        top += 1
    near: dict[int, list[tuple[int, float]]] = {}
    for edge, size in edges.items():
        a, b = edge
        near.setdefault(a, []).append((b, size))
        near.setdefault(b, []).append((a, size))
    paths = np.array([[_walk(near, i)[j] for j in range(count)] for i in range(count)])
    groups = {}
    for edge, size in edges.items():
        a, b = edge
        far = {node for node in _walk(near, b, without=a) if node < count}
        groups[frozenset(set(range(count)) - far if 0 in far else far)] = size
    return groups, paths


def _walk(near: dict[int, list[tuple[int, float]]], start: int, without: int | None = None) -> dict[int, float]:
    reached, queue = {start: 0.0}, [start]
    for node in queue:
        for other, size in near[node]:
            if other not in reached and other != without:
                reached[other] = reached[node] + size
                queue.append(other)
    return reached


def joined(distances: Array) -> Tree:
    children, lengths = neighbor_joining(distances)
    names = tuple(str(k) for k in range(len(distances)))
    return Tree(names, tuple(children), lengths, np.full(len(lengths), np.nan), False, "bit/byte")


@given(additive_trees())
def test_neighbour_joining_gives_back_every_additive_tree(made: tuple[dict[frozenset[int], float], Array]) -> None:
    groups, paths = made
    tree = joined(paths)
    found = splits(tree)
    assert found.keys() == groups.keys()
    for side, length in groups.items():
        assert found[side] == pytest.approx(length, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(tree.paths(), paths, rtol=1e-9, atol=1e-9)


@given(additive_trees())
def test_the_midpoint_root_keeps_paths_and_splits(made: tuple[dict[frozenset[int], float], Array]) -> None:
    tree = joined(made[1])
    rooted = tree.midpoint()
    np.testing.assert_allclose(rooted.paths(), tree.paths(), rtol=1e-9, atol=1e-9)
    before, after = splits(tree), splits(rooted)
    assert before.keys() == after.keys()
    assert all(after[side] == pytest.approx(before[side], rel=1e-9, abs=1e-9) for side in before)
    far = rooted.depths[: len(rooted)]
    assert far.max() == pytest.approx(made[1].max() / 2, rel=1e-9)
    assert rooted.midpoint() is rooted or len(rooted) == 2


def test_the_midpoint_root_moves_support_with_its_branch() -> None:
    # 0 and 1 near the root of the text, 2 and 3 beyond a long branch: the root moves onto it
    lengths, support = np.array([1.0, 1, 1, 1, 9, 0]), np.array([np.nan, np.nan, np.nan, np.nan, 0.75, np.nan])
    tree = Tree(("a", "b", "c", "d"), ((2, 3), (0, 1, 4)), lengths, support, False, "bit/byte")
    rooted = tree.midpoint()
    assert rooted.rooted
    assert sorted(rooted.support[~np.isnan(rooted.support)]) == [0.75]
    assert sorted(rooted.lengths) == [0, 1, 1, 1, 1, 4.5, 4.5]


@given(st.integers(2, 9), st.integers(0, 10_000))
def test_no_branch_is_negative(count: int, seed: int) -> None:
    random = np.random.default_rng(seed).uniform(0, 1, (count, count))
    distances = np.triu(random, 1) + np.triu(random, 1).T
    tree = joined(distances)
    assert (tree.lengths >= 0).all()
    first = tree.children[0]
    if count > 3:  # the first pair keeps its distance, whatever was set to 0
        assert tree.lengths[list(first)].sum() == pytest.approx(distances[first])


def test_neighbour_joining_of_rows_is_on_kl() -> None:
    # Models drift independently, on texts of their own: a comb with known branch lengths.
    moves = np.zeros((5, 64))
    for k in range(5):
        moves[k, 8 * k : 8 * k + 4], moves[k, 8 * k + 4 : 8 * k + 8] = 30.0 + k, -30.0 - k
    values = np.array([moves[0], moves[0] + moves[1], moves[2], moves[2] + moves[3], moves[4]]) - 600
    tree = make_tree(rows_of(values), method="nj")
    bits = 2 * 64 * 1000 * math.log(2)
    expected = {
        frozenset([1]): (moves[1] ** 2).sum() / bits,
        frozenset([2, 3]): (moves[2] ** 2).sum() / bits,
        frozenset([3]): (moves[3] ** 2).sum() / bits,
        frozenset([4]): (moves[4] ** 2).sum() / bits,
    }
    found = {side: length for side, length in splits(tree).items() if length > 0}
    assert found.pop(frozenset([2, 3, 4])) == pytest.approx((moves[0] ** 2).sum() / bits)
    assert found == {side: pytest.approx(length) for side, length in expected.items()}
    assert tree.attrs["cophenetic_correlation"] == pytest.approx(1)


# Support


def grouped_rows(noise: float, texts: int = 300) -> Rows:
    generator = np.random.default_rng(5)
    centres = generator.normal(-500, 50, (3, texts))
    return rows_of(np.repeat(centres, 3, axis=0) + generator.normal(0, noise, (9, texts)))


@pytest.mark.parametrize("method", METHODS)
def test_support_is_whole_for_groups_apart_and_low_for_noise(method: Any) -> None:
    apart = make_tree(grouped_rows(5.0), method=method, bootstrap=30)
    shares = {bits: apart.support[node] for bits, node in apart.groups().items()}
    three = 0b111111000 if method == "nj" else 0b000000111  # of a split, the side without leaf 0
    assert [shares[bits] for bits in (three, 0b000111000, 0b111000000)] == [1, 1, 1]
    noise = make_tree(random_rows(9, 60), method=method, bootstrap=30)
    assert np.nanmean(noise.support) < 0.8
    assert np.nanmin(noise.support) >= 0


def test_support_counts_the_resampled_trees_that_have_the_group() -> None:
    rows = random_rows(6, 20, seed=3)
    tree = make_tree(rows, method="average", bootstrap=40, seed=7)
    generator = np.random.Generator(np.random.PCG64(7))
    seen: dict[frozenset[int], int] = {}
    for _ in range(40):
        counts = generator.multinomial(20, np.full(20, 1 / 20))
        merges = linkage(squareform(plain_kl(rows.values, counts), checks=False), "average")
        below = [frozenset([k]) for k in range(6)]
        for a, b in merges[:, :2].astype(int):
            below.append(below[a] | below[b])
            seen[below[-1]] = seen.get(below[-1], 0) + 1
    for bits, node in tree.groups().items():
        group = frozenset(k for k in range(6) if bits >> k & 1)
        assert tree.support[node] == seen.get(group, 0) / 40
    assert np.isnan(tree.support[:6]).all()
    assert np.isnan(tree.support[-1])


def test_the_seed_decides() -> None:
    rows = random_rows(8, 25)
    one, same, other = (make_tree(rows, bootstrap=20, seed=seed) for seed in (1, 1, 2))
    assert one.newick() == same.newick()
    assert one.newick() != other.newick()
    assert (one.attrs["seed"], make_tree(rows).attrs["seed"]) == (1, None)


def test_weights_and_samples_are_resampled_too() -> None:
    rows = grouped_rows(5.0)
    weighted = replace(rows, weights=np.linspace(0.5, 2, 300))
    assert np.nanmax(make_tree(weighted, bootstrap=5).support) == 1
    counts = np.zeros(300, np.int64)
    counts[::2] = 1
    design = Design("d", counts, np.full(300, 0.5), replacement=False)
    sampled = replace(rows, designs=[design, *[None] * 8])
    assert np.nanmax(make_tree(sampled, bootstrap=5).support) == 1


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    make_tree(random_rows(3, 20), bootstrap=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# Edges


@pytest.mark.parametrize("method", METHODS)
def test_identical_rows(method: Any) -> None:
    same = np.repeat(np.random.default_rng(1).normal(-500, 40, (2, 30)), 3, axis=0)
    tree = make_tree(rows_of(same), method=method, bootstrap=4)
    paths = tree.paths()
    assert (paths[:3, :3] == 0).all()
    assert paths[0, 3] > 0
    supported = tree.support[~np.isnan(tree.support)]  # within a group of copies any order is as good
    assert set(supported) == {1.0}
    nothing = make_tree(rows_of(same[:3]), method=method)
    assert (nothing.paths() == 0).all()
    assert math.isnan(nothing.attrs["cophenetic_correlation"])
    assert nothing.midpoint().paths().shape == (3, 3)


@pytest.mark.parametrize("method", METHODS)
def test_two_rows(method: Any) -> None:
    rows = random_rows(2, 30)
    tree = make_tree(rows, method=method, bootstrap=3)
    distance = plain_kl(rows.values)[0, 1]
    assert tree.paths()[0, 1] == pytest.approx(math.sqrt(distance) if method == "ward" else distance)
    assert tree.newick() == f"(m0:{float(tree.lengths[0])!r},m1:{float(tree.lengths[1])!r});\n"


@pytest.mark.parametrize("method", METHODS)
def test_three_rows(method: Any) -> None:
    tree = make_tree(random_rows(3, 30), method=method)
    if method == "nj":
        np.testing.assert_allclose(tree.paths(), plain_kl(random_rows(3, 30).values), rtol=1e-12)
    assert [len(children) for children in tree.children] == ([3] if method == "nj" else [2, 2])


def test_bad_input_is_told() -> None:
    rows = random_rows(4, 10)
    with pytest.raises(InputError, match="a tree needs two rows; got 1"):
        make_tree(rows.take([0]))
    with pytest.raises(InputError, match=r"m1@\w{8} is given twice; a tree holds each row once"):
        make_tree(rows.take([0, 1, 1]))
    with pytest.raises(InputError, match="expected one of average, ward, nj; got 'upgma'"):
        make_tree(rows, method="upgma")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 or more; got -1"):
        make_tree(rows, bootstrap=-1)
    apart = rows.values.copy()
    apart[1, :9], apart[2, 9:] = np.nan, np.nan
    with pytest.raises(InputError, match="no distance between m0 and m1: they share fewer than two texts"):
        make_tree(replace(rows, values=apart))
    few = rows.values.copy()
    few[1, 3:] = np.nan
    with pytest.raises(InputError, match="m1 in a resample"):
        make_tree(replace(rows, values=few), bootstrap=50)


def test_a_long_comb_needs_no_recursion() -> None:
    count = sys.getrecursionlimit() + 200
    children = tuple((0, 1) if k == 0 else (count + k - 1, k + 1) for k in range(count - 1))
    lengths = np.append(np.ones(2 * count - 2), 0.0)
    tree = Tree(tuple(f"m{k}" for k in range(count)), children, lengths, np.full(2 * count - 1, np.nan), False, "x")
    assert tree.midpoint().paths().max() == tree.paths().max()
    assert len(tree.newick()) > count
    assert len(tree.groups()) == count - 3  # an unrooted comb has one split for each inner branch; the root adds one


# Files

HOSTILE = ["$\\frac{1}{0}$", "<script>alert(1)</script>", 'it\'s & "so"', "turn\u202eed", "模型 é", "_under", "x" * 300]


@pytest.fixture
def hostile() -> Tree:
    tree = make_tree(random_rows(len(HOSTILE), 30), method="nj", bootstrap=5)
    return replace(tree, labels=tuple(HOSTILE))


def test_names_are_text_in_an_svg(hostile: Tree, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "tree.svg"
    draw_tree(hostile, path, color=Categories("$kind$", ["_a", "$b$", "<c>", None, "_a", "d", "e"]))
    document = ET.parse(path)
    texts = ["".join(element.itertext()).strip() for element in document.iter("{http://www.w3.org/2000/svg}text")]
    assert {"$\\frac{1}{0}$", "<script>alert(1)</script>", 'it\'s & "so"', "turn\\u202eed", "模型 é"} <= set(texts)
    assert {"$kind$", "_a", "$b$", "<c>", "unknown", "d"} <= set(texts)
    assert not [text for text in texts if len(text) > 100]
    assert not list(document.iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figures_are_the_same_every_time(ending: str, hostile: Tree, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for path in paths:
        draw_tree(hostile, path)
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert one.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    assert [path.name for path in tmp_path.iterdir() if path not in paths] == []


def test_a_figure_leaves_matplotlib_as_it_was(hostile: Tree, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    draw_tree(hostile, tmp_path / "tree.png")
    assert dict(matplotlib.rcParams) == before


def test_a_figure_grows_with_its_leaves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for count in (5, 40):
        draw_tree(make_tree(random_rows(count, 50)), tmp_path / "tree.svg")
        heights.append(float(ET.parse(tmp_path / "tree.svg").getroot().attrib["height"].removesuffix("pt")))
    assert heights[1] > 3 * heights[0]


def test_support_below_whole_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tree = make_tree(random_rows(6, 30), bootstrap=10)
    draw_tree(tree, tmp_path / "tree.svg")
    texts = re.findall(r">(\d+)</text>", (tmp_path / "tree.svg").read_text())
    expected = [f"{share:.0%}".rstrip("%") for share in tree.support if share < 1]
    assert expected
    assert sorted(texts) == sorted(expected)


@pytest.mark.parametrize(("length", "bar"), [(0.2, 0.2), (0.99, 0.5), (1.0, 1.0), (3.7e-5, 2e-5), (81.0, 50.0)])
def test_the_scale_bar_is_round(length: float, bar: float) -> None:
    assert round_length(length) == pytest.approx(bar)


def test_endings_and_places(hostile: Tree, tmp_path: Path) -> None:
    write_tree(hostile, tmp_path / "tree.NWK")
    assert (tmp_path / "tree.NWK").read_text(encoding="utf-8") == hostile.newick()
    with pytest.raises(InputError, match=r"tree\.jpg: a tree is written as Newick \(\.nwk, \.newick, \.tree\)"):
        write_tree(hostile, tmp_path / "tree.jpg")
    with pytest.raises(InputError, match=r"a figure is written as \.png, \.svg, \.pdf"):
        draw_tree(hostile, tmp_path / "tree.nwk")
    with pytest.raises(InputError, match="there is no directory"):
        write_tree(hostile, tmp_path / "nowhere" / "tree.nwk")


def test_without_matplotlib_the_extra_is_named(hostile: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "llreg[map]"')):
        draw_tree(hostile, tmp_path / "tree.png")
    assert list(tmp_path.iterdir()) == []


def test_categories_come_from_records(small_registry: Registry, make_row: MakeRow) -> None:
    write_row(small_registry.path, make_row(small_registry, "a/one", 1, declared={"architecture": "Mamba"}))
    write_row(small_registry.path, make_row(small_registry, "a/two", 2, declared={"architecture": None}))
    rows = small_registry.rows()
    assert categories(rows, "architecture").values == ["Mamba", None]
    assert categories(rows, "weight_dtype").values == ["float32", "float32"]
    assert categories(rows, "base_model").values == ["org/base", "org/base"]
    with pytest.raises(InputError, match=r"no row has the field 'colour'; there is: .*licence"):
        categories(rows, "colour")


# The command


def test_tree_command(cli: Cli, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    fill(small_registry, 4)
    result = cli("-r", small_registry.path, "tree")
    expected = make_tree(small_registry.rows())
    assert (result.code, result.out) == (0, expected.newick())
    assert re.search(r"4 models, cophenetic correlation 0\.\d{3}; version [0-9a-f]{12}, view", result.err)
    document = json.loads(
        cli("-r", small_registry.path, "tree", "org/m0", "org/m1", "org/m3", "--method", "nj", "--json").out
    )
    chosen = make_tree(small_registry.rows(["org/m0", "org/m1", "org/m3"]), method="nj")
    assert (document["newick"] + "\n", document["unit"], document["rooted"]) == (chosen.newick(), "bit/byte", False)
    view = cli("-r", small_registry.path, "tree", "--without", "code", "--clip", "none")
    assert view.out != result.out


def test_tree_command_writes_files(cli: Cli, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fill(small_registry, 3)
    args = ("-r", small_registry.path, "tree", "--bootstrap", "3", "--seed", "1", "--color", "licence")
    result = cli(*args, "-o", "t.nwk", "-o", "t.svg", cwd=tmp_path)
    assert (result.code, result.out) == (0, "")
    assert (tmp_path / "t.nwk").read_text() == make_tree(small_registry.rows(), bootstrap=3, seed=1).newick()
    assert "apache-2.0" in (tmp_path / "t.svg").read_text()


def test_tree_command_refuses(cli: Cli, small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 1)
    for args, told in (
        (["-o", "t.jpg"], "t.jpg: a tree is written as Newick"),
        ([], "a tree needs two rows; got 1"),
    ):
        result = cli("-r", small_registry.path, "tree", *args)
        assert (result.code, result.out) == (1, "")
        assert told in result.err
        assert "Traceback" not in result.err
    assert cli("-r", small_registry.path, "tree", "--method", "upgma").code == 2


def test_tree_command_shows_progress_on_a_terminal_only(cli: Cli, small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 3)
    args = ("-r", small_registry.path, "tree", "--bootstrap", "2")
    plain, terminal = cli(*args), cli(*args, env={"FORCE_COLOR": "1"})
    assert plain.out == terminal.out == make_tree(small_registry.rows(), bootstrap=2).newick()
    assert "resamples" not in plain.err
    assert "resamples" in terminal.err


def test_tree_command_tells_a_view_in_printable_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = replace(random_rows(3, 20), view=View(without=("\x1b[2Jcode",)))
    note_tree(make_tree(rows))
    assert r"\x1b[2Jcode" in capsys.readouterr().err
