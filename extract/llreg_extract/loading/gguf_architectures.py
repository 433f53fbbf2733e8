"""What a GGUF file's metadata and tensors are in transformers, one architecture after another.

The metadata keys and their defaults are llama.cpp's (src/llama-arch.cpp and src/models/), the names and the order of rows of the tensors
those that gguf-py's tensor_mapping.py lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llreg_extract.loading.gguf_layout import (
    Restore,
    Shape,
    as_saved,
    fused_by_group,
    fused_by_head,
    gate_as_matrix,
    mamba_state,
    norms_less_one,
    rotated_halves,
    transposed,
)

Keys = Mapping[str, Any]


# From the metadata, the names of all tensors without their block's number, and the shape: config fields.
Derive = Callable[[Keys, Collection[str], Shape], dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp as a model type of transformers.

    Attributes
    ----------
    model_type : str
    fields : mapping
        Config fields by metadata key, without the architecture's name in front.
    modules : mapping
        Module names by tensor name; "blk" is the list of blocks, and "*" stands for the number of an expert.
    required : tuple of str
        Keys that a file must have, beside width, depth and heads.
    fixed : mapping
        Config fields whose value is in llama.cpp's code, or is its default for a key that is not there.
    derive : callable
        Config fields that follow from metadata and tensors together.
    restore : callable
        Values as a checkpoint has them.
    rotary : {"no", "whole", "partial"}
        Whether positions rotate all of a head, or as much of it as the metadata say.
    window_period : int or None
        One block in so many attends to the whole text, and the others to a window.
    other_blocks : str or None
        How transformers calls blocks that do not attend, where there are such.
    moved : mapping
        Modules of a tensor that has another place where the tensor named by the key is in the file too.
    """

    model_type: str
    fields: Mapping[str, str]
    modules: Mapping[str, str]
    required: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    derive: Derive = lambda keys, names, shape: {}
    restore: Restore = as_saved
    rotary: Literal["no", "whole", "partial"] = "whole"
    window_period: int | None = None
    other_blocks: str | None = None
    moved: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_RMS, _NORM = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
_SHAPE = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_GROUPED = {**_SHAPE, "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim"}
_RMS_SHAPE = {**_GROUPED, _RMS: "rms_norm_eps"}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_ALL_EXPERTS: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": []}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_CAPS = {key: key for key in ("attn_logit_softcapping", "final_logit_softcapping")}

