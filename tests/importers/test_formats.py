"""Rows from .npz, CSV and Parquet: every form gives the same rows; one bad cell and nothing is written."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llreg import settings
from llreg.exporters.csvfile import write_csv
from llreg.exporters.npz import write_npz
from llreg.exporters.parquet import write_parquet
from llreg.exporters.selection import select
from llreg.importers.formats import import_table
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError, InvalidFileError

MODELS = ["org/one", "two", "org/three"]
COMMIT = "a" * 40
ABOUT: dict[str, list[Any]] = {
    "revision": [COMMIT, "", ""],
    "weight_dtype": ["bfloat16", "float16", "float16"],
    "quantization": ["", "bnb:nf4", ""],
    "base_model": ["org/a org/b", "", "org/a"],
    "num_parameters": [7_000_000_000, 3, 5],
    "architecture": ["LlamaForCausalLM", "", ""],
}
Write = Callable[[Path, Registry, np.ndarray], str]


@pytest.fixture
def values(small_registry: Registry) -> np.ndarray:
    """Three models on six texts, float32, one value missing."""
    rng = np.random.default_rng(0)
    found = -small_registry.text_index.bytes_per_text * rng.uniform(0.5, 1.5, (3, 6))
    found[1, 4] = np.nan
    return found.astype(np.float32)


def _hashes(registry: Registry) -> list[str]:
    return list(registry.text_index.sha256)


def _npz(path: Path, registry: Registry, values: np.ndarray) -> str:
    np.savez(path.open("wb"), models=MODELS, log_likelihood=values, **{k: np.array(v) for k, v in ABOUT.items()})
    return "npz"


def _npz_hashes(path: Path, registry: Registry, values: np.ndarray) -> str:
    about = {k: np.array(v) for k, v in ABOUT.items()}
    hashes = np.array(_hashes(registry)[::-1])
    np.savez_compressed(path.open("wb"), model=MODELS, log_likelihood=values[:, ::-1], text_sha256=hashes, **about)
    return "npz"


def _csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> str:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return "csv"


def _wide(path: Path, registry: Registry, values: np.ndarray) -> str:
    rows = [
        [name, *(column[k] for column in ABOUT.values()), *map(repr, map(float, values[k]))]
        for k, name in enumerate(MODELS)
    ]
    return _csv(path, ["model", *ABOUT, *(f"text {'abcdef'[k]}" for k in range(6))], rows)


def _wide_hashes(path: Path, registry: Registry, values: np.ndarray) -> str:
    rows = [[*(c[k] for c in ABOUT.values()), *values[k, ::-1].tolist(), name] for k, name in enumerate(MODELS)]
    return _csv(path, [*ABOUT, *_hashes(registry)[::-1], "Model"], rows, delimiter=";")


def _long(path: Path, registry: Registry, values: np.ndarray) -> str:
    rows = [
        [name, text, "" if np.isnan(values[k, text]) else repr(float(values[k, text])), *(c[k] for c in ABOUT.values())]
        for text in (3, 0, 5, 1, 2, 4)
        for k, name in enumerate(MODELS)
    ]
    return _csv(path, ["model", "text", "log_likelihood", *ABOUT], rows, delimiter="\t")


def _parquet_lists(path: Path, registry: Registry, values: np.ndarray) -> str:
    about = {**ABOUT, "base_model": [["org/a", "org/b"], [], ["org/a"]]}
    pq.write_table(pa.table({"model_id": MODELS, **about, "log_likelihood": values.tolist()}), path)
    return "parquet"


def _parquet_wide(path: Path, registry: Registry, values: np.ndarray) -> str:
    columns = {str(k): values[:, k] for k in (5, 0, 1, 2, 3, 4)}
    pq.write_table(pa.table({**columns, "model": MODELS, **ABOUT}), path)
    return "parquet"


FORMS = [_npz, _npz_hashes, _wide, _wide_hashes, _long, _parquet_lists, _parquet_wide]


@pytest.mark.parametrize("write", FORMS)
def test_forms(write: Write, small_registry: Registry, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "table"
    result = import_table(small_registry, path, write(path, small_registry, values))
    records = small_registry.records()
    assert [record.identity.model for record in records] == MODELS
    assert np.array_equal(small_registry.values(records), values, equal_nan=True)
    one, two, three = (record.identity for record in records)
    assert (one.source, one.revision, one.weight_dtype, one.quantization) == ("imported", COMMIT, "bfloat16", None)
    assert (two.revision, two.weight_dtype, two.quantization) == (None, "float16", "bnb:nf4")
    assert records[0].declared["base_model"] == ["org/a", "org/b"]
    assert records[2].declared["base_model"] == ["org/a"]
    assert records[0].declared["num_parameters"] == 7_000_000_000
    assert records[0].declared["architecture"] == "LlamaForCausalLM"
    assert records[1].declared["architecture"] is None
    assert three.weight_dtype == "float16"
    in_order = write in (_npz, _wide, _parquet_lists)
    assert any("in the file's order" in note for note in result.notes) == in_order
    assert any("1 of 18 values are NaN" in note for note in result.notes)
    assert small_registry.validate() == []


def test_equal_values_in_any_form_are_equal_rows(small_registry: Registry, values: np.ndarray, tmp_path: Path) -> None:
    for write in FORMS:
        path = tmp_path / write.__name__
        import_table(small_registry, path, write(path, small_registry, values))
    assert len(small_registry.records()) == 3


def test_the_dtype_must_be_known(small_registry: Registry, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, models=MODELS, log_likelihood=values)
    with pytest.raises(InputError, match=r"dtype that its weights had is not in the file.*--dtype"):
        import_table(small_registry, path, "npz")
    import_table(small_registry, path, "npz", dtype="float32")
    assert {record.identity.weight_dtype for record in small_registry.records()} == {"float32"}


TITLES: dict[str, tuple[list[str], list[int] | str | None, str]] = {
    # titles, texts that they name (None: by position), and what is said
    "as programs sort them": ([f"text_{k}" for k in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)], [], "text_10 on text 10"),
    "zeros before": ([f"Doc-{k:03} nats" for k in range(12)], list(range(12)), ""),
    "from 1": ([f"x{k}" for k in (12, *range(1, 12))], [11, *range(11)], "titles count from 1: x1 was put on text 0"),
    "bare, from 1": ([str(k) for k in range(1, 13)], list(range(12)), "titles count from 1: 1 was put on text 0"),
    "shards": (
        [f"shard0_text{k}" for k in (*range(6, 12), *range(6))],
        [*range(6, 12), *range(6)],
        "shard0_text6 on text 6",
    ),
    "some": ([f"text_{k}" for k in (0, 10, 2)], [0, 10, 2], "text_10 on text 10"),
    "some, by index": ([f"t{k}" for k in (5, 7)], [5, 7], ""),
    "by position": ([f"{word} text" for word in "abcdefghijkl"], None, "in the file's order"),
    "numbers of two wordings": (
        [f"{w}_{k}" for w in ("arxiv", "github") for k in range(6)],
        None,
        "in the file's order",
    ),
    "two wordings, out of order": (
        [f"{w}_{k}" for w in ("arxiv", "github") for k in (1, 0, 2, 3, 4, 5)],
        "column 'arxiv_0' stands after 'arxiv_1'",
        "",
    ),
    "some from 1": ([f"text_{k}" for k in range(1, 12)], "count from 0 or from 1 cannot be told", ""),
    "beyond": ([f"text_{k}" for k in range(13)], "1 are not of it, as '12'", ""),
    "twice": ([*(f"text_{k}" for k in range(11)), "text_07"], "a text is named twice", ""),
    "one for something else": (
        [*(f"text_{k}" for k in range(11)), "mean"],
        "column 'mean' is not titled like the others",
        "",
    ),
    "a hash and not": (["a" * 64, *map(str, range(11))], "column '0' is titled with no sha256", ""),
}


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry on twelve texts."""
    folder = tmp_path_factory.mktemp("twelve")
    (folder / "texts.jsonl").write_text("".join(f'{{"text": "text number {k}"}}\n' for k in range(12)))
    return init(folder / "registry", texts=folder / "texts.jsonl")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", TITLES)
