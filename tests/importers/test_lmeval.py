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

VALUES = [-100.25, -90.5, -120.125, -80.0, -95.75, -130.0]
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


@pytest.mark.parametrize("style", ["0.4.9", "0.4.2", "0.4.0"])
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_bos_token": [None, "None"]}, "the tokenizer has no BOS token"),
        ({"config": {"model_args": "pretrained=a/b,add_bos_token=True"}}, "BOS itself was scored"),
        ({"config": {"model_args": {"pretrained": "a/b", "add_bos_token": True}}}, "BOS itself was scored"),
        ({"config": {"model_args": "pretrained=a/b,peft=c/d"}}, "run with peft: an adapter"),
        ({"config": {"model_args": "pretrained=a/b,prefix_token_id=5"}}, "another token was put before"),
        ({"config": {"model_args": "pretrained=a/b,load_in_4bit=True"}}, "quantised.*--quantization"),
        ({"config": {**RESULTS["config"], "model_dtype": None}}, "dtype that its weights had.*--dtype"),
        ({"model_name": "/home/me/my model", "config": {}}, "model's name is not known.*--model"),
        ({"config": []}, "expected the JSON object of an lm-eval run"),
    ],
)
def test_runs_of_another_kind(change: dict[str, Any], message: str, small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, results={**RESULTS, **change})
    with pytest.raises(InputError, match=message):
        import_lm_eval(small_registry, [path], bos=True)
    assert small_registry.records() == []


def test_options_stand_for_what_is_not_told(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, results=None)
    with pytest.raises(InputError, match="--model"):
        import_lm_eval(small_registry, [path], bos=True)
    result = import_lm_eval(small_registry, [path], bos=True, model="me/it", dtype="float16", quantization="bnb:nf4")
    identity = small_registry.find("me/it").identity
    assert (identity.revision, identity.weight_dtype, identity.quantization) == (None, "float16", "bnb:nf4")
    assert any("no results_" in note for note in result.notes)


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


def test_texts_beyond_the_context(small_registry: Registry, tmp_path: Path) -> None:
    path = _write(tmp_path, small_registry, results={**RESULTS, "max_length": 50})
    result = import_lm_eval(small_registry, [path], bos=True)
    count = sum(len(text.encode()) > 50 for text in small_registry.texts.complete())
    assert count
    assert any(
        note.startswith(f"{count} texts have more bytes than the model's context of 50") for note in result.notes
    )


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
    with pytest.raises(InputError, match=r"line 8: text 0 was scored twice, -100\.25 and -1\.0"):
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
