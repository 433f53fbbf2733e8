"""Models from GGUF files: all of a file's tensors and metadata take effect, or it is refused.

transformers has a reader of its own. It is not used: tensors and metadata keys that it has no place for are skipped without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.files.gguf_file import GGUFFile
from llreg_extract.loading.gguf_architectures import ARCHITECTURES, Architecture
from llreg_extract.loading.gguf_hybrids import HYBRIDS
from llreg_extract.loading.gguf_layout import Shape
from llreg_extract.loading.gguf_rotation import FACTORS, LONG, SECTIONS, SHORT, Rotation
from llreg_extract.loading.leftovers import summary

# Keys of an architecture that change no value, whatever they say.
_INERT = frozenset(
    ("context_length", "feed_forward_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned")
)
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_PATTERN = "attention.sliding_window_pattern"
_LOCAL = "sliding_attention"  # as transformers calls attention to a window


def load_module(file: GGUFFile, dtype: Any, device_map: Mapping[str, str] | None) -> tuple[Any, str]:
    """The model of a GGUF file, its weights in `dtype`, and what the file holds besides, in a few words.

    Parameters
    ----------
    file : GGUFFile
    dtype : torch.dtype
    device_map : mapping or None
        As for transformers' ``from_pretrained``.

    Returns
    -------
    module : transformers.PreTrainedModel
    unused : str
        "" for nothing.

    Raises
    ------
    UnsupportedModelError
        A tensor or a value of the metadata has no place in the model, or the model needs more than there is.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    keys, architecture = _keys(file)
    shape = _shape(file, keys, architecture)
    values = _fields(file, keys, architecture, shape)
    rotation = Rotation.from_keys(file, keys, architecture, shape)
    _refuse_others(file, keys)
    settings = rotation.settings(architecture) if rotation else {}
    try:
        config = AutoConfig.for_model(architecture.model_type, **values, **settings)
    except KeyError as error:
        raise file.refuse(f"this transformers knows no {architecture.model_type}") from error
    for field, value in values.items():
        if getattr(config, field, None) != value:
            raise file.refuse(f"transformers takes {field} {value} for {getattr(config, field, None)}")
    module, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None,
        config=config,
        state_dict=_state(file, architecture, shape, values, dtype),
        dtype=dtype,
        device_map=device_map,
        ignore_mismatched_sizes=True,  # they are refused below, all kinds of faults in one way
        output_loading_info=True,
    )
    for kind, problem in (
        ("missing_keys", "it lacks"),
        ("mismatched_keys", "these are of another size than its metadata say:"),
        ("unexpected_keys", "its metadata leave no place for"),
    ):
        names = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        if names:
            more = f" and {len(names) - 3} others" if len(names) > 3 else ""
            raise file.refuse(f"{problem} {', '.join(names[:3])}{more}")
    if rotation:
        rotation.check(file, module)
    return module, summary([name for name in file.header.tensors if _is_ahead(name, architecture, shape)])


def _keys(file: GGUFFile) -> tuple[dict[str, Any], Architecture]:
    """The metadata of the architecture, without its name in front; what is used is taken out later."""
    name = file.header.architecture
    keys = {
        key[len(f"{name}.") :]: value
        for key, value in [*file.header.metadata.items(), *file.header.arrays.items()]
        if key.startswith(f"{name}.")
    }
    # A value for each block, and all the same. Which blocks attend to a window is said by a number or by such a list.
    keys = {
        key: value[0]
        if isinstance(value, list) and value and value.count(value[0]) == len(value) and key not in (_PATTERN, SECTIONS)
        else value
        for key, value in keys.items()
    }
    kind = f"{name}+experts" if name == "llama" and keys.get("expert_count") else name
    known = {**ARCHITECTURES, **HYBRIDS}
    if kind not in known:
        raise file.refuse(f"llreg does not know what all the metadata of the architecture {name} mean")
    architecture = known[kind]
    needed = ("block_count", "embedding_length", *architecture.required)
    absent = [f"{name}.{key}" for key in needed if key not in keys]
    if absent:
        raise file.refuse(f"its metadata have no {', '.join(absent)}")
    # What decides how large a module is made, against the tensors, which are there.
    if "token_embd.weight" not in file.header.tensors:
        raise file.refuse("it has no token_embd.weight")
    width = file.header.tensors["token_embd.weight"].shape[-1]
    blocks = len({match[1] for tensor in file.header.tensors if (match := _BLOCK.fullmatch(tensor))})
    ahead = keys.get("nextn_predict_layers", 0)
    for key, value, others in (("embedding_length", width, ()), ("block_count", blocks, (blocks + ahead,))):
        if keys[key] not in (value, *others):
            raise file.refuse(f"its {key} is {keys[key]!r:.60}, and its tensors have {value}")
    return keys, architecture


