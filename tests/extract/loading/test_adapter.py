"""PEFT adapters: found with their base model, pinned, laid over it, and refused where that cannot be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llreg_extract
from llreg_schemas.errors import InputError, ModelError, ModelNotFoundError, UnsupportedModelError

peft = pytest.importorskip("peft")

ToyModel = Callable[..., Path]
MakeAdapter = Callable[..., Path]
TEXT = "Some words, and then some more of them."


def edit(folder: Path, **changes: Any) -> Path:
    """Change an adapter's config; None removes a key."""
    path = folder / "adapter_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def load(folder: Path, **options: Any) -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve(str(folder), **options), device="cpu")


def value(model: llreg_extract.Model, text: str = TEXT) -> float:
    return float(llreg_extract.score(model, [text]).log_likelihood[0])


def by_hand(base: Path, adapter: Path, text: str = TEXT) -> float:
    """The log-likelihood that peft itself gives, unmerged, in float32."""
    module = transformers.AutoModelForCausalLM.from_pretrained(base)
    beside = adapter if (adapter / "tokenizer.json").exists() else base
    tokenizer = transformers.AutoTokenizer.from_pretrained(beside)
    module.resize_token_embeddings(max(len(tokenizer), module.get_input_embeddings().weight.shape[0]))
    adapted = peft.PeftModel.from_pretrained(module, str(adapter)).eval()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        log_p = torch.log_softmax(adapted(input_ids=ids).logits[0].double(), -1)
    return float(log_p[:-1].gather(1, ids[0, 1:, None]).sum())


def test_an_adapter_is_pinned_with_its_base(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    folder = make_adapter()
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [lora]\n---\n")
    base, source = llreg_extract.resolve(str(toy_model("llama"))), llreg_extract.resolve(str(folder))
    assert source.name == "my-adapter"
    assert source.identity == {
        **base.identity,
        "model": "toy-llama",
        "adapter": {"model": "my-adapter", "revision": source.adapter.revision if source.adapter else ""},
    }
    assert source.identity["adapter"]["revision"].startswith("sha256:")
    declared = source.declared
    assert (declared["base_model"], declared["relation"], declared["licence"]) == (["toy-llama"], "adapter", "mit")
    assert declared["num_parameters"] == base.declared["num_parameters"]
    assert llreg_extract.resolve(str(folder), name="me/other").identity["adapter"]["model"] == "me/other"


def test_the_adapters_hash_covers_what_decides_its_values(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    folder = make_adapter()

    def pinned() -> str:
        return str(llreg_extract.resolve(str(folder)).identity["adapter"]["revision"])

    seen = [pinned()]
    (folder / "README.md").write_text("words")
    (folder / "tokenizer_config.json").write_text("{}")  # of no use without a vocabulary
    assert pinned() == seen[0]
    edit(folder, lora_alpha=16)
    seen.append(pinned())
    weights = load_file(folder / "adapter_model.safetensors")
    key = min(weights)
    weights[key][0, 0] += 1
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    seen.append(pinned())
    (folder / "tokenizer.json").write_bytes((toy_model("llama") / "tokenizer.json").read_bytes())
    seen.append(pinned())
    assert len(set(seen)) == len(seen)


def test_a_vocabulary_that_training_made_larger(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    folder = make_adapter(tokens=5)
    model = load(folder)
    text = "Some <new3> words."
    assert model.module.get_input_embeddings().weight.shape[0] == len(model.tokenizer.library)
    assert value(model, text) == pytest.approx(by_hand(toy_model("llama"), folder, text), rel=1e-6)
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {key: weight for key, weight in weights.items() if "lm_head" not in key}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UnsupportedModelError, match=r"vocabulary of \d+ tokens, its base model 300, and it does not hold"
    ):
        load(folder)


def test_the_base_can_be_another(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    other = toy_model("llama", rms_norm_eps=0.5)
    folder = make_adapter(named="/home/somebody/base")
    with pytest.raises(
        ModelNotFoundError, match=r"base model of my-adapter is not there: .* '/home/somebody/base'; give"
    ):
        llreg_extract.resolve(str(folder))
    assert value(load(folder, base=str(other))) == pytest.approx(by_hand(other, folder), rel=1e-6)
    edit(folder, base_model_name_or_path=None)
    with pytest.raises(
        InputError, match=r"my-adapter does not say which model it is an adapter of: give it with --base"
    ):
        llreg_extract.resolve(str(folder))
    with pytest.raises(InputError, match=r"is no adapter, for it has no adapter_config.json: --base goes with"):
        llreg_extract.resolve(str(other), base=str(other))


def test_an_adapter_in_a_subfolder(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(name="run/checkpoint-500")
    source = llreg_extract.resolve(str(tmp_path / "run"), subfolder="checkpoint-500/")
    assert (source.name, source.identity["subfolder"], source.subfolder) == ("run", "checkpoint-500", None)
    assert value(llreg_extract.load(source, device="cpu")) == value(load(folder))


def test_adapters_that_are_refused(make_adapter: MakeAdapter, toy_model: ToyModel, tmp_path: Path) -> None:
    folder = make_adapter()

    def refused(match: str, error: type[ModelError] = UnsupportedModelError, **changes: Any) -> None:
        before = (folder / "adapter_config.json").read_text()
        edit(folder, **changes)
        with pytest.raises(error, match=match):
            load(folder)
        (folder / "adapter_config.json").write_text(before)

    refused("is a PREFIX_TUNING adapter, which changes what the model reads", peft_type="PREFIX_TUNING")
    refused("sets megatron_config, which llreg does not take", megatron_config={"a": 1}, megatron_core="os")
    refused("sets alora_invocation_tokens, .*: .* score its base model", alora_invocation_tokens=[1, 2])
    refused("names no peft_type", peft_type=None)
    refused("my-adapter cannot be laid over its base model: ", target_modules=["nothing"])
    refused(
        r"my-adapter lacks weights \(4: .*made for another base model", target_modules=["q_proj", "v_proj", "k_proj"]
    )
    refused("has weights without a place", target_modules=["q_proj"])
    refused("is itself an adapter and cannot be the base", base_model_name_or_path=str(make_adapter(name="another")))
    with pytest.raises(UnsupportedModelError, match="my-adapter cannot be laid over its base model"):
        load(folder, base=str(toy_model("llama", hidden_size=64)))

    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"has no adapter_model.safetensors: llreg reads safetensors only"):
        load(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelNotFoundError, match="my-adapter is an adapter without weights"):
        load(folder)
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(UnsupportedModelError, match=r"my-adapter: adapter_config.json is not JSON"):
        load(folder)
