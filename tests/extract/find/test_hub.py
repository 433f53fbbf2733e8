"""Hub models end to end, against a server on this machine and the real client library.

All cases that share an endpoint and a cache are gone through once, and the tests look at what was reported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import logging.handlers
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.numpy import load_file, save_file
from tests.tools import model_hub
from tests.tools.commands import read_client_settings

import llreg_extract
from llreg_schemas import Identity
from llreg_schemas.errors import LlregError

SHA = "0123456789abcdef0123456789abcdef01234567"
OTHER_SHA = "89abcdef0123456789abcdef0123456789abcdef"
HAS_PEFT = importlib.util.find_spec("peft") is not None
TOKEN = "hf_secretsecretsecret"
CASES: dict[str, dict[str, Any]] = {
    "whole": {"model": "org/toy", "text": "Some words."},
    "branch": {"model": "org/toy", "revision": "side"},
    "commit": {"model": "org/toy", "revision": SHA},
    "sharded": {"model": "org/sharded", "text": "Some words."},
    "tagged": {"model": "org/tagged"},
    "moved": {"model": "org/old"},
    "missing": {"model": "org/nothing"},
    "no revision": {"model": "org/toy", "revision": "nope"},
    "gated": {"model": "org/gated"},
    "forbidden": {"model": "org/forbidden"},
    "broken": {"model": "org/broken"},
    "t5": {"model": "org/t5"},
    "pickled": {"model": "org/pickled"},
    "no config": {"model": "org/data"},
    "no gguf": {"model": "org/toy/other.gguf"},
    "several gguf": {"model": "org/ggufs"},
    "folder": {"model": "org/nested", "options": {"subfolder": "deep/step-500"}, "text": "Some words.", "needs": True},
    "no folder": {"model": "org/nested", "options": {"subfolder": "step-500"}},
    "folder of a file": {"model": "org/toy/a.gguf", "options": {"subfolder": "deep"}},
    "gguf in a folder": {"model": "org/deepgguf", "options": {"subfolder": "Q4"}},
}
# peft is optional; the base is at its branch "side", and the adapter in a folder.
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapter": {"model": "org/adapter", "options": {"subfolder": "last"}, "text": "Some words.", "needs": True},
    "adapter of nothing": {"model": "org/orphan"},
    "adapter and base": {"model": "org/orphan", "options": {"base": f"org/toy@{SHA}"}, "text": "Some words."},
}


def client(cases: dict[str, dict[str, Any]], endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    """What is said to each case with `endpoint` and the cache `home`, as JSON holds it; nothing else is said."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    logged, said = logging.handlers.BufferingHandler(1000), io.StringIO()
    libraries = [logging.getLogger(name) for name in ("huggingface_hub", "transformers")]
    with pytest.MonkeyPatch.context() as patch, quiet_as_a_fresh_python() as warned, redirect_stderr(said):
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        read_client_settings(patch)
        huggingface_hub.close_session()  # its connections would outlive a server that is gone
        for library in libraries:
            library.addHandler(logged)
        try:
            told = {name: answer(case) for name, case in cases.items()}
        finally:
            for library in libraries:
                library.removeHandler(logged)
    assert (said.getvalue(), [record.getMessage() for record in logged.buffer], [str(w.message) for w in warned]) == (
        "",
        [],
        [],
    )
    return dict(json.loads(json.dumps(told)))


