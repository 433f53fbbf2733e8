"""`llreg add` with a list of models: the next one fetched ahead, downloads deleted again, order, figures, interruption."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from tests.tools.commands import read_client_settings

from llreg.add.reporter import AddResult, Reporter
from llreg.locate import init
from llreg.registry import Registry

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Cli = Callable[..., Any]
ToyModel = Callable[..., Path]
Command = tuple[list[str], dict[str, str]]
MODEL_HUB = Path(__file__).resolve().parents[1] / "tools" / "model_hub.py"
SHA = "0123456789abcdef0123456789abcdef01234567"
DEADLINE = 120.0  # seconds

ONLINE = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
WEIGHTS = f"{SHA}/model.safetensors"


class Listener(Reporter):
    """Keeps what it is told, and whether the Hub had been asked for something by then; a model may wait for that."""

    def __init__(self, log: list[str], waits_for: str) -> None:
        self.told: list[list[Any]] = []
        self._log, self._waits_for = log, waits_for

    def _was_asked(self) -> bool:
        return any(line.endswith(self._waits_for) for line in self._log)

    def note(self, message: str) -> None:
        self.told.append(["note", message])

    def begin(self, model: str) -> None:
        self.told += [["begin", model], ["asked", self._was_asked()]]

    def finish(self, result: AddResult) -> None:
        self.told.append(["finish", result.model])

    def start(self, model: str, tokens: int, done: int) -> None:
        self.told.append(["start", model])
        limit = time.monotonic() + DEADLINE
        while self._waits_for and not self._was_asked() and time.monotonic() < limit:
            time.sleep(0.01)  # the model is not scored before the next one was asked for
        self.told.append(["asked", self._was_asked()])


class Driven(NamedTuple):
    """What calls of `add` and `plan` came to, by name, and the cache as it was left."""

    calls: dict[str, dict[str, Any]]
    cache: Path

    def cached(self, repo: str) -> set[str]:
        """Files of a repository in the cache."""
        folder = self.cache / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / SHA
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def statuses(self, call: str) -> list[str]:
        return [result["status"] for result in self.calls[call]["results"]]

    def told(self, call: str, *kinds: str) -> list[list[str]]:
        return [told for told in self.calls[call]["told"] if told[0] in kinds]


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory, toy_model: ToyModel, small_texts: Path) -> Driven:
    """Calls one after the other, into one registry and with one cache."""
    distributed = pytest.importorskip("distributed")
    registry, home = init(tmp_path_factory.mktemp("hub") / "small", texts=small_texts), tmp_path_factory.mktemp("home")
    toy, large, garbled = toy_model(), toy_model("large", n_embd=64), toy_model("garbled", seed=9)
    (garbled / "tokenizer.json").write_text("{}")
    over_half = int(shutil.disk_usage(home).free * 0.6)
    hub = _load_hub("model_hub")
    repos = {
        **{f"org/{name}": hub.Repo(toy) for name in ("here", "small")},
        **{f"org/{name}": hub.Repo(large) for name in ("large", "remote")},
        "org/garbled": hub.Repo(garbled),
        "org/gated": hub.Repo(toy, gated=True),
        "org/endless": hub.Repo(toy, sizes={"model.safetensors": 1 << 60}),
        **{f"org/half-{k}": hub.Repo(toy, sizes={"model.safetensors": over_half}) for k in range(2)},
    }
    calls: dict[str, dict[str, Any]] = {
        "before": {"models": ["org/here"]},
        "list": {
            "models": ["org/large", "org/garbled", "org/nothing", "org/small", "org/here"],
            "waits_for": f"HEAD /org/large/resolve/{WEIGHTS}",
            "evict": True,
        },
        "twice": {
            "models": [{"model": "org/small", "dtype": dtype} for dtype in ("bfloat16", "float16")],
            "evict": True,
        },
        "kept": {"models": ["org/endless", "org/gated", {"model": "org/large", "dtype": "bfloat16"}], "order": "given"},
        "cluster": {"models": ["org/endless", "org/remote"], "evict": True, "order": "given"},
    }
    with (
        hub.serve(repos) as (endpoint, log),
        pytest.MonkeyPatch.context() as environment,
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp",
            dashboard_address=None,
            resources={"GPU": 1},
        ) as cluster,
    ):
        for name, value in {**ONLINE, "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}.items():
            environment.setenv(name, value)
        import huggingface_hub  # noqa: F401, it reads the environment when it is imported, or now

        read_client_settings(environment)
        came: dict[str, dict[str, Any]] = {}
        for name, call in calls.items():
            listener = Listener(log, call.pop("waits_for", ""))
            place = {"cluster": cluster.scheduler_address} if name == "cluster" else {}
            results = registry.add(call.pop("models"), reporter=listener, device="cpu", **place, **call)
            told = listener.told
            came[name] = {"results": [result.to_json() for result in results], "told": told, "asked": list(log)}
        for name, options in {"plan": {}, "plan, evicting": {"evict": True}}.items():
            planned = registry.plan(["org/half-0", "org/half-1"], device="cpu", **options)
            problems = [model.problem for model in planned.problems]
            came[name] = {"problems": problems, "disk_bytes": planned.disk_bytes}
    return Driven(came, home)


class TestHub:
    """Models of a Hub on this machine."""

    def test_results_are_in_the_order_given_and_turns_by_size(self, driven: Driven) -> None:
        """Those for which nothing is scored come first; a failure is told at its own turn."""
        assert driven.statuses("list") == ["added", "failed", "failed", "added", "present"]
        turns = ["org/nothing", "org/here", "org/garbled", "org/small", "org/large"]
        expected = [[what, model] for model in turns for what in ("begin", "finish")]
        assert driven.told("list", "begin", "finish") == expected
        assert "the tokenizer of org/garbled cannot be loaded" in driven.calls["list"]["results"][1]["message"]

    def test_next_model_is_fetched_while_one_is_scored(self, driven: Driven) -> None:
        """Its header was read before, for its size, but not with a HEAD."""
        told = driven.told("list", "begin", "start", "asked")
        small = told.index(["begin", "org/small"])
        assert told[small + 1 : small + 4] == [["asked", False], ["start", "org/small"], ["asked", True]]

    def test_what_came_is_deleted_and_what_was_there_is_kept(self, driven: Driven) -> None:
        """Though it is of the same commit, in a repository of another name."""
        notes = [message.partition(" from the cache")[0] for _, message in driven.told("list", "note")]
        assert notes == ["org/garbled: deleted", "org/small: deleted", "org/large: deleted"]
        assert driven.cached("org/here") >= {"config.json", "model.safetensors"}
        assert driven.cached("org/small") == driven.cached("org/garbled") == set()

    def test_two_rows_of_one_download(self, driven: Driven) -> None:
        assert driven.statuses("twice") == ["added", "added"]
        asked = driven.calls["twice"]["asked"][len(driven.calls["list"]["asked"]) :]
        assert asked.count(f"HEAD /org/small/resolve/{WEIGHTS}") == 1
        assert len(driven.told("twice", "note")) == 1

    def test_one_that_does_not_fit_loses_none_of_the_others(self, driven: Driven) -> None:
        assert driven.statuses("kept") == ["failed", "failed", "added"]
        told = driven.calls["kept"]["results"][0]["message"]
        assert told.startswith("the download of org/endless (1,152,921,504.61 GB) does not fit on the disk: ")
        assert "model.safetensors" in driven.cached("org/large")  # without evict it stays

    def test_plan_of_what_is_deleted_again(self, driven: Driven) -> None:
        """Only the two largest are there at once, and only one that does not fit alone is a problem."""
        kept, evicted = driven.calls["plan"], driven.calls["plan, evicting"]
        assert [bool(problem and "does not fit on the disk" in problem) for problem in kept["problems"]] == [True]
        assert evicted["problems"] == []
        assert evicted["disk_bytes"] > kept["disk_bytes"] * 1.9

    def test_worker_of_a_cluster_deletes_what_it_downloaded(self, driven: Driven) -> None:
        assert driven.statuses("cluster") == ["failed", "added"]
        assert "the download of org/endless" in driven.calls["cluster"]["results"][0]["message"]
        assert driven.cached("org/remote") == set()


def _load_hub(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, MODEL_HUB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stalling_hub() -> Iterator[ModuleType]:
    """The Hub's server, whose weights never come."""
    module = _load_hub("model_hub_that_stalls")
    answer, over = module._Handler._file, threading.Event()

    def stall(handler: Any, repo: Any, name: str) -> None:
        if name == "model.safetensors":
            over.wait(DEADLINE)
        answer(handler, repo, name)

    module._Handler._file = stall
    yield module
    over.set()