def test_titles(name: str, kind: str, tmp_path: Path, twelve: Registry) -> None:
    """A column's value goes to the text that its title says, wherever it stands; a title that disagrees is refused."""
    registry, model = twelve, f"{kind}/{re.sub('[^a-z0-9]+', '-', name)}"
    titles, texts, said = TITLES[name]
    texts = [int(title.removeprefix("text_")) for title in titles] if texts == [] else texts
    values = -20 - np.arange(len(titles)) / 7
    path = tmp_path / f"table.{kind}"
    if kind == "csv":
        _csv(path, ["model", *titles], [[model, *values.tolist()]])
    else:
        pq.write_table(
            pa.table({"model": [model], **{title: [v] for title, v in zip(titles, values, strict=True)}}), path
        )
    if isinstance(texts, str):
        with pytest.raises(InputError, match=texts):
            import_table(registry, path, kind, dtype="float32")
        return
    result = import_table(registry, path, kind, dtype="float32")
    expected = np.full(12, np.nan, np.float32)
    expected[list(range(12)) if texts is None else texts] = values
    assert np.array_equal(registry.row(model).log_likelihood, expected, equal_nan=True)
    assert any("in the file's order" in note for note in result.notes) == (texts is None)
    assert (
        [note for note in result.notes if said in note] if said else not any("titles" in note for note in result.notes)
    )


