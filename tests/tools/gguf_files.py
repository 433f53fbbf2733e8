"""GGUF files written from checkpoints, as llama.cpp's converter does it.

Names of tensors are looked up in the gguf package; what the converter does to values and the metadata it writes are written down here
once more, and on purpose not taken from llreg: a fault in either shows as a difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]

# Keys of a config, and the metadata that say the same.
_KEYS = {
    "max_position_embeddings n_positions": "context_length",
    "hidden_size n_embd": "embedding_length",
    "num_hidden_layers n_layer": "block_count",
    "intermediate_size n_inner ffn_hidden_size": "feed_forward_length",
    "num_attention_heads n_head": "attention.head_count",
    "num_key_value_heads num_kv_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_epsilon layer_norm_eps norm_eps norm_epsilon": "attention.layer_norm_epsilon",
    "head_dim": "attention.key_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_experts num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "conv_kernel linear_conv_kernel_dim": "ssm.conv_kernel",
    "state_size linear_key_head_dim": "ssm.state_size",
    "time_step_rank linear_num_value_heads": "ssm.time_step_rank",
    "linear_num_key_heads": "ssm.group_count",
    "conv_L_cache": "shortconv.l_cache",
}


def write_gguf(
    folder: Path,
    path: Path,
    architecture: str,
    *,
    pre: str | None = "gpt-2",
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Array] | None = None,
    change: Callable[[dict[str, Array]], None] | None = None,
) -> Path:
    """Write a GGUF file of a checkpoint.

    Parameters
    ----------
    folder : Path
        With config.json, model.safetensors and tokenizer.json.
    path : Path
        Of the file to write.
    architecture : str
        llama.cpp's name.
    pre : str or None
        Name of the pre-tokenizer.
    metadata : mapping
        Further keys, without the architecture's name in front, or other values; None leaves a key out.
    tensors : mapping
        Further tensors.
    change : callable
        Changes all tensors, by their names in the file, before they are written.

    Raises
    ------
    KeyError
        The gguf package does not know the architecture, or a tensor of it.
    """
    config = json.loads((folder / "config.json").read_text())
    keys = _metadata(config) | dict(metadata or {})
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in keys.items():
        if value is not None:
            _add(writer, f"{architecture}.{key}", value)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = len(load_file(folder / "model.safetensors")[_embedding(folder)])
    add_tokenizer(writer, tokenizer, vocabulary, pre)
    weights = _tensors(folder, architecture, config) | dict(tensors or {})
    if change is not None:
        change(weights)
    for name, values in weights.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _embedding(folder: Path) -> str:
    names = ("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in")
    return next(key for key in load_file(folder / "model.safetensors") if key.removesuffix(".weight").endswith(names))


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds: dict[type, Callable[[str, Any], None]] = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        kinds[type(value)](key, value)


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for fields, key in _KEYS.items():
        for field in fields.split():
            if config.get(field) is not None:
                keys[key] = config[field]
    rotation = config.get("rope_parameters") or {}
    if "full_attention" in rotation:
        keys["rope.freq_base_swa"] = float(rotation["sliding_attention"]["rope_theta"])
        rotation = rotation["full_attention"]
    if rotation:
        keys["rope.freq_base"] = float(rotation["rope_theta"])
        size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        keys["rope.dimension_count"] = int(size * rotation.get("partial_rotary_factor", 1))
    kind = rotation.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rotation["factor"])}
        keys["rope.scaling.original_context_length"] = rotation.get("original_max_position_embeddings")
        for field, key in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            keys[f"rope.scaling.{key}"] = rotation.get(field)
    if config.get("multi_query") and not config["new_decoder_architecture"]:
        keys["attention.head_count_kv"] = 1
    if config.get("sliding_window") is not None and config["model_type"] in ("gemma2", "gemma3_text", "phi3"):
        keys["attention.sliding_window"] = config["sliding_window"]
    if "use_parallel_residual" in config:
        keys["use_parallel_residual"] = config["use_parallel_residual"]
    if config["model_type"] == "mamba":
        keys["ssm.inner_size"] = config["hidden_size"] * config["expand"]
        keys["attention.layer_norm_rms_epsilon"] = keys.pop("attention.layer_norm_epsilon")
        keys |= {"context_length": 1 << 20, "attention.head_count": 0, "feed_forward_length": 0}
    if "linear_value_head_dim" in config:
        keys["ssm.inner_size"] = config["linear_num_value_heads"] * config["linear_value_head_dim"]
        keys |= {"rope.dimension_sections": [*rotation["mrope_section"], 0], "full_attention_interval": 2}
    if config["model_type"] == "lfm2":
        attends = [kind == "full_attention" for kind in config["layer_types"]]
        keys["attention.head_count_kv"] = [attend * config["num_key_value_heads"] for attend in attends]
        keys["attention.layer_norm_rms_epsilon"] = keys.pop("attention.layer_norm_epsilon")
    if config["model_type"] == "bloom":
        keys["feed_forward_length"] = 4 * config["hidden_size"]
    return keys


def _tensors(folder: Path, architecture: str, config: Mapping[str, Any]) -> dict[str, Array]:
    """Tensors by their names in the file."""
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    depth = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(number, depth)
    weights: dict[str, Array] = {}
    experts: dict[str, list[Array]] = {}
    for key, values in load_file(folder / "model.safetensors").items():
        stem = key.removesuffix(".weight").removesuffix(".bias")
        # The published Bloom is saved without its head.
        stem = stem.removeprefix("transformer.") if architecture == "bloom" else stem
        name = names.get_name(stem.replace("dt_bias", "dt_proj"))
        if name is None:  # experts, one after another
            parts = key.split(".")
            if "experts" not in parts:
                raise KeyError(key)
            at = parts.index("experts")
            merged = names.get_name(".".join([*parts[: at + 1], parts[at + 2]]))
            if merged is None:
                raise KeyError(key)
            experts.setdefault(f"{merged}.weight", []).append(values)
            continue
        name += (
            ".bias" if key.endswith("dt_bias") else key[key.rindex(".") :] if key.endswith((".weight", ".bias")) else ""
        )
        weights[name] = _converted(architecture, name, values, config)
    return weights | {name: np.stack(parts) for name, parts in experts.items()}


def _converted(architecture: str, name: str, values: Array, config: Mapping[str, Any]) -> Array:
    """What the converter makes of a tensor."""
    heads = config.get("num_attention_heads") or config.get("n_head", 0)
    groups = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    if config.get("multi_query") and not config["new_decoder_architecture"]:
        groups = 1
    leaf = name.split(".")[-2]
    if architecture == "llama" and leaf in ("attn_q", "attn_k"):
        parts = heads if leaf == "attn_q" else groups
        size = len(values) // parts
        order = [
            head * size + half * (size // 2) + row
            for head in range(parts)
            for row in range(size // 2)
            for half in (0, 1)
        ]
        return values[order]
    if architecture.startswith("qwen35") and leaf != "ssm_norm":
        values = _tiled(leaf if leaf.startswith(("attn", "ssm")) else name.split(".")[-1], values, config)
    if (
        architecture in ("gemma", "gemma2", "gemma3", "nemotron", "qwen35", "qwen35moe")
        and leaf != "ssm_norm"
        and name.endswith("norm.weight")
    ):
        return values + 1
    if architecture == "gpt2" and leaf in ("attn_qkv", "attn_output", "ffn_up", "ffn_down") and values.ndim == 2:
        return values.T
    if architecture in ("bloom", "gptneox", "falcon") and leaf == "attn_qkv":
        size = len(values) // (heads + 2 * groups)
        shared = heads // groups
        rows = np.arange(len(values)).reshape(groups, shared + 2, size)
        order = [rows[:, :shared].ravel(), rows[:, shared].ravel(), rows[:, shared + 1].ravel()]
        return values[np.concatenate(order)]
    if name.endswith("ssm_a"):
        return -np.exp(values)
    return values.squeeze(1) if name.endswith("conv1d.weight") or "shortconv.conv." in name else values


def _tiled(leaf: str, values: Array, config: Mapping[str, Any]) -> Array:
    """Qwen3.5's heads of values: the first of each head of keys, then the second of each."""
    keys, heads, size = (
        config["linear_num_key_heads"],
        config["linear_num_value_heads"],
        config["linear_value_head_dim"],
    )
    order = np.arange(heads).reshape(keys, heads // keys).T.ravel()
    rows = (order[:, None] * size + np.arange(size)).ravel()
    if leaf in ("ssm_a", "ssm_dt", "ssm_alpha", "ssm_beta"):
        return values[order]
    if leaf == "attn_gate":
        return values[rows]
    if leaf == "ssm_out":
        return values[:, rows]
    if leaf in ("attn_qkv", "ssm_conv1d"):
        start = 2 * keys * config["linear_key_head_dim"]
        return np.concatenate([values[:start], values[start:][rows]])
    return values


def add_tokenizer(writer: Any, tokenizer: Mapping[str, Any], size: int, pre: str | None) -> None:
    """Write the vocabulary of a tokenizer.json of byte pairs."""
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    vocabulary |= {content: token["id"] for content, token in added.items()}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [
        gguf.TokenType.NORMAL
        if token not in added
        else gguf.TokenType.CONTROL
        if added[token]["special"]
        else gguf.TokenType.USER_DEFINED
        for token in tokens
    ]
    unused = [f"[PAD{number}]" for number in range(len(tokens), size)]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + unused)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(unused))
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
