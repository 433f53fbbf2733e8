"""Exports: what other tools read back is what the registry holds, and what is written says what it is of."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.conftest import MakeRow

from llreg.exporters import selection
from llreg.exporters.columns import Column, keys, make_column
from llreg.exporters.export import ENDINGS, export
from llreg.geometry.view.view import View
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.annotations import to_table, write_annotations
from llreg.store.rowfile import write_row
from llreg_schemas.errors import InputError, LlregError, MissingExtraError, NotFoundError

AWKWARD = [-1e-38, -0.0, -20503.7119140625, -29999.998, -1 / 3, np.nan]  # one a text
HOSTILE = '=cmd|"/c\x00calc"\x0b<b>&\r\n\ufffe,\u202ex'
VIEW = View(clip=-60.0, without=("code",), weights={"multilingual": 2.0})
STAMP = ("version", "text_set", "protocol", "view", "values")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, make_row: MakeRow) -> Path:
    """Five rows on six texts, the last two not in the build; one with gaps; a base that three of them declare."""
    reg = init(tmp_path_factory.mktemp("made") / "small", texts=small_texts)
    write_row(reg.path, make_row(reg, "org/base", 0, declared={"base_model": [], "licence": None, "tags": ["a", "b"]}))
    write_row(reg.path, make_row(reg, "org/m1", 1, log_likelihood=AWKWARD))
    write_row(reg.path, make_row(reg, "org/m2", 2))
    reg.build()
    write_row(reg.path, make_row(reg, "org/m3", 3, declared={"base_model": ["no/row"], "num_parameters": None}))
    write_row(reg.path, make_row(reg, "org/m4", 4))
    return reg.path


@pytest.fixture
def filled(made: Path, tmp_path: Path) -> Registry:
    """A copy of it."""
    return Registry(shutil.copytree(made, tmp_path / "small"))


@dataclass
class Read:
    """What a library read back."""

    models: list[str]
    values: NDArray[Any]
    tokens: NDArray[Any]
    texts: list[int]
    stamp: dict[str, str]
    columns: dict[str, list[Any]]


def read_npz(path: Path) -> Read:
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    assert data["log_likelihood"].dtype == np.float32
    columns = {name: array.tolist() for name, array in data.items() if array.shape == data["model"].shape}
    stamp = {name: str(data[name]) for name in STAMP}
    return Read(columns["model"], data["log_likelihood"], data["num_tokens"], data["text"].tolist(), stamp, columns)


def read_parquet(path: Path) -> Read:
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"llreg"])
    assert table.schema.field("log_likelihood").type == pa.list_(pa.float32())
    values, tokens = (np.array(table[name].to_pylist()) for name in ("log_likelihood", "num_tokens"))
    stamp = {name: facts[name] for name in STAMP}
    return Read(table["model"].to_pylist(), values.astype(np.float32), tokens, facts["texts"], stamp, table.to_pydict())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_wide(path: Path) -> Read:
    lines = read_csv(path)
    names = [name for name in lines[0] if re.fullmatch(r"t\d+", name)]
    values = np.array([[np.float32(line[name] or "nan") for name in names] for line in lines])
    columns = {name: [line[name] for line in lines] for name in lines[0] if name not in names}
    stamp = {name: columns[name][0] for name in STAMP}
    return Read(columns["model"], values, np.array([]), [int(name[1:]) for name in names], stamp, columns)


def read_long(path: Path) -> Read:
    lines = read_csv(path)
    models = list(dict.fromkeys(line["model"] for line in lines))
    texts = sorted({int(line["text"]) for line in lines})
    values, tokens = np.full((len(models), len(texts)), np.nan, np.float32), np.zeros((len(models), len(texts)))
    for line in lines:
        place = models.index(line["model"]), texts.index(int(line["text"]))
        values[place], tokens[place] = np.float32(line["log_likelihood"]), int(line["num_tokens"])
    return Read(models, values, tokens, texts, {name: lines[0][name] for name in STAMP}, {})


def read_h5ad(path: Path) -> Read:
    data = pytest.importorskip("anndata").read_h5ad(path)
    columns = {name: data.obs[name].tolist() for name in data.obs}
    stamp = {name: str(data.uns["llreg"][name]) for name in STAMP}
    return Read(list(data.obs_names), data.X, data.layers["num_tokens"], data.var["text"].tolist(), stamp, columns)


READERS: dict[str, Callable[[Path], Read]] = {
    "rows.npz": read_npz,
    "rows.csv": read_wide,
    "long.csv": read_long,
    "rows.parquet": read_parquet,
    "rows.h5ad": read_h5ad,
}
STREAMED = ("rows.npz", "rows.csv", "long.csv", "rows.parquet")


def write(registry: Registry, path: Path, **options: Any) -> None:
    if path.suffix == ".h5ad":
        pytest.importorskip("anndata")
    export(registry, path, long=path.name == "long.csv", **options)


# Values


@pytest.mark.parametrize("name", READERS)
def test_raw_values_come_back(name: str, filled: Registry, tmp_path: Path) -> None:
    write(filled, tmp_path / name)
    found, data = READERS[name](tmp_path / name), filled.dataset()
    assert found.models == data["model"].values.tolist()
    assert found.texts == list(range(6))
    np.testing.assert_array_equal(found.values, data["log_likelihood"].values)
    if found.tokens.size:
        np.testing.assert_array_equal(found.tokens, data["num_tokens"].values)
    ids = [filled.version, filled.info["text_set"]["id"], filled.info["protocol"]["id"], View().id, "raw"]
    shown = [given[:12] for given in ids] if name.endswith(".csv") else ids
    assert list(found.stamp.values()) == shown


def test_counts_of_correct_tokens_come_along(filled: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    """Of raw rows, if any has segments; -1 in those that have none."""
    write_row(filled.path, make_row(filled, "org/fine", 99, fine=True))
    expected = filled.dataset()["num_correct"].values
    assert (expected[:-1] == -1).all()
    assert (expected[-1] >= 0).all()
    for name in ("rows.npz", "rows.parquet", "long.csv", "rows.csv"):
        write(filled, tmp_path / name)
    with np.load(tmp_path / "rows.npz") as file:
        np.testing.assert_array_equal(file["num_correct"], expected)
        assert "fine_coordinate" not in file.files
    np.testing.assert_array_equal(pq.read_table(tmp_path / "rows.parquet")["num_correct"].to_pylist(), expected)
    assert [int(line["num_correct"]) for line in read_csv(tmp_path / "long.csv")[-6:]] == expected[-1].tolist()


@pytest.mark.parametrize("name", READERS)
def test_values_through_a_view(name: str, filled: Registry, tmp_path: Path) -> None:
    write(filled, tmp_path / name, view=VIEW)
    found = READERS[name](tmp_path / name)
    raw = filled.dataset()["log_likelihood"].values
    assert found.texts == [0, 2, 3, 5]
    np.testing.assert_array_equal(found.values, np.maximum(raw[:, [0, 2, 3, 5]], np.float32(-60)))
    assert (found.stamp["view"][:12], found.stamp["values"]) == (VIEW.id[:12], "view")


@pytest.mark.parametrize("name", STREAMED)
def test_blocks_make_no_difference(
    name: str, filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(filled, tmp_path / name)
    (tmp_path / "blocks").mkdir()
    monkeypatch.setattr(selection, "_VALUES", 12)  # two rows at a time
    told: list[tuple[int, int]] = []
    write(filled, tmp_path / "blocks" / name, progress=lambda *done: told.append(done))
    one, blocks = (READERS[name](path) for path in (tmp_path / name, tmp_path / "blocks" / name))
    np.testing.assert_array_equal(one.values, blocks.values)
    np.testing.assert_array_equal(one.tokens, blocks.tokens)
    assert (one.models, repr(one.columns)) == (blocks.models, repr(blocks.columns))
    assert told == [(2, 5), (4, 5), (5, 5)]
    if name == "rows.parquet":
        assert pq.ParquetFile(tmp_path / "blocks" / name).num_row_groups == 3


@pytest.mark.parametrize("name", [*STREAMED, "tree.nwk", "graph.graphml"])
def test_same_rows_same_bytes(name: str, filled: Registry, tmp_path: Path) -> None:
    found = set()
    for _ in range(2):
        write(filled, tmp_path / name)
        found.add((tmp_path / name).read_bytes())
    assert len(found) == 1


def test_chosen_rows_keep_their_order(filled: Registry, tmp_path: Path) -> None:
    made = export(filled, tmp_path / "some.npz", ["org/m4", "org/base"])
    assert [model.split("@")[0] for model in read_npz(tmp_path / "some.npz").models] == ["org/m4", "org/base"]
    assert (len(made), made.raw) == (2, True)


def test_a_named_version(filled: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    filled.build()
    filled.tag("v1")
    write_row(filled.path, make_row(filled, "org/late", 9))
    old = Registry(filled.path, revision="v1")
    export(old, tmp_path / "v1.parquet")
    found = read_parquet(tmp_path / "v1.parquet")
    assert (len(found.models), found.stamp["version"]) == (5, old.version)


def test_default_is_the_registrys_own_view(filled: Registry, tmp_path: Path) -> None:
    export(filled, tmp_path / "seen.npz", view="default")
    assert read_npz(tmp_path / "seen.npz").stamp["view"] == filled.view.id


# Columns


def test_parquet_has_what_models_parquet_has(filled: Registry, tmp_path: Path) -> None:
    filled.build()
    export(filled, tmp_path / "rows.parquet")
    built, table = (pq.read_table(path) for path in (filled.path / "models.parquet", tmp_path / "rows.parquet"))
    common = table.select(built.column_names)
    assert [repr(column.to_pylist()) for column in common.columns] == [repr(c.to_pylist()) for c in built.columns]
    assert common.schema.types == built.schema.types
    assert table["tags"].to_pylist() == [["a", "b"], None, None, None, None]


def test_npz_says_what_the_texts_are(filled: Registry, tmp_path: Path) -> None:
    export(filled, tmp_path / "rows.npz", view=VIEW)
    with np.load(tmp_path / "rows.npz", allow_pickle=False) as data:
        kept, index = [0, 2, 3, 5], filled.text_index
        assert data["text_bytes"].tolist() == [index.num_bytes[k] for k in kept]
        assert data["text_sha256"].tolist() == [index.sha256[k] for k in kept]
        assert data["subset"].tolist() == [index.subset[k] for k in kept]
        assert data["text_weight"].tolist() == [1, 2, 2, 1]
        assert View.from_json(json.loads(str(data["view_document"]))) == VIEW
        assert {array.dtype.kind for array in (data[name] for name in data.files)} <= set("Uif")


def annotate(registry: Registry) -> None:
    """Two tables with columns of all kinds, names that are taken, and hostile text."""
    models = ["org/base", "org/m1", "org/m2"]
    one = {
        "arc": [1.5, None, 3],
        "n": [1, 2, None],
        "ok": [True, None, False],
        "t3": ["x", "y", "z"],
        "both": [1, 2, 3],
    }
    two = {"both": [4, 5, 6], "licence": [HOSTILE, "-1+1", "@x"], HOSTILE: ["a", "b", "c"], "a/b": [1, 2, 3]}
    write_annotations(registry, "one", to_table({"model": models, **one}))
    write_annotations(registry, "two", to_table({"model": models, **two}))


@pytest.mark.parametrize("name", ["rows.npz", "rows.csv", "rows.parquet", "rows.h5ad"])
def test_annotations_are_columns(name: str, filled: Registry, tmp_path: Path) -> None:
    annotate(filled)
    write(filled, tmp_path / name)
    columns = READERS[name](tmp_path / name).columns
    assert columns["licence"][1] == "apache-2.0"  # the row's own
    for title, expected in {
        "arc": [1.5, None, 3],
        "n": [1, 2, None],
        "one.both": [1, 2, 3],
        "two.both": [4, 5, 6],
    }.items():
        numbers = [float("nan" if value in (None, "") else value) for value in columns[title]]
        np.testing.assert_array_equal(
            numbers, [np.nan if value is None else value for value in [*expected, None, None]]
        )
    assert columns["one.t3"][:3] == ["x", "y", "z"]
    assert columns["two.licence"][0].endswith(HOSTILE if name == "rows.parquet" else r"\r\n\ufffe,\u202ex")


def test_kinds_are_kept_in_parquet(filled: Registry, tmp_path: Path) -> None:
    annotate(filled)
    export(filled, tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    kinds = {name: table.schema.field(name).type for name in ("arc", "n", "ok", "one.t3")}
    assert kinds == {"arc": pa.float64(), "n": pa.int64(), "ok": pa.bool_(), "one.t3": pa.string()}
    assert table["ok"].to_pylist() == [True, None, False, None, None]


@pytest.mark.parametrize("name", ["rows.csv", "long.csv"])
def test_no_cell_is_a_formula(name: str, filled: Registry, tmp_path: Path) -> None:
    annotate(filled)
    write(filled, tmp_path / name)
    with (tmp_path / name).open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    cells = [cell for line in lines for cell in line]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
    assert not [cell for cell in cells if cell.startswith("-") and float(cell) > 0]  # float: a number is no formula
    assert not [cell for cell in cells if any(ord(char) < 32 for char in cell)]
    if name == "rows.csv":
        assert "'-1+1" in cells
        assert '\'=cmd|"/c\\x00calc"\\x0b<b>&\\r\\n\\ufffe,\\u202ex' in lines[0]


def test_members_of_an_archive_have_plain_names(filled: Registry, tmp_path: Path) -> None:
    annotate(filled)
    export(filled, tmp_path / "rows.npz")
    with zipfile.ZipFile(tmp_path / "rows.npz") as archive:
        names = archive.namelist()
    assert "a_b.npy" in names
    assert all(re.fullmatch(r"[\w .,+%()@=-]+\.npy", name) for name in names)
    assert len(set(names)) == len(names)


@given(st.lists(st.text(max_size=5)))
def test_keys_are_distinct_and_plain(names: list[str]) -> None:
    made = keys(names, ["model"])
    assert len({*made, "model"}) == len(names) + 1
    assert all(key and not key.startswith(".") and not re.search(r"[/\\\x00-\x1f]", key) for key in made)


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, None, 2**62], "integer", [1, None, 2**62]),
        ([1, 2.5, float("nan")], "number", [1.0, 2.5, None]),
        ([2**70, 1], "text", [str(2**70), "1"]),
        ([True, 1], "text", ["True", "1"]),
        ([["a"], None], "list", [["a"], None]),
        ([None], "text", [None]),
    ],
)
def test_kinds(values: list[Any], kind: str, kept: list[Any]) -> None:
    column = make_column("x", values)
    assert (column.kind, list(column.values)) == (kind, kept)
    assert column.arrow().to_pylist() == kept


def test_arrays_without_pickles() -> None:
    assert Column("x", "integer", [1, None]).array().tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert Column("x", "flag", [True, False]).array().dtype == bool
    assert Column("x", "text", ["a\0", None]).array().tolist() == [r"a\x00", ""]  # NumPy would cut off the NUL


# Trees and graphs


@pytest.mark.parametrize("method", [None, "ward", "nj"])
def test_tree_is_that_of_llreg_tree(method: Any, filled: Registry, tmp_path: Path) -> None:
    view = View(clip=-500.0)
    export(filled, tmp_path / "t.nwk", view=view, method=method)
    text = (tmp_path / "t.nwk").read_text(encoding="utf-8")
    (comment,) = re.findall(r"\[&&NHX:([^\]]*)\];\n$", text)
    stamp = dict(item.split("=") for item in comment.split(":"))
    assert text.replace(f"[&&NHX:{comment}]", "") == filled.tree(view=view, method=method or "average").newick()
    assert (stamp["version"], stamp["view"], stamp["values"]) == (filled.version, view.id, "kl")
    assert stamp["method"] == (method or "average")


def read_graphml(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[tuple[str, str, dict[str, Any]]]]:
    """Data of the graph, the nodes and the edges, by ElementTree."""
    root = ET.parse(path).getroot()
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    titles = {key.get("id"): (key.get("attr.name"), key.get("attr.type")) for key in root.findall("g:key", space)}
    types: dict[Any, Any] = {"string": str, "long": int, "double": float, "boolean": lambda text: text == "true"}

    def data(element: ET.Element) -> dict[str, Any]:
        found = {}
        for entry in element.findall("g:data", space):
            name, kind = titles[entry.get("key")]
            found[str(name)] = types[kind](entry.text)
        return found

    (graph,) = root.findall("g:graph", space)
    assert graph.get("edgedefault") == "directed"
    nodes = {node.get("id"): data(node) for node in graph.findall("g:node", space)}
    edges = [
        (nodes[e.get("source")]["model"], nodes[e.get("target")]["model"], data(e))
        for e in graph.findall("g:edge", space)
    ]
    return data(graph), list(nodes.values()), edges


def test_graph_is_of_the_nearest_by_kl(filled: Registry, tmp_path: Path) -> None:
    annotate(filled)
    export(filled, tmp_path / "g.graphml", k=2, view=View(clip=-500.0))
    stamp, nodes, edges = read_graphml(tmp_path / "g.graphml")
    kl = filled.kl(clip=-500.0)
    values, errors = kl["kl_bits_per_byte"].values, kl["kl_bits_per_byte_se"].values
    ids = [record.row_id for record in filled.records()]
    assert (stamp["version"], stamp["view"], stamp["unit"]) == (filled.version, View(clip=-500.0).id, "bit/byte")
    assert [node["model"] for node in nodes] == ids
    assert nodes[0]["label"] == "org/base"
    assert [node.get("n") for node in nodes] == [1, 2, None, None, None]
    assert nodes[0]["two.licence"] == r"=cmd|\"/c\x00calc\"\x0b<b>&\r\n\ufffe,\u202ex".replace('\\"', '"')
    near = [(source, target, entry) for source, target, entry in edges if entry["kind"] == "neighbour"]
    expected = [(i, j) for i in range(5) for j in sorted(set(range(5)) - {i}, key=lambda j: values[i, j])[:2]]
    assert [(source, target) for source, target, _ in near] == [(ids[i], ids[j]) for i, j in expected]
    for (_, _, entry), (i, j) in zip(near, expected, strict=True):
        assert entry["kl"] == pytest.approx(values[i, j], rel=1e-9)
        assert entry["kl_se"] == pytest.approx(errors[i, j], rel=1e-9)
    assert [entry["rank"] for _, _, entry in near] == [1, 2] * 5
    bases = [(source, target) for source, target, entry in edges if entry["kind"] == "declared base"]
    assert bases == [(ids[k], ids[0]) for k in (1, 2, 4)]
    assert {entry.get("relation") for *_, entry in edges if entry["kind"] == "declared base"} == {"finetune"}


def test_networkx_reads_the_graph(filled: Registry, tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    annotate(filled)
    export(filled, tmp_path / "g.graphml", k=3)
    graph = networkx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    stamp, nodes, edges = read_graphml(tmp_path / "g.graphml")
    assert graph.is_directed()
    assert graph.graph["version"] == stamp["version"]
    assert [dict(entry) for _, entry in graph.nodes(data=True)] == nodes
    names = networkx.get_node_attributes(graph, "model")
    found = [(names[one], names[other], dict(entry)) for one, other, entry in graph.edges(data=True)]
    assert sorted(found, key=repr) == sorted(edges, key=repr)


def test_more_neighbours_than_rows(filled: Registry, tmp_path: Path) -> None:
    export(filled, tmp_path / "g.graphml", ["org/m3", "org/m4"])
    _, nodes, edges = read_graphml(tmp_path / "g.graphml")
    assert (len(nodes), len(edges)) == (2, 2)


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rows.xlsx", {}, r"rows\.xlsx: an export goes to a file that ends in \.npz, .* or \.graphml"),
        ("rows", {}, "an export goes to a file that ends in"),
        ("no/rows.csv", {}, "there is no directory"),
        ("dir.csv", {}, "is a directory; name a file in it"),
        ("rows.npz", {"long": True}, r"long goes with \.csv, not with rows\.npz"),
        ("rows.npz", {"k": 3}, r"k goes with \.graphml"),
        ("g.graphml", {"method": "nj"}, r"method goes with \.nwk, \.newick, \.tree"),
        ("g.graphml", {"k": 0}, "expected at least 1 neighbour; got 0"),
        ("rows.csv", {"models": ["org/m1", "org/m1"]}, "org/m1@.* is given twice"),
        ("rows.csv", {"view": View(only=("poems",))}, "no subset 'poems'"),
        ("t.nwk", {"models": ["org/m1"]}, "a tree needs two rows; got 1"),
        ("g.graphml", {"models": ["org/m1"]}, "a neighbour graph needs two rows; got 1"),
    ],
)
def test_refusals_leave_nothing(
    name: str, options: dict[str, Any], message: str, filled: Registry, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / "dir.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        export(filled, place / name, **options)
    assert [path.name for path in place.rglob("*")] == ["dir.csv"]


def test_unknown_models_and_empty_registries(filled: Registry, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no row of org/m9"):
        export(filled, tmp_path / "rows.csv", ["org/m9"])
    for ending in ENDINGS:
        if ending != ".h5ad":
            with pytest.raises(LlregError, match="has no rows to export; add one with: llreg add MODEL"):
                export(registry, tmp_path / f"rows{ending}")


def test_without_anndata(filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(MissingExtraError, match=r'anndata is needed .*: pip install "llreg\[export\]"'):
        export(filled, tmp_path / "rows.h5ad")


@pytest.mark.parametrize("name", [*STREAMED, "g.graphml"])
def test_an_interrupted_export_leaves_the_old_file(name: str, filled: Registry, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / name).write_bytes(b"what was here")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(filled, place / name, progress=stop)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {name: b"what was here"}
