"""Rows with segments: their files, the store that has coordinates in their place, and what is refused of strangers."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray
import zarr

from llreg import Registry, Row
from llreg.store.arrays import UNSCORED, row_variables, store_variables
from llreg.store.layout import KEPT, ROWS, STORE
from llreg.store.rowfile import make_row as make
from llreg.store.rowfile import parse_row, read_row, row_limit, to_zip, write_row
from llreg.texts.segments import Cuts
from llreg_schemas import pretty_json
from llreg_schemas.errors import InvalidFileError

MakeRow = Callable[..., Row]
N = 6


@pytest.fixture(params=["texts", "pairs"])
def either_registry(request: pytest.FixtureRequest) -> Registry:
    """An empty registry on six texts, or on six pairs."""
    name = {"texts": "small_registry", "pairs": "pair_registry"}[request.param]
    registry: Registry = request.getfixturevalue(name)
    return registry


def test_a_new_registry_names_the_cuts_of_its_texts(either_registry: Registry) -> None:
    cuts, texts = either_registry.cuts, either_registry.texts
    assert cuts is not None
    assert either_registry.info.segments == cuts.document(texts.info.id)
    np.testing.assert_array_equal(cuts.sizes, Cuts.of(texts.complete()).sizes)
    np.testing.assert_array_equal(cuts.sums(cuts.sizes), texts.num_bytes)


def test_a_fine_row_comes_back_from_its_file(either_registry: Registry, make_row: MakeRow) -> None:
    values = [float("nan"), *[-40.0] * (N - 1)]
    row = make_row(either_registry, log_likelihood=values, fine=True)
    path = write_row(either_registry.path, row)
    back = read_row(path, N, either_registry.info.num_segments)
    assert list(back.arrays) == list(row_variables(pairs=either_registry.rendering is not None, fine=True))
    for name, array in row.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(back.arrays[name], array)
    assert back.record == row.record
    assert to_zip(back) == path.read_bytes()
    assert either_registry.validate() == []
    assert back.digest == row.digest == row.record.digest
    assert to_zip(row) == to_zip(back)
    assert len(to_zip(row)) <= row_limit(N, either_registry.info.num_segments)


def test_plain_xarray_shows_nats(small_registry: Registry, make_row: MakeRow) -> None:
    row = make_row(small_registry, log_likelihood=[float("nan"), *[-40.0] * (N - 1)], fine=True)
    with zarr.storage.ZipStore(write_row(small_registry.path, row), mode="r") as store:
        data = xarray.open_zarr(store, consolidated=False)
        shown = data["segment_log_likelihood"].load()
        assert (shown.dims, shown.attrs["units"]) == (("segment",), "nat")
        cuts = small_registry.cuts
        assert cuts is not None
        assert np.isnan(shown.values).tolist() == (cuts.text == 0).tolist()
        assert shown.sum().item() == pytest.approx(-40 * (N - 1))


@pytest.fixture
def fine_rows(either_registry: Registry, make_row: MakeRow) -> list[Row]:
    """Rows in files: three with segments, one of which lacks a text, and one without."""
    values = [-40.0, float("nan"), *[-30.0] * (N - 2)]
    rows = [make_row(either_registry, f"org/m{k}", k, fine=True) for k in range(2)]
    rows += [
        make_row(either_registry, "org/m2", 2, log_likelihood=values, fine=True),
        make_row(either_registry, "org/m3", 3),
    ]
    for row in rows:
        write_row(either_registry.path, row)
    return rows


@pytest.mark.parametrize("built", [0, 2, 4], ids=["in files", "some built", "all built"])
def test_values_from_files_and_store(either_registry: Registry, fine_rows: list[Row], built: int) -> None:
    paths = [either_registry.row_files()[row.record.digest] for row in fine_rows]
    contents = [path.read_bytes() for path in paths]
    for path in paths[built:]:
        path.unlink()
    either_registry.build()
    for path, data in zip(paths, contents, strict=True):
        path.unlink(missing_ok=True)
        if path in paths[built:]:
            path.write_bytes(data)
    registry = Registry(either_registry.path)
    records, fine = registry.records(), registry.fine_map
    assert fine is not None
    assert [registry.has_segments(record) for record in records] == [True, True, True, False]
    for suffix in ("", "_response") if registry.rendering else ("",):
        correct = registry.values(records, variable=f"num_correct{suffix}")
        coordinates = registry.values(records, variable=f"fine_coordinate{suffix}")
        for k, row in enumerate(fine_rows[:3]):
            np.testing.assert_array_equal(correct[k], row.arrays[f"num_correct{suffix}"])
            np.testing.assert_array_equal(
                coordinates[k], fine.coordinates(row.arrays[f"segment_log_likelihood{suffix}"])
            )
        assert (correct[3] == -1).all()
        assert np.isnan(coordinates[3]).all()
        data = registry.dataset()
        np.testing.assert_array_equal(data[f"fine_coordinate{suffix}"].values, coordinates)
        assert data[f"fine_coordinate{suffix}"].dims == ("model", "coordinate")
        np.testing.assert_array_equal(data["coordinate_text"].values, registry.coordinate_text)
    # The coordinates tell what was not scored.
    assert np.isnan(registry.values(records)[2]).tolist() == [k == 1 for k in range(N)]
    assert np.isnan(registry.values(records, variable="fine_coordinate")[2]).tolist() == (fine.text == 1).tolist()
    assert registry.validate() == []


def test_a_build_is_the_same_from_files_and_from_the_old_one(either_registry: Registry, fine_rows: list[Row]) -> None:
    either_registry.build()
    assert either_registry.check_build() == []
    before = {path: path.read_bytes() for path in (either_registry.path / STORE).rglob("*") if path.is_file()}
    shutil.rmtree(either_registry.path / ROWS)
    either_registry.build()
    assert {path: path.read_bytes() for path in (either_registry.path / STORE).rglob("*") if path.is_file()} == before
    group = zarr.open_group(either_registry.path / STORE, mode="r")
    assert group.attrs["build_format_version"] == 2
    pairs = either_registry.rendering is not None
    assert set(store_variables(pairs=pairs, fine=True)) < set(group.array_keys())
    with xarray.open_zarr(either_registry.path / STORE) as data:
        np.testing.assert_array_equal(data["coordinate_text"].values, either_registry.coordinate_text)
        assert np.isnan(data["fine_coordinate"].values[3]).all()


def test_segments_come_from_the_file_alone(either_registry: Registry, fine_rows: list[Row]) -> None:
    either_registry.build()
    for row in fine_rows:
        for name in ("segment_log_likelihood", "segment_log_likelihood_response")[
            : 1 + bool(either_registry.rendering)
        ]:
            found = either_registry.segments(row.record, variable=name)
            if row.record.is_fine:
                np.testing.assert_array_equal(found, row.arrays[name])
            else:
                assert found is None
    assert either_registry.row("org/m0").arrays.keys() == fine_rows[0].arrays.keys()
    files = either_registry.row_files()
    path = files[fine_rows[0].record.digest]
    data = path.read_bytes()
    for damaged in (data[:-9], data[:200] + data[205:], b"", data + bytes(9)):
        path.write_bytes(damaged)
        with pytest.raises(InvalidFileError, match=r"expected the segments of org/m0@.* get the original again"):
            either_registry.segments(fine_rows[0].record)
    path.write_bytes(files[fine_rows[1].record.digest].read_bytes())
    with pytest.raises(InvalidFileError, match="not those that the row's record names"):
        either_registry.segments(fine_rows[0].record)
    path.unlink()
    assert either_registry.segments(fine_rows[0].record) is None


def test_a_store_without_fine_rows_has_no_coordinates(small_registry: Registry, fill: Callable[..., list[Row]]) -> None:
    fill(small_registry, 2)
    small_registry.build()
    # Nor files of them: what is uploaded and pulled is as much as of format 1.
    for name in ("fine_coordinate", "num_correct"):
        assert not list((small_registry.path / STORE / name).glob("c.*"))
    assert np.isnan(small_registry.dataset()["fine_coordinate"].values).all()
    assert (small_registry.validate(), small_registry.check_build()) == ([], [])


def test_lost_or_changed_coordinates_are_found(either_registry: Registry, fine_rows: list[Row]) -> None:
    either_registry.build()
    shard = either_registry.path / STORE / "fine_coordinate" / "c.0.0"
    group = zarr.open_group(either_registry.path / STORE, mode="r+")
    stored: Any = group["fine_coordinate"]
    stored[1, 0] += 1
    (problem,) = Registry(either_registry.path).validate()
    assert problem.message == "fine_coordinate: expected those of the row's segments; make it again: llreg build"
    assert Registry(either_registry.path).check_build() == ["store.zarr differs from the rows"]
    shard.unlink()
    with pytest.raises(InvalidFileError, match=r"fine_coordinate/c\.0\.0 is missing"):
        Registry(either_registry.path).dataset()["fine_coordinate"].load()


def test_a_row_that_a_build_lost_is_kept_without_segments(either_registry: Registry, fine_rows: list[Row]) -> None:
    """As after a pull of the build alone: its named versions stay whole, and nothing that cannot be published is a row file."""
    either_registry.build()
    either_registry.tag("v1")
    coordinates = either_registry.values(either_registry.records(), variable="fine_coordinate")
    shutil.rmtree(either_registry.path / ROWS)
    for row in fine_rows[2:]:
        either_registry.retract(row.record.row_id, why="a mistake")
    either_registry.build()
    assert len(list((either_registry.path / KEPT).iterdir())) == 1
    assert len(list((either_registry.path / ROWS).rglob("*.zip"))) == 1
    assert len(either_registry.records()) == 2
    frozen = Registry(either_registry.path, revision="v1")
    np.testing.assert_array_equal(frozen.values(frozen.records(), variable="fine_coordinate"), coordinates)
    assert either_registry.segments(fine_rows[2].record) is None
    assert (either_registry.validate(), either_registry.check_build()) == ([], [])


# What strangers send


def rewritten(row: Row, **changes: Any) -> bytes:
    """The file of a row whose arrays or provenance were changed, with the digest that then fits."""
    provenance = {**row.record.provenance, **changes.pop("provenance", {})}
    arrays = {**row.arrays, **changes}
    return to_zip(make(row.record.identity, provenance, row.record.declared, arrays))


def test_what_a_fine_row_must_be(small_registry: Registry, make_row: MakeRow) -> None:
    values = np.array([np.nan, *[-40.0] * (N - 1)], np.float32)
    row = make_row(small_registry, log_likelihood=values, fine=True)
    segments, tokens = row.arrays["segment_log_likelihood"], row.num_tokens
    first = int((segments != UNSCORED).argmax())
    ones = np.eye(1, len(segments), first, dtype=np.int32)[0]
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"segment_log_likelihood": segments - ones},
            r"segment_log_likelihood: expected segments that sum to the text's",
        ),
        ({"segment_log_likelihood": segments + ones}, r"sum to the text's -40.000 nats; got -39.996 in text 1"),
        ({"segment_log_likelihood": np.abs(segments)}, r"segment_log_likelihood: expected at most 0 \(a probability"),
        (
            {"segment_log_likelihood": np.where(segments == UNSCORED, -9, segments)},
            r"exactly where log_likelihood is NaN",
        ),
        (
            {"segment_log_likelihood": np.where(ones, UNSCORED, segments)},
            r"exactly where log_likelihood is NaN; got .* 2",
        ),
        ({"num_correct": tokens + 1}, r"num_correct: expected 0 up to the tokens scored; got 1 at text 0"),
        ({"num_correct": -np.ones(N, np.int32)}, "num_correct: expected 0 up to the tokens scored; got -1 at text 0"),
        (
            {"provenance": {"segments": "f" * 64}},
            r"provenance\.segments: expected the cuts of this registry, .*; got ffffffff",
        ),
        ({"provenance": {"segments": None}}, "provenance.segments"),
    ]
    for changes, message in cases:
        changes = {name: v.astype(np.int32) if isinstance(v, np.ndarray) else v for name, v in changes.items()}
        with pytest.raises(InvalidFileError, match=message):
            small_registry.check_row(
                parse_row(rewritten(row, **changes), N, small_registry.info.num_segments, label="row"), "row"
            )


def members_of(row: Row) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(to_zip(row))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_files_of_another_form(small_registry: Registry, make_row: MakeRow) -> None:
    fine, plain = make_row(small_registry, fine=True), make_row(small_registry)
    num_segments = small_registry.info.num_segments

    def with_record(row: Row, **changes: Any) -> dict[str, bytes]:
        members = members_of(row)
        group = json.loads(members["zarr.json"])
        group["attributes"] |= changes
        return {**members, "zarr.json": json.dumps(group).encode()}

    def with_array(**changes: Any) -> dict[str, bytes]:
        members = members_of(fine)
        name = "segment_log_likelihood/zarr.json"
        return {**members, name: json.dumps({**json.loads(members[name]), **changes}).encode()}

    hash_only = {**plain.record.provenance, "segments_sha256": "0" * 64}
    without = {name: data for name, data in members_of(fine).items() if not name.startswith("segment_")}
    cases = [
        (with_record(fine, format_version=1), "got version 1 with segments and with hash"),
        (with_record(plain, format_version=2), "got version 2 without segments and without hash"),
        (with_record(plain, format_version=2, provenance=hash_only), "got version 2 without segments and with hash"),
        ({**members_of(fine), "zarr.json": b"{}"}, "zarr.json: expected a Zarr v3 group"),
        (
            {**members_of(fine), "zarr.json": b'{"zarr_format": 3, "node_type": "group"}'},
            "expected a value of type object",
        ),
        (without, "expected the members .*segment_log_likelihood/c/0"),
        (
            with_array(shape=[10**12]),
            rf"expected shape \({num_segments},\), one value a segment; got \[1000000000000\]",
        ),
        (with_array(data_type="float32"), "segment_log_likelihood: expected data type int32"),
        ({**members_of(fine), "segment_log_likelihood/c/0": bytes(9)}, "segment_log_likelihood: expected gzip data"),
        (
            {**members_of(fine), "segment_log_likelihood/c/0": members_of(fine)["num_correct/c/0"]},
            f"segment_log_likelihood: expected exactly {4 * num_segments} bytes",
        ),
    ]
    for members, message in cases:
        with pytest.raises(InvalidFileError, match=message):
            parse_row(zipped(members), N, num_segments, label="row")
    # The hash in the record is of the values, as the digest is.
    other = make_row(small_registry, seed=1, fine=True)
    arrays = {**fine.arrays, "segment_log_likelihood": other.arrays["segment_log_likelihood"]}
    with pytest.raises(InvalidFileError, match="expected the digest of the values"):
        parse_row(to_zip(Row(fine.record, **arrays)), N, num_segments, label="row")
    # Format 1 has no segments.
    with pytest.raises(InvalidFileError, match="expected no segments: this registry is of format 1"):
        parse_row(to_zip(fine), N, label="row")


def test_a_kept_row_is_no_row_file(small_registry: Registry, make_row: MakeRow) -> None:
    """What a build left of a row cannot be checked against the row's segments, and so is taken from nobody."""
    fine = small_registry.fine_map
    assert fine is not None
    row = make_row(small_registry, fine=True)
    coordinates = fine.coordinates(row.arrays["segment_log_likelihood"])
    kept = replace(row, segment_log_likelihood=None, fine_coordinate=coordinates)
    path = write_row(small_registry.path, kept)
    (problem,) = small_registry.validate()
    assert "expected the members" in problem.message
    with pytest.raises(InvalidFileError, match="expected the members"):
        read_row(path, N, small_registry.info.num_segments)


