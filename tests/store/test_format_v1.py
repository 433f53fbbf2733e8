"""The stored sample of format version 1 opens, with the values that were written down when it was made."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

from llreg.registry import Registry
from llreg.store.rowfile import Row, read_row, write_row
from llreg_schemas import version_id
from llreg_schemas.errors import InputError, InvalidFileError

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "registry-v1"
DIGESTS = [
    "c16ecfbba96caaaca67d2f4f4c8e5e985948570c6502b70df82d1200dffa447d",
    "d4b248e5f3f521b625304cacfd80e49ac1ce898f7cb963d5d116b19bb431a390",
]
VERSION = "a8c647d2c192b9f8bbf9ba25c49f93520414e8ec0297b65af08c2e2cf57167ce"
TEXT_SET = "02bbf9c3a7a102c08351dfd1be98b57e26e6a863d7d5c933efb268ed2cb54132"
PROTOCOL = "5ff0f1e3955b7aa512634760bb17c5263ccd035f4ef5274a3a71147fd4d12e0f"
VIEW = "a57e6ee9aaa81546787af672813afa223c557222c747e4722aa21e286f057664"
VALUES = np.array([[-20.5, -15.25, -40.125], [-18.0, np.nan, -36.5]], np.float32)
TOKENS = np.array([[4, 7, 9], [4, 0, 9]], np.int32)


@pytest.fixture(params=["all", "rows only", "build only"])
def sample(request: Any, tmp_path: Path) -> Registry:
    """A copy of the sample, whole, without its build, or without its row files."""
    root = Path(shutil.copytree(SAMPLE, tmp_path / "registry"))
    if request.param == "rows only":
        shutil.rmtree(root / "store.zarr")
    if request.param == "build only":
        shutil.rmtree(root / "rows")
    return Registry(root)


def test_header(sample: Registry) -> None:
    assert (sample.name, sample.num_texts, sample.clip, sample.version) == ("sample", 3, -30.0, VERSION)
    assert sample.info["text_set"]["id"] == sample.texts.info.id == TEXT_SET
    assert (sample.info["protocol"]["id"], sample.info["view"]["id"]) == (PROTOCOL, VIEW)
    assert sample.texts.complete()[2] == "Ein Text mit Umlauten: äöü."
    assert list(sample.texts.num_bytes) == [15, 14, 30]
    assert list(sample.texts.subset) == ["prose", "code", "prose"]


def test_rows(sample: Registry) -> None:
    records = sample.records()
    assert [record.digest for record in records] == DIGESTS
    assert [record.row_id for record in records] == ["org/first@c16ecfbb", "second@d4b248e5"]
    assert [record.identity.revision for record in records] == ["a" * 40, "sha256:" + "b" * 64]
    assert records[0].provenance["added_at"] == "2026-01-01T00:00:00.000000Z"
    assert records[1].declared["num_parameters"] == 124439808
    data = sample.dataset()
    np.testing.assert_array_equal(data["log_likelihood"].values, VALUES)
    np.testing.assert_array_equal(data["num_tokens"].values, TOKENS)


def test_distance(sample: Registry) -> None:
    """Clipped at -30 the two share texts 0 and 2, with differences 2.5 and 0: variance 1.5625."""
    result = sample.kl()
    assert result["kl"].values[0, 1] == pytest.approx(1.5625 / 2, rel=1e-12)
    assert result["kl_bits_per_byte"].values[0, 1] == pytest.approx(1.5625 / 2 / (22.5 * math.log(2)), rel=1e-12)
    assert (result.attrs["version"], result.attrs["view"]) == (VERSION, VIEW)


def test_tag(sample: Registry) -> None:
    manifest = sample.version_manifest("v1")
    assert (manifest["rows"], manifest["version"]) == (DIGESTS, VERSION)
    assert Registry(sample.path, revision="v1").version == VERSION == version_id(DIGESTS)


def test_valid_and_buildable(sample: Registry) -> None:
    assert sample.validate() == []
    assert sample.build() == VERSION
    assert Registry(sample.path).check_build() == []
    np.testing.assert_array_equal(Registry(sample.path).dataset()["log_likelihood"].values, VALUES)


def test_row_files_alone() -> None:
    for path, digest in zip(sorted((SAMPLE / "rows").glob("*/*.zip")), DIGESTS, strict=True):
        row = read_row(path, 3)
        assert row.record.digest == digest
        np.testing.assert_array_equal(row.log_likelihood, VALUES[DIGESTS.index(digest)])


def test_build_in_other_tools() -> None:
    data = xr.open_zarr(SAMPLE / "store.zarr")
    np.testing.assert_array_equal(data["log_likelihood"].values, VALUES)
    assert data["digest"].values.tolist() == DIGESTS
    table = pq.read_table(SAMPLE / "models.parquet").to_pydict()
    assert table["model"] == ["org/first@c16ecfbb", "second@d4b248e5"]
    np.testing.assert_array_equal(np.array(table["log_likelihood"], np.float32), VALUES)


def test_reading_writes_nothing() -> None:
    before = {path: path.stat().st_mtime_ns for path in SAMPLE.rglob("*")}
    registry = Registry(SAMPLE)
    registry.summary()
    registry.kl()
    registry.validate()
    assert {path: path.stat().st_mtime_ns for path in SAMPLE.rglob("*")} == before


def test_it_stays_of_format_1(sample: Registry, make_row: Callable[..., Row], small_registry: Registry) -> None:
    """Rows come to it as before, without segments, and its build has the files that it had."""
    assert (sample.info.segments, sample.cuts, sample.fine_map, sample.coordinate_text) == (None, None, None, None)
    stored = SAMPLE / "store.zarr"
    before = {path.relative_to(stored): path.stat().st_size for path in stored.rglob("*") if path.is_file()}
    sample.build()
    rebuilt = sample.path / "store.zarr"
    assert {path.relative_to(rebuilt) for path in rebuilt.rglob("*") if path.is_file()} == before.keys()
    attributes = json.loads((stored / "zarr.json").read_text())["attributes"]
    assert json.loads((rebuilt / "zarr.json").read_text())["attributes"] == attributes
    row = make_row(sample, "org/new", 7)
    assert row.record.to_json()["format_version"] == 1
    write_row(sample.path, row)
    assert sorted(sample.dataset().data_vars) == ["log_likelihood", "num_tokens"]
    assert (len(sample.records()), sample.validate(), sample.segments(row.record)) == (3, [], None)
    with pytest.raises(InputError, match="no variable 'num_correct' in sample"):
        sample.values(sample.records(), variable="num_correct")
    fine = make_row(small_registry, fine=True)
    with pytest.raises(InvalidFileError, match="expected no segments: this registry is of format 1"):
        sample.read_file(write_row(sample.path, fine))
