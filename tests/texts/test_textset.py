"""Text sets: the embedded one, JSON Lines and Parquet, each bad input by its line, and texts.parquet checked."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.locate import init
from llreg.registry import Registry
from llreg.settings import MAX_TEXT_BYTES
from llreg.texts.textset import from_parquet, load_texts, make_text_set, mini, to_parquet
from llreg_schemas import sha256_text, text_set_id
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError

MINI_ID = "883daad921e5a1b318002cc6cf0d59756cff753de7975f2217ad97562b2faa68"


def _jsonl(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


class TestMini:
    """The embedded text set."""

    def test_shape(self) -> None:
        texts = mini()
        assert (len(texts), texts.info.name, texts.info.licence) == (128, "mini", "CC0-1.0")
        assert list(texts.info.subsets.values()) == [16] * 8
        assert Counter(texts.subset) == texts.info.subsets
        assert all(300 <= size <= 1024 for size in texts.num_bytes)
        assert len(set(texts.complete())) == 128
        assert len(set(texts.source)) == 128

    def test_texts_are_normalised_and_clean(self) -> None:
        for text in mini().complete():
            assert unicodedata.is_normalized("NFC", text)
            assert text == text.strip()
            assert all(char.isprintable() or char in "\n\t" for char in text)
            assert "\ufffd" not in text

    def test_multilingual_has_many_scripts(self) -> None:
        texts = mini()
        scripts: Counter[str] = Counter()
        for text, subset in zip(texts.complete(), texts.subset, strict=True):
            if subset == "multilingual":
                letters = Counter(unicodedata.name(char).split()[0] for char in text if char.isalpha())
                scripts[letters.most_common(1)[0][0]] += 1
        assert sum(scripts.values()) == 16
        assert len(scripts) >= 5

    def test_id_is_written_down(self) -> None:
        """Changing one byte of the embedded texts would make every mini registry incomparable."""
        assert mini().info.id == MINI_ID
        assert load_texts("mini").info == mini().info

    def test_header_is_counted_from_the_texts(self) -> None:
        texts = mini()
        sizes = [len(text.encode()) for text in texts.complete()]
        assert list(texts.num_bytes) == sizes
        assert texts.bytes_per_text.tolist() == sizes
        assert texts.info.mean_bytes == sum(sizes) / 128
        assert list(texts.sha256) == [sha256_text(text) for text in texts.complete()]
        assert texts.info.id == text_set_id(texts.sha256)


class TestLoading:
    """A user's own file."""

    def test_json_lines(self, tmp_path: Path) -> None:
        path = _jsonl(
            tmp_path / "my set (1).jsonl",
            '{"text": "Zwei\\nZeilen", "subset": "prose", "source": "me", "extra": [1]}',
            "",
            '{"text": "ü", "subset": null}\r',
        )
        texts = load_texts(path)
        assert texts.complete() == ["Zwei\nZeilen", "ü"]
        assert (list(texts.subset), list(texts.source)) == (["prose", "all"], ["me", ""])
        assert (texts.info.name, texts.info.mean_bytes) == ("my-set--1-", 6.5)

    def test_last_line_may_lack_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"text": "a"}\n{"text": "b"}')
        assert load_texts(path).complete() == ["a", "b"]

    def test_texts_are_kept_byte_for_byte(self, tmp_path: Path) -> None:
        odd = ["  spaces  ", "e\u0301", "\u00e9", "a\u2028b", "tab\t", "\ufeffbom", "\r\n.", "😀"]
        texts = load_texts(_jsonl(tmp_path / "odd.jsonl", *(json.dumps({"text": text}) for text in odd)))
        assert texts.complete() == odd

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    def test_parquet(self, tmp_path: Path, kind: pa.DataType) -> None:
        table = {
            "id": [1, 2],
            "text": pa.array(["one", "zwei"]).cast(kind),
            "subset": ["a", None],
            "embedding": [[0.5], [1.5]],
        }
        pq.write_table(pa.table(table), tmp_path / "set.parquet")
        texts = load_texts(tmp_path / "set.parquet")
        assert (texts.complete(), list(texts.subset), list(texts.source)) == (["one", "zwei"], ["a", "all"], ["", ""])

    def test_same_texts_have_the_same_id_from_either(self, tmp_path: Path) -> None:
        lines = _jsonl(tmp_path / "x.jsonl", '{"text": "a", "subset": "s"}', '{"text": "b"}')
        pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "y.parquet")
        pq.write_table(pa.table({"text": ["b", "a"]}), tmp_path / "z.parquet")
        ids = [load_texts(path).info.id for path in (lines, tmp_path / "y.parquet", tmp_path / "z.parquet")]
        assert ids[0] == ids[1]
        assert ids[1] != ids[2]

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("{", "t.jsonl:2: expected one JSON object a line"),
            ("[1]", "t.jsonl:2: .*expected a value of type object; got \\[1\\]"),
            ('"text"', "t.jsonl:2: .*expected a value of type object"),
            ('{"txt": "a"}', "t.jsonl:2: text: expected a value; the field is missing"),
            ('{"text": 3}', "t.jsonl:2: text: expected a value of type string; got 3"),
            ('{"text": null}', "t.jsonl:2: text: expected a value of type string; got null"),
            ('{"text": ""}', "t.jsonl:2: text: expected at least 1 characters"),
            ('{"text": "b", "subset": 3}', "t.jsonl:2: subset: expected a value of type string or null; got 3"),
            ('{"text": "b", "subset": "a\\u001b[0m"}', "t.jsonl:2: subset: expected text matching"),
            ('{"text": "b", "source": "a\\nb"}', "t.jsonl:2: source: expected text matching"),
            (b'{"text": "\xff"}', "t.jsonl:2: expected UTF-8; invalid start byte at byte 10"),
            (b"\xef\xbb\xbf" + b'{"text": "b"}', "t.jsonl:2: expected one JSON object a line; .*BOM"),
            ("[" * 100_000, "t.jsonl:2: expected one JSON object a line"),
            ('{"text": " \\n\\t "}', "t.jsonl: text 2 is empty: take it out"),
            ('{"text": "good"}', "t.jsonl: text 2 repeats text 1: take one out"),
            ('{"text": "\\ud800"}', "t.jsonl: text 2 is not valid Unicode"),
            ('{"text": "b", "subset": "\\ud800"}', "t.jsonl: text 2 is not valid Unicode"),
            ('{"text": "b", "source": "\\udfff"}', "t.jsonl: text 2 is not valid Unicode"),
        ],
    )
    def test_bad_line_is_named(self, tmp_path: Path, line: str | bytes, told: str) -> None:
        path = _jsonl(tmp_path / "t.jsonl", '{"text": "good"}', line)
        with pytest.raises((InputError, InvalidFileError), match=told):
            load_texts(path)

    def test_oversized_text(self, tmp_path: Path) -> None:
        path = _jsonl(tmp_path / "t.jsonl", json.dumps({"text": "ü" * (MAX_TEXT_BYTES // 2 + 1)}))
        with pytest.raises(InputError, match=r"t\.jsonl: text 1 has 1,048,578 bytes; at most 1,048,576 are allowed"):
            load_texts(path)

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            ({"txt": ["a"]}, "expected a column 'text'; got txt"),
            ({"text": ["a", None]}, r"x\.parquet: row 1: text: expected a value of type string; got null"),
            ({"text": [1, 2]}, r"x\.parquet: row 0: text: expected a value of type string; got 1"),
            ({"text": [b"a"]}, r"x\.parquet: row 0: text: expected a value of type string; got .*b'a'"),
            ({"text": ["a", "a"]}, r"x\.parquet: text 2 repeats text 1"),
            ({"text": pa.array([], pa.string())}, "expected at least one text; the file is empty"),
            ({"text": ["a"], "subset": [1.5]}, r"x\.parquet: row 0: subset: expected a value of type string or null"),
        ],
    )
    def test_bad_parquet(self, tmp_path: Path, columns: dict[str, Any], told: str) -> None:
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        with pytest.raises((InputError, InvalidFileError), match=told):
            load_texts(tmp_path / "x.parquet")

    def test_parquet_with_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
        pq.write_table(pa.table({"text": broken}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=r"x\.parquet"):
            load_texts(tmp_path / "x.parquet")

    @pytest.mark.parametrize("name", ["x.parquet", "x.pq"])
    def test_file_that_is_no_parquet(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"PAR1 not quite")
        with pytest.raises(InputError, match="expected a Parquet file"):
            load_texts(tmp_path / name)

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("text\na\n")
        (tmp_path / "empty.jsonl").write_text("\n \n")
        for given_path, told in [
            ("x.csv", r"x\.csv: expected a \.jsonl or \.parquet file; got '\.csv'"),
            ("empty.jsonl", r"empty\.jsonl: expected at least one text; the file is empty"),
            ("none.jsonl", r"no text set '.*none\.jsonl': give 'mini', or a JSON Lines or Parquet file"),
            (".", "no text set"),
        ]:
            with pytest.raises(InputError, match=told):
                load_texts(tmp_path / given_path)

    def test_refused_texts_leave_no_registry(self, tmp_path: Path) -> None:
        path = _jsonl(tmp_path / "t.jsonl", '{"text": "a"}', '{"text": "a"}')
        with pytest.raises(InputError, match="repeats"):
            init(tmp_path / "new", texts=path)
        assert not (tmp_path / "new").exists()


texts_strategy = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda text: bool(text.strip())),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(texts_strategy)
def test_parquet_reads_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    made = make_text_set("x", [{"text": text} for text in texts], licence="CC0-1.0")
    path = tmp_path_factory.mktemp("t") / "texts.parquet"
    path.write_bytes(to_parquet(made))
    back = from_parquet(path, made.info.to_json(), "texts.parquet")
    assert back.complete() == texts
    assert back == made
    assert to_parquet(back) == to_parquet(made)


def _rewrite(registry: Registry, change: Callable[[dict[str, list[Any]]], None]) -> None:
    path = registry.path / "texts.parquet"
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["text"].__setitem__(2, "Another text."), "text: text 2 was changed: its sha256 is another"),
        (
            lambda c: c["sha256"].__setitem__(0, "0" * 64),
            "sha256: expected the hashes of the text set in registry.json",
        ),
        (lambda c: c["index"].reverse(), "index: expected 0 to 5 in order"),
        (lambda c: [column.pop() for column in c.values()], "index: expected 0 to 5 in order"),
        (lambda c: c.pop("source"), "expected the columns index, text, .*; missing source"),
        (lambda c: c["bytes"].__setitem__(1, 1), "bytes: "),
        (lambda c: c.update(text=list(range(6))), "text: "),
        (lambda c: c["subset"].__setitem__(1, "other"), "subset: "),
    ],
    ids=["text", "hash", "order", "missing text", "missing column", "bytes", "type", "subset"],
)
def test_changed_texts_parquet_is_refused(small_registry: Registry, change: Any, told: str) -> None:
    _rewrite(small_registry, change)
    with pytest.raises(InvalidFileError, match=f"texts.parquet: {told}"):
        len(Registry(small_registry.path).texts)


def test_texts_that_may_not_be_copied(small_registry: Registry) -> None:
    _rewrite(small_registry, lambda columns: columns["text"].__setitem__(3, None))
    texts = Registry(small_registry.path).texts
    assert texts.texts[3] is None
    assert texts.num_bytes == small_registry.texts.num_bytes
    with pytest.raises(NotFoundError, match="1 of 6 texts of six are not copied in this registry"):
        texts.complete()