def _shape(file: GGUFFile, keys: dict[str, Any], architecture: Architecture) -> Shape:
    if "attention.head_count" not in architecture.fields:
        return Shape(keys["embedding_length"], keys["block_count"], 0, 0, 0)
    sizes: dict[str, Any] = {key: keys.get(key) for key in ("embedding_length", "block_count", "attention.head_count")}
    for key, value in sizes.items():
        if not isinstance(value, int) or value <= 0:
            raise file.refuse(f"its {key} is {value!r:.100}")
    width, depth, heads = map(int, sizes.values())
    groups = keys.setdefault("attention.head_count_kv", heads)
    recurrent = (0, 0, 0, 0)
    if architecture.other_blocks:
        if isinstance(groups, list) and len(set(groups) - {0}) == 1:  # 0 for blocks that do not attend
            groups = keys["attention.head_count_kv"] = max(groups)
        # The last blocks only help to write faster: they predict the token after the next.
        depth = keys["block_count"] = depth - keys.pop("nextn_predict_layers", 0)
        if "ssm.inner_size" in keys:
            state_heads = keys["ssm.time_step_rank"]
            state_sizes = keys["ssm.state_size"], keys["ssm.inner_size"] // state_heads
            recurrent = (keys["ssm.group_count"], state_heads, *state_sizes)
    size = keys.setdefault("attention.key_length", width // heads)
    values = keys.pop("attention.value_length", size)
    if "attention.head_count_kv" not in architecture.fields and keys.pop("attention.head_count_kv") != heads:
        raise file.refuse(f"a {architecture.model_type} has as many heads for keys as for queries")
    if "attention.key_length" not in architecture.fields and keys.pop("attention.key_length") != width // heads:
        raise file.refuse(f"the heads of a {architecture.model_type} share its width")
    for key, value in (("attention.head_count_kv", groups), ("attention.key_length", size)):
        if not isinstance(value, int) or value <= 0:
            raise file.refuse(f"its {key} is {value!r:.100}")
    if values != size:
        raise file.refuse(f"its keys have {size} dimensions a head and its values {values}")
    return Shape(width, depth, heads, groups, size, recurrent)


def _fields(file: GGUFFile, keys: dict[str, Any], architecture: Architecture, shape: Shape) -> dict[str, Any]:
    """Fields of transformers' config; the keys that they come from are taken out."""
    tensors = file.header.tensors
    leaves = {match[2] if (match := _BLOCK.fullmatch(name)) else name for name in tensors}
    derived = architecture.derive(keys, leaves, shape)
    period = keys.pop(_PATTERN, architecture.window_period)
    fields = {field: keys.pop(key) for key, field in architecture.fields.items() if key in keys}
    contradicted = [field for field, value in derived.items() if fields.get(field, value) != value]
    if contradicted:
        raise file.refuse(f"its tensors contradict {contradicted[0]} {fields[contradicted[0]]}")
    keys.pop("ssm.inner_size", None)
    values = {**architecture.fixed, **fields, **derived}
    for field, value in values.items():
        if isinstance(value, list) and field in fields:
            raise file.refuse(f"{field} differs from block to block, {value!r:.60}")
    if not values.get("sliding_window", True):  # llama.cpp writes 0 for none
        values["sliding_window"] = None
    if architecture.other_blocks:
        kinds = [f"blk.{block}.attn_q.weight" in tensors for block in range(shape.depth)]
        interval = keys.pop("full_attention_interval", 0)
        if interval and kinds != [(block + 1) % interval == 0 for block in range(shape.depth)]:
            raise file.refuse(f"other blocks attend than full_attention_interval {interval} says")
        values["layer_types"] = ["full_attention" if attends else architecture.other_blocks for attends in kinds]
    if architecture.window_period is None:
        if any(period) if isinstance(period, list) else period not in (None, 0, 1):
            raise file.refuse("attention to a window in some blocks is not known of its architecture")
    elif isinstance(period, list):
        if len(period) != shape.depth:
            raise file.refuse(f"its {_PATTERN} is of {len(period)} blocks, and it has {shape.depth}")
        values["layer_types"] = [_LOCAL if local else "full_attention" for local in period]
    elif not isinstance(period, int) or isinstance(period, bool) or period < 1:
        raise file.refuse(f"its {_PATTERN} is {period!r:.60}, and no number of blocks")
    else:
        values["layer_types"] = [_LOCAL if (block + 1) % period else "full_attention" for block in range(shape.depth)]
    values["vocab_size"] = tensors["token_embd.weight"].shape[0]
    values["tie_word_embeddings"] = "output.weight" not in tensors
    # Defaults of the class that may lie outside the vocabulary; no value depends on them.
    values |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return values


def _refuse_others(file: GGUFFile, keys: Mapping[str, Any]) -> None:
    """Refuse metadata that were not used and are not known to be without effect."""
    if not keys.get("attention.causal", True):
        raise file.refuse("it sees the future")
    for key, value in keys.items():
        # 0 and false switch off what a key stands for.
        if key not in _INERT and key != "attention.causal" and value not in (0, False):
            raise file.refuse(f"llreg does not know what {key} {value!r:.60} means for its architecture")


def _state(
    file: GGUFFile, architecture: Architecture, shape: Shape, fields: Mapping[str, Any], dtype: Any
) -> dict[str, Any]:
    """Weights as a checkpoint of transformers has them, by their names there."""
    import torch

    modules = dict(architecture.modules)
    for tensor, others in architecture.moved.items():
        if f"blk.0.{tensor}.weight" in file.header.tensors:
            modules |= others
    state: dict[str, Any] = {}
    for name in file.header.tensors:
        if name in (FACTORS, LONG, SHORT) and architecture.rotary != "no":
            continue  # parts of the rotation
        block = _BLOCK.fullmatch(name)
        leaf = block[2] if block else name
        if _is_ahead(name, architecture, shape):
            continue
        stem, _, suffix = leaf.rpartition(".")
        if suffix not in ("weight", "bias") or leaf in modules:
            stem, suffix = leaf, ""
        if stem not in modules or stem == "blk":
            raise file.refuse(f"llreg knows no place for {name} in a {architecture.model_type}")
        prefix = f"{modules['blk']}.{block[1]}." if block else ""
        values = architecture.restore(leaf, file.tensor(name), shape)
        target = ".".join(part for part in (prefix + modules[stem], suffix) if part)
        for key, part in _experts(target, values):
            state[key] = torch.from_numpy(np.array(part, order="C")).to(dtype)
    if fields.get("attention_bias") or fields.get("mlp_bias"):
        _add_zero_biases(state, fields)
    return state


def _is_ahead(name: str, architecture: Architecture, shape: Shape) -> bool:
    """Whether a tensor is of a block that predicts the token after the next."""
    block = _BLOCK.fullmatch(name)
    return block is not None and architecture.other_blocks is not None and int(block[1]) >= shape.depth


def _experts(target: str, values: NDArray[Any]) -> Iterable[tuple[str, NDArray[Any]]]:
    """A tensor, or where it is that of several experts, theirs."""
    if "*" not in target:
        return [(target, values)]
    return [(target.replace("*", str(number)), part) for number, part in enumerate(values)]


def _add_zero_biases(state: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Where some linear layers of a kind have a bias, transformers gives one to all of them: the others' are 0."""
    kinds = [kind for kind, field in (("self_attn", "attention_bias"), ("mlp", "mlp_bias")) if fields.get(field)]
    for key in [key for key in state if re.search(rf"\.({'|'.join(kinds)})\.\w+_proj\.weight$", key)]:
        bias = key.removesuffix("weight") + "bias"
        state.setdefault(bias, state[key].new_zeros(len(state[key])))
