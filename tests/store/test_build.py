"""The build: opens in plain xarray, is a pure function of the rows, and loses nothing of them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

from llreg.locate import init
from llreg.registry import Registry
from llreg.settings import CHUNK_BYTES, SHARD_ROWS
from llreg.store.rowfile import Row, write_row
from llreg.store.zarr_profile import chunk_rows
from llreg_schemas import canonical_json, version_id
from llreg_schemas.errors import InvalidFileError

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
PARTS = ("store.zarr", "models.parquet", "README.md")


def built_bytes(root: Path) -> dict[str, bytes]:
    """Every file of the build by its name."""
    paths = [
        path for part in PARTS for path in ([root / part] if (root / part).is_file() else (root / part).rglob("*"))
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}


def copy_registry(registry: Registry, to: Path) -> Registry:
    """The same registry in another place."""
    shutil.copytree(registry.path, to)
    return Registry(to)


def open_plainly(registry: Registry) -> xr.Dataset:
    """As a user without llreg would open it; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(registry.path / "store.zarr")


def test_row_groups_are_small_in_bytes(registry: Registry, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Dataset Viewer refuses large ones; where all rows fit into one group, there is one."""
    fill(registry, 7)
    registry.build()
    table = pq.read_table(registry.path / "models.parquet")
    assert pq.ParquetFile(registry.path / "models.parquet").num_row_groups == 1
    monkeypatch.setattr("llreg.store.build._GROUP_BYTES", 3 * 4 * registry.num_texts + 1)
    registry.build()
    parts = pq.ParquetFile(registry.path / "models.parquet").metadata
    assert [parts.row_group(k).num_rows for k in range(parts.num_row_groups)] == [3, 3, 1]
    assert pq.read_table(registry.path / "models.parquet").equals(table)
    monkeypatch.setattr("llreg.store.build._GROUP_BYTES", 1)  # less than one row
    registry.build()
    assert pq.ParquetFile(registry.path / "models.parquet").num_row_groups == 7


def test_plain_xarray_shows_everything(registry: Registry, fill: Fill) -> None:
    rows = fill(registry, 5)
    registry.build()
    data = open_plainly(registry)
    assert dict(data.sizes) == {"model": 5, "text": 128, "coordinate": registry.info.num_segments}
    assert data["log_likelihood"].dims == data["num_tokens"].dims == ("model", "text")
    assert (data["log_likelihood"].dtype, data["num_tokens"].dtype) == (np.float32, np.int32)
    assert (data["log_likelihood"].attrs["units"], data["num_tokens"].attrs["units"]) == ("nat", "1")
    assert data["model"].values.tolist() == [row.record.row_id for row in rows]
    assert data["model_id"].values.tolist() == [f"org/m{k}" for k in range(5)]
    assert data["digest"].values.tolist() == [row.record.digest for row in rows]
    assert data["num_parameters"].values.tolist() == [124_000_000] * 5
    assert data["text"].values.tolist() == list(range(128))
    assert data["subset"].values.tolist() == list(registry.texts.subset)
    assert data["text_bytes"].values.tolist() == list(registry.texts.num_bytes)
    assert data["text_sha256"].values.tolist() == list(registry.texts.sha256)
    by_model = {"model_id", "revision", "weight_dtype", "quantization", "architecture", "base_model", "record"}
    by_model |= {"num_parameters", "licence", "added_at", "digest", "model"}
    assert set(data.coords) == by_model | {"text", "subset", "text_bytes", "text_sha256", "coordinate_text"}
    assert {name for name in data.coords if data[name].dims == ("model",)} == by_model
    assert data.attrs["version"] == registry.version
    assert data.attrs["text_set"] == registry.info["text_set"]["id"]
    assert all(data[name].attrs["long_name"] for name in data.variables)
    selected = data["log_likelihood"].sel(model=rows[3].record.row_id).values
    np.testing.assert_array_equal(selected, rows[3].log_likelihood)


def test_store_is_consolidated_v3_in_few_files(registry: Registry, fill: Fill) -> None:
    fill(registry, 5)
    registry.build()
    root = json.loads((registry.path / "store.zarr" / "zarr.json").read_bytes())
    assert root["zarr_format"] == 3
    assert "log_likelihood" in root["consolidated_metadata"]["metadata"]
    names = sorted(path.name for path in (registry.path / "store.zarr" / "log_likelihood").iterdir())
    assert names == ["c.0.0", "zarr.json"]


def test_lossless(small_registry: Registry, make_row: MakeRow) -> None:
    """Records and values, NaN and rare fields too, are read back from the build alone."""
    rows = [
        make_row(
            small_registry,
            "Org/Name-1.0",
            0,
            revision=None,
            source="imported",
            weight_dtype="bfloat16",
            quantization="gguf:Q4_1",
            file="a b/c.gguf",
            adapter={"model": "x", "revision": "a" * 40},
        ),
        make_row(small_registry, "local", 1, source="local", revision="sha256:" + "b" * 64, subfolder="checkpoint-1"),
        make_row(small_registry, "nan", 2, log_likelihood=[-1.5, np.nan, -0.0, -9999.5, -1e-45, np.nan]),
        make_row(small_registry, "bare", 3, declared={"base_model": [], "num_parameters": None, "licence": None}),
        make_row(small_registry, "later", 4, provenance={"a_later_field": "ü 数", "x": 1.25}, declared={"y": None}),
    ]
    for row in rows:
        write_row(small_registry.path, row)
    small_registry.build()
    shutil.rmtree(small_registry.path / "rows")
    back = Registry(small_registry.path)
    assert [record.to_json() for record in back.records()] == [row.record.to_json() for row in rows]
    for row in rows:
        again = back.row(row.record.row_id)
        np.testing.assert_array_equal(again.log_likelihood, row.log_likelihood)
        np.testing.assert_array_equal(again.num_tokens, row.num_tokens)
        assert (
            write_row(small_registry.path, again).read_bytes()
            == write_row(small_registry.path.parent, row).read_bytes()
        )
    assert open_plainly(back)["record"].values.tolist() == [canonical_json(row.record.to_json()) for row in rows]


def test_table_has_a_row_a_line(small_registry: Registry, make_row: MakeRow) -> None:
    row = make_row(small_registry, log_likelihood=[-1, -2, np.nan, -4, -5, -6])
    write_row(small_registry.path, row)
    write_row(small_registry.path, make_row(small_registry, "x", 1, declared={"num_parameters": None}))
    small_registry.build()
    first, second = pq.read_table(small_registry.path / "models.parquet").to_pylist()
    assert (first["model"], first["model_id"], first["digest"]) == (row.record.row_id, "a/b", row.record.digest)
    assert (first["base_model"], first["num_parameters"], second["num_parameters"]) == (["org/base"], 124_000_000, None)
    np.testing.assert_array_equal(np.array(first["log_likelihood"], np.float32), row.log_likelihood)
    assert first["mean_log_likelihood"] == pytest.approx(-18 / 5)


def test_two_builds_are_equal_byte_for_byte(small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    fill(small_registry, 7)
    other = copy_registry(small_registry, tmp_path / "other")
    small_registry.build()
    first = built_bytes(small_registry.path)
    small_registry.build()
    other.build()
    assert built_bytes(small_registry.path) == first
    assert built_bytes(other.path) == first
    assert set(PARTS) <= {name.split("/")[0] for name in first}


def test_order_of_arrival_does_not_matter(
    small_registry: Registry, fill: Fill, make_row: MakeRow, tmp_path: Path
) -> None:
    other = copy_registry(small_registry, tmp_path / "other")
    fill(small_registry, 5)
    small_registry.build()
    for k in (3, 0, 4, 1, 2):
        write_row(other.path, make_row(other, f"org/m{k}", k))
        other.build()
    assert built_bytes(other.path) == built_bytes(small_registry.path)


@pytest.mark.parametrize(("old", "new"), [(3, 2), (1, 0), (0, 3), (SHARD_ROWS - 1, 3)])
def test_older_build_and_new_rows_equal_all_row_files(
    small_registry: Registry, fill: Fill, tmp_path: Path, old: int, new: int
) -> None:
    fill(small_registry, old)
    small_registry.build()
    pulled = copy_registry(small_registry, tmp_path / "pulled")
    shutil.rmtree(pulled.path / "rows", ignore_errors=True)
    for registry in (small_registry, pulled):
        fill(registry, new, start=old)
        registry.build()
    assert len(list((pulled.path / "rows").rglob("*.zip"))) == new
    assert built_bytes(pulled.path) == built_bytes(small_registry.path)
    assert pulled.check_build() == []


@pytest.mark.parametrize("count", [0, 1, SHARD_ROWS + 4])
def test_any_number_of_rows(small_registry: Registry, fill: Fill, count: int) -> None:
    rows = fill(small_registry, count)
    assert small_registry.build() == version_id(row.record.digest for row in rows)
    data = open_plainly(small_registry)
    assert dict(data.sizes) == {"model": count, "text": 6, "coordinate": small_registry.info.num_segments}
    expected = np.array([row.log_likelihood for row in rows], np.float32).reshape(count, 6)
    np.testing.assert_array_equal(data["log_likelihood"].values, expected)
    np.testing.assert_array_equal(data["num_tokens"].values, np.array([r.num_tokens for r in rows]).reshape(count, 6))
    lazily = Registry(small_registry.path).dataset()
    np.testing.assert_array_equal(lazily["log_likelihood"].values, expected)
    assert len(pq.read_table(small_registry.path / "models.parquet")) == count
    shards = list((small_registry.path / "store.zarr" / "log_likelihood").glob("c.*"))
    assert len(shards) == -(-count // SHARD_ROWS)
    assert small_registry.validate() == []


@pytest.mark.parametrize("num_texts", [1, 6, 128, 1_000, 10_000, 40_960, 100_000])
def test_chunk_is_bounded(num_texts: int) -> None:
    rows = chunk_rows(num_texts)
    assert SHARD_ROWS % rows == 0
    assert rows == 1 or rows * 4 * num_texts <= CHUNK_BYTES


def test_retracted_row_is_left_out(small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    never = copy_registry(small_registry, tmp_path / "never")
    fill(small_registry, 3)
    small_registry.build()
    small_registry.retract("org/m1", why="wrong weights")
    assert small_registry.check_build() != []
    small_registry.build()
    assert open_plainly(small_registry)["model_id"].values.tolist() == ["org/m0", "org/m2"]
    assert len(list((small_registry.path / "rows").rglob("*m1*.zip"))) == 1  # rows are never deleted
    fill(never, 1)
    fill(never, 1, start=2)
    never.build()
    # The store names what was retracted; nothing else tells it from one that never had the row.
    (digest,) = small_registry.retractions()
    assert open_plainly(small_registry).attrs.pop("retracted") == [digest]
    ours, theirs = built_bytes(small_registry.path), built_bytes(never.path)
    assert ours.pop("store.zarr/zarr.json") != theirs.pop("store.zarr/zarr.json")
    assert ours == theirs


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, empty_registries: Path, make_row: MakeRow) -> Path:
    """What `built` copies."""
    registry = Registry(shutil.copytree(empty_registries / "small", tmp_path_factory.mktemp("built") / "small"))
    for k in range(3):
        write_row(registry.path, make_row(registry, f"org/m{k}", k))
    registry.build()
    return registry.path


class TestCheck:
    """`check_build`: content decides, and nothing is written."""

    @pytest.fixture
    def built(self, made_once: Path, tmp_path: Path) -> Registry:
        return Registry(shutil.copytree(made_once, tmp_path / "small"))

    def test_current(self, built: Registry) -> None:
        before = built_bytes(built.path)
        assert built.check_build() == []
        assert built_bytes(built.path) == before
        assert list((built.path / ".llreg" / "tmp").iterdir()) == []

    def test_no_build(self, small_registry: Registry) -> None:
        assert small_registry.check_build() == [f"{part} is missing" for part in PARTS]

    def test_new_row(self, built: Registry, fill: Fill) -> None:
        fill(built, 1, start=3)
        assert built.check_build() == [f"{part} differs from the rows" for part in PARTS]

    def test_changed_value_in_the_store(self, built: Registry) -> None:
        group: Any = zarr.open_group(built.path / "store.zarr", mode="r+")
        group["log_likelihood"][1, 2] = -1.0
        assert built.check_build() == ["store.zarr differs from the rows"]

    def test_changed_attribute_of_the_store(self, built: Registry) -> None:
        path = built.path / "store.zarr" / "zarr.json"
        path.write_bytes(path.read_bytes().replace(b'"nat"', b'"bit"'))
        assert built.check_build() == ["store.zarr differs from the rows"]

    def test_damaged_chunk_of_the_store(self, built: Registry) -> None:
        path = built.path / "store.zarr" / "log_likelihood" / "c.0.0"
        data = bytearray(path.read_bytes())
        data[10] ^= 0xFF
        path.write_bytes(data)
        assert built.check_build() == ["store.zarr differs from the rows"]

    def test_changed_table_and_card(self, built: Registry) -> None:
        table = pq.read_table(built.path / "models.parquet")
        pq.write_table(table.slice(0, 2), built.path / "models.parquet")
        with (built.path / "README.md").open("a") as file:
            file.write("P.S.")
        assert built.check_build() == [f"{part} differs from the rows" for part in PARTS[1:]]

    def test_same_content_written_otherwise_is_current(self, built: Registry) -> None:
        table = pq.read_table(built.path / "models.parquet")
        pq.write_table(table, built.path / "models.parquet", compression="snappy")
        assert built.check_build() == []

    def test_torn_table(self, built: Registry) -> None:
        (built.path / "models.parquet").write_bytes(b"PAR1")
        assert built.check_build() == ["models.parquet differs from the rows"]


def test_damaged_row_stops_the_build_and_keeps_the_old_one(small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 2)
    small_registry.build()
    before = built_bytes(small_registry.path)
    fill(small_registry, 3)
    damaged = next((small_registry.path / "rows").rglob("*m2*.zip"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InvalidFileError, match="truncated or damaged"):
        Registry(small_registry.path).build()
    assert built_bytes(small_registry.path) == before
    assert list((small_registry.path / ".llreg" / "tmp").iterdir()) == []


def test_card_is_escaped_and_names_every_model(tmp_path: Path, small_texts: Path, make_row: MakeRow) -> None:
    registry = init(tmp_path / "r", texts=small_texts, name="org/r", licence='<script>alert("x")</script>', clip=-50.0)
    write_row(registry.path, make_row(registry, "org/m0"))
    registry.build()
    card = (registry.path / "README.md").read_text()
    assert "- org/m0" in card
    assert "-50.0 nats" in card
    front, body = card.split("---\n", 2)[1:]
    assert "<script>" not in body
    assert 'license_name: "<script>alert(\\"x\\")</script>"' in front