def test_ctrl_c_does_not_wait_for_a_download(
    small_registry: Registry, toy_model: ToyModel, warm_scoring_command: Command, stalling_hub: ModuleType
) -> None:
    argv, extra = warm_scoring_command
    with stalling_hub.serve({"org/stalls": stalling_hub.Repo(toy_model())}) as (endpoint, log):
        process = subprocess.Popen(
            [*argv, "-r", str(small_registry.path), "add", str(toy_model()), "org/stalls", "--order", "given"],
            env={**os.environ, **extra, **ONLINE, "HF_ENDPOINT": endpoint},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit = time.monotonic() + DEADLINE
        while process.poll() is None and time.monotonic() < limit and not _asked_for_weights(log):
            time.sleep(0.01)
        assert _asked_for_weights(log)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert "llreg: interrupted; what was done is kept" in err
    assert "Traceback" not in err


def _asked_for_weights(log: list[str]) -> bool:
    return any(line.endswith(f"/org/stalls/resolve/{SHA}/model.safetensors") for line in log)


def test_figures_and_summary(
    small_registry: Registry, toy_model: ToyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In JSON, and in a table that names every model, row and reason in one line each."""
    from llreg.cli.progress import print_summary

    evil = tmp_path / "evil\u001b[2Jmodel"
    evil.mkdir()
    results = small_registry.add([str(toy_model()), str(evil), str(toy_model())])
    added, failed, present = (result.to_json() for result in results)
    row = small_registry.row("toy")
    assert (added["texts"], added["tokens"]) == (6, int(row.num_tokens.sum()))
    assert added["tokens_per_second"] == pytest.approx(added["tokens"] / added["seconds"])
    figures = ("texts", "tokens", "seconds", "tokens_per_second")
    assert [failed[name] for name in figures] == [present[name] for name in figures] == [None] * 4

    capsys.readouterr()
    print_summary(results)
    out, err = capsys.readouterr()
    assert out == ""
    head, *lines = err.splitlines()
    assert head.split() == ["MODEL", "STATUS", "TEXTS", "TOKENS", "SECONDS", "TOKENS/S", "ROW"]
    cells = [line.split() for line in lines]
    assert cells[0][:4] == [str(toy_model()), "added", "6", f"{added['tokens']:,}"]
    assert (cells[0][-1], cells[2][1:]) == (row.record.row_id, ["present", *"----", row.record.row_id])
    assert "/evil\\x1b[2Jmodel  failed " in lines[1]
    assert failed["message"] in lines[1]
    assert "\u001b" not in err


def test_speed_of_what_was_not_scored() -> None:
    assert AddResult("m", "present", "m@1", "is there").tokens_per_second is None
    assert AddResult("m", "added", "m@1", "added", 1, 10, 2.0).tokens_per_second == 5.0


def test_reporter_that_says_nothing(small_registry: Registry, toy_model: ToyModel) -> None:
    one, other = str(toy_model("one", seed=1)), str(toy_model("two", n_embd=16))
    results = small_registry.add([one, other, one], reporter=Reporter())
    assert [result.status for result in results] == ["added", "added", "present"]
    assert [result.model for result in results] == [one, other, one]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--workers", "0"], "expected a number of at least 1, or auto; got '0'"),
        (["--workers", "many"], "expected a number of at least 1, or auto; got 'many'"),
        (["--order", "random"], "'random' is not one of 'size', 'given'"),
        (["--cluster", "tcp://127.0.0.1:9", "--dry-run"], "give them without --cluster"),
    ],
)
def test_wrong_usage(cli: Cli, small_registry: Registry, args: list[str], told: str) -> None:
    result = cli("-r", small_registry.path, "add", "org/x", *args)
    assert (result.code, result.out) == (2, "")
    assert told in " ".join(result.err.split())