def test_some_texts_only(small_registry: Registry, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, models=MODELS, log_likelihood=values[:, [4, 2]], text=[4, 2])
    import_table(small_registry, path, "npz", dtype="float16")
    assert len(small_registry.records()) == 3
    values[1, 2] = np.nan  # and of text 4 it has none
    np.savez(path, models=MODELS, log_likelihood=values[:, [4, 2]], text=[4, 2])
    with pytest.raises(InvalidFileError, match="two: log_likelihood: expected at least one scored text"):
        import_table(small_registry, path, "npz", dtype="float32")
    np.savez(path, models=MODELS[:1], log_likelihood=values[:1, [4, 2]], text=[4, 2])
    import_table(small_registry, path, "npz", dtype="float32")
    one = next(record for record in small_registry.records() if record.identity.weight_dtype == "float32")
    found = small_registry.row(one.row_id).log_likelihood
    assert np.flatnonzero(~np.isnan(found)).tolist() == [2, 4]
    assert found[4] == values[0, 4]


@pytest.mark.parametrize(("form", "long"), [(".npz", False), (".csv", False), (".csv", True), (".parquet", False)])
def test_what_is_exported_can_be_imported(
    form: str, long: bool, small_registry: Registry, make_row: Callable[..., Row], tmp_path: Path, small_texts: Path
) -> None:
    """Values, commits and dtypes come back; a table of another text set, or of what a view shows, does not come in."""
    for k in range(3):
        write_row(small_registry.path, make_row(small_registry, f"org/m{k}", k))
    selection = select(small_registry, None, None)
    path = tmp_path / f"out{form}"
    if form == ".csv":
        write_csv(selection, path, long=long)
    else:
        {".npz": write_npz, ".parquet": write_parquet}[form](selection, path)
    other = init(tmp_path / "other", texts=small_texts)
    kind: Any = form[1:]
    import_table(other, path, kind, dtype="float32")
    theirs = {record.identity.model: record for record in other.records()}
    for record in small_registry.records():
        mine = theirs[record.identity.model]
        assert np.array_equal(other.values([mine]), small_registry.values([record]))
        if not long:
            assert mine.identity.revision == record.identity.revision
    with pytest.raises(InputError, match="it is of the text_set"):
        import_table(init(tmp_path / "mini"), path, kind, dtype="float32")


def test_values_of_a_view(small_registry: Registry, values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, models=MODELS, log_likelihood=values, values="view")
    with pytest.raises(InputError, match="those of a view"):
        import_table(small_registry, path, "npz", dtype="float32")


def _savez(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"models": np.array(MODELS), "log_likelihood": -np.arange(1.0, 19).reshape(3, 6), **arrays})
    return stream.getvalue()


def _parquet(**columns: Any) -> bytes:
    return _parquet_of(pa.table(columns))


