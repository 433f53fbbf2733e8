"""What an adapter does to a model's values, against its matrices multiplied by hand in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file

import llreg_extract
from llreg_schemas.errors import UnsupportedModelError

peft: Any = pytest.importorskip("peft")

ToyModel = Callable[..., Path]
MakeAdapter = Callable[..., Path]
Tensors = Mapping[str, torch.Tensor]
TEXT = "Some words, and then some more of them: enough that each of a few experts gets its share."


def load(folder: Path, **options: Any) -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu", **options)


def value(model: llreg_extract.Model) -> float:
    scores = llreg_extract.score(model, [TEXT], cuts=[np.arange(0, len(TEXT), 9, dtype=np.int32)])
    assert scores.segments is not None
    assert scores.segments[0].sum() == pytest.approx(scores.log_likelihood[0], rel=1e-6)
    return float(scores.log_likelihood[0])


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def truth(base: Path, adapter: Path, change: Callable[[Any, Tensors], None]) -> float:
    """The log-likelihood in float64, of the base with an adapter's tensors laid over it by `change`; no peft in it."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    of_base = {key.removeprefix("base_model.model."): tensor.double() for key, tensor in tensors.items()}
    return in_float64(base, lambda module: change(module, of_base))


@cache
def plain(base: Path) -> float:
    """The base's own."""
    return in_float64(base, lambda module: None)


def in_float64(base: Path, change: Callable[[Any], None]) -> float:
    options = {"attn_implementation": "eager", "experts_implementation": "eager"}
    module = transformers.AutoModelForCausalLM.from_pretrained(base, **options).double().eval()
    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    with torch.inference_mode():
        change(module)
        ids = torch.tensor([transformers.AutoTokenizer.from_pretrained(base)(TEXT)["input_ids"]])
        log_p = torch.log_softmax(module(input_ids=ids, use_cache=False).logits[0], -1)
    return float(log_p[:-1].gather(1, ids[0, 1:, None]).sum())


def low_rank(scale: float | Callable[[str], float]) -> Callable[[Any, Tensors], None]:
    """W + scale BA, of each module for which there is an A; `scale` may go by its name."""

    def change(module: Any, tensors: Tensors) -> None:
        for key, first in tensors.items():
            name, _, kind = key.removesuffix(".weight").rpartition(".")
            if kind not in ("lora_A", "lora_embedding_A"):
                continue
            delta = tensors[key.replace("_A", "_B")] @ first * (scale(name) if callable(scale) else scale)
            part = module.get_submodule(name)
            turned = kind == "lora_embedding_A" or type(part).__name__ == "Conv1D"
            part.weight += delta.T if turned else delta

    return change


def replicated(order: list[int]) -> Callable[[Any, Tensors], None]:
    """LoRA on layers of their own, which begin as copies."""

    def change(module: Any, tensors: Tensors) -> None:
        module.model.layers = torch.nn.ModuleList(deepcopy(module.model.layers[k]) for k in order)
        module.config.num_hidden_layers = len(order)
        low_rank(2)(module, tensors)

    return change


def biases(module: Any, tensors: Tensors) -> None:
    """LoRA whose second matrix has a bias."""
    low_rank(2)(module, tensors)
    for key, bias in tensors.items():
        if key.endswith("lora_B.bias"):
            module.get_submodule(key.removesuffix(".lora_B.bias")).bias = torch.nn.Parameter(2 * bias)


def residual(module: Any, tensors: Tensors) -> None:
    """PiSSA (Meng et al., arXiv 2404.02948, equations 2 to 5): LoRA on what its first singular vectors leave of the weights."""
    for key in tensors:
        if key.endswith("lora_A.weight"):
            part = module.get_submodule(key.removesuffix(".lora_A.weight"))
            u, values, v = torch.linalg.svd(part.weight)
            part.weight -= u[:, :4] @ torch.diag(values[:4]) @ v[:4]
    low_rank(2)(module, tensors)


