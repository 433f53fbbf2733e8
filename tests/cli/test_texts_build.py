"""`llreg texts build`: presets, recipes, a user's own files, each bad input in one sentence."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import Cli, Result

from llreg.cli import main
from llreg.settings import MAX_TEXT_BYTES
from llreg.texts.recipe import presets
from llreg.texts.textset import load_texts
from llreg_schemas import text_set_id


def lines(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def refused(result: Result, *words: str) -> None:
    """Exit code 1 and one sentence that has some words; nothing on stdout."""
    assert (result.code, result.out) == (1, ""), result
    (line,) = result.err.strip().split("\n")
    assert line.startswith("llreg: ")
    for word in words:
        assert word in line


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """As `cli`, in this process, for speed; what becomes of an error is what `main` makes of it."""

    def run(*args: str | Path, cwd: Path) -> Result:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["llreg", *map(str, args)])
        capsys.readouterr()
        code = 0
        with monkeypatch.context() as patch:
            patch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets its own
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Result(code, *capsys.readouterr())

    return run


def texts_of(folder: Path, name: str = "own.parquet") -> list[str]:
    return load_texts(folder / name).complete()


class TestPresets:
    """What comes with llreg."""

    def test_list(self, cli: Cli) -> None:
        result = cli("texts", "presets")
        assert result.code == 0
        assert "pile-10k: 10,000 texts; may not be published; licence: other" in result.out
        assert cli("texts", "presets", "-q").out.split() == sorted(presets())
        printed = json.loads(cli("texts", "presets", "--json").out)
        assert [recipe["name"] for recipe in printed] == sorted(presets())
        assert all(recipe["licence"] for recipe in printed)

    @pytest.mark.datasets
    def test_offline(self, cli: Cli) -> None:
        """The data set's commit is known, so that what fails first is reading it."""
        refused(cli("texts", "build", "pile-10k"), "monology/pile-uncopyrighted")
        refused(cli("texts", "build", "oasst2-messages"), "OpenAssistant/oasst2")

    def test_unknown(self, cli: Cli) -> None:
        refused(cli("texts", "build", "pile-20k"), "no recipe 'pile-20k'", "pile-10k", "llreg texts build --from FILE")

    def test_without_datasets(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "block").mkdir()
        (tmp_path / "block" / "sitecustomize.py").write_text("import sys; sys.modules['datasets'] = None\n")
        path = os.pathsep.join([str(tmp_path / "block"), *filter(None, _python_path())])
        refused(
            cli("texts", "build", "pile-10k", env={"PYTHONPATH": path}, process=True),
            "datasets",
            'pip install "llreg[texts]"',
        )


def _python_path() -> list[str]:
    root = Path(__file__).resolve().parent.parent.parent
    return [str(root / name) for name in ("registry", "extract", "schemas")]


