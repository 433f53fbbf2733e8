"""Quantised weights: packed at load, or checkpoints that other libraries made; each against its weights written out."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llreg_extract
from llreg_schemas.errors import InputError, MissingExtraError, ModelError, UnsupportedModelError

ToyModel = Callable[..., Path]
Editable = Callable[..., Path]
TEXTS = ["Some words, and then some more of them.", "def add(a, b):\n    return a + b\n", "one two three"]

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes, which runs on a CPU too"
)


def load(folder: Path, *, dtype: str = "float32", **options: Any) -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve(str(folder), **options), dtype=dtype, device="cpu")


def values(model: llreg_extract.Model, *, batch_tokens: int | None = None) -> list[float]:
    scored: list[float] = llreg_extract.score(model, TEXTS, batch_tokens=batch_tokens).log_likelihood.tolist()
    return scored


def with_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> llreg_extract.Model:
    """A model of which the weights of all linear layers but the head are changed."""
    model = load(folder)
    for name, layer in model.module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            layer.weight.data = change(layer.weight.data)
    return model


def int8_rows(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to 127 steps of each row's largest magnitude, as bitsandbytes says it does."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight.half() / scale.half()).float().round().clamp(-127, 127) * scale


def write_quantized(
    folder: Path, settings: dict[str, Any], pack: Callable[[torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Make a checkpoint quantised: pack(weight) gives the tensors that replace it, and what they stand for."""
    kept, meant = {}, {}
    for key, weight in load_file(folder / "model.safetensors").items():
        if key.endswith("proj.weight"):
            parts, meant[key] = pack(weight)
            kept.update({key.removesuffix("weight") + name: part for name, part in parts.items()})
        else:
            kept[key] = meant[key] = weight
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return meant


@needs_bitsandbytes
def test_int8_scores_the_rounded_weights(toy_model: ToyModel) -> None:
    folder = toy_model("llama", hidden_act="gelu")
    model = load(folder, quantize="int8")
    assert values(model) == pytest.approx(values(with_weights(folder, int8_rows)), rel=1e-3)
    assert values(model) != pytest.approx(values(load(folder)), rel=1e-4)
    assert model.source.identity["quantization"] == "bitsandbytes:int8"
    assert model.weight_dtype == "float32"
    assert "bitsandbytes" in llreg_extract.environment(model)["versions"]


@needs_bitsandbytes
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_activations_stay_whole(toy_model: ToyModel, quantize: str) -> None:
    """A product of bitsandbytes itself would depend on the batch and on later tokens, or compute in bfloat16."""
    folder = toy_model("llama", hidden_act="gelu")
    model = load(folder, quantize=quantize)
    assert model.batching
    alone, together = values(model, batch_tokens=1), values(model, batch_tokens=1000)
    assert alone == pytest.approx(together, rel=1e-6)
    reference = llreg_extract.reference_scores(model, TEXTS).log_likelihood.tolist()
    assert together == pytest.approx(reference, rel=1e-5)


@needs_bitsandbytes
def test_int4_is_nf4_and_survives_saving(toy_model: ToyModel, tmp_path: Path) -> None:
    from bitsandbytes import functional

    def nf4(weight: torch.Tensor) -> torch.Tensor:
        return functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4"))

    folder = toy_model("llama", bos=True)
    model = load(folder, quantize="int4")
    assert values(model) == pytest.approx(values(with_weights(folder, nf4)), rel=1e-6)
    assert model.source.identity["quantization"] == "bitsandbytes:nf4"
    saved = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    )
    saved.save_pretrained(tmp_path / "four")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "four")
    four = load(tmp_path / "four")
    assert four.source.identity["quantization"] == "bitsandbytes:4bit"
    assert values(four) == values(model)
    with pytest.raises(InputError, match=r"four is quantised already \(bitsandbytes:4bit\): --quantize goes with"):
        llreg_extract.resolve(str(tmp_path / "four"), quantize="int8")


@needs_bitsandbytes
def test_conv1d_layers_are_packed_too(toy_model: ToyModel) -> None:
    folder = toy_model("gpt2")
    model = load(folder, quantize="int8", dtype="bfloat16")
    packed = [weight for weight in model.module.parameters() if not weight.is_floating_point()]
    assert sum(weight.numel() for weight in packed) == model.source.packed_parameters
    assert values(model) == pytest.approx(values(load(folder)), rel=0.05)


@needs_bitsandbytes
def test_an_adapter_acts_beside_packed_weights(toy_model: ToyModel, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = toy_model("llama")
    module = transformers.AutoModelForCausalLM.from_pretrained(folder)
    adapted = peft.get_peft_model(
        module, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])
    )
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora" in name:
            weight.data += 0.1 * torch.randn(weight.shape)
    adapted.save_pretrained(tmp_path / "mine")
    model = load(tmp_path / "mine", quantize="int4")
    assert type(model.module).__name__ == "LlamaForCausalLM"
    base = load(folder, quantize="int4")
    over_base = peft.PeftModel.from_pretrained(base.module, str(tmp_path / "mine")).eval()
    ids = torch.tensor([base.tokenizer.library(TEXTS[0])["input_ids"]])
    with torch.inference_mode():
        log_p = torch.log_softmax(over_base(input_ids=ids).logits[0].double(), -1)
    by_hand = float(log_p[:-1].gather(1, ids[0, 1:, None]).sum())
    assert values(model)[0] == pytest.approx(by_hand, rel=1e-6)
    assert values(model)[0] != pytest.approx(values(load(folder, quantize="int4"))[0], rel=1e-3)


