"""Named versions: what a tag holds, that it never moves, and the version id."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llreg.locate import open_registry
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas import version_id
from llreg_schemas.errors import FormatVersionError, InputError, InvalidFileError, NotFoundError

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]


@pytest.fixture
def tagged(small_registry: Registry, fill: Fill) -> Registry:
    """Three rows tagged v1; then one retracted, one added, and a build."""
    fill(small_registry, 3)
    small_registry.tag("v1")
    small_registry.retract("org/m0", why="wrong")
    fill(small_registry, 1, start=3)
    small_registry.build()
    return small_registry


def test_manifest_names_the_rows(small_registry: Registry, fill: Fill) -> None:
    rows = fill(small_registry, 3)
    manifest = small_registry.tag("v1.0")
    assert json.loads((small_registry.path / "versions" / "v1.0.json").read_text()) == manifest
    assert manifest["rows"] == sorted(row.record.digest for row in rows)
    assert manifest["version"] == small_registry.version == version_id(manifest["rows"])
    assert manifest["view"] == small_registry.info["view"]["id"]
    assert small_registry.versions() == [manifest]


def test_opens_at_a_version(tagged: Registry) -> None:
    then = open_registry(tagged.path, revision="v1")
    assert [record.identity.model for record in then.records()] == ["org/m0", "org/m1", "org/m2"]
    assert [record.identity.model for record in tagged.records()] == ["org/m1", "org/m2", "org/m3"]
    assert then.version == tagged.version_manifest("v1")["version"]
    assert then.kl().attrs["version"] == then.version != tagged.kl().attrs["version"]
    values = then.dataset()["log_likelihood"].values
    np.testing.assert_array_equal(values[1:], tagged.dataset()["log_likelihood"].values[:2])
    assert [line["model"] for line in then.summary()] == ["org/m0", "org/m1", "org/m2"]


def test_version_is_fixed(tagged: Registry) -> None:
    then = open_registry(tagged.path, revision="v1")
    for change in (then.build, then.check_build, lambda: then.tag("v2"), lambda: then.retract("org/m1", why="x")):
        with pytest.raises(InputError, match="version v1 is fixed; open the registry without a version to change it"):
            change()
    with pytest.raises(InputError, match="version v1 is fixed; open the registry without a version to add to it"):
        then.add(["some/model"])


def test_tag_never_moves(small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 1)
    first = small_registry.tag("v1")
    before = (small_registry.path / "versions" / "v1.json").read_bytes()
    assert small_registry.tag("v1") == first  # the same version: already so
    fill(small_registry, 1, start=1)
    with pytest.raises(InputError, match=f"tag v1 names version {first['version'][:12]} already; tags never move"):
        small_registry.tag("v1")
    assert (small_registry.path / "versions" / "v1.json").read_bytes() == before
    assert small_registry.tag("v2")["version"] != first["version"]
    assert [manifest["tag"] for manifest in small_registry.versions()] == ["v1", "v2"]


def test_version_id_does_not_depend_on_order(
    small_registry: Registry, fill: Fill, make_row: MakeRow, tmp_path: Path
) -> None:
    other = Registry(shutil.copytree(small_registry.path, tmp_path / "other"))
    rows = fill(small_registry, 4)
    for row in reversed(rows):
        write_row(other.path, row)
    other.build()
    assert other.version == small_registry.version == version_id(row.record.digest for row in rows)
    write_row(other.path, make_row(other, "org/more", 9))
    assert other.version != small_registry.version


@pytest.mark.parametrize("name", ["", "-v", ".v", "a/b", "../v1", "v 1", "v\u001b[0m", "ü", "v" * 101, "v1\n"])
def test_bad_tag(small_registry: Registry, name: str) -> None:
    with pytest.raises(InputError, match="use letters, digits"):
        small_registry.tag(name)
    assert not (small_registry.path / "versions").exists()


@pytest.mark.parametrize("tag", ["v2", "", "../registry", "../../registry/versions/v1", "v1.json", "V1"])
def test_no_such_version(tagged: Registry, tag: str) -> None:
    with pytest.raises(NotFoundError, match=r"no version .*; versions here: v1"):
        open_registry(tagged.path, revision=tag)


def test_tag_cannot_reach_out_of_the_registry(tagged: Registry, tmp_path: Path) -> None:
    elsewhere = tmp_path / "versions"
    shutil.copytree(tagged.path / "versions", elsewhere)
    for tag in (str(elsewhere / "v1"), "../../versions/v1"):
        with pytest.raises(NotFoundError, match="no version"):
            open_registry(tagged.path, revision=tag)


def test_rows_that_are_gone_are_told(tagged: Registry) -> None:
    shutil.rmtree(tagged.path / "rows")  # the build no longer holds org/m0
    with pytest.raises(NotFoundError, match="version v1 holds 1 rows that are not here"):
        open_registry(tagged.path, revision="v1").records()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("version", "0" * 64, "version: expected the version id of the rows it lists"),
        ("rows", [], "version: expected the version id of the rows it lists"),
        ("tag", "v2", "tag: expected 'v1'; got 'v2'"),
        ("created", "today", "created: expected text matching"),
    ],
)
def test_changed_manifest_is_refused(tagged: Registry, field: str, value: object, told: str) -> None:
    path = tagged.path / "versions" / "v1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InvalidFileError, match=f"versions/v1.json: {told}"):
        open_registry(tagged.path, revision="v1")


def test_newer_manifest_asks_for_an_upgrade(tagged: Registry) -> None:
    path = tagged.path / "versions" / "v1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    with pytest.raises(FormatVersionError, match="written by a newer llreg"):
        open_registry(tagged.path, revision="v1")


def test_empty_registry_has_a_version(small_registry: Registry) -> None:
    assert small_registry.tag("empty")["rows"] == []
    assert small_registry.version == version_id([])
    assert open_registry(small_registry.path, revision="empty").records() == []
