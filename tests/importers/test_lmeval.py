"""lm-eval's logged samples: each finds its text by hash; only what the protocol means becomes a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.importers.lmeval import import_lm_eval
from llreg.registry import Registry
from llreg_schemas.errors import InputError, InvalidFileError

VALUES = [float(np.float32(-value)) for value in (100.2513, 90.5047, 120.1252, 80.0317, 95.7571, 130.0091)]
DATE = "2026-05-19T02-24-44.108607"
COMMIT = "b" * 40
RESULTS: dict[str, Any] = {
    "results": {"six": {"bits_per_byte,none": 0.9}},
    "config": {
        "model": "hf",
        "model_args": "pretrained=org/Llama,dtype=bfloat16",
        "model_num_parameters": 1234,
        "model_dtype": "torch.bfloat16",
        "model_revision": "main",
        "model_sha": COMMIT,
    },
    "git_hash": "abc1234",
    "lm_eval_version": "0.4.9",
    "tokenizer_bos_token": ["<s>", "1"],
    "max_length": 4096,
    "model_name": "org/Llama",
}


def _sample(doc: int, text: str, value: float, style: str = "0.4.9") -> dict[str, Any]:
    """A line as the evaluation tracker writes it, or as versions before it did."""
    new = style == "0.4.9"
    return {
        "doc_id": doc,
        "doc": {"text": text, "subset": "x"},
        "target": text,
        "arguments": {"gen_args_0": {"arg_0": text}} if new else [[text]],
        "resps": [[str(value)]] if new else [[value]],
        "filtered_resps": [str(value)] if new else [value] if style == "0.4.2" else [[value]],
        "bits_per_byte": [value, len(text)],
        "doc_hash": "0" * 64,
    }


def _write(
    folder: Path,
    registry: Registry,
    *,
    style: str = "0.4.9",
    texts: Sequence[int] = (5, 0, 3, 1, 2, 4),
    results: dict[str, Any] | None = RESULTS,
    extra: Sequence[dict[str, Any]] = (),
    name: str = "six",
) -> Path:
    all_texts = registry.texts.complete()
    samples = [_sample(doc, all_texts[k], VALUES[k], style) for doc, k in enumerate(texts)]
    path = folder / f"samples_{name}_{DATE}.jsonl"
    path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in [*samples, *extra]), "utf-8")
    if results is not None:
        (folder / f"results_{DATE}.json").write_text(json.dumps(results))
    return path


@pytest.mark.parametrize("style", ["0.4.9", "0.4.2", "0.4.0"])  # of the samples; git versions mixed them
def test_row(style: str, small_registry: Registry, tmp_path: Path) -> None:
    result = import_lm_eval(small_registry, [_write(tmp_path, small_registry, style=style)], bos=True)
    record = small_registry.find("org/Llama")
    assert result.added == [record.row_id]
    assert small_registry.row("org/Llama").log_likelihood.tolist() == VALUES
    identity, provenance = record.identity, record.provenance
    assert (identity.source, identity.revision, identity.weight_dtype) == ("imported", COMMIT, "bfloat16")
    assert provenance["first_token_scored"] is True
    assert (provenance["import"], provenance["import_version"]) == ("lm-eval", "0.4.9")
    assert record.declared["num_parameters"] == 1234
    assert result.notes == []
    assert small_registry.validate() == []
    assert import_lm_eval(small_registry, [tmp_path / f"samples_six_{DATE}.jsonl"], bos=True).present == result.added


def test_not_without_bos(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry)
    with pytest.raises(InputError, match=r"scores the text's first token, too.*say --bos.*use llreg add"):
        import_lm_eval(small_registry, [path])
    assert small_registry.records() == []


def _run(version: str | None = "0.4.9", model: str = "hf", **changes: Any) -> dict[str, Any]:
    """Results of a run: its arguments beside `pretrained`, as its version wrote them, or other fields."""
    results = {**RESULTS, "lm_eval_version": version, **{key: changes.pop(key) for key in RESULTS.keys() & changes}}
    arguments = ",".join(f"{key}={value}" for key, value in {"pretrained": "org/Llama", **changes}.items())
    results["config"] = {**RESULTS["config"], "model": model, "model_args": arguments}
    return {key: value for key, value in results.items() if value is not None}


OLD = _run(None, tokenizer_bos_token=None, max_length=None)  # as up to 0.4.2: without version and tokenizer

# Which run gives the protocol's values, and why the others do not: by the source of the harness's releases.
RUNS: list[tuple[dict[str, Any], str | None]] = [
    (OLD, "up to 0.4.2 lm-eval .* puts EOS before every text"),
    (_run("0.4.2"), "puts EOS"),
    (_run("0.4.1", add_bos_token="True"), "puts EOS"),
    (_run(None), None),  # 0.4.3 to 0.4.8
    (_run("0.4.3"), None),
    (_run("0.4.3", "vllm"), "up to 0.4.3 lm-eval"),
    (_run(None, "vllm"), "up to 0.4.3 lm-eval"),
    (_run("0.4.4", "vllm"), None),
    (_run("0.4.9", "sglang"), None),
    (_run("0.4.9", add_bos_token="True"), "BOS itself was scored, too"),
    (_run("0.4.9", add_bos_token="true"), "BOS itself was scored, too"),
    (_run("0.4.9", add_bos_token="1"), "BOS itself was scored, too"),
    (_run("0.4.9", add_bos_token="False"), None),
    (_run("0.4.9.1"), None),
    (_run("0.4.9.2"), "lets the tokenizer put another, which is scored.*add_bos_token=False"),
    (_run("0.4.13.dev0"), "lets the tokenizer put another"),
    (_run("0.5.0", "vllm"), "lets the tokenizer put another"),
    (_run("0.4.9.2", add_bos_token="False"), None),
    (_run("0.4.13", add_bos_token="True"), "BOS itself was scored, too"),
    (_run("0.4.13", "sglang"), None),
    # Gemma: the harness sets add_bos_token by itself, by the model's type or name.
    (_run("0.4.9", pretrained="google/gemma-2-2b"), "sets add_bos_token for Gemma"),
    (_run("0.4.9", pretrained="google/gemma-2-2b", add_bos_token="False"), "sets add_bos_token for Gemma"),
    (_run(None, pretrained="me/tuned", tokenizer_bos_token=["<bos>", "2"]), "sets add_bos_token for Gemma"),
    (_run("0.4.13", "sglang", pretrained="me/Gemma-x", add_bos_token="False"), "sets add_bos_token for Gemma"),
    (_run("0.4.10", pretrained="google/gemma-2-2b", add_bos_token="False"), None),
    (_run("0.4.10", pretrained="google/gemma-2-2b"), "lets the tokenizer put another"),
    # What is not known, or is another model.
    (_run(model="nemo_lm"), "model class 'nemo_lm' puts before a text is not known; known are hf"),
    (_run(tokenizer_bos_token=[None, "None"]), "the tokenizer has no BOS token"),
    (_run(tokenizer="org/other"), "tokenizer=org/other, another's"),
    (_run(tokenizer="org/Llama"), None),
    (_run(peft="c/d"), "run with peft: an adapter"),
    (_run("0.4.9", "vllm", lora_local_path="c/d"), "run with lora_local_path: an adapter"),
    (_run(subfolder="step1"), "run with subfolder"),
    (_run(prefix_token_id="0"), "another token was put before"),
    (_run(mixed_precision_dtype="bfloat16"), "not of its weights' dtype"),
    (_run(load_in_4bit="True"), "quantised.*--quantization"),
    (_run(load_in_4bit="False"), None),
    (_run(max_length=None), "window is not in its results file"),
    ({**_run(max_length=None), **_run(max_length=None, device="cpu")}, "window is not in its results file"),
    ({**RESULTS, "config": {**RESULTS["config"], "model_dtype": None}}, "dtype that its weights had.*--dtype"),
    ({**_run(pretrained="/home/me/my model"), "model_name": None}, "model's name is not known.*--model"),
    ({**RESULTS, "config": []}, "expected the JSON object of an lm-eval run"),
]


@pytest.mark.parametrize(("results", "message"), RUNS)
def test_what_was_run(results: dict[str, Any], message: str | None, small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, results=results)
    if message is None:
        assert len(import_lm_eval(small_registry, [path], bos=True).added) == 1
        assert np.array_equal(small_registry.row(small_registry.records()[0].row_id).log_likelihood, VALUES)
        return
    with pytest.raises(InputError, match=message):
        import_lm_eval(small_registry, [path], bos=True)
    assert small_registry.records() == []


def test_arguments_as_a_mapping(small_registry: Registry, tmp_path: Path) -> None:
    arguments = {"pretrained": "org/Llama", "add_bos_token": True}
    path = _write(tmp_path, small_registry, results={**RESULTS, "config": {"model": "hf", "model_args": arguments}})
    with pytest.raises(InputError, match="BOS itself was scored"):
        import_lm_eval(small_registry, [path], bos=True)


def test_options_stand_for_what_is_not_told(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, results=None)
    with pytest.raises(InputError, match=r"expected the run's results_\*\.json beside it"):
        import_lm_eval(small_registry, [path], bos=True, model="me/it", dtype="float16")
    _write(tmp_path, small_registry, results={**RESULTS, "model_name": None, "config": {"model": "hf"}})
    with pytest.raises(InputError, match="--model"):
        import_lm_eval(small_registry, [path], bos=True)
    import_lm_eval(small_registry, [path], bos=True, model="me/it", dtype="float16", quantization="bnb:nf4")
    identity = small_registry.find("me/it").identity
    assert (identity.revision, identity.weight_dtype, identity.quantization) == (None, "float16", "bnb:nf4")


def test_several_files_of_a_run(small_registry: Registry, tmp_path: Path) -> None:
    one = _write(tmp_path, small_registry, texts=(0, 1, 2), name="one")
    two = _write(tmp_path, small_registry, texts=(2, 3, 4, 5), name="two")
    results = tmp_path / f"results_{DATE}.json"
    import_lm_eval(small_registry, [one, two, results], bos=True)
    assert small_registry.row("org/Llama").log_likelihood.tolist() == VALUES


def test_texts_that_are_not_here(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, texts=(4, 1), extra=[_sample(9, "another text", -3.0)])
    result = import_lm_eval(small_registry, [path], bos=True)
    found = small_registry.row("org/Llama").log_likelihood
    assert np.flatnonzero(~np.isnan(found)).tolist() == [1, 4]
    assert any(note.startswith("1 samples are of texts that this registry has not") for note in result.notes)
    assert any("4 of 6 values are NaN" in note for note in result.notes)
    none = _write(tmp_path, small_registry, texts=(), extra=[_sample(9, "another text", -3.0)], name="none")
    with pytest.raises(InputError, match="none of its 1 samples is a text of six, byte for byte"):
        import_lm_eval(small_registry, [none], bos=True)


@pytest.mark.parametrize(("model", "spare"), [("hf", 0), ("vllm", 2), ("sglang", 2)])
def test_texts_beyond_the_window(model: str, spare: int, small_registry: Registry, tmp_path: Path) -> None:
    """A text of more bytes than the window has tokens may be a sum over windows: it has no value."""
    sizes = np.array([len(text.encode()) for text in small_registry.texts.complete()])
    window = int(np.sort(sizes)[3])
    path = _write(tmp_path, small_registry, results=_run(model=model, max_length=window + 1 + spare))
    result = import_lm_eval(small_registry, [path], bos=True)
    beyond = sizes > window
    assert 0 < beyond.sum() < 6
    assert np.array_equal(
        small_registry.row("org/Llama").log_likelihood, np.where(beyond, np.nan, VALUES), equal_nan=True
    )
    assert small_registry.find("org/Llama").provenance["maybe_windowed"] == beyond.sum()
    assert any(note.startswith(f"{beyond.sum()} texts were left out: they have more bytes") for note in result.notes)
    path = _write(tmp_path, small_registry, results=_run(model=model, max_length=3))
    with pytest.raises(InputError, match="no text is sure to have fitted into the run's window"):
        import_lm_eval(small_registry, [path], bos=True)


BAD_SAMPLES: list[tuple[dict[str, Any], str]] = [
    ({"filtered_resps": [["-1.5", "True"]]}, "expected one log-likelihood in filtered_resps; got"),
    ({"filtered_resps": ["nan"]}, "expected one log-likelihood"),
    ({"filtered_resps": ["-inf"]}, "expected one log-likelihood"),
    ({"filtered_resps": [True]}, "expected one log-likelihood"),
    ({"filtered_resps": [-(10**400)]}, "expected one log-likelihood"),  # an integer that no float can hold
    ({"filtered_resps": ["the answer"]}, "expected one log-likelihood"),
    ({"arguments": {"gen_args_0": {"arg_0": "context", "arg_1": "answer"}}}, "expected a sample of a rolling"),
    ({"arguments": {"gen_args_0": {"arg_0": "a"}, "gen_args_1": {"arg_0": "b"}}}, "expected a sample of a rolling"),
    ({"arguments": {"gen_args_0": [1]}}, "expected a sample of a rolling"),
    ({"arguments": [[3]]}, "expected a sample of a rolling"),
    ({"arguments": None}, "expected a sample of a rolling"),
]


@pytest.mark.parametrize(("change", "message"), BAD_SAMPLES)
def test_samples_of_another_task(
    change: dict[str, Any], message: str, small_registry: Registry, tmp_path: Path
) -> None:
    sample = {**_sample(6, small_registry.texts.complete()[0], VALUES[0]), **change}
    path = _write(tmp_path, small_registry, extra=[sample])
    with pytest.raises(InputError, match=f"line 7: {message}"):
        import_lm_eval(small_registry, [path], bos=True)
    assert small_registry.records() == []


def test_one_text_with_two_values(small_registry: Registry, tmp_path: Path) -> None:
    text = small_registry.texts.complete()[0]
    path = _write(tmp_path, small_registry, extra=[_sample(6, text, VALUES[0]), _sample(7, text, -1.0)])
    with pytest.raises(InputError, match=r"line 8: text 0 was scored twice, -100\.2\d* and -1\.0"):
        import_lm_eval(small_registry, [path], bos=True)


def test_positive_values(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, texts=(0, 1), extra=[_sample(6, small_registry.texts.complete()[3], 2.0)])
    with pytest.raises(InvalidFileError, match="at most 0 nats"):
        import_lm_eval(small_registry, [path], bos=True)


@pytest.mark.parametrize("content", ["not json\n", "[1]\n", "[" * 100_000 + "\n"])
def test_damaged_files(content: str, small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry)
    path.write_text(content)
    with pytest.raises(InputError, match="line 1: expected"):
        import_lm_eval(small_registry, [path], bos=True)
    _write(tmp_path, small_registry)
    (tmp_path / f"results_{DATE}.json").write_text(content)
    with pytest.raises(InputError, match=r"results_.*: expected the JSON"):
        import_lm_eval(small_registry, [path], bos=True)


def test_which_files(small_registry: Registry, tmp_path: Path) -> None:
    _write(tmp_path, small_registry)
    with pytest.raises(InputError, match=r"expected samples_\*\.jsonl"):
        import_lm_eval(small_registry, [tmp_path / f"results_{DATE}.json"], bos=True)