@contextmanager
def quiet_as_a_fresh_python() -> Iterator[list[warnings.WarningMessage]]:
    """Record the warnings that a fresh Python would show."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        yield warned


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """What one case gives: the source, what leads back to it, bytes to fetch, a value; or the error."""
    try:
        source = llreg_extract.resolve(case["model"], revision=case.get("revision"), **case.get("options", {}))
        told: dict[str, Any] = {"source": dataclasses.asdict(source), "identity": source.identity}
        identity = Identity(**source.identity, weight_dtype="float32", text_set="0" * 64, protocol="0" * 64)
        try:
            told["again"] = llreg_extract.resolve_identity(identity) == source
        except LlregError as error:
            told["again"] = f"{type(error).__name__}: {error}"
        if case.get("needs"):
            told["download"] = llreg_extract.needs(source, dtype="float32").download_bytes
            llreg_extract.fetch(source)
            told["left"] = llreg_extract.needs(source, dtype="float32").download_bytes
        if case.get("text"):
            model = llreg_extract.load(source, device="cpu")
            told["value"] = float(llreg_extract.score(model, [case["text"]]).log_likelihood[0])
        return told
    except LlregError as error:
        return {"error": type(error).__name__, "message": str(error)}


def shard(folder: Path) -> None:
    """Split a checkpoint's weights over two files with names of no pattern."""
    weights = load_file(folder / "model.safetensors")
    mapping = {key: f"piece_{i % 2}.safetensors" for i, key in enumerate(sorted(weights))}
    for file in set(mapping.values()):
        kept = {key: value for key, value in weights.items() if mapping[key] == file}
        save_file(kept, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": mapping}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def repos(toy_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import shutil

    sharded = tmp_path_factory.mktemp("repos") / "sharded"
    shutil.copytree(toy_model("gpt2"), sharded)
    shard(sharded)
    pickled, ggufs, data = (sharded.parent / name for name in ("pickled", "ggufs", "data"))
    for folder, files in (
        (pickled, ["config.json", "pytorch_model.bin"]),
        (ggufs, ["a.gguf", "b.gguf"]),
        (data, ["model.safetensors"]),
    ):
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"GGUF")
    nested, deepgguf = (sharded.parent / name for name in ("nested", "deepgguf"))
    shutil.copytree(toy_model("gpt2", bos=True), nested / "deep" / "step-500")
    for file in ("tokenizer.json", "tokenizer_config.json"):  # a tokenizer at the root, where many are
        (nested / "deep" / "step-500" / file).rename(nested / file)
    write_header_only(deepgguf / "Q4" / "toy.gguf")
    toy = toy_model("gpt2")
    card = {"license": "mit", "base_model": "org/base", "base_model_relation": "finetune"}
    return {
        "org/toy": model_hub.Repo(
            toy, branches=("main", "side"), card=card, tags=("code", "license:apache-2.0"), downloads=1234
        ),
        "org/tagged": model_hub.Repo(
            toy,
            tags=("license:apache-2.0", "base_model:org/base", "base_model:quantized:org/base", *map(str, range(300))),
            parameters={"BF16": 70_000, "F32": 30_000},
        ),
        "org/old": model_hub.Repo(toy, moved_to="org/toy"),
        "org/sharded": model_hub.Repo(sharded),
        "org/gated": model_hub.Repo(toy, gated=True),
        "org/forbidden": model_hub.Repo(toy, refuse=403),
        "org/broken": model_hub.Repo(toy, refuse=503),
        "org/t5": model_hub.Repo(toy_model("t5")),
        "org/pickled": model_hub.Repo(pickled),
        "org/ggufs": model_hub.Repo(ggufs),
        "org/data": model_hub.Repo(data),
        "org/nested": model_hub.Repo(nested),
        "org/deepgguf": model_hub.Repo(deepgguf),
        "org/adapter": model_hub.Repo(adapter_folder(nested.parent / "adapter", "last", "org/toy"), sha=OTHER_SHA),
        "org/orphan": model_hub.Repo(adapter_folder(nested.parent / "orphan", "", "/home/somebody/toy"), sha=OTHER_SHA),
    }


