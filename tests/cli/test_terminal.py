"""What reaches the terminal: broken pipes are quiet, and nothing from a registry can drive it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

Cli = Callable[..., Any]
MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
Command = tuple[list[str], dict[str, str]]

EVIL = "\u001b]0;owned\u0007\u001b[2J\u202etxet\u009b31m"


def _clean(text: str) -> bool:
    """Whether a terminal would show the text as it is."""
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, make_row: MakeRow) -> Registry:
    """A registry whose listings do not fit into a pipe of 4 KiB."""
    registry = init(tmp_path_factory.mktemp("many") / "many", texts=small_texts)
    for k in range(60):
        write_row(registry.path, make_row(registry, f"an-organisation-with-a-long-name/{'m' * 150}{k}", k))
    registry.build()
    shutil.rmtree(registry.path / "rows")
    return registry


class TestBrokenPipe:
    """`llreg ls | head -1`: the reader leaves early."""

    @pytest.mark.parametrize("args", ["ls", "ls --json"])
    def test_is_quiet(self, many: Registry, warm_command: Command, args: str) -> None:
        argv, extra = warm_command
        env = {**os.environ, **extra, "LLREG_REGISTRY": str(many.path)}
        with subprocess.Popen(
            [*argv, *args.split()], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 0

    def test_closed_from_the_start(self, many: Registry, warm_command: Command) -> None:
        argv, extra = warm_command
        env = {**os.environ, **extra, "LLREG_REGISTRY": str(many.path)}
        shell = '"$@" | true; echo "${PIPESTATUS[0]}"'
        done = subprocess.run(
            ["bash", "-c", shell, "bash", *argv, "ls", "-q"], env=env, capture_output=True, check=True, text=True
        )
        assert (done.stdout, done.stderr) == ("0\n", "")


class TestNamesFromStrangers:
    """A registry may come from anywhere."""

    def test_registry_name_with_escapes_is_refused_and_shown_escaped(self, cli: Cli, small_registry: Registry) -> None:
        path = small_registry.path / "registry.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": EVIL}))
        for command in ("ls", "validate", "build"):
            result = cli("-r", small_registry.path, command)
            assert (result.code, result.out) == (1, "")
            assert _clean(result.err)
            assert "name: expected text matching" in result.err

    @pytest.mark.parametrize("field", ["licence", "architecture"])
    def test_declared_string_with_escapes_is_refused(
        self, cli: Cli, small_registry: Registry, make_row: MakeRow, field: str
    ) -> None:
        write_row(small_registry.path, make_row(small_registry, declared={field: EVIL}))
        for command, code in (("ls", 0), ("validate", 1), ("build", 1)):  # ls leaves it out and says so
            result = cli("-r", small_registry.path, command)
            assert result.code == code
            assert "a/b" not in result.out
            assert _clean(result.out + result.err)
            assert f"declared.{field}: expected text matching" in result.out + result.err

    def test_field_name_with_escapes(self, cli: Cli, small_registry: Registry, make_row: MakeRow) -> None:
        """Names of further fields are free in the schema, so they are escaped where they are shown."""
        write_row(small_registry.path, make_row(small_registry, provenance={EVIL: "x"}))
        for args in (["info", "a/b"], ["build"]):
            result = cli("-r", small_registry.path, *args)
            assert _clean(result.out + result.err), args

    def test_invisible_characters_in_declared_strings_are_shown(
        self, cli: Cli, small_registry: Registry, make_row: MakeRow
    ) -> None:
        write_row(small_registry.path, make_row(small_registry, declared={"licence": "mit\u200b\u200e\u00ad"}))
        result = cli("-r", small_registry.path, "info", "a/b")
        assert result.code == 0
        assert "mit\\u200b\\u200e\\xad" in result.out

    @pytest.mark.parametrize("folder", ["retractions", "versions"])
    def test_file_name_with_escapes(self, cli: Cli, small_registry: Registry, fill: Fill, folder: str) -> None:
        fill(small_registry, 1)
        (small_registry.path / folder).mkdir()
        (small_registry.path / folder / f"{EVIL}.json").write_text("{}")
        for command in ("status", "validate"):
            result = cli("-r", small_registry.path, command)
            assert _clean(result.out + result.err), command

    def test_stray_row_file_with_escapes(self, cli: Cli, small_registry: Registry) -> None:
        (small_registry.path / "rows" / "aa").mkdir(parents=True)
        (small_registry.path / "rows" / "aa" / f"{EVIL}.zarr.zip").touch()
        for args in (["validate"], ["validate", "-q"]):
            result = cli("-r", small_registry.path, *args)
            assert _clean(result.out + result.err), args

    def test_column_names_and_subsets_of_texts(self, cli: Cli, tmp_path: Path) -> None:
        pq.write_table(pa.table({EVIL: ["a"]}), tmp_path / "x.parquet")
        result = cli("texts", "check", tmp_path / "x.parquet")
        assert result.code == 1
        assert _clean(result.err)
        (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a", "subset": EVIL}) + "\n")
        result = cli("texts", "check", tmp_path / "x.jsonl")
        assert result.code == 1
        assert _clean(result.err)

    def test_texts_are_shown_escaped(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "x.jsonl").write_text(json.dumps({"text": f"a\tb\n{EVIL}"}) + "\n")
        assert cli("init", tmp_path / "r", "--texts", tmp_path / "x.jsonl").code == 0
        for args in (["show", "0"], ["ls"]):
            result = cli("-r", tmp_path / "r", "texts", *args)
            assert result.code == 0
            assert _clean(result.out + result.err), args
            assert "\\x1b" in result.out


def test_unicode_reaches_a_terminal_that_has_none(cli: Cli, small_registry: Registry) -> None:
    """Under LC_ALL=C output is still UTF-8, and nothing crashes."""
    result = cli(
        "-r",
        small_registry.path,
        "texts",
        "show",
        "3",
        env={"LC_ALL": "C", "PYTHONUTF8": "", "LANG": "C"},
        process=True,
    )
    assert (result.code, result.out) == (0, "数学は楽しい。明日も続ける。\n")


def test_no_colour_and_no_bars_without_a_terminal(cli: Cli, small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 2)
    for args in (["ls"], ["validate"]):
        result = cli("-r", small_registry.path, *args, env={"NO_COLOR": ""})
        assert result.code == 0
        assert _clean(result.out + result.err)