def _parquet_of(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _edited(old: bytes, new: bytes) -> bytes:
    """An .npz with other bytes in the header of its values."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_savez())) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(old, new.ljust(len(old))) if name == "log_likelihood.npy" else data)
    return stream.getvalue()


LINE = "org/one,-1,-2,-3,-4,-5,-6\n"
HEADER = "model,a,b,c,d,e,f\n"
BAD: dict[str, tuple[str, bytes, str]] = {
    "no zip": ("npz", b"model,0\n", "expected an .npz file"),
    "no values": ("npz", _savez(log_likelihood=np.array(0)), "numbers of shape"),
    "objects": ("npz", _savez(models=np.array(MODELS, dtype=object)), "Python objects are not loaded"),
    "bytes as names": ("npz", _savez(models=np.array([b"a", b"b", b"c"])), "numbers or text; got dtype"),
    "too few names": ("npz", _savez(models=np.array(["a"])), r"numbers of shape"),
    "too few texts": ("npz", _savez(log_likelihood=-np.ones((3, 5))), "expected 6 values, one a text of six; got 5"),
    "huge header": ("npz", _edited(b"(3, 6)", b"(9**9,)"), "expected an .npz file|promises"),
    "longer header": ("npz", _edited(b"(3, 6)", b"(9, 9)"), "its header promises 648 bytes"),
    "shorter header": ("npz", _edited(b"(3, 6)", b"(3, 1)"), "expected 24 bytes, as its header says"),
    "column of other length": ("npz", _savez(revision=np.array(["x"])), "one entry a model in revision"),
    "strange text": ("npz", _savez(text=np.arange(1, 7)), "1 are not of it, as '6'"),
    "texts by another name": ("npz", _savez(text_ids=np.arange(6)[::-1]), "text_ids seems to say which texts they are"),
    "strange hash": ("npz", _savez(text_sha256=np.array(["0" * 64] * 6)), "6 are not of it, as '0000"),
    "text twice": ("npz", _savez(text=np.array([0, 1, 2, 3, 4, 4])), "a text is named twice"),
    "other text set": ("npz", _savez(text_set=np.array("f" * 64)), "it is of the text_set ffffffffffff"),
    "other protocol": ("npz", _savez(protocol=np.array("f" * 64)), "it is of the protocol ffffffffffff"),
    "dtype": ("npz", _savez(weight_dtype=np.array(["fp16"] * 3)), "weight_dtype"),
    "revision": ("npz", _savez(revision=np.array(["main"] * 3)), "identity.revision"),
    "parameters": ("npz", _savez(num_parameters=np.array(["7B"] * 3)), "expected a whole number; got '7B'"),
    "empty csv": ("csv", b"", "expected a column model; got nothing"),
    "no model": ("csv", b"a,b\n1,2\n", "expected a column model; got a, b"),
    "no lines": ("csv", HEADER.encode(), "expected at least one model"),
    "columns alike": ("csv", b"model,a,a\n", "two columns are named 'a'"),
    "not a number": ("csv", (HEADER + LINE.replace("-3", "x")).encode(), "line 2: expected a log-likelihood; got 'x'"),
    "short line": ("csv", (HEADER + "\norg/one,-1\n").encode(), "line 3: expected 7 cells, as in the header; got 2"),
    "one column too many": ("csv", b"model,a,b,c,d,e,f,g\nx,-1,-1,-1,-1,-1,-1,-1\n", "expected 6 values.*got 7"),
    "not utf-8": ("csv", HEADER.encode() + b"\xff", "line 2: not UTF-8"),
    "model twice": ("csv", (HEADER + LINE + LINE).encode(), "org/one: it stands there twice"),
    "case": ("csv", (HEADER + LINE + LINE.replace("one", "One")).encode(), "org/One differs only in case from org/one"),
    "positive": ("csv", (HEADER + LINE.replace("-3", "3")).encode(), "at most 0 nats.*3.0 at text 2"),
    "infinite": ("csv", (HEADER + LINE.replace("-3", "-inf")).encode(), "a finite number or NaN"),
    "too large for float32": ("csv", (HEADER + LINE.replace("-3", "-1e300")).encode(), "a finite number or NaN"),
    "name": ("csv", (HEADER + LINE.replace("org/one", "=cmd()")).encode(), "cannot name a model"),
    "long without text": ("csv", b"model,log_likelihood\na,-1\n", "expected a column text"),
    "long twice": ("csv", b"model,text,log_likelihood\na,0,-1\na,0,-1\n", "line 3: a has text 0 twice"),
    "long text": ("csv", b"model,text,log_likelihood\na,6,-1\n", "1 are not of it, as '6'"),
    "long changes": (
        "csv",
        b"model,text,log_likelihood,weight_dtype\na,0,-1,float16\na,1,-1,float32\n",
        "line 3: a is not described as on its lines before",
    ),
    "not parquet": ("parquet", b"PAR1 no", "expected a Parquet file"),
    "parquet without model": ("parquet", _parquet(a=[1]), "expected a column model; got a"),
    "no list": ("parquet", _parquet(model=["a"], log_likelihood=[1.0]), "expected a list of numbers a model"),
    "list of text": ("parquet", _parquet(model=["a"], log_likelihood=[["x"] * 6]), "expected numbers"),
    "no list for one": ("parquet", _parquet(model=["a", "b"], log_likelihood=[[-1.0] * 6, None]), "one is null"),
    "short list": ("parquet", _parquet(model=["a"], log_likelihood=[[-1.0] * 5]), "expected 6 values"),
    "metadata": (
        "parquet",
        _parquet_of(pa.table({"model": ["a"]}).replace_schema_metadata({"llreg": "{"})),
        "its metadata llreg is not that of an export",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(name: str, small_registry: Registry, tmp_path: Path) -> None:
    kind, data, message = BAD[name]
    path = tmp_path / f"table.{kind}"
    path.write_bytes(data)
    with pytest.raises((InputError, InvalidFileError), match=message) as caught:
        import_table(small_registry, path, kind, dtype="float16")
    assert "table." in str(caught.value)
    assert small_registry.row_files() == {}


def test_values_that_stand_for_none(small_registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(HEADER + LINE.replace("-3", "0"))
    notes = import_table(small_registry, path, "csv", dtype="float16").notes
    assert any(note.startswith("1 of 6 values are exactly 0, a probability of 1") for note in notes)


def test_clipped_values(small_registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    np.savez(path, models=MODELS, log_likelihood=np.maximum(-rng.uniform(1, 50, (3, 6)), -20.0))
    with pytest.raises(InputError, match=r"a\.npz: expected raw log-likelihoods.*exactly -20\.0"):
        import_table(small_registry, path, "npz", dtype="float16")


def test_files_are_bounded(
    small_registry: Registry, values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, models=MODELS, log_likelihood=np.zeros((3, 100_000)))
    monkeypatch.setattr(settings, "MAX_IMPORT_BYTES", 1 << 20)
    with pytest.raises(InputError, match="at most 1,048,576 bytes of arrays"):
        import_table(small_registry, path, "npz", dtype="float16")
    monkeypatch.setattr(settings, "MAX_IMPORT_BYTES", 10)
    with pytest.raises(InputError, match="expected at most 10 bytes; got"):
        import_table(small_registry, path, "npz", dtype="float16")
    with pytest.raises(InputError, match="no such file"):
        import_table(small_registry, tmp_path / "absent.npz", "npz")
    with pytest.raises(InputError, match="no such file"):
        import_table(small_registry, tmp_path, "npz")


def test_token_counts_are_known_or_not(small_registry: Registry, make_row: Callable[..., Row]) -> None:
    """Unknown, all 0, only in imported rows; and then a value is held to what the text's bytes allow."""
    sizes = small_registry.text_index.bytes_per_text
    none = np.zeros(6, np.int32)
    imported = {"source": "imported", "revision": None, "num_tokens": none}
    small_registry.check_row(make_row(small_registry, **imported), "row")
    with pytest.raises(InvalidFileError, match="0 exactly where log_likelihood is NaN"):
        small_registry.check_row(make_row(small_registry, num_tokens=none), "row")
    some = np.array([1, 0, 0, 0, 0, 0])
    with pytest.raises(InvalidFileError, match="0 exactly where log_likelihood is NaN"):
        small_registry.check_row(make_row(small_registry, **{**imported, "num_tokens": some}), "row")
    impossible = make_row(small_registry, **imported, log_likelihood=-sizes * 1e6)
    with pytest.raises(InvalidFileError, match="at least -10000 nats a token"):
        small_registry.check_row(impossible, "row")
    with pytest.raises(InvalidFileError, match=r"provenance\.tokens"):
        small_registry.check_row(make_row(small_registry, **imported, provenance={"tokens": 5}), "row")
