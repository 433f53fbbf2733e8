"""Reading benchmark scores: forms that are accepted, sentences for those that are not, and matching to rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.geometry.predict.scores import Scores, read_scores
from llreg.registry import Registry
from llreg.store.rowfile import Row
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, NotFoundError

MakeRow = Callable[..., Row]
NAN = math.nan


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a scores file and return its path."""

    def to_file(content: str | bytes, name: str = "scores.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def _same(scores: Scores, models: list[str], tasks: list[str], values: list[list[float]]) -> None:
    assert (scores.models, scores.tasks) == (models, tasks)
    np.testing.assert_array_equal(scores.values, np.array(values, dtype=np.float64))


@pytest.mark.parametrize(
    "text",
    [
        "model,arc,mmlu\norg/a,58.5,1e1\norg/b,,-3\n",
        "Model;arc;mmlu\norg/a;58.5;10\norg/b;NaN;-3\n",
        "MODEL_ID\tarc\tmmlu\norg/a\t58.5\t10\norg/b\tn/a\t-3\n",
        "\ufeffarc,model_name,mmlu\r\n58.5,org/a,10\r\n-,org/b,-3\r\n",
        'row_id,arc,mmlu\n"org/a",58.5,10\n\norg/b,None,-3',
        "arc,name,mmlu\n 58.5 , org/a ,10\n,org/b,-3\n",
        ",arc,mmlu\norg/a,58.5,10\norg/b,,-3\n",
    ],
    ids=["comma", "semicolon", "tab", "bom-crlf", "quotes-blank", "spaces", "index"],
)
def test_forms_of_csv(text: str, write: Callable[..., Path]) -> None:
    _same(read_scores(write(text)), ["org/a", "org/b"], ["arc", "mmlu"], [[58.5, 10], [NAN, -3]])


def test_a_quoted_delimiter_and_a_short_line(write: Callable[..., Path]) -> None:
    path = write('model,"arc, easy",mmlu\norg/a,1,2\norg/b,3\n')
    _same(read_scores(path), ["org/a", "org/b"], ["arc, easy", "mmlu"], [[1, 2], [3, NAN]])


def test_percent_signs_of_a_whole_column(write: Callable[..., Path]) -> None:
    _same(
        read_scores(write("model,arc\na/b,58.5%\na/c,\na/d,7 %\n")),
        ["a/b", "a/c", "a/d"],
        ["arc"],
        [[58.5], [NAN], [7]],
    )


def test_families_and_columns_of_text(write: Callable[..., Path]) -> None:
    path = write("model,licence,Model_Type,arc,sha\na/b,mit,llama,1,0a\na/c,mit, ,2,0b\n")
    scores = read_scores(path)
    assert (scores.tasks, scores.families) == (["arc"], ["llama", None])
    assert scores.notes == (
        "families are those of the column 'Model_Type'",
        f"{path}: columns without numbers are left out: licence, sha",
    )
    assert read_scores(path, family="LICENCE").families == ["mit", "mit"]


def test_a_family_of_numbers_is_no_task(write: Callable[..., Path]) -> None:
    scores = read_scores(write("model,type,arc\na/b,1,5\na/c,2,6\n"))
    assert (scores.tasks, scores.families) == (["arc"], ["1", "2"])


def test_chosen_tasks_leave_the_others_unread(write: Callable[..., Path]) -> None:
    path = write("model,arc,mmlu\na/b,1,2\na/c,2,oops\na/d,3,4\n")
    assert read_scores(path, tasks=["ARC"]).tasks == ["arc"]
    with pytest.raises(InputError, match=r"line 3, column 'mmlu': expected a number; got 'oops'"):
        read_scores(path)


def test_parquet_and_python_agree(write: Callable[..., Path], tmp_path: Path) -> None:
    columns = {"model": ["a/b", "a/c"], "family": ["x", None], "arc": [58.5, None], "mmlu": [1, 2]}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "scores.parquet")
    nested = {"a/b": {"arc": 58.5, "mmlu": 1}, "a/c": {"mmlu": np.float32(2)}}
    arrays = {**columns, "arc": np.array([58.5, np.nan])}
    for source in (tmp_path / "scores.parquet", table, columns, arrays, nested):
        _same(read_scores(source), ["a/b", "a/c"], ["arc", "mmlu"], [[58.5, 1], [NAN, 2]])
    assert read_scores(table).families == ["x", None]


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"model": ["a/b", "a/c"], "arc": [58.5, None]})
    for source in (frame, frame.set_index("model")):
        _same(read_scores(source), ["a/b", "a/c"], ["arc"], [[58.5], [NAN]])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", r"scores.csv holds no scores; give a header"),
        ("\n \n", r"scores.csv holds no scores"),
        ("model,arc\n", r"scores.csv holds no scores"),
        ("who,arc\na/b,1\n", r"expected a column 'model' with model names or row ids; got 'who', 'arc'"),
        ("model\na/b\n", r"scores.csv: no column of numbers; give a column of scores"),
        ("model,arc\na/b,high\na/c,low\n", r"scores.csv: no column of numbers"),
        ("model,arc\na/b,\na/c,nan\n", r"scores.csv: no column of numbers"),
        ("model,arc\na/b,1\na/c,high\n", r"line 3, column 'arc': expected a number; got 'high'; leave it empty if"),
        ("model;arc\na/b;1\na/c;58,5\n", r"line 3, column 'arc': .* got '58,5'; write decimals with a point"),
        ("model,arc\na/b,1\na/c,inf\n", r"line 3, column 'arc': expected a number; got 'inf'"),
        ("model,arc\na/b,1\na/c,1_0\n", r"line 3, column 'arc': expected a number; got '1_0'"),
        ("model,arc\na/b,58%\na/c,0.5\n", r"line 2, column 'arc': '58%' has a percent sign and others have none"),
        ("model,arc\na/b,1\na/c,2\n\na/b,3\n", r"line 5: a/b has scores already in .*line 2; keep one"),
        ("model,arc\n,1\n", r"line 2: no model name"),
        ("model,arc,arc\na/b,1,2\n", r"scores.csv: two columns are named 'arc'"),
        ("model,arc\na/b,1,2\n", r"line 2: 3 cells under 2 column names; quote cells with ','"),
        (b"model,arc\na/\xe9,1\n", r"scores.csv, line 2: not UTF-8; save the file as UTF-8"),
        ("x" * 131_073 + ",arc\na/b,1\n", r"scores.csv, first line: not CSV \(field larger than field limit"),
        ("model,arc\n" + "x" * 131_073 + ",1\n", r"scores.csv, line 2: not CSV \(field larger than field limit"),
        (b"PK\x03\x04\0\0\0", r"expected scores as CSV \(.csv, .tsv, .txt\) or Parquet"),
        (b"PAR1 and then nothing", r"scores.csv: not readable as Parquet"),
    ],
    ids=lambda value: value[:40] if len(value) > 1000 else None,
)
def test_bad_files_are_told_in_a_sentence(content: str | bytes, told: str, write: Callable[..., Path]) -> None:
    path = write(content)
    with pytest.raises(InputError, match=told) as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_another_kind_of_file(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"none.csv: no such file"):
        read_scores(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"scores.xlsx: expected scores as CSV"):
        read_scores(write("model,arc\na/b,1\n", "scores.xlsx"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (7, "expected a file, a mapping or a DataFrame; got int"),
        ({"model": "a/b"}, "expected a list a column, or a mapping a model; got str for 'model'"),
        ({"model": ["a/b"], "arc": 5.0}, "got float for 'arc'"),
        ({"model": ["a/b", "a/c"], "arc": [1.0]}, "column 'arc' has 1 cells, others 2"),
        ({"model": ["a/b", "a/c", "a/d"], "arc": [1.0, 2.0, True]}, r"scores, row 3, column 'arc': .* got 'True'"),
        ({}, "scores holds no scores"),
    ],
)
def test_bad_python_values(source: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_scores(source)


def test_unknown_columns_are_told() -> None:
    with pytest.raises(InputError, match=r"scores: no column 'mmlu'; it has: model, arc"):
        read_scores({"model": ["a/b"], "arc": [1.0]}, tasks=["mmlu"])
    with pytest.raises(InputError, match=r"no column 'kin'"):
        read_scores({"model": ["a/b"], "arc": [1.0]}, family="kin")


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=1, max_size=8))
def test_numbers_survive_csv(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("csv") / "scores.csv"
    path.write_text("model,arc,x\n" + "".join(f"m{k},{value!r},1\n" for k, value in enumerate(values)))
    read = read_scores(path, tasks=["arc"])
    np.testing.assert_array_equal(read.values[:, 0], values)


# Rows


@pytest.fixture
def records(registry: Registry, make_row: MakeRow) -> list[RowRecord]:
    """a/one, a/two, and a/both in two precisions."""
    rows = [make_row(registry, "a/one", 1), make_row(registry, "a/two", 2)]
    rows += [make_row(registry, "a/both", 3), make_row(registry, "a/both", 4, weight_dtype="bfloat16")]
    return [row.record for row in rows]


def test_names_ids_and_digests_mean_rows(records: list[RowRecord]) -> None:
    names = ["a/two", records[0].row_id, records[3].digest[:10]]
    matched = read_scores({"model": names, "arc": [2.0, 1.0, 4.0]}).match(records)
    np.testing.assert_array_equal(matched.values[:, 0], [1, 2, NAN, 4])
    assert matched.note is None


def test_unknown_models_are_counted_and_named(records: list[RowRecord]) -> None:
    names = ["a/one", *(f"b/m{k}" for k in range(7)), "cafe01", "a"]
    scores = read_scores({"model": names, "family": ["x"] * 10, "arc": [1.0] * 10})
    matched = scores.match(records)
    assert matched.families == ["x", None, None, None]
    assert matched.note == "9 scored models have no row and are left out: b/m0, b/m1, b/m2, b/m3, b/m4 and 4 more"
    with pytest.raises(NotFoundError, match=r"scores: 9 of 10 models have no row in this registry: b/m0, .*llreg ls"):
        scores.match(records, strict=True)
    one = read_scores({"model": ["a/one", "b/x"], "arc": [1.0, 2.0]}).match(records)
    assert one.note == "1 scored model has no row and is left out: b/x"


def test_no_known_model_is_an_error(records: list[RowRecord]) -> None:
    with pytest.raises(NotFoundError, match=r"none of its 2 models has a row in this registry \(x, y\)"):
        read_scores({"model": ["x", "y"], "arc": [1.0, 2.0]}).match(records)


def test_a_name_of_several_rows_lists_them(records: list[RowRecord]) -> None:
    told = rf"scores, row 2: a/both has 2 rows; name one by its id: {records[2].row_id} .*{records[3].row_id}"
    with pytest.raises(InputError, match=told):
        read_scores({"model": ["a/one", "a/both"], "arc": [1.0, 2.0]}).match(records)


def test_two_names_of_one_row(records: list[RowRecord]) -> None:
    told = rf"scores, row 2: {records[0].row_id} is the row {records[0].row_id}, which scores, row 1 names already"
    with pytest.raises(InputError, match=told):
        read_scores({"model": ["a/one", records[0].row_id], "arc": [1.0, 2.0]}).match(records)