def magnitudes(module: Any, tensors: Tensors) -> None:
    """DoRA (Liu et al., arXiv 2402.09353, equation 5)."""
    low_rank(1)(module, tensors)
    for key, magnitude in tensors.items():
        if key.endswith(".lora_magnitude_vector"):
            weight = module.get_submodule(key.removesuffix(".lora_magnitude_vector")).weight
            weight *= (magnitude / weight.norm(dim=1))[:, None]


def activations(module: Any, tensors: Tensors) -> None:
    """IA3 (Liu et al., arXiv 2205.05638, section 3.3): what comes out of a module is scaled, or goes into it."""
    for key, factor in tensors.items():  # of shape (out, 1) or (1, in)
        module.get_submodule(key.removesuffix(".ia3_l")).weight *= factor


def hadamard(module: Any, tensors: Tensors) -> None:
    """LoHa (Hyeon-Woo et al., arXiv 2108.06098): the product, element by element, of two of low rank."""
    for key in tensors:
        if key.endswith("hada_w1_a"):
            a1, b1, a2, b2 = (tensors[key.replace("w1_a", part)] for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
            module.get_submodule(key.removesuffix(".hada_w1_a")).weight += (a1 @ b1) * (a2 @ b2) * 2


def kronecker(module: Any, tensors: Tensors) -> None:
    """LoKr (Yeh et al., arXiv 2309.14859): a Kronecker product."""
    for key in tensors:
        name, _, kind = key.rpartition(".")
        if kind == "lokr_w1":
            second = tensors[f"{name}.lokr_w2_a"] @ tensors[f"{name}.lokr_w2_b"]
            module.get_submodule(name).weight += torch.kron(tensors[key], second) * 2


def replaced(*names: str) -> Callable[[Any, Tensors], None]:
    """LoRA, and modules that are in the file whole."""

    def change(module: Any, tensors: Tensors) -> None:
        low_rank(1)(module, tensors)
        for name in names:
            module.get_submodule(name).weight[:] = tensors[f"{name}.weight"]

    return change


def experts(module: Any, tensors: Tensors) -> None:
    """LoRA with scale 2 on attention, and on the matrices of three experts as peft lays them out from 0.19.1 on."""
    low_rank(2)(module, {key: tensor for key, tensor in tensors.items() if ".experts" not in key})
    for key, first in tensors.items():
        if ".experts." in key and key.endswith("lora_A.weight"):
            second = tensors[key.replace("lora_A", "lora_B")]
            layer = module.get_submodule(key.partition(".base_layer")[0].removesuffix(".lora_A.weight"))
            weights = layer.gate_up_proj if "base_layer" in key else layer.down_proj
            for k in range(3):
                delta = 2 * second[:, k::3] @ first.reshape(3, -1, first.shape[1])[k]
                weights[k] += delta.T if "GptOss" in type(layer).__name__ else delta


def single_experts(module: Any, tensors: Tensors) -> None:
    """LoRA with scale 2 on the matrices of single experts, as they were before transformers 5."""
    for key, first in tensors.items():
        if key.endswith("lora_A.weight"):
            _, _, layer, _, _, expert, matrix, _, _ = key.split(".")
            delta = 2 * tensors[key.replace("lora_A", "lora_B")] @ first
            layer = module.model.layers[int(layer)].mlp.experts
            rows = {"w1": slice(None, 24), "w3": slice(24, None), "w2": slice(None)}[matrix]
            (layer.down_proj if matrix == "w2" else layer.gate_up_proj)[int(expert), rows] += delta


LAID_OUT = pytest.mark.skipif(Version(peft.__version__) < Version("0.19.1"), reason="lays experts out the other way")
LORA = {"lora_alpha": 8, "r": 4}
EXPERTS = {**LORA, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Any, Tensors], None], str]] = {
    "LoRA": ("llama", {}, LORA, low_rank(2), "merged"),
    "Conv1D": ("gpt2", {}, {**LORA, "target_modules": ["c_attn"]}, low_rank(2), "merged"),
    "rsLoRA": ("llama", {}, {**LORA, "use_rslora": True}, low_rank(4), "merged"),
    "patterns": (
        "llama",
        {},
        {**LORA, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 20}},
        low_rank(lambda name: 4 if "q_proj" in name else 5 if "1.self_attn.v" in name else 2),
        "merged",
    ),
    "head": ("llama", {}, {**LORA, "target_modules": ["lm_head", "v_proj"]}, low_rank(2), "merged"),
    "tied head": (
        "llama",
        {"tie_word_embeddings": True},
        {**LORA, "target_modules": ["lm_head", "v_proj"]},
        low_rank(2),
        "beside",
    ),
    "tied embeddings": (
        "llama",
        {"tie_word_embeddings": True},
        {**LORA, "target_modules": ["embed_tokens", "v_proj"]},
        low_rank(2),
        "beside",
    ),
    "tied, but not adapted": ("llama", {"tie_word_embeddings": True}, LORA, low_rank(2), "merged"),
    "tied, head saved": (
        "llama",
        {"tie_word_embeddings": True},
        {"r": 8, "lora_alpha": 8, "modules_to_save": ["lm_head"]},
        replaced("lm_head"),
        "merged",
    ),
    "layer_replication": (
        "llama",
        {},
        {**LORA, "layer_replication": [[0, 2], [0, 2]]},
        replicated([0, 1, 0, 1]),
        "beside",
    ),
    "experts": ("mixtral", {}, EXPERTS, experts, "merged"),
    "experts, input first": ("gpt_oss", {}, EXPERTS, experts, "merged"),
    "a bias where the base has none": ("llama", {}, {**LORA, "lora_bias": True}, biases, "beside"),
    "PiSSA": ("llama", {}, {**LORA, "init_lora_weights": "pissa"}, residual, "merged"),
    "DoRA": ("llama", {}, {"use_dora": True, "r": 8, "lora_alpha": 8}, magnitudes, "merged"),
    "IA3": (
        "llama",
        {},
        {"kind": peft.IA3Config, "target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        activations,
        "merged",
    ),
    "LoHa": ("llama", {}, {"kind": peft.LoHaConfig, "r": 4, "alpha": 8}, hadamard, "merged"),
    "LoKr": ("llama", {}, {"kind": peft.LoKrConfig, "r": 2, "alpha": 4, "decompose_factor": 4}, kronecker, "merged"),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=LAID_OUT) if case == "experts" else case for case in CASES])
