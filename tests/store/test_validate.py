"""`validate`: nothing on a good registry; each planted problem is found and named, and raises nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import FormatVersionError, InvalidFileError, LlregWarning

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
Plant = Callable[[Registry], object]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, empty_registries: Path, make_row: MakeRow) -> Path:
    """What `good` copies."""
    registry = Registry(shutil.copytree(empty_registries / "small", tmp_path_factory.mktemp("good") / "small"))
    rows = [make_row(registry, f"org/m{k}", k) for k in range(4)]
    for row in rows[:3]:
        write_row(registry.path, row)
    registry.tag("v1")
    registry.retract("org/m2", why="wrong")
    registry.build()
    write_row(registry.path, rows[3])
    return registry.path


@pytest.fixture
def good(made_once: Path, tmp_path: Path) -> Registry:
    """Four rows, one retracted, one not in the build, one tag."""
    return Registry(shutil.copytree(made_once, tmp_path / "small"))


def _row_of(registry: Registry, name: str) -> Path:
    return next(path for path in registry.row_files().values() if path.name.startswith(f"org--{name}-"))


def _edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_store(registry: Registry, name: str, change: Callable[[Any], None]) -> None:
    group: Any = zarr.open_group(registry.path / "store.zarr", mode="r+")
    values = group[name][:]
    change(values)
    group[name][:] = values


def _edit_texts(registry: Registry, change: Callable[[dict[str, list[Any]]], object]) -> None:
    columns = pq.read_table(registry.path / "texts.parquet").to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), registry.path / "texts.parquet")


def _retract_nothing(registry: Registry) -> None:
    """A retraction of a row that was never here."""
    there = next((registry.path / "retractions").iterdir())
    text = there.read_text().replace(there.stem, "0" * 64)
    there.with_name("0" * 64 + ".json").write_text(text)


def test_good_registry(good: Registry) -> None:
    assert good.validate() == []
    assert Registry(good.path).validate() == []
    assert good.validate(list(good.row_files().values())) == []


def test_good_without_its_row_files(good: Registry) -> None:
    """A pull may bring the build only; rows that are nowhere but named in a version are then a problem."""
    good.retractions()
    shutil.rmtree(good.path / "retractions")
    good.build()
    shutil.rmtree(good.path / "rows")
    assert Registry(good.path).validate() == []


def test_empty_registry(small_registry: Registry) -> None:
    assert small_registry.validate() == []
    small_registry.build()
    assert small_registry.validate() == []


def test_progress_is_told(good: Registry) -> None:
    calls: list[tuple[int, int]] = []
    good.validate(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("plant", "file", "told"),
    [
        (lambda r: os.truncate(_row_of(r, "m1"), 500), "rows/../org--m1-.*zip", "truncated or damaged"),
        (lambda r: _row_of(r, "m3").write_bytes(b""), "rows/../org--m3-.*zip", "truncated or damaged"),
        (lambda r: (r.path / "rows" / "notes.txt").write_text("x"), "rows/notes.txt", "expected a row file.*remove it"),
        (lambda r: (r.path / "rows" / ".hidden").write_text("x"), "rows/.hidden", "expected a row file"),
        (
            lambda r: os.symlink("/etc/passwd", _row_of(r, "m1").with_name(f"x-{'0' * 64}.zarr.zip")),
            "rows/../x-0.*zip",
            "expected a regular file",
        ),
        (
            lambda r: shutil.copy(_row_of(r, "m1"), _row_of(r, "m1").with_name("y-" + _row_of(r, "m1").name[8:])),
            "rows/../y-.*zip",
            "expected the name rows/",
        ),
        (lambda r: _edit_texts(r, lambda c: c["text"].__setitem__(0, "Other.")), ".*texts.parquet", "text 0 was changed"),
        (lambda r: (r.path / "texts.parquet").unlink(), ".*texts.parquet", "expected a Parquet file"),
        (
            lambda r: _edit_json(next((r.path / "retractions").iterdir()), why=""),
            "retractions/.*json",
            "why: expected at least 1 characters",
        ),
        (
            lambda r: (r.path / "retractions" / "x.json").write_bytes(next((r.path / "retractions").iterdir()).read_bytes()),
            "retractions/x.json",
            "digest: expected x",
        ),
        (
            _retract_nothing,
            "retractions/0+.json",
            "expected a row that is here; it is not",
        ),
        (lambda r: _edit_json(r.path / "versions" / "v1.json", rows=[]), "versions/v1.json", "expected the version id"),
        (lambda r: (r.path / "versions" / "v2.json").write_text("{"), "versions/v2.json", "expected JSON"),
        (lambda r: (r.path / "versions" / "v2.json").mkdir(), "versions/v2.json", "Is a directory"),
        (lambda r: (r.path / "retractions" / "x.json").mkdir(), "retractions/x.json", "Is a directory"),
        (lambda r: _row_of(r, "m2").unlink(), "(versions/v1|retractions/.*).json", "that (is|are) here"),
    ],
    ids=[
        "row truncated", "row empty", "stray file", "hidden file", "link", "row renamed", "texts changed",
        "texts missing", "retraction broken", "retraction renamed", "retraction of nothing", "version changed",
        "version torn", "version directory", "retraction directory", "row missing",
    ],
)  # fmt: skip
def test_planted_problem_is_named(good: Registry, plant: Plant, file: str, told: str) -> None:
    plant(good)
    problems = Registry(good.path).validate()
    assert problems
    assert any(re.fullmatch(file, problem.file) and re.search(told, problem.message) for problem in problems), problems


@pytest.mark.parametrize(
    "plant",
    [
        lambda r: _edit_store(r, "log_likelihood", lambda v: v.__setitem__((0, 0), np.float32(-1))),
        lambda r: _edit_store(r, "num_tokens", lambda v: v.__setitem__((1, 1), 99)),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, v[0].replace("org/m0", "org/mx"))),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, "{")),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, "[]")),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, v[1])),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, v[0].replace('"Ada"', '"\\u001b[2J"'))),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, v[0].replace('"Ada"', "NaN"))),
        lambda r: _edit_store(r, "record", lambda v: v.__setitem__(0, v[0].replace('"digest"', '"dig"'))),
        lambda r: _edit_store(r, "digest", lambda v: v.__setitem__(slice(None), v[::-1].copy())),
        lambda r: (r.path / "store.zarr" / "zarr.json").write_text("{"),
        lambda r: (r.path / "store.zarr" / "zarr.json").write_text("[]"),
        lambda r: (r.path / "store.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}'),
        lambda r: os.truncate(r.path / "store.zarr" / "log_likelihood" / "c.0.0", 10),
        lambda r: (r.path / "store.zarr" / "log_likelihood" / "c.0.0").write_bytes(bytes(5000)),
        lambda r: (r.path / "store.zarr" / "log_likelihood" / "c.0.0").unlink(),
        lambda r: (r.path / "store.zarr" / "record" / "c" / "0").write_bytes(b"no chunk"),
        lambda r: (r.path / "store.zarr" / "digest" / "c" / "0").unlink(),
    ],
    ids=[
        "value", "count", "model", "record torn", "record list", "record twice", "escape", "NaN", "field", "digests",
        "zarr.json torn", "zarr.json list", "zarr.json bare", "shard truncated", "shard zeros", "shard missing",
        "records damaged", "digests missing",
    ],
)  # fmt: skip
def test_tampered_store_is_named(good: Registry, plant: Plant) -> None:
    plant(good)
    problems = Registry(good.path).validate()
    assert problems
    assert all(problem.file.startswith("store.zarr") for problem in problems), problems
    assert all(f"{problem.file}{problem.message}".isprintable() for problem in problems)


def test_every_bad_row_is_named_once(good: Registry) -> None:
    for name in ("m0", "m1", "m3"):
        os.truncate(_row_of(good, name), 400)
    problems = Registry(good.path).validate()
    assert len([problem for problem in problems if problem.file.startswith("rows/")]) == 3


def test_only_the_given_files(good: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    os.truncate(_row_of(good, "m0"), 400)
    elsewhere = tmp_path / "download.zip"
    row = make_row(good, "new/row", 8)
    shutil.copy(write_row(tmp_path / "contribution", row), elsewhere)
    assert good.validate([elsewhere, _row_of(good, "m1")]) == []
    foreign = make_row(good, "new/row", 8, text_set="f" * 64)
    shutil.copy(write_row(tmp_path / "contribution", foreign), elsewhere)
    (problem,) = good.validate([elsewhere])
    assert problem.file == str(elsewhere)
    assert "identity.text_set: expected this registry's" in problem.message


def test_wrong_mean_bytes_in_registry_json(good: Registry) -> None:
    """Bits per byte would be wrong for everyone who trusts it."""
    path = good.path / "registry.json"
    document = json.loads(path.read_text())
    document["text_set"]["mean_bytes"] *= 2
    path.write_text(json.dumps(document))
    assert any("texts.parquet" in problem.file for problem in Registry(path.parent).validate())


def test_newer_registry_is_told(good: Registry) -> None:
    _edit_json(good.path / "registry.json", format_version=3)
    with pytest.raises(FormatVersionError, match=r"expected format version 2 or older; got 3, .*pip install --upgrade"):
        Registry(good.path)


def test_newer_build_is_told(good: Registry) -> None:
    path = good.path / "store.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["build_format_version"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(FormatVersionError, match=r"store\.zarr: expected build format 2 or older; got 3"):
        Registry(good.path).records()
    assert any("newer llreg" in problem.message for problem in Registry(good.path).validate())


@pytest.mark.parametrize("damage", [lambda p: os.truncate(p, 400), lambda p: (p.unlink(), p.mkdir())])
def test_damaged_row_is_a_sentence_everywhere(good: Registry, damage: Callable[[Path], object]) -> None:
    damage(_row_of(good, "m3"))
    registry = Registry(good.path)
    with pytest.raises(InvalidFileError, match=r"rows/../org--m3-"):
        registry.build()
    for use in (registry.records, registry.summary, registry.dataset, registry.kl):
        with pytest.warns(LlregWarning, match=r"left out, rows/../org--m3-"):
            use()
    with pytest.warns(LlregWarning):
        assert "org/m3" not in [record.identity.model for record in registry.records()]