class TestRecipes:
    """A recipe in a file, on local documents of the Pile's shape."""

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Path:
        rng = random.Random(3)
        documents = [
            {
                "text": "".join(rng.choices("ab é語\U0001f600", k=rng.randrange(2000))),
                "meta": {"pile_set_name": "ArXiv"},
            }
            for _ in range(80)
        ]
        source = {
            "files": [str(lines(tmp_path / "docs.jsonl", *documents))],
            "text": "text",
            "subset": "meta.pile_set_name",
        }
        document = {
            "format": "llreg-recipe", "format_version": 1, "name": "tiny", "licence": "CC0-1.0", "copy": False,
            "sources": [source], "pieces": {"max_bytes": 1024, "min_bytes": 257},
            "sample": {"method": "python-random", "seed": 42, "draw": 40, "take": 10}, "duplicates": "keep",
        }  # fmt: skip
        (tmp_path / "recipe.json").write_text(json.dumps(document))
        return tmp_path / "recipe.json"

    def test_build_init_and_rebuild(self, cli: Cli, tmp_path: Path, recipe: Path) -> None:
        """The way of the paper's text set, in small: build, init, share without the texts, rebuild."""
        built = cli("texts", "build", recipe, cwd=tmp_path)
        assert built.code == 0, built.err
        name, digest = built.out.split()
        assert name == "tiny.parquet"
        assert "the texts must not be published" in built.err
        assert cli("init", "mine", "--texts", "tiny.parquet", cwd=tmp_path).code == 0
        assert cli("texts", "check", cwd=tmp_path / "mine").out.split()[:2] == ["tiny", digest]
        shutil.copytree(tmp_path / "mine", tmp_path / "yours", ignore=shutil.ignore_patterns(".llreg"))
        assert "(not copied)" in cli("texts", "ls", cwd=tmp_path / "yours").out
        refused(cli("texts", "show", "0", cwd=tmp_path / "yours"), "not copied", "llreg texts build")
        refused(cli("texts", "build", cwd=tmp_path / "yours"), "docs.jsonl", "--from FILE")
        done = cli("-r", "yours", "texts", "build", "--from", "docs.jsonl", cwd=tmp_path)
        assert (done.code, done.out) == (0, f"{digest}\n"), done.err
        assert (
            cli("texts", "show", "0", cwd=tmp_path / "yours").out
            == cli("texts", "show", "0", cwd=tmp_path / "mine").out
        )
        assert [path.name for path in (tmp_path / "yours").iterdir() if path.name == "docs.parquet"] == []

    def test_take_and_seed(self, here: Cli, tmp_path: Path, recipe: Path) -> None:
        assert here("texts", "build", recipe, cwd=tmp_path).code == 0
        assert here("texts", "build", recipe, "--take", "4", cwd=tmp_path).code == 0
        assert texts_of(tmp_path, "tiny.4.parquet") == texts_of(tmp_path, "tiny.parquet")[:4]
        other = here("texts", "build", recipe, "--seed", "7", "--name", "seven", "-o", "7.parquet", cwd=tmp_path)
        assert other.out.startswith("7.parquet  ")
        assert load_texts(tmp_path / "7.parquet").info.name == "seven"
        assert texts_of(tmp_path, "7.parquet") != texts_of(tmp_path, "tiny.parquet")

    def test_a_changed_source(self, here: Cli, tmp_path: Path, recipe: Path) -> None:
        document = json.loads(recipe.read_text())
        document["expect"] = {"pieces": 5}
        document["sample"] = None
        recipe.write_text(json.dumps(document))
        refused(here("texts", "build", recipe, cwd=tmp_path), "expected 5 pieces; ", "gave ", "it has changed since")
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["docs.jsonl", "recipe.json"]

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((), "name one preset or recipe"),
            (("a", "b"), "name one preset or recipe"),
            (("pile-10k", "--max-bytes", "100"), "go with --from"),
            (("pile-10k", "--take", "0"), "--take"),
            (("pile-10k", "--unit", "word"), "--unit"),
        ],
    )
    def test_usage(self, here: Cli, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
        result = here("texts", "build", *args, cwd=tmp_path)
        assert result.code == 2
        assert message in result.err

    def test_the_file_is_there(self, here: Cli, tmp_path: Path, recipe: Path) -> None:
        (tmp_path / "tiny.parquet").write_text("mine")
        refused(here("texts", "build", recipe, cwd=tmp_path), "tiny.parquet is there already", "-o")
        assert (tmp_path / "tiny.parquet").read_text() == "mine"

    def test_no_directory_and_no_parquet(self, here: Cli, tmp_path: Path, recipe: Path) -> None:
        refused(
            here("texts", "build", recipe, "-o", tmp_path / "no" / "x.parquet", cwd=tmp_path), "there is no directory"
        )
        refused(here("texts", "build", recipe, "-o", tmp_path / "x.csv", cwd=tmp_path), "ends in .parquet")


class TestOwnFiles:
    """--from FILE..."""

    def test_json_lines(self, here: Cli, tmp_path: Path) -> None:
        items = [
            {"text": "First.", "subset": "a", "source": "book/1"},
            {"text": "Zweiter: ü, 語, \U0001f600", "subset": None},
            {"text": "third", "more": 1},
        ]
        result = here(
            "texts", "build", "--from", lines(tmp_path / "own.jsonl", *items), "--licence", "MIT", cwd=tmp_path
        )
        assert result.code == 0, result.err
        texts = load_texts(tmp_path / "own.parquet")
        assert result.out == f"own.parquet  {texts.info.id[:12]}\n"
        assert texts.complete() == [item["text"] for item in items]
        assert (texts.subset, texts.source) == (["a", "all", "all"], ["book/1", "1", "2"])
        assert (texts.info.name, texts.info.licence) == ("own", "MIT")
        assert texts.info.id == text_set_id(texts.sha256)
        # Same texts, same set, however they came.
        assert load_texts(tmp_path / "own.jsonl").info.id == texts.info.id

    def test_several_files_of_several_kinds(self, here: Cli, tmp_path: Path) -> None:
        lines(tmp_path / "own.jsonl", {"text": "one"})
        pq.write_table(pa.table({"text": ["two", "three"], "subset": ["p", "q"]}), tmp_path / "b.parquet")
        (tmp_path / "c.txt").write_text("four")
        result = here("texts", "build", "--from", "own.jsonl", "b.parquet", "c.txt", cwd=tmp_path)
        assert result.code == 0, result.err
        assert texts_of(tmp_path) == ["one", "two", "three", "four"]
        assert load_texts(tmp_path / "own.parquet").subset == ["all", "p", "q", "all"]

    @pytest.mark.parametrize(
        ("unit", "expected"),
        [
            ("paragraph", ["One line\nand another.", "  Second paragraph.", "third"]),
            ("line", ["One line", "and another.", "  Second paragraph.", "third"]),
            ("file", ["One line\nand another.\n\n\n  Second paragraph.\n \nthird"]),
        ],
    )
    def test_plain_text(self, here: Cli, tmp_path: Path, unit: str, expected: list[str]) -> None:
        data = "\ufeffOne line\nand another.\n\n\n  Second paragraph.\n \nthird\n"
        (tmp_path / "own.txt").write_bytes(data.encode())
        assert here("texts", "build", "--from", "own.txt", "--unit", unit, cwd=tmp_path).code == 0
        assert texts_of(tmp_path) == expected

    def test_pieces_and_sample(self, here: Cli, tmp_path: Path) -> None:
        (tmp_path / "own.txt").write_text("0123456789" * 10 + "abc")
        done = here(
            "texts",
            "build",
            "--from",
            "own.txt",
            "--max-bytes",
            "8",
            "--min-bytes",
            "5",
            "--duplicates",
            "drop",
            cwd=tmp_path,
        )
        assert done.code == 0, done.err
        assert texts_of(tmp_path) == ["01234567", "89012345", "67890123", "45678901", "23456789", "6789abc"]
        sampled = here(
            "texts", "build", "--from", "own.txt", "--max-bytes", "8", "--take", "5", "--seed", "3", "--duplicates", "keep",
            "-o", "some.parquet", cwd=tmp_path,
        )  # fmt: skip
        assert sampled.code == 0, sampled.err
        pieces = [("0123456789" * 10 + "abc")[start : start + 8] for start in range(0, 103, 8)]
        assert texts_of(tmp_path, "some.parquet") == random.Random(3).sample(pieces, 5)

    def test_fields(self, here: Cli, tmp_path: Path) -> None:
        lines(tmp_path / "own.jsonl", {"doc": {"body": "one"}, "meta": {"lang": "de"}})
        done = here(
            "texts",
            "build",
            "--from",
            "own.jsonl",
            "--text-field",
            "doc.body",
            "--subset-field",
            "meta.lang",
            cwd=tmp_path,
        )
        assert done.code == 0, done.err
        texts = load_texts(tmp_path / "own.parquet")
        assert (texts.texts, texts.subset) == (["one"], ["de"])

    def test_no_copy(self, here: Cli, tmp_path: Path) -> None:
        lines(tmp_path / "own.jsonl", {"text": "secret words"})
        assert here("texts", "build", "--from", "own.jsonl", "--no-copy", cwd=tmp_path).code == 0
        assert here("init", "reg", "--texts", "own.parquet", cwd=tmp_path).code == 0
        assert b"secret words" not in (tmp_path / "reg" / "texts.parquet").read_bytes()
        assert here("texts", "show", "0", cwd=tmp_path / "reg").out == "secret words\n"

    def test_inside_a_registry_that_has_its_texts(self, here: Cli, tmp_path: Path) -> None:
        """Then --from means a new set."""
        assert here("init", "reg", cwd=tmp_path).code == 0
        lines(tmp_path / "reg" / "own.jsonl", {"text": "one"})
        assert here("texts", "build", "--from", "own.jsonl", cwd=tmp_path / "reg").code == 0
        assert texts_of(tmp_path / "reg") == ["one"]
        assert here("texts", "build", cwd=tmp_path / "reg").code == 2


class TestBadFiles:
    """Each in one sentence that names the file and the place."""

    @pytest.fixture
    def build(self, tmp_path: Path, here: Cli) -> Any:
        def run(name: str, data: bytes | str, *args: str) -> Result:
            (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
            result = here("texts", "build", "--from", name, *args, cwd=tmp_path)
            assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]
            return result

        return run

    @pytest.mark.parametrize("name", ["own.jsonl", "own.txt"])
    def test_invalid_utf_8(self, build: Any, name: str) -> None:
        good = b'{"text": "\xc3\xa9"}\n' if name == "own.jsonl" else b"good \xc3\xa9\n\n"
        bad = b'{"text": "caf\xe9"}\n' if name == "own.jsonl" else b"caf\xe9\n"
        where = len(good) + bad.index(b"\xe9")
        line = 2 if name == "own.jsonl" else 3
        refused(build(name, good + bad), f"{name}:{line}: expected UTF-8; byte {where} of the file is 0xe9")

    def test_invalid_utf_8_in_parquet(self, build: Any) -> None:
        bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": bad}), sink)
        refused(build("own.parquet.pq", sink.getvalue().to_pybytes()), "own.parquet.pq: expected UTF-8")

    def test_lone_surrogate(self, build: Any) -> None:
        refused(build("own.jsonl", '{"text": "a\\ud83d"}\n'), "own.jsonl:1: not valid Unicode", "U+D83D")

    def test_too_long(self, build: Any) -> None:
        data = (
            json.dumps({"text": "é" * (MAX_TEXT_BYTES // 2)}) + "\n" + json.dumps({"text": "x" * (MAX_TEXT_BYTES + 1)})
        )
        refused(build("own.jsonl", data), f"own.jsonl:2: a text of {MAX_TEXT_BYTES + 1:,} bytes", "--max-bytes")

    @pytest.mark.parametrize("text", ["", " \n\t"])
    def test_empty_text(self, build: Any, text: str) -> None:
        refused(build("own.jsonl", json.dumps({"text": text})), "own.jsonl:1: the text is empty: take it out")

    @pytest.mark.parametrize("name", ["own.jsonl", "own.txt"])
    def test_empty_file(self, build: Any, name: str) -> None:
        refused(build(name, "\n \n"), "own give no text")

    def test_duplicate(self, build: Any) -> None:
        refused(build("own.txt", "a\n\nb\n\na\n"), "own.txt:5 repeats the text of own.txt:1", "--duplicates drop")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("[1]", "own.jsonl:1: expected a JSON object with a field 'text'"),
            ("{", "own.jsonl:1: expected one JSON object a line"),
            ('{"words": "a"}', "own.jsonl:1: expected text in the field 'text'; got nothing; fields are words"),
            ('{"text": 5}', "own.jsonl:1: expected text in the field 'text'; got int"),
            ('{"text": null}', "own.jsonl:1: the text is empty"),
        ],
    )
    def test_json(self, build: Any, data: str, message: str) -> None:
        refused(build("own.jsonl", data), message)

    def test_parquet(self, build: Any) -> None:
        refused(build("own.pq", "no"), "own.pq: expected a Parquet file")
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"words": ["a"], "more": [1]}), sink)
        refused(build("own.pq", sink.getvalue().to_pybytes()), "expected a column 'text'; got words, more")

    def test_packed(self, build: Any) -> None:
        refused(build("own.jsonl.gz", "no"), "own.jsonl.gz: cannot be read")
        refused(build("own.jsonl.gz", b"\x1f\x8b\x08\0"), "own.jsonl.gz: cannot be read")

    def test_kind(self, build: Any) -> None:
        refused(build("own.csv", "text\na\n"), "own.csv: expected a file that ends in .jsonl")

    def test_missing(self, here: Cli, tmp_path: Path) -> None:
        refused(here("texts", "build", "--from", "no.jsonl", cwd=tmp_path), "no file no.jsonl")

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--min-bytes", "5"), "--max-bytes N"),
            (("--min-bytes", "50", "--max-bytes", "40"), "no piece would be kept"),
            (("--take", "3"), "the sources give 2 pieces, and the recipe draws 3"),
            (("--name", "a b"), "name 'a b'"),
            (("--seed", "1"), "say how many to take with --take N"),
        ],
    )
    def test_options(self, build: Any, args: tuple[str, ...], message: str) -> None:
        refused(build("own.txt", "a\n\nb\n", *args), message)