def test_values_are_those_of_the_matrices(make_adapter: MakeAdapter, toy_model: ToyModel, case: str) -> None:
    kind, overrides, settings, change, application = CASES[case]
    base = toy_model(kind, **overrides)
    folder = make_adapter(base, **settings)
    model = load(folder)
    expected = truth(base, folder, change)
    assert value(model) == pytest.approx(expected, rel=1e-6)
    assert abs(expected - plain(base)) > 0.1
    environment = llreg_extract.environment(model)
    assert environment["adapter_application"] == application
    assert environment["versions"]["peft"] == peft.__version__
    assert any("peft" in type(part).__module__ for part in model.module.modules()) == (application == "beside")
    assert model.path == "replay"


@LAID_OUT
def test_experts_of_older_layouts(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    base = toy_model("mixtral", intermediate_size=16)  # its gate_up_proj is square
    both = edit(make_adapter(base, **EXPERTS), peft_version="0.18.1")
    assert value(load(both)) == pytest.approx(truth(base, both, experts), rel=1e-6)  # down_proj, which is not, tells
    folder = make_adapter(base, **{**EXPERTS, "target_parameters": ["mlp.experts.gate_up_proj"]}, name="square")
    assert load(folder).adapter == {"adapter_application": "merged"}
    for version in ("0.18.1", "0.19.1.dev0@abcdef", None):
        edit(folder, peft_version=version)
        with pytest.raises(
            UnsupportedModelError, match=r"square matrices of experts, .* before 0\.19\.1, which may have"
        ):
            load(folder)

    folder = make_adapter(toy_model("mixtral"), **EXPERTS, name="turned")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for key in [key for key in tensors if key.endswith("experts.lora_A.weight")]:
        other = key.replace("lora_A", "lora_B")
        tensors[key], tensors[other] = tensors[other].T.contiguous(), tensors[key].T.contiguous()
    save_file(tensors, path)
    with pytest.raises(
        UnsupportedModelError, match=r"another one, or laid out by a peft before 0\.19\.1: merge it there"
    ):
        load(folder)


@LAID_OUT
def test_adapters_of_single_experts(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    base = toy_model("mixtral")
    folder = edit(make_adapter(base, **LORA), target_modules=["w1", "w2", "w3"], lora_dropout=0.1)
    tensors = {}
    for layer in range(2):
        for expert in range(3):
            for matrix, (rows, columns) in {"w1": (24, 32), "w2": (32, 24), "w3": (24, 32)}.items():
                key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}"
                tensors[f"{key}.lora_A.weight"] = 0.3 * torch.randn(4, columns)
                tensors[f"{key}.lora_B.weight"] = 0.3 * torch.randn(rows, 4)
    save_file(tensors, folder / "adapter_model.safetensors")
    assert value(load(folder)) == pytest.approx(truth(base, folder, single_experts), rel=1e-6)
    edit(folder, use_rslora=True)
    with pytest.raises(UnsupportedModelError, match="adapts single experts with ranks or scales of their own"):
        load(folder)


@pytest.mark.parametrize(("size", "application"), [(1.0, "merged"), (0.01, "beside")])
def test_a_change_that_rounding_would_swallow_stays_beside(
    make_adapter: MakeAdapter, toy_model: ToyModel, size: float, application: str
) -> None:
    base = toy_model("mixtral", dtype="bfloat16")
    folder = make_adapter(base, **EXPERTS)
    path = folder / "adapter_model.safetensors"
    save_file({key: size * tensor for key, tensor in load_file(path).items()}, path)
    assert load(folder, dtype="bfloat16").adapter == {"adapter_application": application}


def test_threads_share_no_adapter_that_acts_beside(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    base = toy_model("mixtral", tie_word_embeddings=True)
    model = load(make_adapter(base, **{**EXPERTS, "target_modules": ["lm_head"]}))
    assert model.adapter == {"adapter_application": "beside"}
    model.threads, texts = 4, [TEXT[:k] for k in range(40, 52)]
    alone = [llreg_extract.score(model, [text]).log_likelihood[0] for text in texts]
    together = llreg_extract.score(model, texts, batch_tokens=1).log_likelihood  # a text a batch
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_settings_that_peft_does_not_know(make_adapter: MakeAdapter) -> None:
    folder = edit(make_adapter(), of_my_own="x", and_this=False)
    assert load(folder).adapter == {"adapter_application": "merged", "unknown_adapter_settings": "of_my_own"}
    edit(folder, peft_version="99.0")
    with pytest.raises(
        UnsupportedModelError, match=r"made by peft 99\.0 and sets of_my_own, which peft .* does not know"
    ):
        load(folder)


def test_two_weights_for_what_the_base_ties(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    folder = make_adapter(toy_model("llama", tie_word_embeddings=True))
    path = folder / "adapter_model.safetensors"
    shape = (300, 32)
    whole = {f"base_model.model.{key}.weight": torch.randn(shape) for key in ("lm_head", "model.embed_tokens")}
    save_file({**load_file(path), **whole}, path)
    with pytest.raises(
        UnsupportedModelError, match=r"holds a (lm_head|model\.embed_tokens)\.weight of its own, which its base"
    ):
        load(folder)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="there Mamba runs the module of which it read the weights",
)
def test_an_adapter_that_the_model_reads_past_is_refused(make_adapter: MakeAdapter, toy_model: ToyModel) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"adapts .*mixer\.dt_proj, whose weights this model reads without running"
    ):
        load(make_adapter(toy_model("mamba"), **{**LORA, "target_modules": ["dt_proj", "x_proj"]}))


def test_what_is_drawn_at_random_is_refused(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UnsupportedModelError, match="gives other log-probabilities each time that it is laid over"):
        load(make_adapter(**LORA, init_lora_weights="pissa_niter_4"))