def write_header_only(path: Path) -> None:
    """A GGUF file of one small tensor."""
    import gguf
    import numpy as np

    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adapter_folder(root: Path, subfolder: str, base: str) -> Path:
    """A repository with a LoRA adapter, written without peft: W of the first attention output moves by 2 B A."""
    import numpy as np

    folder = root / subfolder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    start = "base_model.model.transformer.h.0.attn.c_proj.lora_"
    weights = {f"{start}A.weight": rng.normal(size=(2, 32)), f"{start}B.weight": rng.normal(size=(32, 2))}
    save_file({key: value.astype(np.float32) for key, value in weights.items()}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": "side",
        "target_modules": "transformer.h.0.attn.c_proj",
        "r": 2,
        "lora_alpha": 4,
        "fan_in_fan_out": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def told(repos: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client said to all cases, online and then offline from the same cache."""
    home = tmp_path_factory.mktemp("hf")
    with model_hub.serve(repos) as (endpoint, log):
        local = {"local adapter": {"model": str(repos["org/adapter"].folder / "last")}}
        answers = client({**CASES, **({**ADAPTERS, **local} if HAS_PEFT else {})}, endpoint, home)
        requests = list(log)
    offline = {
        "cached": CASES["whole"],
        "cached branch": CASES["branch"],
        "cached shards": CASES["sharded"],
        "cached folder": CASES["folder"],
        **({"cached adapter": {**ADAPTERS["adapter"], "text": None}} if HAS_PEFT else {}),  # peft takes long to load
        "not cached": {"model": "org/t5", "text": "weights were never fetched"},
        "unknown": {"model": "org/nothing"},
    }
    # As `echo COMMIT > refs/main` leaves it.
    for name in ("main", "side"):
        ref = home / "hub" / "models--org--toy" / "refs" / name
        ref.write_text(ref.read_text() + "\n")
    started = time.monotonic()
    switched_off = client(offline, endpoint, home, HF_HUB_OFFLINE="1")
    gone = client({"gone": CASES["whole"]}, endpoint, home)
    return {**answers, **switched_off, **gone, "log": requests, "seconds": time.monotonic() - started}


@pytest.fixture(scope="module")
def local_value(toy_model: Callable[..., Path]) -> float:
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("gpt2"))), device="cpu")
    return float(llreg_extract.score(model, ["Some words."]).log_likelihood[0])


def test_a_hub_model_is_pinned_loaded_and_scored(told: dict[str, Any], local_value: float) -> None:
    source = told["whole"]["source"]
    assert (source["name"], source["kind"], source["location"]) == ("org/toy", "hub", "org/toy")
    assert (source["revision"], source["file"], source["checkpoint_dtype"]) == (SHA, None, "float32")
    assert source["declared"]["licence"] == "mit"
    assert source["declared"]["base_model"] == ["org/base"]
    assert source["declared"]["relation"] == "finetune"
    assert source["declared"]["created"] == "2024-05-06T07:08:09Z"
    assert source["declared"]["tags"] == ["code", "license:apache-2.0"]
    assert source["declared"]["downloads"] == 1234
    assert told["whole"]["value"] == local_value


def test_the_hubs_tags_tell_what_the_card_does_not(told: dict[str, Any]) -> None:
    declared = told["tagged"]["source"]["declared"]
    assert (declared["licence"], declared["base_model"], declared["relation"]) == (
        "apache-2.0",
        ["org/base"],
        "quantized",
    )
    assert len(declared["tags"]) == 50
    assert declared["downloads"] == 0


def test_parameters_are_the_hubs_count_or_the_headers(told: dict[str, Any], toy_model: Callable[..., Path]) -> None:
    """Whole, in shards, and offline from the cache; the Hub of this test has counted one model only."""
    headers = sum(weight.size for weight in load_file(toy_model("gpt2") / "model.safetensors").values())
    cases = ("whole", "sharded", "cached", "cached shards")
    assert [told[case]["source"]["declared"]["num_parameters"] for case in cases] == [headers] * 4
    assert told["tagged"]["source"]["declared"]["num_parameters"] == 100_000


def test_any_revision_becomes_the_commit(told: dict[str, Any]) -> None:
    assert {told[case]["source"]["revision"] for case in ("whole", "branch", "commit")} == {SHA}


def test_a_moved_model_gets_its_present_name(told: dict[str, Any]) -> None:
    assert told["moved"]["source"]["name"] == "org/toy"


def test_shards_of_any_name_are_fetched(told: dict[str, Any], local_value: float) -> None:
    assert told["sharded"]["value"] == local_value


def test_the_commit_is_asked_for_before_anything_is_fetched(told: dict[str, Any]) -> None:
    asked = [line for line in told["log"] if "org/toy" in line]
    assert asked[0] == "GET /api/models/org/toy"
    fetched = [line for line in asked if line.startswith("GET /org/toy/resolve/") and "config.json" not in line]
    assert fetched
    assert all(f"/resolve/{SHA}/" in line for line in fetched)


def test_what_is_cached_works_offline(told: dict[str, Any], local_value: float) -> None:
    assert told["cached"]["value"] == told["cached shards"]["value"] == local_value
    assert told["cached"]["source"]["revision"] == told["cached branch"]["source"]["revision"] == SHA


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        (
            "missing",
            "ModelNotFoundError",
            "no model org/nothing on the Hub, or it is private: check the name; for a ",
        ),
        (
            "no revision",
            "ModelNotFoundError",
            "org/toy has no revision nope: check the branch, tag or commit",
        ),
        ("gated", "ModelAccessError", "org/gated is gated: accept its terms at http://127.0.0.1:"),
        (
            "forbidden",
            "ModelAccessError",
            "the Hub refuses access to org/forbidden (403): check that your token",
        ),
        ("broken", "ModelAccessError", "answered 503 for org/broken: try again later"),
        (
            "t5",
            "UnsupportedModelError",
            "org/t5 is a T5ForConditionalGeneration (encoder-decoder), not a causal",
        ),
        ("pickled", "UnsupportedModelError", "safetensors or GGUF weights only"),
        ("no config", "ModelNotFoundError", "org/data has no config.json"),
        ("no gguf", "ModelNotFoundError", "org/toy has no file other.gguf at revision 0123456789ab"),
        (
            "several gguf",
            "InputError",
            "several GGUF files (a.gguf, b.gguf): choose one, as org/ggufs/a.gguf",
        ),
        ("no folder", "ModelNotFoundError", "org/nested has no folder step-500 at revision 0123456789ab: check"),
        (
            "folder of a file",
            "InputError",
            "org/toy/a.gguf is a file: --subfolder goes with a repository or a directory",
        ),
        ("unknown", "ModelAccessError", "cannot be reached and org/nothing is not in the local cache"),
        ("gone", "ModelAccessError", "cannot be reached for org/toy: check the connection"),
    ],
)
def test_each_refusal_is_one_sentence(told: dict[str, Any], case: str, error: str, message: str) -> None:
    assert told[case]["error"] == error, told[case]
    assert message in told[case]["message"]
    assert "\n" not in told[case]["message"]


@pytest.mark.parametrize("case", ["whole", "branch", "sharded", "moved", "folder", "gguf in a folder"])
def test_a_rows_identity_leads_back_to_what_was_scored(told: dict[str, Any], case: str) -> None:
    if case == "moved":  # the old name is the same model, so only the name it was found by differs
        assert told[case]["identity"] == told["whole"]["identity"]
    else:
        assert told[case]["again"] is True


def test_a_folder_of_a_repository(told: dict[str, Any], toy_model: Callable[..., Path], repos: dict[str, Any]) -> None:
    folder = told["folder"]
    assert (folder["source"]["name"], folder["identity"]["subfolder"]) == ("org/nested", "deep/step-500")
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("gpt2", bos=True))), device="cpu")
    value = float(llreg_extract.score(model, ["Some words."]).log_likelihood[0])
    assert folder["value"] == told["cached folder"]["value"] == value
    assert folder["source"]["declared"]["num_parameters"] == model.declared["num_parameters"]
    assert folder["download"] == repo_bytes(repos["org/nested"], without=("config.json",))
    assert (folder["left"], told["cached folder"]["download"]) == (0, 0)


def repo_bytes(repo: Any, *, without: tuple[str, ...]) -> int:
    return sum(repo.size(file) for file in repo.files() if Path(file).name not in without)


def test_a_gguf_in_a_folder_is_that_file(told: dict[str, Any]) -> None:
    identity = told["gguf in a folder"]["identity"]
    assert (identity["file"], identity["subfolder"]) == ("Q4/toy.gguf", None)


@pytest.mark.skipif(not HAS_PEFT, reason="needs peft")
def test_an_adapter_on_the_hub(told: dict[str, Any], toy_model: Callable[..., Path], repos: dict[str, Any]) -> None:
    adapter = told["adapter"]
    assert adapter["identity"] == {
        "model": "org/toy",
        "source": "hub",
        "revision": SHA,
        "file": None,
        "subfolder": "last",
        "adapter": {"model": "org/adapter", "revision": OTHER_SHA},
        "quantization": None,
    }
    assert (adapter["source"]["name"], adapter["again"]) == ("org/adapter", True)
    assert adapter["source"]["declared"]["base_model"] == ["org/toy"]
    assert adapter["value"] == pytest.approx(merged_by_hand(toy_model, repos["org/adapter"].folder / "last"), rel=1e-6)
    assert adapter["download"] == repo_bytes(repos["org/adapter"], without=("adapter_config.json",))
    assert adapter["left"] == 0
    assert (told["cached adapter"]["identity"], told["cached adapter"]["download"]) == (adapter["identity"], 0)
    assert told["adapter and base"]["value"] == adapter["value"]
    local = told["local adapter"]
    assert (local["identity"]["model"], local["identity"]["source"]) == ("org/toy", "hub")
    assert local["identity"]["adapter"]["revision"].startswith("sha256:")
    assert local["again"].startswith("InputError: last was not (all) on the Hub (source 'hub'): only who has its files")
    assert told["adapter of nothing"]["message"].startswith(
        "the base model of org/orphan is not there: its adapter_config.json names '/home/somebody/toy'; give it with --base"
    )


def merged_by_hand(toy_model: Callable[..., Path], folder: Path) -> float:
    """The toy model with W + (alpha / r) B A in place of W."""
    import torch

    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("gpt2"))), device="cpu")
    found = load_file(folder / "adapter_model.safetensors")
    a, b = (next(value for key, value in found.items() if f"lora_{part}" in key) for part in "AB")
    model.module.transformer.h[0].attn.c_proj.weight.data += torch.from_numpy(2 * (b @ a)).T
    return float(llreg_extract.score(model, ["Some words."]).log_likelihood[0])


def test_a_dead_hub_is_given_up_soon(told: dict[str, Any]) -> None:
    assert told["seconds"] < 60


def test_no_token_is_ever_told(told: dict[str, Any]) -> None:
    assert TOKEN not in json.dumps(told)


def test_a_gguf_is_described_without_being_fetched(toy_model: Callable[..., Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = tmp_path / "repo" / "sub"
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "toy.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(77)
    import numpy as np

    writer.add_tensor("token_embd.weight", np.zeros((300_000, 32), dtype=np.float32))  # 38 MB
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with model_hub.serve({"org/q": model_hub.Repo(tmp_path / "repo")}) as (endpoint, log):
        told = client({"it": {"model": "org/q/sub/toy.gguf"}}, endpoint, tmp_path / "hf")["it"]
    source = told["source"]
    assert (source["name"], source["file"], source["quantization"]) == ("org/q", "sub/toy.gguf", "gguf:Q4_0")
    assert source["declared"]["context_length"] == 77
    assert source["declared"]["num_parameters"] == 300_000 * 32
    assert not any(path.stat().st_size > 1_000_000 for path in (tmp_path / "hf").rglob("*") if path.is_file())
    assert len([line for line in log if line.startswith("GET /org/q/resolve/")]) <= 2