_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "blk": "model.layers"}
_ATTENTION = {
    **{f"attn_{short}": f"self_attn.{short}_proj" for short in ("q", "k", "v")},
    "attn_output": "self_attn.o_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_GATED = {f"ffn_{short}": f"mlp.{short}_proj" for short in ("gate", "up", "down")}
_LLAMA = {**_MODEL, **_ATTENTION, **_NORMS, **_GATED}
_GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MIXTURE = {
    "ffn_gate_inp": "mlp.gate",
    **{f"ffn_{short}_exps": f"mlp.experts.*.{short}_proj" for short in ("gate", "up", "down")},
}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    **{f"ffn_{short}_shexp": f"mlp.shared_expert.{short}_proj" for short in ("gate", "up", "down")},
}
_WIDE = {"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}
_BLOOM = {
    "token_embd": "transformer.word_embeddings",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk": "transformer.h",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    **_WIDE,
}


def _llama_biases(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {
        "attention_bias": any(f"{leaf}.bias" in names for leaf in _ATTENTION),
        "mlp_bias": any(f"{leaf}.bias" in names for leaf in _GATED),
    }


def _attention_bias(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {"attention_bias": "attn_q.bias" in names}


def _query_scale(largest: int) -> Derive:
    """Gemma divides by the root of a head's size, and in its model of most blocks by that of the width's share of a head."""

    def derive(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
        share = shape.width // shape.heads
        return {"query_pre_attn_scalar": share if shape.depth == largest else shape.head_size}

    return derive


def _falcon(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    two_norms = "attn_norm_2.weight" in names
    return {
        "new_decoder_architecture": two_norms or shape.groups > 1,
        "num_ln_in_parallel_attn": 2 if two_norms else 1,
        "num_kv_heads": shape.groups,
        "bias": "attn_qkv.bias" in names,
    }


def _stablelm(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {"use_qkv_bias": "attn_q.bias" in names, "use_parallel_residual": "ffn_norm.weight" not in names}


def _mamba_sizes(keys: Keys, names: Collection[str], shape: Shape) -> dict[str, Any]:
    return {
        "expand": keys["ssm.inner_size"] // shape.width,
        "intermediate_size": keys["ssm.inner_size"],
        "use_conv_bias": "ssm_conv1d.bias" in names,
        "use_bias": "ssm_in.bias" in names,
    }


# By the name that general.architecture has; "llama+experts" is a llama of which every block has several.
ARCHITECTURES = {
    "llama": Architecture("llama", _RMS_SHAPE, _LLAMA, (_RMS,), derive=_llama_biases, restore=rotated_halves),
    "llama+experts": Architecture(
        "mixtral",
        {**_RMS_SHAPE, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"},
        {
            **_MODEL,
            **_ATTENTION,
            **_NORMS,
            "ffn_gate_inp": "block_sparse_moe.gate",
            "ffn_gate_exps": "block_sparse_moe.experts.*.w1",
            "ffn_down_exps": "block_sparse_moe.experts.*.w2",
            "ffn_up_exps": "block_sparse_moe.experts.*.w3",
        },
        (_RMS, "expert_used_count"),
        fixed={"sliding_window": None},
        restore=rotated_halves,
    ),
    "qwen2": Architecture("qwen2", _RMS_SHAPE, _LLAMA, (_RMS,)),
    "qwen3": Architecture("qwen3", _RMS_SHAPE, {**_LLAMA, **_HEAD_NORMS}, (_RMS,), derive=_attention_bias),
    "qwen2moe": Architecture(
        "qwen2_moe",
        {**_RMS_SHAPE, **_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        {**_MODEL, **_ATTENTION, **_NORMS, **_MIXTURE, **_SHARED_EXPERT},
        (_RMS, *_EXPERTS, "expert_shared_feed_forward_length"),
        fixed={**_ALL_EXPERTS, "norm_topk_prob": False},
        restore=gate_as_matrix,
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {**_RMS_SHAPE, **_EXPERTS},
        {**_MODEL, **_ATTENTION, **_NORMS, **_MIXTURE, **_HEAD_NORMS},
        (_RMS, *_EXPERTS),
        fixed={**_ALL_EXPERTS, "norm_topk_prob": True},
        derive=_attention_bias,
    ),
    "gemma": Architecture("gemma", _RMS_SHAPE, _LLAMA, (_RMS,), restore=norms_less_one),
    "gemma2": Architecture(
        "gemma2",
        {**_RMS_SHAPE, **_WINDOW, **_CAPS},
        {**_LLAMA, **_GEMMA_NORMS},
        (_RMS,),
        fixed={"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        derive=_query_scale(46),
        restore=norms_less_one,
        window_period=2,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        {**_RMS_SHAPE, **_WINDOW, **_CAPS},
        {**_LLAMA, **_GEMMA_NORMS, **_HEAD_NORMS},
        (_RMS, "attention.sliding_window"),
        derive=_query_scale(62),
        restore=norms_less_one,
        window_period=6,
    ),
    "phi3": Architecture(
        "phi3",
        {**_RMS_SHAPE, **_WINDOW},
        {
            **_MODEL,
            **_NORMS,
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        },
        (_RMS,),
        fixed={"sliding_window": None},
        rotary="partial",
    ),
    "starcoder2": Architecture(
        "starcoder2",
        {**_GROUPED, _NORM: "norm_epsilon"},
        {**_LLAMA, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"},
        (_NORM,),
        fixed={"sliding_window": None},
        derive=lambda keys, names, shape: {"use_bias": "attn_q.bias" in names},
    ),
    "stablelm": Architecture(
        "stablelm",
        {**_SHAPE, "attention.head_count_kv": "num_key_value_heads", _NORM: "layer_norm_eps"}
        | {"use_parallel_residual": "use_parallel_residual"},
        _LLAMA,
        (_NORM,),
        derive=_stablelm,
        rotary="partial",
    ),
    "nemotron": Architecture(
        "nemotron",
        {**_GROUPED, _NORM: "norm_eps"},
        _LLAMA,
        (_NORM,),
        derive=_llama_biases,
        restore=norms_less_one,
        rotary="partial",
    ),
    "falcon": Architecture(
        "falcon",
        {**_SHAPE, "feed_forward_length": "ffn_hidden_size", _NORM: "layer_norm_epsilon"}
        | {"attention.head_count_kv": "num_kv_heads"},
        {**_BLOOM, "attn_norm": "input_layernorm", "attn_norm_2": "ln_attn"},
        (_NORM,),
        fixed={"parallel_attn": True, "alibi": False, "multi_query": True},
        derive=_falcon,
        restore=fused_by_group,
        moved={"attn_norm_2": {"attn_norm": "ln_mlp"}},
    ),
    "bloom": Architecture(
        "bloom",
        {"block_count": "n_layer", "embedding_length": "hidden_size", "attention.head_count": "n_head"}
        | {_NORM: "layer_norm_epsilon"},
        {**_BLOOM, **_NORMS, "token_embd_norm": "transformer.word_embeddings_layernorm"},
        (_NORM,),
        restore=fused_by_head,
        rotary="no",
    ),
    "gptneox": Architecture(
        "gpt_neox",
        {**_SHAPE, _NORM: "layer_norm_eps", "use_parallel_residual": "use_parallel_residual"},
        {
            "token_embd": "gpt_neox.embed_in",
            "output_norm": "gpt_neox.final_layer_norm",
            "output": "embed_out",
            "blk": "gpt_neox.layers",
            **_NORMS,
            "attn_qkv": "attention.query_key_value",
            "attn_output": "attention.dense",
            **_WIDE,
        },
        (_NORM, "use_parallel_residual"),
        restore=fused_by_head,
        rotary="partial",
    ),
    "gpt2": Architecture(
        "gpt2",
        {
            "context_length": "n_positions",
            "block_count": "n_layer",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            _NORM: "layer_norm_epsilon",
        },
        {
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
            "blk": "transformer.h",
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        (_NORM,),
        restore=transposed,
        rotary="no",
    ),
    "mamba": Architecture(
        "mamba",
        {
            "block_count": "num_hidden_layers",
            "embedding_length": "hidden_size",
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
            _RMS: "layer_norm_epsilon",
        },
        {
            "token_embd": "backbone.embeddings",
            "output_norm": "backbone.norm_f",
            "output": "lm_head",
            "blk": "backbone.layers",
            "attn_norm": "norm",
            **{f"ssm_{short}": f"mixer.{short}_proj" for short in ("in", "x", "dt", "out")},
            "ssm_conv1d": "mixer.conv1d",
            "ssm_a": "mixer.A_log",
            "ssm_d": "mixer.D",
        },
        (_RMS, "ssm.conv_kernel", "ssm.state_size", "ssm.time_step_rank", "ssm.inner_size"),
        derive=_mamba_sizes,
        restore=mamba_state,
        rotary="no",
    ),
}
