"""GGUF files of many architectures against the checkpoints that they were written from, whose values are computed in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tools.gguf_files import write_gguf

import llreg_extract
from llreg_schemas.errors import UnsupportedModelError

transformers = pytest.importorskip("transformers")
import torch

NDFloat = np.ndarray[Any, np.dtype[np.float64]]
Published = Callable[..., tuple[Path, NDFloat]]

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and then it runs back into the old forest.",
    "def add(a, b):\n    return a + b\n",
    "数学は楽しい。",
]
ROTATION = {"rope_type": "default", "rope_theta": 777.0}
BASE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "rope_parameters": ROTATION,
}
HALF = {"rope_parameters": {**ROTATION, "partial_rotary_factor": 0.5}}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "beta_slow": 2.0}
MULTI = {"multi_query": True, "parallel_attn": True, "bias": False, "alibi": False, "layer_norm_epsilon": 0.01}
NO_HEADS = {
    "num_attention_heads": None,
    "num_key_value_heads": None,
    "intermediate_size": None,
    "rope_parameters": None,
    "max_position_embeddings": None,
}

STATES = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "rope_parameters": {
        **ROTATION,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}

# llama.cpp's name, transformers' name, config: what differs from the classes' defaults is what a reader may forget.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama", {"rms_norm_eps": 0.01, "head_dim": 16}),
    "llama-biases": ("llama", "llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-linear": ("llama", "llama", {"rope_parameters": {**ROTATION, "rope_type": "linear", "factor": 4.0}}),
    "llama-experts": ("llama", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-yarn": ("qwen2", "qwen2", {"rms_norm_eps": 0.01, "rope_parameters": {**ROTATION, **YARN}}),
    "qwen2moe": (
        "qwen2moe",
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "norm_topk_prob": False},
    ),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 16}),
    "qwen3moe": ("qwen3moe", "qwen3_moe", {**EXPERTS, "head_dim": 16, "norm_topk_prob": True}),
    "gemma": ("gemma", "gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", "gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": (
        "gemma3",
        "gemma3_text",
        {
            **GEMMA,
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {**ROTATION, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 99.0},
            },
        },
    ),
    "phi3": ("phi3", "phi3", {"sliding_window": 8, **HALF}),
    "starcoder2": ("starcoder2", "starcoder2", {"norm_epsilon": 0.01, "tie_word_embeddings": True}),
    "stablelm": ("stablelm", "stablelm", {"layer_norm_eps": 0.01, "use_qkv_bias": True, **HALF}),
    "stablelm-parallel": ("stablelm", "stablelm", {"use_parallel_residual": True, **HALF}),
    "nemotron": ("nemotron", "nemotron", {"norm_eps": 0.01, "head_dim": 8, **HALF}),
    "falcon-7b": ("falcon", "falcon", MULTI),
    "falcon-40b": ("falcon", "falcon", {**MULTI, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "qwen35": ("qwen35", "qwen3_5_text", STATES),
    "qwen35moe": ("qwen35moe", "qwen3_5_moe_text", {**EXPERTS, **STATES, "shared_expert_intermediate_size": 40}),
    "lfm2": (
        "lfm2",
        "lfm2",
        {
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "norm_eps": 0.01,
            "conv_L_cache": 4,
        },
    ),
    "bloom": ("bloom", "bloom", {**NO_HEADS, "num_hidden_layers": None, "n_layer": 2, "n_head": 4}),
    "gptneox": (
        "gptneox",
        "gpt_neox",
        {"num_key_value_heads": None, "layer_norm_eps": 0.01, "use_parallel_residual": False, **HALF},
    ),
    "gpt2": (
        "gpt2",
        "gpt2",
        {
            **dict.fromkeys(("hidden_size", "num_hidden_layers")),
            **NO_HEADS,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 96,
            "layer_norm_epsilon": 0.01,
        },
    ),
    "mamba": (
        "mamba",
        "mamba",
        {**NO_HEADS, "state_size": 4, "time_step_rank": 4, "conv_kernel": 3, "layer_norm_epsilon": 0.01},
    ),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, toy_tokenizer: Callable[..., Any]) -> Published:
    """Factory of checkpoints, with the log-likelihoods of `TEXTS` in float64; equal arguments give the same one."""
    made: dict[str, tuple[Path, NDFloat]] = {}

    def save(kind: str, **settings: Any) -> tuple[Path, NDFloat]:
        key = repr((kind, settings))
        if key not in made:
            merged = {**BASE, **settings}
            config = transformers.AutoConfig.for_model(kind, **{k: v for k, v in merged.items() if v is not None})
            config.pad_token_id = None
            torch.manual_seed(0)
            module = transformers.AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for name, weight in module.named_parameters():
                    if name.endswith("bias") or "norm" in name or "ln_" in name:  # made 0 or 1 otherwise
                        weight.add_(torch.randn_like(weight) * 0.1)
            folder = tmp_path_factory.mktemp("published") / kind
            module.save_pretrained(folder)
            tokenizer = toy_tokenizer()
            tokenizer.save_pretrained(folder)
            made[key] = folder, exact(module, tokenizer.backend_tokenizer)
        return made[key]

    return save


def exact(module: Any, tokenizer: Any) -> NDFloat:
    """float64 of shape (3,), nats: one text at a time, from the whole logits."""
    module = module.double()
    if getattr(module.config, "_experts_implementation", None) == "grouped_mm":
        module.set_experts_implementation("eager")  # the grouped product takes no float64
    values = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
        with torch.no_grad():
            steps = module(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        values.append(float(steps.gather(-1, ids[0, 1:, None]).sum()))
    return np.array(values)


def scored(path: Path) -> NDFloat:
    return llreg_extract.score(llreg_extract.load(llreg_extract.resolve(str(path)), device="cpu"), TEXTS).log_likelihood


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_has_its_checkpoints_values(published: Published, tmp_path: Path, case: str) -> None:
    architecture, kind, settings = CASES[case]
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    folder, expected = published(kind, **settings)
    try:
        path = write_gguf(folder, tmp_path / "toy.gguf", architecture)
    except KeyError as error:
        pytest.skip(f"this gguf has no {error}")
    found = scored(path)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_the_demos_relatives_are_made(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/examples/make_relatives.py reads a file as llreg does; its copy has the values of the file."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "docs" / "examples")
    folder, expected = published("llama")
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama")
    __import__("make_relatives").main(path, tmp_path / "made")
    names = sorted(made.name.removeprefix("SmolLM2-135M-") for made in (tmp_path / "made").iterdir())
    assert names == ["0-layers-removed", "bf16", "copy", "halfway-to-int4", "int4", "int8", "noise"]
    np.testing.assert_allclose(scored(tmp_path / "made" / "SmolLM2-135M-copy"), expected, rtol=2e-6)


def test_llama_3s_frequencies_are_those_of_the_tensor_that_has_their_factors(
    published: Published, tmp_path: Path
) -> None:
    rotation = {
        **ROTATION,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder, expected = published("llama", rope_parameters=rotation)
    # As Meta's apply_scaling has it: long waves are stretched, short ones are not.
    waves = [2 * math.pi * 777.0 ** (step / 8) for step in (0, 2, 4, 6)]
    blends = [min(max((64 / wave - 1) / 3, 0), 1) for wave in waves]
    factors = np.array([1 / ((1 - blend) / 8 + blend) for blend in blends])
    assert 1 < factors[1] < 8
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama", tensors={"rope_freqs.weight": factors})
    np.testing.assert_allclose(scored(path), expected, rtol=2e-6)
    assert not np.allclose(scored(write_gguf(folder, tmp_path / "without.gguf", "llama")), expected, rtol=1e-4)


def test_phi_3s_long_rope_is_that_of_its_two_tensors(published: Published, tmp_path: Path) -> None:
    rotation = {
        **ROTATION,
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 100,
        "attention_factor": 1.3,
    }
    folder, expected = published("phi3", rope_parameters=rotation, original_max_position_embeddings=100)
    path = write_gguf(
        folder,
        tmp_path / "toy.gguf",
        "phi3",
        metadata={"rope.scaling.attn_factor": 1.3, "rope.scaling.original_context_length": 100},
        tensors={f"rope_factors_{kind}.weight": np.array(rotation[f"{kind}_factor"]) for kind in ("short", "long")},
    )
    np.testing.assert_allclose(scored(path), expected, rtol=2e-6)


def test_blocks_that_predict_further_tokens_are_recorded(published: Published, tmp_path: Path) -> None:
    folder, expected = published("qwen3_5_text", **STATES)
    ahead = {"blk.2.attn_norm.weight": np.ones(32), "blk.2.nextn.eh_proj.weight": np.ones((32, 64))}
    path = write_gguf(
        folder, tmp_path / "toy.gguf", "qwen35", metadata={"block_count": 3, "nextn_predict_layers": 1}, tensors=ahead
    )
    model = llreg_extract.load(llreg_extract.resolve(str(path)), device="cpu")
    np.testing.assert_allclose(llreg_extract.score(model, TEXTS).log_likelihood, expected, rtol=2e-6)
    assert llreg_extract.environment(model)["unused_weights"] == "2 tensors: blk.2.*"


def test_biases_of_some_projections_leave_the_others_without(published: Published, tmp_path: Path) -> None:
    folder, expected = published("qwen2")  # a llama of which queries, keys and values have biases, and the output none
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama")
    np.testing.assert_allclose(scored(path), expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"block_count": 1}}, "its block_count is 1, and its tensors have 2"),
        ({"metadata": {"block_count": 2**31}}, "its block_count is 2147483648, and its tensors have 2"),
        ({"metadata": {"embedding_length": 2**31}}, "its embedding_length is 2147483648, and its tensors have 32"),
        ({"change": lambda tensors: tensors.pop("token_embd.weight")}, "no token_embd.weight"),
        (
            {"tensors": {"blk.0.attn_q.bias": np.ones(32), "blk.1.ffn_norm.bias": np.ones(32)}},
            "no place for .*layernorm.bias",
        ),
        ({"change": lambda tensors: tensors.pop("blk.1.ffn_up.weight")}, r"it lacks model\.layers\.1\.mlp\.up_proj"),
        ({"tensors": {"blk.0.attn_sinks.weight": np.ones(4)}}, r"knows no place for blk\.0\.attn_sinks\.weight"),
        ({"metadata": {"final_logit_softcapping": 3.0}}, r"what final_logit_softcapping 3\.0 means"),
        ({"metadata": {"attention.clamp_kqv": 8.0}}, r"what attention\.clamp_kqv 8\.0 means"),
        ({"metadata": {"attention.causal": False}}, "it sees the future"),
        ({"metadata": {"attention.layer_norm_rms_epsilon": None}}, r"no llama\.attention\.layer_norm_rms_epsilon"),
        ({"metadata": {"rope.scaling.type": "su"}}, r"rope\.scaling\.type is 'su'"),
        ({"metadata": {"rope.dimension_count": 4}}, "4 of 8 dimensions of a head are rotated"),
        ({"metadata": {"attention.value_length": 4}}, "keys have 8 dimensions a head and its values 4"),
        ({"metadata": {"attention.head_count": 8}}, r"of another size .*q_proj"),
        ({"metadata": {"feed_forward_length": [64, 32]}}, "differs from block to block"),
        ({"tensors": {"rope_factors_long.weight": np.ones(4)}}, "long rope lacks"),
        ({"tensors": {"rope_freqs.weight": np.ones(3)}}, r"rope_freqs\.weight has the shape \(3,\), and 4 frequencies"),
    ],
)
def test_what_would_be_left_over_or_made_up_is_refused(
    published: Published, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder, _ = published("llama")
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama", **changes)
    with pytest.raises(UnsupportedModelError, match=rf"toy cannot be loaded: .*{message}"):
        scored(path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([True], "is of 1 blocks, and it has 2"),
        (False, "is False, and no number of blocks"),
        (0, "is 0, and no number of blocks"),
    ],
)
def test_a_window_pattern_that_says_nothing_of_the_blocks(
    published: Published, tmp_path: Path, pattern: Any, message: str
) -> None:
    folder, _ = published("gemma2", **CASES["gemma2"][2])
    path = write_gguf(folder, tmp_path / "toy.gguf", "gemma2", metadata={"attention.sliding_window_pattern": pattern})
    with pytest.raises(UnsupportedModelError, match=rf"toy cannot be loaded: .*{message}"):
        scored(path)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_blocks_that_all_attend_alike(published: Published, tmp_path: Path, kind: str) -> None:
    folder, expected = published("gemma2", **{**CASES["gemma2"][2], "layer_types": [kind, kind]})
    pattern = [kind == "sliding_attention"] * 2
    path = write_gguf(folder, tmp_path / "toy.gguf", "gemma2", metadata={"attention.sliding_window_pattern": pattern})
    np.testing.assert_allclose(scored(path), expected, rtol=2e-6)


def test_what_changes_no_value_is_no_obstacle(published: Published, tmp_path: Path) -> None:
    folder, expected = published("llama")
    inert = {
        "attention.clamp_kqv": 0.0,
        "expert_count": 0,
        "tensor_data_layout": "Meta AI original pth",
        "vocab_size": 300,
        "feed_forward_length": [64, 64],
        "attention.value_length": 8,
        "rope.scaling.finetuned": False,
    }
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama", metadata=inert)
    np.testing.assert_allclose(scored(path), expected, rtol=2e-6)


def test_a_file_that_was_cut_short_is_refused_before_it_is_read(published: Published, tmp_path: Path) -> None:
    folder, _ = published("llama")
    path = write_gguf(folder, tmp_path / "toy.gguf", "llama")
    whole = path.read_bytes()
    for missing in (1, 5_000):
        path.write_bytes(whole[:-missing])
        with pytest.raises(UnsupportedModelError, match=r"the GGUF of toy is cut short: .* fetch it again"):
            scored(path)
