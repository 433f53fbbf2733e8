"""Which registry a command means: the option before or after the verb, LLREG_REGISTRY, the directory, one's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row

Cli = Callable[..., Any]
Fill = Callable[..., list[Row]]


@pytest.fixture
def places(tmp_path: Path, small_texts: Path) -> dict[str, Path]:
    """Four registries, each named after its directory."""
    return {name: init(tmp_path / name, texts=small_texts).path for name in ("one", "two", "three", "four")}


def _found(result: Any) -> str:
    assert result.code == 0, result.err
    name: str = json.loads(result.out)["registry"]
    return name


def test_option_before_and_after_the_verb(cli: Cli, places: dict[str, Path]) -> None:
    for flag in ("-r", "--registry"):
        assert _found(cli(flag, places["one"], "status", "--json")) == "one"
        assert _found(cli("status", flag, places["one"], "--json")) == "one"
    assert _found(cli(f"--registry={places['one']}", "status", "--json")) == "one"
    assert _found(cli("-r", places["one"], "status", "-r", places["two"], "--json")) == "two"  # the nearer one


def test_order(cli: Cli, places: dict[str, Path]) -> None:
    """Option, then LLREG_REGISTRY, then the enclosing directory."""
    inside = places["three"] / "rows" / "deep"
    inside.mkdir(parents=True)
    env = {"LLREG_REGISTRY": str(places["two"])}
    assert _found(cli("-r", places["one"], "status", "--json", cwd=inside, env=env)) == "one"
    assert _found(cli("status", "--json", cwd=inside, env=env)) == "two"
    assert _found(cli("status", "--json", cwd=inside)) == "three"
    assert _found(cli("status", "--json", cwd=inside, env={"LLREG_REGISTRY": ""})) == "three"


def test_own_registry_is_made_on_first_use(cli: Cli) -> None:
    first = cli("status", "--json")
    assert _found(first) == "default"
    own = Path(os.environ["XDG_DATA_HOME"]) / "llreg" / "default"
    assert f"made your own registry on the text set mini: {own}" in first.err
    second = cli("ls", "--json")
    assert (second.code, second.out, second.err) == (0, "[]\n", "")
    assert Registry(own).info["text_set"]["name"] == "mini"


def test_own_registry_without_xdg(cli: Cli) -> None:
    cli("status", env={"XDG_DATA_HOME": ""})
    assert Registry(Path(os.environ["HOME"]) / ".local" / "share" / "llreg" / "default").name == "default"


def test_help_and_usage_errors_make_nothing(cli: Cli) -> None:
    for args in (["--help"], ["ls", "--help"], ["--version"], ["info"], ["ls", "--nonsense"]):
        cli(*args)
    # Where a result cannot be written, nothing is opened for it.
    for command in (["map"], ["tree"], ["export"], ["predict", "scores.csv"]):
        for output in ("x.nonsense", "no-folder/x.svg", "no-folder/x.csv"):
            assert cli(*command, "-o", output).code in (1, 2)
    assert not Path(os.environ["XDG_DATA_HOME"]).exists()


def test_version_of_a_registry(cli: Cli, small_registry: Registry, fill: Fill) -> None:
    rows = fill(small_registry, 2)
    small_registry.tag("v1")
    fill(small_registry, 1, start=2)
    at = f"{small_registry.path}@v1"
    ids = [row.record.row_id for row in rows]
    assert cli("-r", at, "ls", "-q").out.splitlines() == ids
    assert cli("ls", "-q", "-r", at).out.splitlines() == ids
    assert cli("ls", "-q", "-r", f"./{small_registry.path.name}@v1", cwd=small_registry.path.parent).out.split() == ids
    for args in (["build"], ["add", "some/model"]):
        result = cli("-r", at, *args)
        assert (result.code, result.out) == (1, "")
        assert "is fixed" in result.err or "which is fixed" in result.err
    missing = cli("-r", f"{small_registry.path}@v9", "ls")
    assert (missing.code, missing.out) == (1, "")
    assert "no version 'v9'" in missing.err
    assert "versions here: v1" in missing.err


def test_directory_with_an_at_sign(cli: Cli, tmp_path: Path, small_texts: Path) -> None:
    init(tmp_path / "odd@v1", texts=small_texts, name="odd")
    assert _found(cli("-r", tmp_path / "odd@v1", "status", "--json")) == "odd"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("./nowhere", "no directory ./nowhere; make a registry there with: llreg init ./nowhere"),
        ("org/name", "no directory org/name, and HF_HUB_OFFLINE is set, and org/name at main was not read before"),
        ("/tmp", "is not a registry (no registry.json)"),
        ("file.txt", "registry.json: cannot be read"),
        ("~no-such-user/x", "no directory ~no-such-user/x"),
        ("a\u001b[31m", "no directory"),
    ],
)
def test_no_registry_is_a_sentence(cli: Cli, tmp_path: Path, given: str, told: str) -> None:
    (tmp_path / "file.txt").touch()
    for args, env in ((["ls", "-r", given], {}), (["ls"], {"LLREG_REGISTRY": given})):
        result = cli(*args, env=env, cwd=tmp_path)
        assert (result.code, result.out) == (1, "")
        assert told in result.err
        assert "Traceback" not in result.err
        assert len(result.err.splitlines()) == 1
