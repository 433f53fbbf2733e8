"""map.json: nothing is lost, nothing is believed, and the map can be made again from it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llreg.geometry.view.view import read_view
from llreg.maps.document import Map, read_map
from llreg.maps.make import make_map, place_onto
from llreg.registry import Registry
from llreg_schemas import hash_json
from llreg_schemas.errors import FormatVersionError, InputError, InvalidFileError


@pytest.fixture(scope="module")
def made(groups: Registry) -> Map:
    """A small map with ellipses."""
    names = [record.identity.model for record in groups.records()][:12]
    return make_map(groups, names, iterations=260, ellipses=2).map


def _same(one: Map, other: Map) -> bool:
    return (
        one.id == other.id and one.xy.tobytes() == other.xy.tobytes() and one.placed.tolist() == other.placed.tolist()
    )


def test_written_map_is_read_whole(made: Map, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    made.write(str(path))
    found = read_map(path)
    assert _same(found, made)
    assert found.to_json() == made.to_json()
    assert found.view == made.view
    assert made.ellipses is not None
    np.testing.assert_array_equal(found.ellipses, made.ellipses)
    before = path.read_bytes()
    found.write(path)
    assert path.read_bytes() == before
    assert read_map(found) is found


coordinates = hnp.arrays(np.float64, (3, 2), elements=st.floats(-1e300, 1e300, allow_subnormal=True))


@given(coordinates)
def test_coordinates_keep_their_digits(xy: Any) -> None:
    from llreg.geometry.view.view import View

    digests = [f"{k}" * 64 for k in "abc"]
    made = Map(
        "r", "0" * 64, "1" * 64, "2" * 64, View(-1500.0), "pca", {}, {"llreg": "0.1.0"}, ("PC1", "PC2"),
        [f"m@{digest[:8]}" for digest in digests], digests, xy, np.array([False, True, False]),
    )  # fmt: skip
    document = json.loads(json.dumps(made.to_json()))
    assert [[model["x"], model["y"]] for model in document["models"]] == xy.tolist()


def test_document_says_how_the_map_was_made(made: Map, groups: Registry) -> None:
    document = made.to_json()
    assert document["registry"] == groups.name
    assert document["version"] == groups.version
    assert document["text_set"] == groups.info["text_set"]["id"]
    view = replace(groups.view, estimator="text")  # its rows have no segments
    assert document["view"] == view.to_json()
    assert document["settings"] == {"perplexity": pytest.approx(11 / 3), "iterations": 260, "seed": 42}
    assert {"llreg", "numpy", "scipy", "openTSNE"} <= set(document["software"])
    assert "unknown" not in document["software"].values()
    assert "onto" not in document
    assert read_view(document) == view  # a map is a view's file, too


def test_map_is_made_again_from_its_document(groups: Registry, tmp_path: Path) -> None:
    view = replace(groups.view, clip=-1000.0)
    path = tmp_path / "map.json"
    make_map(groups, view=view, perplexity=7.5, iterations=300, seed=7).map.write(path)
    old = read_map(path)
    again = make_map(groups, list(old.row_ids), view=old.view, method="tsne", **old.settings).map
    assert _same(again, old)


def test_map_of_a_version_outlives_new_rows(own_groups: Registry, make_row: Any) -> None:
    from llreg.store.rowfile import write_row

    own_groups.build()
    own_groups.tag("v1")
    old = make_map(own_groups, method="mds").map
    write_row(own_groups.path, make_row(own_groups, "late/row", 500))
    assert make_map(own_groups, method="mds").map.id != old.id
    assert _same(make_map(Registry(own_groups.path, revision="v1"), method="mds").map, old)


def test_pca_has_no_settings(groups: Registry) -> None:
    assert make_map(groups, method="pca").map.settings == {}


def _edited(made: Map, tmp_path: Path, **changes: Any) -> Path:
    document = {**made.to_json(), **changes}
    document["id"] = hash_json({name: value for name, value in document.items() if name != "id"})
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_edited_map_is_refused(made: Map, tmp_path: Path) -> None:
    document = made.to_json()
    document["models"][0]["x"] += 1
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(
        InvalidFileError, match=r"edited\.json: id: expected the hash of the map; it was edited by hand"
    ):
        read_map(path)


def test_broken_documents_are_refused(made: Map, tmp_path: Path) -> None:
    models = made.to_json()["models"]
    one = models[0]
    broken: list[tuple[dict[str, Any], str]] = [
        ({"method": "isomap"}, "method: expected one of"),
        ({"models": []}, "models: expected"),
        ({"models": [one, one]}, "models: expected every row once"),
        ({"models": [{**one, "row_id": "x/y@00000000"}]}, "models.0.row_id: expected the first digits of the digest"),
        ({"models": [one, {k: v for k, v in models[1].items() if k != "ellipse"}]}, "an ellipse for every row"),
        ({"view": {**made.view.to_json(), "clip": -5.0}}, "view.id: expected the hash of the view's rules"),
        ({"axes": ["only one"]}, "axes: expected"),
        ({"a_new_field": 1}, "a_new_field: expected no such field"),
        ({"text_set": "../../etc"}, "text_set: expected text matching"),
    ]
    for changes, message in broken:
        with pytest.raises(InvalidFileError, match=re.escape(message)):
            read_map(_edited(made, tmp_path, **changes))
    with pytest.raises(FormatVersionError, match="--upgrade"):
        read_map(_edited(made, tmp_path, format_version=2))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": "llreg-view"}', b"\xff\xfe", b'{"x": NaN}'])
def test_files_that_are_no_map(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError, match=r"other\.json"):
        read_map(path)


def test_infinite_coordinates_are_refused(made: Map, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    text = json.dumps(made.to_json())
    path.write_text(re.sub(r'"x": [-0-9.e]+', '"x": 1e999', text, count=1), encoding="utf-8")
    with pytest.raises(InvalidFileError, match="finite"):
        read_map(path)


def test_missing_map_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: expected a map; make one with llreg map -o"):
        read_map(tmp_path / "none.json")
    with pytest.raises(InputError, match="expected a map"):
        read_map(tmp_path)


def test_unwritable_map(made: Map, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        made.write(tmp_path / "nowhere" / "map.json")
    with pytest.raises(InputError, match="is a directory"):
        made.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_named_once(groups: Registry) -> None:
    with pytest.raises(InputError, match=r"row [0-9a-f]{8} is named twice"):
        make_map(groups, ["g0/g0-m0", "g1/g1-m0", "g0/g0-m0"], method="pca")


def test_placed_map_names_its_origin(groups: Registry, tmp_path: Path) -> None:
    names = [record.identity.model for record in groups.records()]
    old = make_map(groups, names[:40], method="pca").map
    placed = place_onto(groups, old).map
    path = tmp_path / "map.json"
    placed.write(path)
    assert _same(read_map(path), placed)
    assert read_map(path).onto == old.id
