"""`llreg add --dry-run` and run files, against a Hub on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llreg.registry import Registry

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Cli = Callable[..., Any]
SHA = "0123456789abcdef0123456789abcdef01234567"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


TESTS = Path(__file__).resolve().parent.parent
model_hub = _load("model_hub_for_runs", TESTS / "tools" / "model_hub.py")
toys = _load("toys_for_runs", TESTS / "tools" / "toy_models.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = toys._save(tmp_path_factory.mktemp("models") / "toy", 0, 1.0, {})
    return folder


@pytest.fixture
def hub(toy: Path) -> Iterator[Mapping[str, str]]:
    """The environment in which `llreg` sees a Hub of good models and bad."""
    repos = {
        "org/toy": model_hub.Repo(
            toy, card={"license": "mit", "base_model": "org/base"}, tags=("gpt2", "code"), downloads=4321
        ),
        "org/gated": model_hub.Repo(toy, gated=True),
        "org/huge": model_hub.Repo(toy, parameters={"BF16": 10**13}, sizes={"model.safetensors": 2 * 10**13}),
        "org/long": model_hub.Repo(toy, sizes={"model.safetensors": 1 << 60}),
    }
    with model_hub.serve(repos) as (endpoint, _):
        yield {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}


def _run_file(tmp_path: Path, *models: str, defaults: str = "{}") -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(f"defaults: {defaults}\nmodels:\n" + "".join(f"- {model}\n" for model in models))
    return path


def test_a_run_file_from_its_check_to_its_rows(
    cli: Cli, hub: Mapping[str, str], small_registry: Registry, toy: Path, tmp_path: Path
) -> None:
    run_file = _run_file(
        tmp_path,
        "org/toy",
        f"{{model: {toy}, name: here, dtype: float32}}",
        "org/gated",
        "org/nothing",
        "org/huge",
        "org/long",
        "{model: org/toy, revision: nope}",
        defaults="{dtype: bfloat16}",
    )
    command = ("-r", small_registry.path, "add", "--from-file", run_file, "--device", "cpu")

    dry = cli(*command, "--dry-run", env=hub)
    assert dry.code == 1
    lines = dry.out.splitlines()
    assert lines[0].split() == ["MODEL", "REVISION", "DTYPE", "PARAMETERS", "DOWNLOAD", "MEMORY", "TIME", "STATE"]
    weights = (toy / "model.safetensors").stat().st_size
    assert re.match(r"org/toy +01234567 +bfloat16 +[\d.]+K +[\d.]+ KiB +\d+ MiB +\? +to do$", lines[1])
    assert re.match(rf"{re.escape(str(toy))} +[0-9a-f]{{8}} +float32 .* none +\d+ MiB +\? +to do$", lines[2])
    assert [line.split()[-1] for line in lines[3:8]] == ["problem"] * 5
    assert lines[9] == "7 models: 2 to do, 0 present, 5 problems"
    assert re.match(r"download: [\d.]+ KiB, .* free in .*/hub$", lines[10])
    assert re.match(r"memory: 1\.2 x the weights \+ 512 MiB; .* has left [\d.]+ [GM]iB$", lines[11])
    assert re.match(r"time: unknown \(about [\d,]+ tokens\): no row was made on this device yet$", lines[12])
    told = [line for line in dry.err.splitlines() if line]
    for line, expected in zip(
        told,
        [
            r"llreg: org/gated: org/gated is gated: accept its terms at http://.*/org/gated and log in",
            r"llreg: org/nothing: no model org/nothing on the Hub, or it is private",
            r"llreg: org/huge: it needs about 22 TiB of memory in bfloat16 and .* has left .*: use a larger device$",
            r"llreg: org/long: its download of .* TiB does not fit on the disk: .* are free in .* KiB of them for the models",
            r"llreg: org/toy: org/toy has no revision nope: check the branch, tag or commit$",
        ],
        strict=True,
    ):
        assert re.match(expected, line)
    home = Path(os.environ["HF_HOME"])
    assert not any(path.name == "model.safetensors" for path in home.rglob("*"))  # nothing large was fetched
    assert small_registry.records() == []

    strict = cli(*command, "--strict", env=hub)
    assert (strict.code, strict.out) == (1, "")
    assert "nothing was added (--strict)" in strict.err
    assert small_registry.records() == []

    real = cli(*command, "--json", env=hub)
    assert real.code == 1
    statuses = [(result["model"], result["status"]) for result in json.loads(real.out)]
    failed = ["org/gated", "org/nothing", "org/huge", "org/long", "org/toy"]
    assert statuses == [("org/toy", "added"), (str(toy), "added"), *((model, "failed") for model in failed)]
    records = {record.identity.model: record for record in small_registry.records()}
    assert {name: record.identity.weight_dtype for name, record in records.items()} == {
        "org/toy": "bfloat16",
        "here": "float32",
    }
    declared = records["org/toy"].declared
    assert (declared["downloads"], declared["tags"]) == (4321, ["gpt2", "code"])
    assert (declared["licence"], declared["base_model"]) == ("mit", ["org/base"])
    assert declared["num_parameters"] * 4 <= weights  # as the headers count them, saved in float32

    shown = cli("-r", small_registry.path, "info", "org/toy")
    assert re.search(r"downloads +4321\n", shown.out)
    assert re.search(r"tags +gpt2, code\n", shown.out)

    again = cli(*command, "--dry-run", "--json", env=hub)
    plan = json.loads(again.out)
    assert [model["state"] for model in plan["models"]] == ["present", "present", *["problem"] * 5]
    assert plan["models"][0]["row_id"] == records["org/toy"].row_id


def test_plain_models_and_options(cli: Cli, small_registry: Registry, toy: Path, tmp_path: Path) -> None:
    listed = _run_file(
        tmp_path, f"{{model: {toy}, name: second, dtype: float16}}", f"{toy}", defaults="{dtype: float16}"
    )
    argv = ("-r", small_registry.path, "add", toy, "--from-file", listed, "--dtype", "bfloat16", "--dry-run")
    result = cli(*argv, "--json")
    assert result.code == 0
    plan = json.loads(result.out)
    assert [model["dtype"] for model in plan["models"]] == ["bfloat16", "float16", "bfloat16"]
    assert [model["name"] for model in plan["models"]] == ["toy", "second", "toy"]
    quiet = cli(*argv, "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, f"{toy}\n" * 3, "")


def test_a_check_of_a_run_on_a_terminal_leaves_its_lines_whole(
    cli: Cli, small_registry: Registry, tmp_path: Path
) -> None:
    run_file = _run_file(tmp_path, "./nothing-here", "./nothing-there")
    on_a_terminal = {"FORCE_COLOR": "1", "COLUMNS": "200"}
    result = cli("-r", small_registry.path, "add", "--from-file", run_file, env=on_a_terminal)
    assert result.code == 1
    # What a line shows is what follows the last return to its start.
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in result.err.splitlines()]
    assert "llreg: 2 models: 0 to do, 0 present, 2 problems" in shown
    assert [line for line in shown if "llreg: " in line and not line.startswith("llreg: ")] == []


def test_what_is_wrong_in_the_file_comes_before_everything(
    cli: Cli, small_registry: Registry, toy: Path, tmp_path: Path
) -> None:
    path = _run_file(tmp_path, str(toy), f"{{model: {toy}, dtpye: auto}}")
    result = cli("-r", small_registry.path, "add", "--from-file", path)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"llreg: {path}:4: no key 'dtpye': did you mean dtype?\n"
    assert small_registry.records() == []
