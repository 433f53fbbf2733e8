"""Fixtures for every test: a home of its own, registries and rows made of random values, the command line."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from tests.tools import launcher
from tests.tools.commands import Cli, Result, run_in_process

import llreg
from llreg.locate import init
from llreg.registry import Registry
from llreg.store import rowfile
from llreg.store.arrays import UNSCORED
from llreg.store.rowfile import Row
from llreg.texts.segments import in_units
from llreg_schemas import Identity

pytest_plugins = ["tests.tools.toy_models"]

ROOT = Path(__file__).resolve().parent.parent
SLOW = frozenset((ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").split())  # by tests/tools/slow.py
HAS_TORCH = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers", "tokenizers"))
HAS_MAP = all(importlib.util.find_spec(name) is not None for name in ("openTSNE", "matplotlib", "bokeh"))

# What maps need no extra for is tested in tests/cli/test_map_without_extras.py.
collect_ignore = [*([] if HAS_TORCH else ["extract"]), *([] if HAS_MAP else ["maps"])]

hypothesis.settings.register_profile("default", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SMALL_TEXTS = [
    {"text": "The lighthouse keeper counted ships until the fog came.", "subset": "prose", "source": "keeper/1"},
    {"text": "def area(r):\n    return 3.14159 * r * r\n", "subset": "code"},
    {"text": "Grüße aus Köln: es regnet, und niemand weiß warum.", "subset": "multilingual", "source": "köln"},
    {"text": "数学は楽しい。明日も続ける。", "subset": "multilingual"},
    {"text": '{"id": 7, "tags": ["a", "b"], "ok": true}', "subset": "code"},
    {"text": "Take two eggs, a cup of flour, and more patience than you have."},
]

SMALL_PAIRS: list[dict[str, Any]] = [
    {"prompt": "Name the capital of France.", "response": "It is Paris.", "subset": "facts", "source": "quiz/1"},
    {
        "prompt": [
            {"role": "system", "content": "Answer in German."},
            {"role": "user", "content": "Wie heißt du?"},
            {"role": "assistant", "content": "Köln."},
            {"role": "user", "content": "Und wo liegt das?"},
        ],
        "response": "Am Rhein, wo es öfter regnet.",
        "subset": "talk",
    },
    {"prompt": "", "response": " A story without a question: it rained, and nobody asked why.", "subset": "talk"},
    {"prompt": "Write a function that adds.", "response": "def add(a, b):\n    return a + b\n", "subset": "code"},
    {"prompt": "2 + 2 =", "response": "4"},
    {"prompt": "明日は何をする?", "response": "数学を続ける。", "subset": "talk"},
]

MakeRow = Callable[..., Row]


def pytest_configure(config: pytest.Config) -> None:
    """Markers that only these tests use; no collections while modules are imported, which leave little."""
    gc.disable()
    config.addinivalue_line("markers", "torch: needs torch and transformers (skipped where they are missing)")
    config.addinivalue_line("markers", "datasets: needs datasets (skipped where it is missing)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the files all of whose tests are slow, where these are left out."""
    leaves_out = config.getoption("markexpr") == "not slow"
    return True if leaves_out and _relative(collection_path) in SLOW else None


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what was measured to be slow; skip what needs torch or datasets where there is none."""
    for item in items:
        folders = {parent.as_posix() for parent in Path(_relative(item.path)).parents}
        if {_relative(item.path), item.nodeid.partition("[")[0], *folders} & SLOW:
            item.add_marker(pytest.mark.slow)
    lacking = [] if HAS_TORCH else ["torch"]
    lacking += [] if importlib.util.find_spec("datasets") else ["datasets"]
    for item in items:
        for name in lacking:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs {name}"))


def pytest_collection_finish() -> None:
    gc.enable()


_modules_seen = 0


def pytest_runtest_setup() -> None:
    """Collections, of which `add` makes one after each model, do not look at what was imported, torch for the most part."""
    global _modules_seen
    if len(sys.modules) > _modules_seen + 100:
        _modules_seen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders, numbered here: pytest reads the names of all there are to find the next number, for thousands of tests."""
    folder = tmp_path_factory.mktemp("homes")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written, here and in subprocesses; and nobody waits for the disk: no power is cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("LLREG_REGISTRY", "LLREG_CONTRIBUTOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def empty_registries(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, small_pairs: Path) -> Path:
    """A folder of the registries that the next fixtures copy: a copy takes a sixth of the time of `init`."""
    folder = tmp_path_factory.mktemp("empty")
    init(folder / "registry")
    init(folder / "small", texts=small_texts)
    init(folder / "pairs", texts=small_pairs, prompt="chat-template")
    return folder


@pytest.fixture
def registry(tmp_path: Path, empty_registries: Path) -> Registry:
    """An empty registry on the embedded text set."""
    return Registry(shutil.copytree(empty_registries / "registry", tmp_path / "registry"))


@pytest.fixture(scope="session")
def small_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON Lines file of six texts."""
    path = tmp_path_factory.mktemp("texts") / "six.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in SMALL_TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def small_registry(tmp_path: Path, empty_registries: Path) -> Registry:
    """An empty registry on six texts."""
    return Registry(shutil.copytree(empty_registries / "small", tmp_path / "small"))


@pytest.fixture(scope="session")
def small_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON Lines file of six pairs of a prompt and a response, one of them after a conversation."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in SMALL_PAIRS), encoding="utf-8")
    return path


@pytest.fixture
def pair_registry(tmp_path: Path, empty_registries: Path) -> Registry:
    """An empty registry on six pairs, their prompts through chat templates."""
    return Registry(shutil.copytree(empty_registries / "pairs", tmp_path / "pairs"))


@pytest.fixture(scope="session")
def make_row() -> MakeRow:
    """Factory of valid rows: ``make_row(registry, "org/name", seed)`` gives random values from the seed.

    `over` may hold fields of the identity, the arrays ``log_likelihood`` and ``num_tokens``, ``added_at``,
    and mappings ``provenance`` and ``declared`` that are laid over the defaults. Rows of one model share their
    identity, whatever the seed, unless `over` changes it. In a registry of pairs the arrays of the responses alone are
    random, too, or given as ``log_likelihood_response`` and ``num_tokens_response``. With ``fine=True`` the row has
    random segments and counts of correct tokens, or ``segment_log_likelihood`` and ``num_correct`` as given.
    """
    return _make_row


_IDENTITY_FIELDS = ("source", "revision", "weight_dtype", "file", "subfolder", "adapter", "quantization")


def _make_row(registry: Registry, model: str = "a/b", seed: int = 0, **over: Any) -> Row:
    rng = np.random.default_rng(seed)
    num_bytes = registry.texts.bytes_per_text
    values = over.pop("log_likelihood", None)
    if values is None:
        values = -num_bytes * rng.uniform(0.4, 1.2) * rng.uniform(0.8, 1.25, len(num_bytes))
    values = np.asarray(values, dtype=np.float32)
    tokens = over.pop("num_tokens", None)
    if tokens is None:
        tokens = np.where(np.isnan(values), 0, num_bytes // 5 + 1)
    tokens = np.asarray(tokens, dtype=np.int32)
    arrays = {"log_likelihood": values, "num_tokens": tokens}
    if registry.rendering is not None:
        alone = over.pop("log_likelihood_response", values * rng.uniform(1.0, 1.5, len(values)))
        counts = over.pop("num_tokens_response", np.where(np.isnan(alone), 0, num_bytes // 6 + 1))
        arrays |= {"log_likelihood_response": np.asarray(alone, np.float32)}
        arrays |= {"num_tokens_response": np.asarray(counts, np.int32)}
    fine = _fine_arrays(registry, arrays, rng, over) if over.pop("fine", False) else {}
    identity = Identity(
        model=over.pop("model", model),
        text_set=over.pop("text_set", registry.info["text_set"]["id"]),
        protocol=over.pop("protocol", registry.info["protocol"]["id"]),
        **{
            "source": "hub",
            "revision": hashlib.sha1(model.encode()).hexdigest(),
            "weight_dtype": "float32",
            **{name: over.pop(name) for name in _IDENTITY_FIELDS if name in over},
        },
    )
    added_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=seed)
    provenance = {
        "added_at": over.pop("added_at", added_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")),
        "contributor": "Ada",
        "versions": {"llreg": llreg.__version__, "torch": "2.13.0+cpu"},
        "device": {"type": "cpu", "name": "a test"},
        "attention": "sdpa",
        "tokens": int(tokens.sum()),
        "over_context": int(np.isnan(values).sum()),
        "non_finite": 0,
        "unscored": 0,
        **_of_responses(arrays),
        **({"segments": registry.info["segments"]["id"]} if fine else {}),
        **over.pop("provenance", {}),
    }
    declared = {
        "base_model": ["org/base"],
        "relation": "finetune",
        "licence": "apache-2.0",
        "architecture": "GPT2LMHeadModel",
        "num_parameters": 124_000_000,
        "created": "2024-05-06T07:08:09Z",
        **over.pop("declared", {}),
    }
    if over:
        raise TypeError(f"make_row does not know {sorted(over)}")
    return rowfile.make_row(identity, provenance, declared, arrays | fine)


def _fine_arrays(
    registry: Registry, arrays: Mapping[str, Any], rng: np.random.Generator, over: dict[str, Any]
) -> dict[str, Any]:
    """Segments that sum to the values, and counts of correct tokens, where `over` does not give them."""
    cuts = registry.cuts
    assert cuts is not None
    fine: dict[str, Any] = {}
    for suffix in ("", "_response") if registry.rendering is not None else ("",):
        values, tokens = arrays[f"log_likelihood{suffix}"], arrays[f"num_tokens{suffix}"]
        weights = (cuts.sizes + 1e-3) * rng.uniform(0.2, 1.8, cuts.num_segments)
        parts = [
            np.full(len(share), UNSCORED, np.int32) if np.isnan(value) else in_units(value * share / share.sum())
            for value, share in zip(values.astype(np.float64), np.split(weights, cuts.first[1:-1]), strict=True)
        ]
        fine[f"num_correct{suffix}"] = over.pop(f"num_correct{suffix}", (tokens * rng.uniform(size=len(tokens))))
        fine[f"segment_log_likelihood{suffix}"] = over.pop(f"segment_log_likelihood{suffix}", np.concatenate(parts))
    return {name: np.asarray(array, np.int32) for name, array in fine.items()}


def _of_responses(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a row of pairs says besides."""
    if "num_tokens_response" not in arrays:
        return {}
    return {
        "prompt_rendering": "chat-template",
        "chat_template": f"sha256:{'0' * 64}",
        "tokens_response": int(arrays["num_tokens_response"].sum()),
        "over_context_response": int(np.isnan(arrays["log_likelihood_response"]).sum()),
        "unscored_response": 0,
    }


@pytest.fixture
def fill(make_row: MakeRow) -> Callable[..., list[Row]]:
    """Factory: write rows of models ``org/m0``, ``org/m1``, ... into a registry and return them."""
    from llreg.store.rowfile import write_row

    def write(registry: Registry, count: int, *, start: int = 0) -> list[Row]:
        rows = [make_row(registry, f"org/m{k}", k) for k in range(start, start + count)]
        for row in rows:
            write_row(registry.path, row)
        return rows

    return write


@pytest.fixture(scope="session")
def llreg_command() -> tuple[list[str], dict[str, str]]:
    """The command line's argv and what it needs in the environment: the checkout, or an installed wheel."""
    installed_from = Path(llreg.__file__).resolve()
    paths = [str(ROOT / name) for name in ("registry", "extract", "schemas")]
    extra = {"PYTHONPATH": os.pathsep.join(paths)} if installed_from.is_relative_to(ROOT) else {}
    return [sys.executable, "-m", "llreg"], extra


@pytest.fixture(scope="session")
def _launcher(
    tmp_path_factory: pytest.TempPathFactory, llreg_command: tuple[list[str], dict[str, str]]
) -> Iterator[Path]:
    own = tmp_path_factory.getbasetemp()
    with launcher.use(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own, llreg_command[1]) as path:
        yield path


@pytest.fixture(scope="session")
def warm_command(_launcher: Path, llreg_command: tuple[list[str], dict[str, str]]) -> tuple[list[str], dict[str, str]]:
    """As `llreg_command`, of processes that are forked with their imports done, by tests/tools/launcher.py."""
    return [sys.executable, "-IS", launcher.__file__, str(_launcher), "store"], llreg_command[1]


@pytest.fixture(scope="session")
def warm_scoring_command(warm_command: tuple[list[str], dict[str, str]]) -> tuple[list[str], dict[str, str]]:
    """As `warm_command`, with torch and transformers."""
    return [*warm_command[0][:-1], "store,scoring"], warm_command[1]


@pytest.fixture
def warm_spawning(_launcher: Path) -> Iterator[None]:
    """Processes that `multiprocessing` spawns are forked with torch, transformers and distributed."""
    with launcher.spawning(_launcher, "store,scoring,cluster"):
        yield


@pytest.fixture
def cli(tmp_path: Path, llreg_command: tuple[list[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``llreg ARGS`` in an empty directory, or in `cwd`, and return code, stdout and stderr.

    It runs in this process; with ``process=True`` in a fresh Python, for what only a process has.
    """
    argv, extra = llreg_command
    elsewhere = tmp_path / "elsewhere"

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        process: bool = False,
    ) -> Result:
        if cwd is None:
            elsewhere.mkdir(exist_ok=True)
        words, folder = list(map(str, args)), cwd or elsewhere
        if not process:
            return run_in_process(words, folder, env or {}, monkeypatch)
        done = subprocess.run(
            [*argv, *words],
            cwd=folder,
            env={**os.environ, **extra, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return run
