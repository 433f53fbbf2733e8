"""Every command: help, output on stdout and talk on stderr, --json, -q, and exit codes 0, 1 and 2."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from tests.tools.command_reference import commands

from llreg.cli import cli as group
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

Cli = Callable[..., Any]
MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


COMMANDS = [name.removeprefix("llreg ") for name, _ in commands()]


@pytest.fixture
def filled(small_registry: Registry, fill: Fill) -> Registry:
    """Three rows, of which two are in the build, and a tag."""
    fill(small_registry, 2)
    small_registry.build()
    small_registry.tag("v1")
    fill(small_registry, 1, start=2)
    return small_registry


def test_the_commands_are_those_of_the_design() -> None:
    design = {"add", "build", "dist", "info", "init", "log", "ls", "retract", "status", "tag", "texts", "validate"}
    design |= {"lineage", "map", "nn", "predict", "subset", "traj", "tree", "view"}
    assert design <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_has_help(name: str, cli: Cli) -> None:
    result = cli(*name.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(
        "Usage: llreg " if "python" not in result.out.split("\n")[0] else "Usage: python -m llreg "
    )
    description = result.out.split("\n\n")[1].strip()
    assert len(description) > 20
    command: Any = group
    for part in name.split():
        command = command.get_command(click.Context(command), part)
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"llreg {name}: {option.opts[0]} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_stands_in_the_docs(name: str) -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in PAGES if path.name != "commands.md"
    )  # that one is made
    assert re.search(rf"llreg( (-r|--registry) \S+)? {name}\b", text), f"no page of the docs shows: llreg {name}"


def test_help_lists_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    for name in COMMANDS:
        if " " not in name:
            assert re.search(rf"^  {name}  +\S", result.out, re.MULTILINE), name


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"llreg, version \d+\.\d+\.\d+\n", result.out)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["ls", "--frobnicate"], "No such option"),
        (["ls", "extra"], "unexpected extra argument"),
        (["info"], "Missing argument 'MODEL'"),
        (["retract", "x"], "Missing option '--why'"),
        (["add"], "name at least one model"),
        (["add", "x", "--dtype", "int4"], "Invalid value for '--dtype'"),
        (["add", "x", "--batch-tokens", "0"], "Invalid value for '--batch-tokens'"),
        (["dist", "--clip", "high"], "--clip: expected a number of at most 0, or none; got 'high'"),
        (["dist", "--clip", "5"], "--clip: expected a number of at most 0"),
        (["dist", "--clip", "nan"], "--clip: expected a number of at most 0"),
        (["dist", "--clip=-inf"], "--clip: expected a number of at most 0"),
        (["texts", "show", "-1"], "No such option|Invalid value"),
        (["log", "-n", "0"], "Invalid value"),
        (["validate", "not-there.zip"], "does not exist"),
    ],
)
def test_wrong_usage_is_2(args: list[str], told: str, cli: Cli, filled: Registry) -> None:
    result = cli("-r", filled.path, *args)
    assert (result.code, result.out) == (2, "")
    assert re.search(told, result.err)
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["info", "org/m7"], "no row of org/m7 in this registry; did you mean"),
        (["retract", "org/m1", "--why", " "], "--why: give the reason"),
        (["dist", "org/m1"], "a distance needs two rows"),
        (["dist", "org/m1", "org/m9"], "no row of org/m9"),
        (["tag", "v1"], "tag v1 names version [0-9a-f]{12} already; tags never move"),
        (["texts", "show", "6"], "no text 6: the set has 6 texts, 0 to 5"),
        (["texts", "check", "none.jsonl"], "no text set 'none.jsonl'"),
    ],
)
def test_failure_is_1_and_one_sentence(args: list[str], told: str, cli: Cli, filled: Registry) -> None:
    result = cli("-r", filled.path, *args)
    assert result.code == 1
    assert re.search(f"llreg: .*{told}", result.err)
    assert "Traceback" not in result.err
    assert result.out == ""
    assert len(result.err.splitlines()) == 1


LISTINGS = {
    "ls": 3,
    "log": 4,
    "status": 1,
    "dist": 3,
    "validate": 0,
}


@pytest.mark.parametrize("name", LISTINGS)
def test_listing(name: str, cli: Cli, filled: Registry) -> None:
    """--json parses; -q is ids only, one a line; both say nothing else on stdout."""
    as_json = cli("-r", filled.path, *name.split(), "--json")
    quiet = cli("-r", filled.path, *name.split(), "-q")
    assert [as_json.code, quiet.code] == [0, 0]
    document = json.loads(as_json.out)
    lines = quiet.out.splitlines()
    assert len(lines) == LISTINGS[name]
    if isinstance(document, list):
        assert len(document) == LISTINGS[name]
    assert all(line == line.strip() and line for line in lines)
    assert as_json.err == ""
    assert quiet.err == ""


def test_ls(cli: Cli, filled: Registry) -> None:
    ids = [record.row_id for record in filled.records()]
    assert [row["row_id"] for row in filled.summary()] == ids
    listed = json.loads(cli("-r", filled.path, "ls", "--json").out)
    assert listed == filled.summary()
    header, *lines = cli("-r", filled.path, "ls").out.splitlines()
    assert header.split() == ["MODEL", "ROW", "WEIGHTS", "PARAMETERS", "TEXTS", "BITS/BYTE", "ADDED"]
    for line, row in zip(lines, listed, strict=True):
        model, digest, weights, parameters, texts, bits, *added = line.split()
        assert f"{model}@{digest}" == row["row_id"]
        assert (weights, parameters, texts) == ("float32", "124M", "6/6")
        assert float(bits) == pytest.approx(row["bits_per_byte"], abs=5e-5)
        assert " ".join(added) == "2026-01-02 03:04"


def test_info(cli: Cli, filled: Registry) -> None:
    record = filled.find("org/m2")
    result = cli("-r", filled.path, "info", record.row_id, "--json")
    further = {"annotations": {}, "accuracy": None, "subset_accuracy": {}}
    assert json.loads(result.out) == {"row_id": record.row_id, **record.to_json(), **further}
    text = cli("-r", filled.path, "info", "org/m2").out
    assert "  model         org/m2" in text
    assert text.splitlines()[-1].strip() == record.digest


def test_accuracy(cli: Cli, filled: Registry, make_row: Callable[..., Row]) -> None:
    correct, tokens = [1, 2, 0, 4, 0, 3], [10, 8, 4, 4, 5, 12]
    # Subsets: prose, code, multilingual, multilingual, code, and a text without one.
    values = [-20.0, -20.0, float("nan"), -20.0, -20.0, -20.0]
    tokens[2] = 0
    row = make_row(filled, "org/fine", log_likelihood=values, num_tokens=tokens, num_correct=correct, fine=True)
    write_row(filled.path, row)
    assert filled.accuracy(["org/m0", "org/fine"]) == [
        {"row_id": filled.find("org/m0").row_id, "accuracy": None, "subsets": {}},
        {
            "row_id": row.record.row_id,
            "accuracy": 10 / 39,
            "subsets": {"prose": 0.1, "code": 2 / 13, "multilingual": 1.0, "all": 0.25},
        },
    ]
    text = cli("-r", filled.path, "info", "org/fine").out
    at = text.splitlines().index("next-token accuracy")
    shares = [" ".join(line.split()) for line in text.splitlines()[at + 1 :][:5]]
    assert shares == ["all texts 25.6%", "all 25.0%", "code 15.4%", "multilingual 100.0%", "prose 10.0%"]
    assert json.loads(cli("-r", filled.path, "info", "org/fine", "--json").out)["accuracy"] == 10 / 39
    assert "12 segments of texts, in 1 of 4 rows" in cli("-r", filled.path, "status").out


def test_dist(cli: Cli, filled: Registry) -> None:
    result = filled.kl()
    document = json.loads(cli("-r", filled.path, "dist", "--json").out)
    assert document["version"] == filled.version
    pairs = {(pair["model"], pair["other"]): pair for pair in document["pairs"]}
    labels = result["model"].values.tolist()
    assert list(pairs) == [(labels[0], labels[1]), (labels[0], labels[2]), (labels[1], labels[2])]
    for (one, other), pair in pairs.items():
        i, j = labels.index(one), labels.index(other)
        assert pair["kl"] == pytest.approx(result["kl_bits_per_byte"].values[i, j], rel=1e-12)
        assert pair["se"] == pytest.approx(result["kl_bits_per_byte_se"].values[i, j], rel=1e-12)
        assert pair["unit"] == "bit/byte"
    nats = json.loads(cli("-r", filled.path, "dist", "--nats", "--json").out)["pairs"]
    assert [pair["kl"] for pair in nats] == [result["kl"].values[i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    plain = cli("-r", filled.path, "dist", "org/m0", "org/m2")
    assert plain.out.splitlines()[0].split() == ["MODEL", "OTHER", "BITS/BYTE", "SE", "TAIL", "TEXTS", "BY"]
    assert plain.out.splitlines()[1].split()[:2] == ["org/m0", "org/m2"]
    assert f"version {filled.version[:12]}" in plain.err


def test_dist_to_one_is_nearest_first(cli: Cli, filled: Registry) -> None:
    pairs = json.loads(cli("-r", filled.path, "dist", "--to", "org/m1", "--json").out)["pairs"]
    wanted = filled.find("org/m1").row_id
    assert [pair["model"] for pair in pairs] == [wanted] * 2
    assert [pair["kl"] for pair in pairs] == sorted(pair["kl"] for pair in pairs)


def test_dist_of_rows_that_share_no_text(cli: Cli, small_registry: Registry, make_row: MakeRow) -> None:
    nan = math.nan
    for name, values in (("a", [-1, -2, -3, nan, nan, nan]), ("b", [nan, nan, nan, -4, -5, -6])):
        write_row(small_registry.path, make_row(small_registry, name, log_likelihood=values))
    result = cli("-r", small_registry.path, "dist", "--json")
    (pair,) = json.loads(result.out)["pairs"]
    assert (pair["kl"], pair["se"], pair["num_texts"]) == (None, None, 0)
    assert cli("-r", small_registry.path, "dist").code == 0


def test_build_tag_retract_status_log(cli: Cli, filled: Registry) -> None:
    def run(*args: str) -> Any:
        return cli("-r", filled.path, *args)

    row_id = filled.find("org/m2").row_id
    assert run("status", "-q").out == f"{row_id}\n"
    checked = run("build", "--check")
    assert (checked.code, "store.zarr differs from the rows" in checked.err) == (1, True)
    built = run("build")
    assert (built.code, built.out, built.err) == (0, f"{filled.version[:12]}\n", "llreg: built 3 rows\n")
    assert run("build", "--check").code == 0
    assert run("tag", "v2").out == f"v2  {filled.version[:12]}  3 rows\n"
    retracted = run("retract", "org/m2", "--why", "it was the wrong one")
    assert (retracted.code, retracted.out) == (0, f"{row_id}\n")
    state = json.loads(run("status", "--json").out)
    assert (state["rows"], state["retracted"], state["to_leave_out"], state["tags"]) == (2, 1, [row_id], ["v1"])
    events = json.loads(run("log", "-n", "5", "--json").out)
    assert [event["at"] for event in events] == sorted((event["at"] for event in events), reverse=True)
    assert [event["what"] for event in events[:2]] == ["retracted", "tagged"]
    assert (len(events), events[0]["id"], "it was the wrong one" in events[0]["detail"]) == (5, row_id, True)


def test_validate(cli: Cli, filled: Registry, tmp_path: Path) -> None:
    path = next(iter(filled.row_files().values()))
    copy = shutil.copy(path, tmp_path / "copy.zip")
    assert cli("-r", filled.path, "validate", copy).code == 0
    path.write_bytes(path.read_bytes()[:-40])
    result = cli("-r", filled.path, "validate")
    shown = filled.label(path)
    assert (result.code, result.out.startswith(f"{shown}: expected a whole row file")) == (1, True)
    assert "1 problems in 3 row files" in result.err
    assert cli("-r", filled.path, "validate", "-q").out == f"{shown}\n"
    (problem,) = json.loads(cli("-r", filled.path, "validate", "--json").out)
    assert problem["file"] == shown


def test_texts(cli: Cli, filled: Registry, small_texts: Path) -> None:
    listed = json.loads(cli("-r", filled.path, "texts", "ls", "--json").out)
    assert [text["sha256"] for text in listed] == list(filled.texts.sha256)
    shown = cli("-r", filled.path, "texts", "show", "3")
    assert (shown.code, shown.out) == (0, "数学は楽しい。明日も続ける。\n")
    assert json.loads(cli("-r", filled.path, "texts", "show", "1", "--json").out)["text"] == filled.texts.texts[1]
    header = json.loads(cli("texts", "check", small_texts, "--json").out)
    assert header["id"] == filled.info["text_set"]["id"]
    assert cli("-r", filled.path, "texts", "check").out.startswith("six  ")


def test_init(cli: Cli, tmp_path: Path, small_texts: Path) -> None:
    result = cli("init", "r", "--texts", small_texts, "--name", "org/r", "--clip", "-50", cwd=tmp_path)
    assert (result.code, result.out) == (0, "")
    assert "6 texts" in result.err
    made = Registry(tmp_path / "r")
    assert (made.name, made.clip, made.info["licence"]) == ("org/r", -50.0, "CC0-1.0")
    assert {path.name for path in made.path.iterdir() if path.name != ".llreg"} == {
        "registry.json", "texts.parquet", ".gitattributes", ".gitignore",
    }  # fmt: skip
    again = cli("init", "r", cwd=tmp_path)
    assert (again.code, "is a registry already" in again.err) == (1, True)
    odd = cli("init", "a name with spaces", cwd=tmp_path)
    assert "Traceback" not in odd.err


def test_row_of_a_newer_llreg_is_told(cli: Cli, filled: Registry) -> None:
    path = filled.path / "registry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 3}))
    for name in ("ls", "validate"):
        result = cli("-r", filled.path, name)
        assert (result.code, result.out) == (1, "")
        assert "pip install --upgrade llreg" in result.err
