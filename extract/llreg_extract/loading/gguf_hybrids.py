"""Architectures of GGUF files of whose blocks some attend and the others have a state of fixed size, or a convolution."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from llreg_extract.loading.gguf_architectures import ARCHITECTURES, Architecture, Keys
from llreg_extract.loading.gguf_layout import Array, Shape, gate_as_matrix

_RMS = "attention.layer_norm_rms_epsilon"
_QWEN3, _QWEN2_MOE = ARCHITECTURES["qwen3"], ARCHITECTURES["qwen2moe"]


def _short_convolution(name: str, values: Array, shape: Shape) -> Array:
    return values[:, None, :] if name == "shortconv.conv.weight" else values


def _grouped(values: Array, shape: Shape, size: int) -> Array:
    """Heads of values in transformers' order, by the head of keys that they share; llama.cpp has the first of each, then the second."""
    keys, heads = shape.recurrent[:2]
    return values.reshape(heads // keys, keys, size, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


def _gated_delta(name: str, values: Array, shape: Shape) -> Array:
    """Qwen3.5's blocks with a state (Yang et al. 2024, arXiv 2412.06464), and its norms, which are 1 + weight but for the state's."""
    keys, _, key_size, size = shape.recurrent
    if name.endswith("norm.weight"):
        return values if name == "ssm_norm.weight" else values - 1
    if name == "ssm_a":
        return _grouped(np.log(-values), shape, 1)
    if name in ("ssm_dt.bias", "ssm_alpha.weight", "ssm_beta.weight"):
        return _grouped(values, shape, 1)
    if name == "attn_gate.weight":
        return _grouped(values, shape, size)
    if name == "ssm_out.weight":
        return _grouped(values.T, shape, size).T
    if name in ("attn_qkv.weight", "ssm_conv1d.weight"):
        start = 2 * keys * key_size  # behind queries and keys
        values = np.concatenate([values[:start], _grouped(values[start:], shape, size)])
        return values[:, None, :] if name == "ssm_conv1d.weight" else values
    return gate_as_matrix(name, values, shape)


def _value_size(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {"linear_value_head_dim": shape.recurrent[3]}


def _convolutions(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {"conv_bias": "shortconv.in_proj.bias" in names}


def _without(names: Mapping[str, str], *keys: str) -> dict[str, str]:
    return {key: name for key, name in names.items() if key not in keys}


_STATE_KEYS = {
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
}
_STATE_MODULES = {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
}
_QWEN35 = replace(
    _QWEN3,
    model_type="qwen3_5_text",
    fields={**_QWEN3.fields, **_STATE_KEYS},
    modules={**_without(_QWEN3.modules, "ffn_norm"), **_STATE_MODULES},
    required=(_RMS, *_STATE_KEYS, "ssm.inner_size"),
    derive=_value_size,
    restore=_gated_delta,
    rotary="partial",
    other_blocks="linear_attention",
)

HYBRIDS = {
    "qwen35": _QWEN35,
    "qwen35moe": replace(
        _QWEN35,
        model_type="qwen3_5_moe_text",
        fields=_without({**_QWEN2_MOE.fields, **_STATE_KEYS}, "feed_forward_length"),
        modules=_without({**_QWEN2_MOE.modules, **_QWEN35.modules}, "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
        required=(*_QWEN2_MOE.required, *_STATE_KEYS, "ssm.inner_size"),
    ),
    "lfm2": Architecture(
        "lfm2",
        {**_QWEN3.fields, _RMS: "norm_eps", "shortconv.l_cache": "conv_L_cache"},
        {
            "token_embd": "model.embed_tokens",
            "token_embd_norm": "model.embedding_norm",
            "output": "lm_head",
            "blk": "model.layers",
            "attn_norm": "operator_norm",
            "ffn_norm": "ffn_norm",
            **{f"attn_{short}": f"self_attn.{short}_proj" for short in ("q", "k", "v")},
            "attn_output": "self_attn.out_proj",
            **{f"attn_{short}_norm": f"self_attn.{short}_layernorm" for short in ("q", "k")},
            "ffn_gate": "feed_forward.w1",
            "ffn_down": "feed_forward.w2",
            "ffn_up": "feed_forward.w3",
            **{f"shortconv.{part}": f"conv.{part}" for part in ("conv", "in_proj", "out_proj")},
        },
        (_RMS, "shortconv.l_cache"),
        fixed={"block_auto_adjust_ff_dim": False},
        derive=_convolutions,
        restore=_short_convolution,
        other_blocks="conv",
    ),
}
