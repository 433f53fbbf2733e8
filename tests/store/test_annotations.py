"""Columns of a user's own, joined to rows by model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Cli, MakeRow

from llreg.registry import Registry
from llreg.store.annotations import (
    annotation_names,
    annotations_of,
    column_of,
    read_annotation,
    table_file,
    to_table,
    write_annotations,
)
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError


@pytest.fixture
def filled(small_registry: Registry, fill: Callable[..., list[Row]]) -> Registry:
    """Three rows."""
    fill(small_registry, 3)
    return small_registry


def _csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_join(filled: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    """By name for all rows of a model, by row id before that; what has no row is kept for later."""
    again = make_row(filled, "org/m0", 9)
    write_row(filled.path, again)
    before = {path: path.read_bytes() for path in (filled.path / "rows").rglob("*.zip")}
    text = f"model,arc,family\norg/m0,41.5,\n{again.record.row_id},50,x\norg/m2,,yes\norg/later,7,no\n"
    made = filled.annotate(_csv(tmp_path / "my scores.csv", text))
    assert made.name == "my-scores"
    records = filled.records()
    assert made.unknown(records) == ["org/later"]
    assert column_of(filled, "arc", records) == [41.5, None, None, 50.0]
    assert column_of(filled, "my-scores.family", records) == [None, None, "yes", "x"]
    assert annotations_of(filled, records[0]) == {"my-scores": {"arc": 41.5}}
    assert annotations_of(filled, records[1]) == {}
    assert {path: path.read_bytes() for path in (filled.path / "rows").rglob("*.zip")} == before
    assert filled.validate() == []


def test_a_table_of_that_name_is_replaced(filled: Registry, tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", "model,x\norg/m0,1\n")
    filled.annotate(path)
    filled.annotate(_csv(path, "model,y\norg/m0,2\n"))
    assert annotation_names(filled) == ["a"]
    assert dict(read_annotation(filled, "a").columns) == {"y": [2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name_of_it,x\na,1\n", "expected a column 'model'"),
        ("model,x\norg/m0,1\norg/m0,2\n", "line 3: org/m0 stands there .*line 2"),
        ("model,x\norg/m0,1\nORG/m0,2\n", "line 3: ORG/m0 differs only in case from org/m0"),
        ("model,x\n,1\n", "line 2: no model name"),
        ("model,x,x\norg/m0,1,2\n", "two columns are named 'x'"),
    ],
)
def test_bad_tables(filled: Registry, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        filled.annotate(_csv(tmp_path / "a.csv", text))
    assert annotation_names(filled) == []


def test_names(filled: Registry, tmp_path: Path) -> None:
    table = to_table({"model": ["org/m0"], "x": [1]})
    for name in ("../evil", "", "a/b", ".hidden"):
        with pytest.raises(InputError, match="name"):
            write_annotations(filled, name, table)
    write_annotations(filled, "Scores", table)
    with pytest.raises(InputError, match="there is Scores, which differs only in case"):
        write_annotations(filled, "scores", table)
    with pytest.raises(NotFoundError, match="no annotations 'other'; there are: Scores"):
        read_annotation(filled, "other")
    write_annotations(filled, "more", table)
    with pytest.raises(InputError, match=r"x is in 2 tables; name one: Scores\.x, more\.x"):
        column_of(filled, "x", filled.records())
    with pytest.raises(NotFoundError, match="no annotated column 'z'"):
        column_of(filled, "z", filled.records())
    assert table_file(filled, "more") == filled.path / "annotations" / "more.parquet"
    assert table_file(filled, tmp_path / "none.csv") == tmp_path / "none.csv"


def test_damage_is_told(filled: Registry) -> None:
    write_annotations(filled, "a", to_table({"model": ["org/m0"], "x": [1]})).write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidFileError, match=r"annotations/a\.parquet: expected a Parquet file"):
        read_annotation(filled, "a")
    write_annotations(filled, "a", to_table({"x": [1]}))
    with pytest.raises(InvalidFileError, match="expected a column 'model'"):
        read_annotation(filled, "a")


def test_commands(filled: Registry, tmp_path: Path, cli: Cli) -> None:
    path = _csv(tmp_path / "s.csv", "model;arc\norg/m0;1,5\norg/none;2\n")
    done = cli("-r", filled.path, "annotate", path, "--name", "bench")
    assert (done.code, done.out) == (0, "bench\n")
    assert "1 model without a row (kept for later): org/none" in done.err
    shown = cli("-r", filled.path, "info", "org/m0")
    assert "annotations: bench\n  arc  1,5\n" in shown.out
    listed = cli("-r", filled.path, "ls", "--columns", "arc")
    assert listed.out.splitlines()[0].endswith("ADDED             ARC")
    assert listed.out.splitlines()[1].endswith("1,5")
    assert cli("-r", filled.path, "annotate").out.splitlines()[1].split() == ["bench", "2", "arc"]


def test_a_name_of_different_weights(filled: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    """Of two runs' checkpoint-500: a line by that name would be of both, and is refused; later ones are left out."""
    weights = {"source": "local", "revision": "sha256:" + "1" * 64}
    one = make_row(filled, "checkpoint-500", 5, **weights)
    half = make_row(filled, "checkpoint-500", 6, **weights, weight_dtype="bfloat16")
    for row in (one, half):
        write_row(filled.path, row)
    text = "model,arc\norg/m0,1\ncheckpoint-500,0.5\n"
    filled.annotate(_csv(tmp_path / "a.csv", text))  # of both dtypes of one model
    assert column_of(filled, "arc", filled.records())[-2:] == [0.5, 0.5]

    other = make_row(filled, "checkpoint-500", 7, source="local", revision="sha256:" + "2" * 64)
    write_row(filled.path, other)
    with pytest.warns(LlregWarning, match="a: left out, checkpoint-500 is the name of rows of different weights"):
        assert column_of(filled, "arc", filled.records())[-3:] == [None, None, None]
    with pytest.raises(
        InputError, match=r"a\.csv, line 3: checkpoint-500 is the name of rows of different weights: name one"
    ):
        filled.annotate(_csv(tmp_path / "a.csv", text), name="b")
    assert annotation_names(filled) == ["a"]
    filled.annotate(_csv(tmp_path / "a.csv", f"model,arc\n{other.record.row_id},0.5\n"))
    assert annotations_of(filled, other.record) == {"a": {"arc": 0.5}}
    assert annotations_of(filled, one.record) == {}


def test_imports_of_one_name_that_say_no_revision(filled: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    """One is of a name as any row is; two that say the same of themselves may be of different weights."""
    table = _csv(tmp_path / "a.csv", "model,arc\norg/m0,1\n")
    imported = {"source": "imported", "revision": None}
    for seed, dtype in enumerate(("float32", "bfloat16"), start=5):
        write_row(filled.path, make_row(filled, "org/m0", seed, **imported, weight_dtype=dtype))
    filled.annotate(table)
    assert column_of(filled, "arc", filled.records()).count(1) == 3
    write_row(filled.path, make_row(filled, "org/m0", 7, **imported, weight_dtype="bfloat16"))
    with pytest.raises(InputError, match="org/m0 is the name of rows of different weights"):
        filled.annotate(table)