def test_registries_of_another_form(small_registry: Registry) -> None:
    path = small_registry.path / "registry.json"
    good = json.loads(path.read_text())
    segments = good["segments"]
    cases = [
        ({"format_version": 1}, "segments: expected segments in format version 2, and in no other"),
        ({"segments": None}, "segments: expected"),
        ({"segments": {**segments, "text_set": "0" * 64}}, r"segments\.text_set: expected the id of the text set"),
        (
            {"segments": {**segments, "num_segments": 10**9}},
            r"num_segments: expected 6 to \d+ segments; got 1,000,000,000",
        ),
        ({"segments": {**segments, "num_segments": 5}}, r"num_segments: expected 6 to \d+ segments; got 5"),
        ({"segments": {**segments, "target_bytes": 25}}, r"segments\.id: expected the hash of the segments"),
        ({"segments": {**segments, "name": "whitespace-2"}}, "expected 'whitespace-1'"),
    ]
    for changes, message in cases:
        path.write_text(pretty_json({**good, **changes}))
        with pytest.raises(InvalidFileError, match=message):
            Registry(small_registry.path)
    path.write_text(pretty_json({name: value for name, value in good.items() if name != "segments"}))
    with pytest.raises(InvalidFileError, match="segments: expected segments in format version 2"):
        Registry(small_registry.path)


