from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llreg_extract
from llreg_schemas.errors import InputError, ModelError, UnsupportedModelError

Editable = Callable[..., Path]
SCHEMA = Path(__file__).parents[3] / "schemas" / "llreg_schemas" / "row.schema.json"


def load(folder: Path, **options: Any) -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu", **options)


def drop_weights(folder: Path, *, keep: Callable[[str], bool]) -> None:
    """Remove weights from a checkpoint."""
    weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if keep(key)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_choose(toy_model: Callable[..., Path]) -> None:
    source = llreg_extract.resolve(str(toy_model("llama", dtype="bfloat16")))
    assert llreg_extract.choose(source, device="cpu") == ("float32", "cpu")
    assert llreg_extract.choose(source, dtype="float16", device="cpu") == ("float16", "cpu")
    has_gpu = torch.cuda.is_available()
    assert llreg_extract.choose(source) == (("bfloat16", "cuda") if has_gpu else ("float32", "cpu"))
    for dtype in ("int8", "fp32", ""):
        with pytest.raises(InputError, match="choose auto, float32, bfloat16, float16"):
            llreg_extract.choose(source, dtype=dtype)
    for device in ("tpu", "cuda:x", "cpu:0", "gpu"):
        with pytest.raises(InputError, match="choose auto, cpu, cuda or cuda:N"):
            llreg_extract.choose(source, device=device)
    with pytest.raises(InputError, match=r"device cuda:99 was asked for and torch sees .* GPU"):
        llreg_extract.choose(source, device="cuda:99")


def test_what_a_loaded_model_says(toy_model: Callable[..., Path]) -> None:
    model = load(toy_model("gpt2"))
    assert (model.weight_dtype, model.context_length, model.first_token_scored) == ("float32", 128, False)
    assert (model.attention, model.library_attention) == ("llreg_blocked", "sdpa")
    assert (model.path, model.batching, model.device.type) == ("replay", True, "cpu")
    assert model.threads >= 1
    assert not model.module.training
    assert load(toy_model("gpt2", bos=True)).first_token_scored


def test_environment_and_declared_fit_the_row_schema(toy_model: Callable[..., Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    parts = json.loads(SCHEMA.read_text())["properties"]
    model = load(toy_model("mamba"))
    environment = llreg_extract.environment(model)
    fields = {"versions", "device", "attention", "scoring_path", "batching", "tokenization", "trust_remote_code"}
    assert set(environment) == fields
    jsonschema.validate(environment, {**parts["provenance"], "required": []})
    jsonschema.validate(dict(model.declared), parts["declared"])
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"]["type"] == "cpu"
    assert environment["device"]["name"]


def test_what_is_unknown_before_loading_is_filled_in_after(editable: Editable) -> None:
    folder = editable()
    source = llreg_extract.resolve(str(folder))
    unknown = {**source.declared, "architecture": None, "num_parameters": None}
    model = llreg_extract.load(dataclasses.replace(source, declared=unknown), device="cpu")
    assert model.declared == source.declared


def test_tied_weights_are_not_missing(toy_model: Callable[..., Path]) -> None:
    folder = toy_model("llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = load(folder)
    assert model.declared["num_parameters"] == model.module.num_parameters()


def test_missing_weights_are_never_random(editable: Editable) -> None:
    folder = editable("llama")
    drop_weights(folder, keep=lambda key: key != "lm_head.weight")
    with pytest.raises(UnsupportedModelError, match=r"lacks 1 of the weights of a LlamaForCausalLM \(lm_head.weight\)"):
        load(folder)
    drop_weights(folder, keep=lambda key: "layers.1" not in key)
    with pytest.raises(UnsupportedModelError, match=r"lacks 10 of the weights .*, …\), which would be random"):
        load(folder)


def test_a_body_saved_without_its_head_is_refused(tmp_path: Path, toy_model: Callable[..., Path]) -> None:
    toy = toy_model("llama")
    folder = tmp_path / "body"
    transformers.LlamaModel.from_pretrained(toy).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(toy).save_pretrained(folder)
    with pytest.raises(UnsupportedModelError, match="lm_head"):
        load(folder)


def test_weights_of_another_shape_are_refused(editable: Editable) -> None:
    folder = editable("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(
        ModelError, match=r"down_proj\.weight has the shape \(32, 64\) in its files, and \(32, 48\) by its"
    ):
        load(folder)


def test_no_tokenizer(editable: Editable) -> None:
    folder = editable()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer: put its tokenizer.json beside the weights"):
        load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer of toy-gpt2 (cannot be loaded|makes no tokens)"):
        load(folder)


def test_a_model_that_sees_the_future_is_refused(toy_model: Callable[..., Path]) -> None:
    # XLNet has a causal-LM class, and its config says nothing against it.
    with pytest.raises(UnsupportedModelError, match=r"toy-xlnet \(XLNetLMHeadModel\) is not causal"):
        load(toy_model("xlnet"))


def test_a_bert_that_is_a_decoder_is_scored(editable: Editable) -> None:
    folder = editable("bert", is_decoder=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))
    model = load(folder)
    texts = ["some words", "some more words than before"]
    assert llreg_extract.score(model, texts).log_likelihood == pytest.approx(
        llreg_extract.reference_scores(model, texts).log_likelihood, rel=1e-5
    )


def test_where_padding_changes_values_texts_go_alone(toy_model: Callable[..., Path]) -> None:
    from llreg_extract.loading.selfcheck import prepare

    model = load(toy_model("llama"))
    assert model.batching
    # Noise that depends on the batch's size stands for a kernel that does.
    model.module.model.norm.register_forward_hook(lambda module, args, out: out * (1 + 0.1 * (len(out) > 1)))
    prepare(model)
    assert not model.batching
    texts = ["some words", "other words", "more"]
    sizes = [len(b.index) for b in llreg_extract.iter_scores(model, llreg_extract.encode(model, texts))]
    assert sizes == [1, 1, 1]


def test_loading_is_silent_and_leaves_the_settings(
    toy_model: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    folder = toy_model("llama")
    capfd.readouterr()  # saving the toy model was not silent
    model = load(folder)
    llreg_extract.score(model, ["q" * 300, "short text", "another, longer text"])
    assert capfd.readouterr() == ("", "")
    assert (
        logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    ) == before


REMOTE = """
from transformers import GPT2Config, GPT2LMHeadModel
class NovelConfig(GPT2Config):
    model_type = "novel"
class NovelModel(GPT2LMHeadModel):
    config_class = NovelConfig
"""


def test_code_from_the_checkpoint_runs_only_when_trusted(
    editable: Editable, toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = editable()
    (folder / "novel.py").write_text(REMOTE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "novel.NovelConfig", "AutoModelForCausalLM": "novel.NovelModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "novel", "auto_map": names}))
    with pytest.raises(UnsupportedModelError, match="add --trust-remote-code"):
        llreg_extract.resolve(str(folder))
    source = llreg_extract.resolve(str(folder), trust_remote_code=True)
    model = llreg_extract.load(source, device="cpu", trust_remote_code=True)
    assert type(model.module).__name__ == "NovelModel"
    assert llreg_extract.environment(model)["trust_remote_code"] is True
    plain = llreg_extract.score(load(toy_model("gpt2")), ["some words"])
    assert llreg_extract.score(model, ["some words"]).log_likelihood == plain.log_likelihood
