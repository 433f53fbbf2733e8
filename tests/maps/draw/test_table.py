"""Tables of a map: columns and types, neighbours as embedding-atlas reads them, and cells that stay text."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llreg.maps.draw.table import harmless, write_csv, write_parquet
from llreg.maps.make import MapResult, make_map, place_onto
from llreg.maps.scene import Column, Scene, make_scene
from llreg.registry import Registry


@pytest.fixture(scope="module")
def result(groups: Registry) -> MapResult:
    """A map of all rows."""
    return make_map(groups, method="pca")


@pytest.fixture(scope="module")
def scene(result: MapResult) -> Scene:
    """The same with what is shown beside it."""
    return make_scene(result)


def test_parquet_holds_coordinates_columns_and_neighbours(
    scene: Scene, result: MapResult, groups: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "map.parquet"
    write_parquet(scene, path)
    table = pq.read_table(path)
    assert table.column_names[:5] == ["row_id", "model", "x", "y", "placed"]
    assert table["row_id"].to_pylist() == [record.row_id for record in groups.records()]
    np.testing.assert_array_equal(table["x"].to_numpy(), result.map.xy[:, 0])
    types = {name: table.schema.field(name).type for name in ("family", "num_parameters", "created", "neighbors")}
    assert types["family"] == pa.string()
    assert types["num_parameters"] == pa.float64()
    assert types["created"] == pa.date32()
    assert types["neighbors"] == pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    assert table.schema.field("x").metadata == {b"unit": b"sqrt(bit/byte)"}
    facts = json.loads(table.schema.metadata[b"llreg"])
    assert facts["version"] == groups.version[:12]
    assert facts["method"] == "PCA"


def test_neighbours_are_the_nearest_by_kl(scene: Scene, groups: Registry, tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    write_parquet(scene, path)
    table = pq.read_table(path)
    kl = groups.kl()
    values, errors = kl["kl_bits_per_byte"].values, kl["kl_bits_per_byte_se"].values
    ids = [record.row_id for record in groups.records()]
    for row in (0, 17, 59):
        order = [k for k in np.argsort(values[row], kind="stable") if k != row][:10]
        found = table["neighbors"][row].as_py()
        assert found["ids"] == order
        assert found["distances"] == pytest.approx(values[row, order])
        assert table["nearest"][row].as_py() == ids[order[0]]
        assert table["nearest_kl_se"][row].as_py() == pytest.approx(errors[row, order[0]])


def test_csv_says_what_parquet_says(scene: Scene, tmp_path: Path) -> None:
    write_csv(scene, tmp_path / "map.csv")
    write_parquet(scene, tmp_path / "map.parquet")
    table = pq.read_table(tmp_path / "map.parquet").to_pylist()
    with (tmp_path / "map.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table) == 60
    for line, row in zip(lines, table, strict=True):
        assert list(line) == list(row)
        assert (float(line["x"]), float(line["y"])) == (row["x"], row["y"])
        assert float(line["num_parameters"]) == row["num_parameters"]
        assert date.fromisoformat(line["created"]) == row["created"]
        assert json.loads(line["neighbors"]) == row["neighbors"]


def test_same_map_same_bytes(result: MapResult, tmp_path: Path) -> None:
    for write, name in ((write_csv, "map.csv"), (write_parquet, "map.parquet")):
        found = set()
        for _ in range(2):
            write(make_scene(result), tmp_path / name)
            found.add((tmp_path / name).read_bytes())
        assert len(found) == 1


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_are_kept_from_spreadsheets(text: str, scene: Scene, tmp_path: Path) -> None:
    column = Column(text, "a title", "category", [text] * 60)
    write_csv(replace(scene, columns=[column], names=[text] * 60), tmp_path / "map.csv")
    with (tmp_path / "map.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            assert not cell.startswith("-") or float(cell) < 0  # a number is one
    assert rows[1][1] == "'" + text.replace("\t", "\\t").replace("\r", "\\r")
    assert harmless("a=1") == "a=1"


def test_unknown_values_are_empty(scene: Scene, tmp_path: Path) -> None:
    columns = [
        Column("licence", "licence", "category", [None] * 59 + ["mit"]),
        Column("score", "score", "number", [None] * 59 + [1.5]),
        Column("created", "created", "date", [None] * 59 + ["2025-01-02"]),
    ]
    write_csv(replace(scene, columns=columns), tmp_path / "map.csv")
    write_parquet(replace(scene, columns=columns), tmp_path / "map.parquet")
    rows = pq.read_table(tmp_path / "map.parquet").to_pylist()
    assert [rows[0][name] for name in ("licence", "score", "created")] == [None, None, None]
    assert [rows[59][name] for name in ("licence", "score", "created")] == ["mit", 1.5, date(2025, 1, 2)]
    assert "mit,1.5,2025-01-02" in (tmp_path / "map.csv").read_text(encoding="utf-8")


def test_placed_rows_are_marked(groups: Registry, tmp_path: Path) -> None:
    names = [record.identity.model for record in groups.records()]
    old = make_map(groups, names[:58], method="pca").map
    write_parquet(make_scene(place_onto(groups, old)), tmp_path / "map.parquet")
    assert pq.read_table(tmp_path / "map.parquet")["placed"].to_pylist() == [False] * 58 + [True] * 2


def test_two_rows(groups: Registry, tmp_path: Path) -> None:
    scene = make_scene(make_map(groups, ["g0/g0-m0", "g1/g1-m0"], method="pca"))
    write_parquet(scene, tmp_path / "map.parquet")
    assert [row["ids"] for row in pq.read_table(tmp_path / "map.parquet")["neighbors"].to_pylist()] == [[1], [0]]


# What is shown beside a map


def test_columns_of_a_scene(scene: Scene, groups: Registry) -> None:
    columns = {column.name: column for column in scene.columns}
    assert scene.columns[0].name == "family"
    assert columns["architecture"].values[:5] == [f"Arch{k}ForCausalLM" for k in range(5)]
    assert columns["created"].values[7] == "2025-02-01"
    assert columns["num_parameters"].log
    summary = groups.summary()  # no clipping and no weights here, so the view shows what ls shows
    for name in ("mean_log_likelihood", "bits_per_byte"):
        assert columns[name].values == pytest.approx([line[name] for line in summary], rel=1e-6)


def test_declared_edges(scene: Scene) -> None:
    assert len(scene.edges) == 55
    for parent, child, relation in scene.edges:
        assert scene.names[parent] == scene.names[child].rpartition("-")[0] + "-m0"
        assert relation == "finetune"


def test_links_only_to_the_hub(scene: Scene) -> None:
    assert scene.links[0] == "https://huggingface.co/g0/g0-m0"


def test_scores_become_columns(result: MapResult, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("model,arc,x\ng0/g0-m0,61.5,3\ng1/g1-m0,,4\nno/such,1,2\n", encoding="utf-8")
    columns = {column.name: column for column in make_scene(result, scores=path).columns}
    assert columns["arc"].values[:3] == [61.5, None, None]
    assert columns["score_x"].values[:2] == [3.0, 4.0]  # x is the coordinate