def test_cuts_that_are_not_the_registrys(small_registry: Registry) -> None:
    from llreg.texts.textset import to_parquet
    from llreg_schemas import hash_json

    path, texts = small_registry.path / "texts.parquet", small_registry.texts
    assert texts.cuts is not None
    sizes = texts.cuts.sizes.copy()
    sizes[0], sizes[1] = sizes[0] + 1, sizes[1] - 1
    moved = replace(texts, cuts=Cuts(sizes, texts.cuts.first))
    path.write_bytes(to_parquet(moved))
    with pytest.raises(InvalidFileError, match="segment_bytes: expected the segments in registry"):
        Registry(small_registry.path).cuts  # noqa: B018
    path.write_bytes(to_parquet(replace(texts, cuts=None)))
    with pytest.raises(InvalidFileError, match="segment_bytes: expected this column"):
        Registry(small_registry.path).cuts  # noqa: B018
    # Nor those of the rule, where registry.json itself has other ones: seen where the texts are.
    assert moved.cuts is not None
    document = {**small_registry.info["segments"], "sha256": moved.cuts.sha256}
    document["id"] = hash_json({name: value for name, value in document.items() if name != "id"})
    config = small_registry.path / "registry.json"
    config.write_text(pretty_json({**small_registry.info, "segments": document}))
    path.write_bytes(to_parquet(moved))
    changed = Registry(small_registry.path)
    assert changed.cuts == moved.cuts
    with pytest.raises(InvalidFileError, match="segment_bytes: text 0: expected the segments of the rule"):
        changed.texts  # noqa: B018
    sizes[0] -= 2
    document["sha256"] = Cuts(sizes, moved.cuts.first).sha256
    document["id"] = hash_json({name: value for name, value in document.items() if name != "id"})
    config.write_text(pretty_json({**small_registry.info, "segments": document}))
    path.write_bytes(to_parquet(replace(moved, cuts=Cuts(sizes, moved.cuts.first))))
    with pytest.raises(InvalidFileError, match="expected segments that have the texts' bytes together"):
        Registry(small_registry.path).cuts  # noqa: B018
