"""`llreg add` on worker processes and on a Dask cluster: workers that die, models that kill them, a parent that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.add.journal import Journal
from llreg.add.reporter import AddResult, Reporter
from llreg.locate import init
from llreg.registry import Registry
from llreg_schemas.errors import ClusterError, InputError, MissingExtraError, ModelError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("distributed")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ToyModel = Callable[..., Path]
DEADLINE = 120.0  # seconds

TEXTS = 40

# Once the registry has kept some of what it scored, it ends its process, the first time; or it stays as it is.
WILFUL = """
import glob, os, signal, time
from transformers import GPT2LMHeadModel

class Own(GPT2LMHeadModel):
    calls = 0

    def forward(self, *given, **named):
        kept, once = os.environ.get("OWN_KEPT"), os.environ.get("OWN_ONCE", "")
        if kept and glob.glob(kept) and not os.path.exists(once):
            Own.calls += 1
            if Own.calls > 8:
                while not any(os.path.getsize(path) for path in glob.glob(kept)):
                    time.sleep(0.01)
                if not once:
                    time.sleep(1000)
                open(once, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*given, **named)
"""
KILLER = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


class Recorder(Reporter):
    """Keeps what it is told, also of models that are scored at once."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.starts: list[tuple[str, int, int]] = []
        self.results: list[AddResult] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def start(self, model: str, tokens: int, done: int) -> None:
        self.starts.append((model, tokens, done))

    def finish(self, result: AddResult) -> None:
        self.results.append(result)


def _with_code(folder: Path, code: str) -> Path:
    """A checkpoint whose class is its own."""
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(code)
    return folder


@pytest.fixture(scope="session")
def wilful(toy_model: ToyModel) -> Path:
    return _with_code(toy_model("wilful", seed=3), WILFUL)


@pytest.fixture(scope="session")
def killer(toy_model: ToyModel) -> Path:
    return _with_code(toy_model("killer", n_embd=16, seed=4), KILLER)


@pytest.fixture(scope="session")
def steady(toy_model: ToyModel) -> Path:
    return toy_model("steady", n_embd=48)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "forty.jsonl"
    path.write_text("".join(json.dumps({"text": f"Text {k} of many. " * (k % 7 + 1)}) + "\n" for k in range(TEXTS)))
    return path


@pytest.fixture
def registry(tmp_path: Path, texts: Path) -> Registry:
    """An empty registry of forty texts."""
    return init(tmp_path / "registry", texts=texts)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, texts: Path, wilful: Path, steady: Path) -> Registry:
    """A registry to which the models were added one after the other, in this process."""
    registry = init(tmp_path_factory.mktemp("plain") / "registry", texts=texts)
    results = registry.add([str(steady), {"model": str(wilful), "trust_remote_code": True}])
    assert [result.status for result in results] == ["added", "added"]
    return registry


def _journals_of(registry: Registry, model: str, plain: Registry) -> str:
    return f"{registry.path}/.llreg/runs/{plain.find(model).identity.id[:24]}-*.journal"


def _same(registry: Registry, plain: Registry, model: str) -> bool:
    row, expected = registry.row(model), plain.row(model)
    return row.record.digest == expected.record.digest and np.array_equal(row.log_likelihood, expected.log_likelihood)