@needs_bitsandbytes
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_needs_count_packed_weights(toy_model: ToyModel, quantize: str) -> None:
    folder = toy_model("llama", intermediate_size=128)
    source = llreg_extract.resolve(str(folder), quantize=quantize)
    assert pickle.loads(pickle.dumps(source)) == source
    module = llreg_extract.load(source, dtype="bfloat16", device="cpu").module
    taken = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    # Beside the packed weights there is one scale a row, or a block of 64.
    packed = int(source.packed_parameters or 0)
    extra = 0 if quantize == "int8" else packed // 16
    assert llreg_extract.needs(source, dtype="bfloat16").weight_bytes == pytest.approx(taken + extra, abs=64)
    assert taken < llreg_extract.needs(llreg_extract.resolve(str(folder)), dtype="bfloat16").weight_bytes


def test_what_cannot_be_packed(toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(toy_model("llama"))
    with pytest.raises(InputError, match="unknown quantisation 'int2': choose int8 or int4"):
        llreg_extract.resolve(folder, quantize="int2")
    hide(monkeypatch, "bitsandbytes")
    with pytest.raises(MissingExtraError, match=r'bitsandbytes is needed here .* pip install "llreg\[quantize\]"'):
        llreg_extract.choose(llreg_extract.resolve(folder, quantize="int8"))


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make modules look as if they were not installed."""
    found = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name in modules else found(name, *rest)

    for place in ("loading.quantization", "libraries"):
        monkeypatch.setattr(f"llreg_extract.{place}.find_spec", find)


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head"],
}


def pack_int8(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    packed = (weight / scale).round().to(torch.int8)
    return {"weight": packed, "weight_scale": scale}, packed.float() * scale


def pack_fp8(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    scale = (weight.abs().max() / 448).reshape(1, 1)
    packed = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": packed, "weight_scale_inv": scale}, packed.float() * scale


@pytest.mark.parametrize(
    ("settings", "pack", "label"),
    [
        pytest.param(
            COMPRESSED,
            pack_int8,
            "compressed-tensors",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("compressed_tensors") is None, reason="needs compressed-tensors"
            ),
        ),
        (FP8, pack_fp8, "fp8"),
    ],
)
def test_checkpoints_that_are_unpacked_while_they_are_loaded(
    editable: Editable, settings: dict[str, Any], pack: Any, label: str
) -> None:
    folder = editable("llama")
    plain = load(folder)
    meant = copy.deepcopy(plain)
    meant.module.load_state_dict(write_quantized(folder, settings, pack))
    model = load(folder)
    assert model.source.identity["quantization"] == label
    assert values(model) == values(meant)
    assert values(model) != values(plain)
    assert values(load(folder, dtype="bfloat16")) == pytest.approx(values(meant), rel=0.05)
    dense = sum(weight.numel() * 4 for weight in model.module.parameters())
    assert llreg_extract.needs(model.source, dtype="float32").weight_bytes == dense


@pytest.mark.parametrize(
    ("settings", "hidden", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, ["optimum"], r"with gptq, which needs optimum.*: pip install optimum"),
        ({"quant_method": "awq", "bits": 4}, ["gptqmodel"], "with awq, which needs gptqmodel: pip install gptqmodel"),
        ({"load_in_4bit": True}, ["bitsandbytes"], "with bitsandbytes, which needs bitsandbytes: pip install bits"),
        (
            COMPRESSED,
            ["compressed_tensors"],
            "with compressed-tensors, which needs compressed-tensors: pip install compressed-tensors",
        ),
        ({"quant_method": "eetq", "weights": "int8"}, [], r"with eetq and cannot be loaded on cpu here: \w+"),
        ({"quant_method": "novel"}, [], "with novel and cannot be loaded on cpu here: this transformers does not know"),
    ],
)
def test_what_a_checkpoint_misses_is_told_before_its_weights_are_needed(
    editable: Editable, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], hidden: list[str], message: str
) -> None:
    folder = editable("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    hide(monkeypatch, *hidden)
    with pytest.raises(UnsupportedModelError, match=f"toy-llama is quantised {message}") as refused:
        llreg_extract.choose(llreg_extract.resolve(str(folder)), device="cpu")
    assert "\n" not in str(refused.value)


def test_a_library_that_computes_in_another_dtype_is_told(toy_model: ToyModel) -> None:
    from dataclasses import replace

    from llreg_extract.loading.quantization import finish

    model = load(toy_model("llama"))
    source = replace(model.source, settings={"quant_method": "awq"})
    with pytest.raises(
        ModelError, match="toy-llama is quantised and loads in float32, not bfloat16: give --dtype float32"
    ):
        finish(model.module, source, torch.bfloat16)
