"""The order of values in the tensors of a GGUF file, undone: what llama.cpp's convert_hf_to_gguf.py does to a checkpoint's.

A function takes the name of a tensor without its block's number, its values, and the model's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """Sizes: width of the model, number of blocks, heads, heads that keys have, size of a head.

    `recurrent` are the heads of keys and of values, and the sizes of such a head, in blocks that have a state.
    """

    width: int
    depth: int
    heads: int
    groups: int
    head_size: int
    recurrent: tuple[int, int, int, int] = (0, 0, 0, 0)


Restore = Callable[[str, Array, Shape], Array]


def as_saved(name: str, values: Array, shape: Shape) -> Array:
    return values


def rotated_halves(name: str, values: Array, shape: Shape) -> Array:
    """Rows that rotate together lie side by side in llama.cpp's llama, and half a head apart in transformers."""
    leaf = name.rpartition(".")[0]
    if leaf not in ("attn_q", "attn_k"):
        return values
    heads = shape.heads if leaf == "attn_q" else shape.groups
    return values.reshape(heads, len(values) // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def norms_less_one(name: str, values: Array, shape: Shape) -> Array:
    """The norms of some models are 1 + weight, and llama.cpp saves the sum."""
    return values - 1 if name.endswith("norm.weight") else values


def transposed(name: str, values: Array, shape: Shape) -> Array:
    """GPT-2's linear layers have their input dimension first."""
    turned = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return values.T if name in turned else values


def fused_by_head(name: str, values: Array, shape: Shape) -> Array:
    """llama.cpp has the queries of all heads, their keys, their values; Bloom and GPT-NeoX all three of each head."""
    if not name.startswith("attn_qkv."):
        return values
    return values.reshape(3, shape.heads, shape.head_size, -1).swapaxes(0, 1).reshape(values.shape)


def fused_by_group(name: str, values: Array, shape: Shape) -> Array:
    """llama.cpp has all queries, all keys, all values; Falcon those of each group of heads that shares a key."""
    if not name.startswith("attn_qkv."):
        return values
    size = shape.head_size
    parts = np.split(values, [shape.heads * size, (shape.heads + shape.groups) * size])
    groups = [part.reshape(shape.groups, -1, size, *values.shape[1:]) for part in parts]
    return np.concatenate(groups, axis=1).reshape(values.shape)


def mamba_state(name: str, values: Array, shape: Shape) -> Array:
    if name == "ssm_conv1d.weight":
        return values[:, None, :]
    return np.log(-values) if name == "ssm_a" else values


def gate_as_matrix(name: str, values: Array, shape: Shape) -> Array:
    """The gate of the shared expert is one row of a matrix."""
    return values[None, :] if name == "ffn_gate_inp_shexp.weight" and values.ndim == 1 else values