@pytest.mark.usefixtures("warm_spawning")
def test_a_worker_that_dies_and_a_model_that_kills_workers(
    registry: Registry,
    plain: Registry,
    wilful: Path,
    killer: Path,
    steady: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two worker processes, of which three die of SIGKILL: what they had scored is gone on from, and others are not blamed."""
    monkeypatch.setenv("OWN_KEPT", _journals_of(registry, "wilful", plain))
    monkeypatch.setenv("OWN_ONCE", str(tmp_path / "once"))
    recorder = Recorder()
    models = [
        str(steady),
        *({"model": str(model), "trust_remote_code": True} for model in (killer, wilful)),
        str(tmp_path / "nothing"),
    ]
    results = registry.add(models, workers=2, device="cpu", reporter=recorder)
    assert [result.status for result in results] == ["added", "failed", "added", "failed"]
    assert _same(registry, plain, "steady")
    assert _same(registry, plain, "wilful")
    assert results[1].message.startswith("the worker that scored it died 2 times: it may need more memory")
    died = [note for note in recorder.notes if note.endswith("its worker died; it goes on elsewhere")]
    assert sorted(note.partition(":")[0] for note in died) == sorted(map(str, (killer, wilful)))
    (first, second) = [done for model, _, done in recorder.starts if model == str(wilful)]
    assert (first == 0, second > 0) == (True, True)
    assert any(f"of {TEXTS} texts are scored already; going on" in note for note in recorder.notes)
    assert {result.model for result in recorder.results} == {result.model for result in results}
    assert (results[0].texts, results[0].tokens) == (TEXTS, int(plain.row("steady").num_tokens.sum()))
    assert 0 < (results[2].texts or 0) < TEXTS  # the rest was scored before the worker died
    assert registry.validate() == []
    assert list((registry.path / ".llreg" / "runs").glob("*.journal")) == []


def test_parent_that_is_killed(
    registry: Registry, plain: Registry, wilful: Path, warm_scoring_command: tuple[list[str], dict[str, str]]
) -> None:
    """Its worker ends with it, and another run goes on from what was kept."""
    import psutil

    kept = _journals_of(registry, "wilful", plain)
    argv, extra = warm_scoring_command
    options = ["--trust-remote-code", "--workers", "1", "--device", "cpu"]
    process = subprocess.Popen(
        [*argv, "-r", str(registry.path), "add", str(wilful), *options],
        env={**os.environ, **extra, "OWN_KEPT": kept},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runs = registry.path / ".llreg" / "runs"
    _wait(lambda: process.poll() is not None or any(path.stat().st_size for path in runs.glob("*.journal")))
    found = psutil.process_iter(["environ"])  # what was started anew, and so with this environment
    started = [
        child for child in found if (child.info["environ"] or {}).get("OWN_KEPT") == kept and child.pid != process.pid
    ]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(started) >= 1
    _wait(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in started))
    (journal,) = runs.glob("*.journal")
    scored = len(Journal(journal).read())
    assert 0 < scored < TEXTS
    recorder = Recorder()
    (result,) = registry.add([str(wilful)], trust_remote_code=True, reporter=recorder)
    assert f"wilful: {scored} of {TEXTS} texts are scored already; going on" in recorder.notes
    assert (result.status, result.texts) == ("added", TEXTS - scored)
    assert _same(registry, plain, "wilful")


def _wait(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


class TestCluster:
    """A scheduler at an address, with one worker that is in this process."""

    @pytest.fixture
    def cluster(self) -> Iterator[Any]:
        from distributed import LocalCluster

        with LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp",
            dashboard_address=None,
            resources={"GPU": 1},
        ) as cluster:
            yield cluster

    def test_rows_are_those_of_this_machine(
        self, registry: Registry, plain: Registry, steady: Path, toy_model: ToyModel, cluster: Any, tmp_path: Path
    ) -> None:
        """Also of a model that is listed twice, and with one that fails."""
        loud = toy_model("loud", gain=3e3)
        models = [str(steady), {"model": str(loud), "dtype": "float16"}, str(steady), str(tmp_path / "nothing")]
        recorder = Recorder()
        results = registry.add(models, cluster=cluster.scheduler_address, reporter=recorder)
        assert [result.status for result in results] == ["added", "failed", "present", "failed"]
        assert "loud gives NaN or inf in float16" in results[1].message
        assert _same(registry, plain, "steady")
        assert len(recorder.results) == len(models)
        assert list((registry.path / ".llreg" / "runs").glob("*.journal")) == []

    def test_interrupted(self, registry: Registry, plain: Registry, steady: Path, cluster: Any) -> None:
        """The task stops on the worker, too; what was scored is kept."""

        class Interrupting(Recorder):
            def advance(self, tokens: int) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            registry.add([str(steady)], cluster=cluster.scheduler_address, reporter=Interrupting())
        (journal,) = (registry.path / ".llreg" / "runs").glob("*.journal")
        kept = len(Journal(journal).read())
        assert 0 < kept < TEXTS
        (worker,) = cluster.workers.values()
        _wait(lambda: worker.state.executing_count == 0 and not worker.state.tasks)
        recorder = Recorder()
        (result,) = registry.add([str(steady)], cluster=cluster.scheduler_address, reporter=recorder)
        assert (result.status, result.texts) == ("added", TEXTS - kept)
        assert _same(registry, plain, "steady")

    def test_no_worker_that_scores(self, small_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        from distributed import LocalCluster

        monkeypatch.setattr("llreg.add.cluster._PATIENCE_SECONDS", 0.1)
        with (
            LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=None) as cluster,
            pytest.raises(
                ClusterError, match=r'offers the resource GPU: start them with dask worker --resources "GPU=1"'
            ),
        ):
            small_registry.add(["org/x"], cluster=cluster.scheduler_address)

    def test_worker_without_llreg(self, small_registry: Registry) -> None:
        from distributed import LocalCluster

        with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=None) as cluster:
            code = "import sys; sys.modules['llreg'] = None; from distributed.cli.dask_worker import main; main()"
            options = ["--no-nanny", "--resources", "GPU=1", "--no-dashboard"]
            worker = subprocess.Popen(
                [sys.executable, "-c", code, cluster.scheduler_address, *options], stderr=subprocess.DEVNULL
            )
            try:
                with pytest.raises(ClusterError, match=r"worker tcp://.* has no llreg: install there what is here"):
                    small_registry.add(["org/x"], cluster=cluster.scheduler_address)
            finally:
                worker.terminate()
                worker.wait()


def test_other_files_at_the_path_of_a_local_model(toy_model: ToyModel, tmp_path: Path) -> None:
    import llreg_extract
    from llreg.add.worker import _check_files, file_stamps

    source = llreg_extract.resolve(str(toy_model()))
    stamps = file_stamps(source)
    assert stamps is not None
    assert {Path(path).name for path in stamps} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert _check_files(source, stamps).files == source.files
    path = str(toy_model() / "model.safetensors")
    with pytest.raises(ModelError, match=r"toy is a local model, and worker .* finds other files at"):
        _check_files(source, {**stamps, path: (stamps[path][0], stamps[path][1] + 1)})
    with pytest.raises(ModelError, match=r"finds nothing at .*gone: put it on a file system that all workers see"):
        _check_files(replace(source, location=str(tmp_path / "gone")), {str(tmp_path / "gone" / "config.json"): (1, 1)})


def test_other_versions_on_a_worker() -> None:
    from llreg.add.worker import check_versions, versions

    check_versions("worker x", versions(), versions())
    with pytest.raises(ClusterError, match=r"worker x has torch .*, and 1\.0 is here: install the same version"):
        check_versions("worker x", versions(), {**versions(), "torch": "1.0"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "workers: expected a number of at least 1, or auto; got 0"),
        ({"workers": 2, "device": "cuda:1"}, "device cuda:1: a worker has one GPU"),
        ({"workers": 2, "cluster": "tcp://127.0.0.1:9"}, "give one of the two"),
        ({"order": "random"}, "order: expected one of size, given; got 'random'"),
    ],
)
def test_options_that_do_not_fit(small_registry: Registry, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        small_registry.add(["org/x"], **options)


def test_missing_distributed_names_the_extra(
    small_registry: Registry, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llreg\[cluster\]"'):
        small_registry.add([str(toy_model())], workers=2, device="cpu")
    assert small_registry.records() == []
