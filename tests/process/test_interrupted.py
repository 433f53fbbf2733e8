"""`llreg add` interrupted, killed, and run twice at once: nothing is lost, nothing is scored twice, one row results."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llreg.add.journal import Journal
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

ToyModel = Callable[..., Path]
Process = subprocess.Popen[str]
Start = Callable[..., Process]
DEADLINE = 120.0  # seconds


@pytest.fixture(scope="session")
def slow_model(toy_model: ToyModel) -> Path:
    """A model that needs a second or two for the embedded text set: time enough to be stopped in some of its 170 batches."""
    return toy_model("slow", n_layer=1, n_embd=128)


@pytest.fixture(scope="session")
def start(warm_scoring_command: tuple[list[str], dict[str, str]]) -> Start:
    """Start ``llreg -r REGISTRY add MODEL`` and return the process."""
    argv, extra = warm_scoring_command

    def run(registry: Registry, model: Path, *options: str) -> Process:
        return subprocess.Popen(
            [*argv, "-r", str(registry.path), "add", str(model), *options],
            cwd=registry.path,
            env={**os.environ, **extra, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def together(
    tmp_path_factory: pytest.TempPathFactory, slow_model: Path, start: Start
) -> tuple[Registry, list[tuple[int, dict[str, Any], str]]]:
    """A registry to which two processes added the slow model at the same time, and what each of them said."""
    registry = init(tmp_path_factory.mktemp("together") / "mini", name="mini")
    processes = [start(registry, slow_model, "--json") for _ in range(2)]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=DEADLINE)
        said.append((process.returncode, json.loads(out)[0], err))
    return registry, said


@pytest.fixture(scope="session")
def uninterrupted(together: tuple[Registry, Any]) -> Row:
    """The slow model's row, made in one go."""
    return together[0].row("slow")


def _journals(registry: Registry) -> list[Path]:
    return list((registry.path / ".llreg" / "runs").glob("*.journal"))


def _journal_size(registry: Registry) -> int:
    return sum(path.stat().st_size for path in _journals(registry))


def _wait_for_growth(process: Process, registry: Registry, beyond: int) -> bool:
    """Wait until the journal is larger than `beyond` bytes; False if the process ended first."""
    limit = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < limit:
        if _journal_size(registry) > beyond:
            return True
        time.sleep(0.01)
    return False


def _same_values(one: Row, other: Row) -> bool:
    return (
        one.log_likelihood.tobytes() == other.log_likelihood.tobytes()
        and one.num_tokens.tobytes() == other.num_tokens.tobytes()
        and one.record.digest == other.record.digest
    )


def test_two_at_once_make_one_row(together: tuple[Registry, list[tuple[int, dict[str, Any], str]]]) -> None:
    registry, said = together
    assert [code for code, _, _ in said] == [0, 0]
    assert sorted(result["status"] for _, result, _ in said) == ["added", "present"]
    (record,) = registry.records()
    assert {result["row_id"] for _, result, _ in said} == {record.row_id}
    ((_, late, err),) = [entry for entry in said if entry[1]["status"] == "present"]
    assert f"is there already as {record.row_id}" in late["message"]
    assert "another llreg is adding it; waiting for that to finish" in err
    assert _journals(registry) == []
    assert registry.validate() == []


def test_ctrl_c_keeps_what_was_scored(registry: Registry, slow_model: Path, start: Start, uninterrupted: Row) -> None:
    process = start(registry, slow_model)
    assert _wait_for_growth(process, registry, 0)
    process.send_signal(signal.SIGINT)
    signalled = time.monotonic()
    out, err = process.communicate(timeout=DEADLINE)
    assert time.monotonic() - signalled < 20
    assert (process.returncode, out) == (1, ""), err
    assert "llreg: interrupted; what was done is kept, the same command goes on from here" in err
    assert "Traceback" not in err
    assert registry.records() == []
    (journal,) = _journals(registry)
    done = len(Journal(journal).read())
    assert 0 < done < 128

    process = start(registry, slow_model, "--json")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert f"slow: {done} of 128 texts are scored already; going on" in err
    assert json.loads(out)[0]["status"] == "added"
    assert _same_values(registry.row("slow"), uninterrupted)
    assert _journals(registry) == []
    assert registry.validate() == []


def test_killed_again_and_again(registry: Registry, slow_model: Path, start: Start, uninterrupted: Row) -> None:
    """kill -9 while starting, and twice while scoring; the registry is whole each time, and progress is kept."""
    rng = random.Random(0)
    kills, kept = 0, 0
    for attempt in range(3):
        process = start(registry, slow_model)
        if attempt == 0:
            time.sleep(rng.uniform(0.0, 0.3))  # it looks for the model and loads it
        elif _wait_for_growth(process, registry, kept):
            time.sleep(rng.uniform(0.0, 0.1))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate(timeout=DEADLINE)
        assert Registry(registry.path).validate() == []
        if registry.records():
            break
        assert _journal_size(registry) >= kept
        kept = _journal_size(registry)
    assert kills >= 2
    process = start(registry, slow_model)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    told = re.search(r"(\d+) of 128 texts are scored already", err)
    assert told is not None or "is there already" in err
    assert told is None or int(told[1]) > 0
    assert _same_values(registry.row("slow"), uninterrupted)
    assert Registry(registry.path).validate() == []
    assert _journals(registry) == []
