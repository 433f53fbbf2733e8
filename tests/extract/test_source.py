"""Names of local models: those that any run's directories have get a suggestion that says which run."""

from __future__ import annotations

import pytest

from llreg_extract.source import Adapter, Source, suggest_name

COMMIT = "1f0b5c" + "0" * 34

SUGGESTIONS = [
    ("/home/me/runs/sft-a/checkpoint-500", None, "sft-a-checkpoint-500"),
    ("/home/me/runs/sft-a/checkpoints/step_1000", None, "sft-a-checkpoints-step_1000"),
    ("/data/llama-x/output/final_model", None, "llama-x-output-final_model"),
    ("/data/llama x/last", None, "llama-x-last"),
    ("/data/llama-x/global_step250", None, "llama-x-global_step250"),
    ("/data/llama-x/epoch3", None, "llama-x-epoch3"),
    ("/data/llama-x/Best-Checkpoint", None, "llama-x-Best-Checkpoint"),
    ("/data/llama-x/500", None, "llama-x-500"),
    (f"/cache/models--org--x/snapshots/{COMMIT}", None, f"models--org--x-snapshots-{COMMIT}"),
    ("/data/llama-x", "ggml-model-q4_0.gguf", "llama-x-ggml-model-q4_0"),
    ("/out/model", None, "out-model"),
    ("/model", None, "run-model"),
    # These say which model they are.
    ("/data/llama-x", None, None),
    ("/data/checkpoint-500/llama-best", None, None),
    ("/data/model/smollm2-135m-q4_0", "smollm2-135m-q4_0.gguf", None),
]


def _source(location: str, file: str | None, name: str, **over: object) -> Source:
    return Source(name, "local", location, "sha256:" + "0" * 64, file, None, "float32", {}, **over)  # type: ignore[arg-type]


@pytest.mark.parametrize(("location", "file", "suggestion"), SUGGESTIONS)
def test_suggested_name(location: str, file: str | None, suggestion: str | None) -> None:
    name = (file or location.rsplit("/", 1)[-1]).removesuffix(".gguf")
    assert suggest_name(_source(location, file, name)) == suggestion
    assert suggest_name(_source(location, file, "checkpoint-7")) is None  # the user's


def test_adapter_of_a_run() -> None:
    adapter = Adapter("org/base", "local", "/runs/lora-b/checkpoint-9", "sha256:" + "1" * 64, None)
    source = _source("org/base", None, "checkpoint-9", adapter=adapter)
    assert suggest_name(source) == "lora-b-checkpoint-9"
