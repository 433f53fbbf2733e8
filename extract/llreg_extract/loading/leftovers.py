"""Tensors of a checkpoint that its model did not take: harmless, of a part beside the language model, or a reason to refuse it.

Harmless is what changes nothing by its value: a buffer that equals the model's own, a causal mask, zeros for a bias. Beside
the language model are parts that no next token is predicted with: layers that draft further tokens, heads for rewards, the
eyes and ears of models of several media, and what the model's class declares as ignored. Anything else was trained and would be
missing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llreg_extract.files.tensors import StoredTensor
from llreg_extract.source import Source
from llreg_schemas.errors import UnsupportedModelError

# By a component of the name: layers that draft tokens, heads for rewards and for sentences.
_BESIDE = re.compile(r"(^|\.)(mtp\w*|nextn\w*|v_head|value_head|pooler|seq_relationship)(\.|$)")
# Where config.json describes parts for other media.
_MEDIA = re.compile(
    "vision|visual|image|img|audio|speech|video|multi_modal|mm_|vqmodel|connector|talker|code2wav|token2wav"
)
# In quantised checkpoints: how activations and key-value caches are rounded, which llreg leaves whole.
_ACTIVATIONS = re.compile(
    r"(^|[._])(k|v|q|kv|key|value|input|output|act|activation)_(global_)?(scale|zero_point|scale_ub)$"
)
_MASKS = ("bias", "masked_bias", "mask", "causal_mask", "attn_mask")
_CACHED = ("cos_cached", "sin_cached")  # by rotary layers of transformers before 4.39, for each position
_LAYER = re.compile(r"(.*?)\.(\d+)\.(.+)")  # a list of layers, the number of one, a tensor in it
_MASKED = -1e3  # a score of that much less leaves nothing of a key
_MOST_GROUPS = 4  # that a summary names


class Leftovers:
    """What is known of tensors that a model did not take.

    Parameters
    ----------
    module : torch.nn.Module
    stored : mapping of str to StoredTensor
        All tensors of the files.
    names : mapping of str to str
        What they are called in the model, or would be.
    declared : re.Pattern
        Names that the model's class ignores.
    config : mapping
        config.json.
    source : Source
    """

    def __init__(
        self,
        module: Any,
        stored: Mapping[str, StoredTensor],
        names: Mapping[str, str],
        declared: re.Pattern[str],
        config: Mapping[str, Any],
        source: Source,
    ) -> None:
        self._module, self._stored, self._names = module, stored, names
        self._declared, self._config, self._source = declared, config, source
        self._buffers = dict(module.named_buffers())
        self._modules = {path for path, _ in module.named_modules()}
        own = module.state_dict().keys()
        # Of each list of layers: what is in every one of them, and what is in those that the model has.
        self._layers: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._ordinary: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for key, match in ((key, _LAYER.fullmatch(key)) for key in stored):
            if match is not None:
                self._layers[match[1]][int(match[2])].add(match[3])
                if names[key] in own:
                    self._ordinary[match[1]][int(match[2])].add(match[3])

    def is_beside(self, key: str) -> bool:
        """Whether a tensor is of a part beside the language model; False where its value is harmless.

        Raises
        ------
        UnsupportedModelError
            It is neither.
        """
        name, tensor = self._names[key], self._stored[key]
        ending = name.rpartition(".")[2]
        if tensor.num_elements == 0 or (ending == "version" and tensor.num_elements == 1):
            return False
        if name in self._buffers or ending.endswith("inv_freq") or ending in _CACHED:
            if self._is_computed(name, tensor.read()):
                return False
            raise UnsupportedModelError(
                f"{self._source.name}: {key} in its files is not what config.json makes of it, so the model was trained with "
                "other settings: correct there what it is computed from, such as rope_theta or rope_scaling"
            )
        if ending == "position_ids" or ending in _MASKS:
            if _changes_nothing(tensor.read(), ending):
                return False
            parent, prefix = name.rpartition(".")[0], f"{self._module.base_model_prefix}."
            if ending in _MASKS and {parent, prefix + parent, parent.removeprefix(prefix)} & self._modules:
                head = self._module.get_output_embeddings()
                if head is not None and parent in {path for path, part in self._module.named_modules() if part is head}:
                    raise self._refusal(
                        key,
                        "its output layer has no bias, whatever is set: name the class that has one there (architectures, "
                        "model_type), or let code of the model's own run (--trust-remote-code)",
                    )
                raise self._refusal(
                    key, "where it is a bias that config.json leaves out, set attention_bias, or its like, there"
                )
        if self._is_layer(key):
            raise self._refusal(
                key, "config.json names fewer layers than the files hold: correct num_hidden_layers, or its like"
            )
        if self._declared.search(key) or self._declared.search(name) or _BESIDE.search(name) or self._drafts(key):
            return True
        if _MEDIA.search(name) and any(_MEDIA.search(part) and isinstance(v, dict) for part, v in self._config.items()):
            return True
        if self._source.settings is not None and _ACTIVATIONS.search(name):
            return True
        raise self._refusal(key, "config.json is of another model, or a newer transformers has a place for it")

    def _refusal(self, key: str, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self._source.name}: {key} in its files has no place in the {type(self._module).__name__} that its config.json "
            f"describes, which would be another model without it: {reason}"
        )

    def _is_computed(self, name: str, value: Any) -> bool:
        """Whether a buffer in the files is the one that the model computes for itself."""
        own = [self._buffers[name]] if name in self._buffers else []
        own = own or [buffer for key, buffer in self._buffers.items() if key.endswith("inv_freq")]
        cached = name.rpartition(".")[2] in _CACHED
        if any(_agrees_cached(value, buffer, name) if cached else _agrees(value, buffer) for buffer in own):
            return True
        if not cached and (not name.endswith("inv_freq") or value.dim() != 1):
            return False
        # Rotary frequencies were stored before they are scaled; and some classes keep their own in no buffer.
        rope = [each for each in _mappings(self._module.config.to_dict()) if {"rope_type", "type"} & each.keys()]
        if own and all(each.get("rope_type", each.get("type")) == "default" for each in rope):
            return False
        import torch

        length = value.shape[-1] // 2 if cached else len(value)
        exponents = torch.arange(0, 2 * length, 2, dtype=torch.float64) / (2 * length)
        thetas = [v for each in _mappings(self._module.config.to_dict()) for k, v in each.items() if _is_theta(k, v)]
        computed = [float(theta) ** -exponents for theta in thetas or [10_000.0]]
        return any(_agrees_cached(value, each, name) if cached else _agrees(value, each) for each in computed)

    def _is_layer(self, key: str) -> bool:
        """Whether a tensor is of a layer that the model lacks, and that is like those it has.

        Layers that draft tokens stand behind the others too, but have a projection of their own.
        """
        match = _LAYER.fullmatch(key)
        if match is None:
            return False
        in_model, number = self._ordinary[match[1]], int(match[2])
        return number not in in_model and self._layers[match[1]][number] <= set().union(*in_model.values())

    def _drafts(self, key: str) -> bool:
        """Whether a tensor is of a layer that drafts tokens, where config.json says that there are such."""
        match = _LAYER.fullmatch(key)
        drafting = any(part.get("num_nextn_predict_layers") for part in _mappings(self._config))
        return match is not None and drafting and int(match[2]) not in self._ordinary[match[1]]


def summary(keys: Sequence[str]) -> str:
    """Tensors in a few words, "42 tensors: model.layers.61.*, mtp.*"; nothing of none."""
    if not keys:
        return ""
    groups: Counter[str] = Counter()
    for key in keys:
        layer = _LAYER.fullmatch(key)
        groups[f"{layer[1]}.{layer[2]}.*" if layer else key] += 1
    if len(groups) > _MOST_GROUPS:  # by what stands first in their names
        groups = Counter(f"{key.partition('.')[0]}.*" for key in keys)
    most = [group for group, _ in groups.most_common(_MOST_GROUPS)]
    return f"{len(keys)} tensor{'s' * (len(keys) > 1)}: {', '.join(most)}{', …' * (len(groups) > len(most))}"


def _agrees(value: Any, own: Any) -> bool:
    """Whether a stored buffer is a computed one, but for the rounding of the dtype it is stored in, and of computing it."""
    import torch

    if value.numel() != own.numel():
        return False
    value, own = value.cpu().flatten(), own.cpu().flatten()
    if not value.is_floating_point():
        return bool((value.to(own.dtype) == own).all())
    limits = torch.finfo(value.dtype)
    rounded = own.to(value.dtype).double()
    return bool(
        torch.allclose(
            value.double(), rounded, rtol=max(1e-5, 2 * limits.eps), atol=limits.smallest_normal, equal_nan=True
        )
    )


def _agrees_cached(value: Any, frequencies: Any, name: str) -> bool:
    """Whether stored cosines or sines are those of rotary frequencies at positions 0, 1, 2 …, for both halves of a head."""
    import torch

    if value.dim() < 2 or value.shape[-1] != 2 * frequencies.numel():
        return False
    value = value.cpu().reshape(-1, value.shape[-1]).double()
    angles = torch.outer(torch.arange(len(value), dtype=torch.float64), frequencies.cpu().double().flatten())
    own = angles.cos() if name.endswith("cos_cached") else angles.sin()
    # Their angles were rounded to float32, and the values to a dtype of 16 bits, perhaps.
    return torch.allclose(value, torch.cat([own, own], -1), rtol=0.0, atol=0.01)


def _changes_nothing(value: Any, ending: str) -> bool:
    """Whether a tensor is what its name says and every causal model has: positions in order, a causal mask, a bias of zeros."""
    import torch

    if ending == "position_ids":
        return bool((value.flatten() == torch.arange(value.numel())).all())
    if ending == "masked_bias":  # what masked scores are set to
        return value.numel() == 1 and float(value) <= _MASKED
    if value.dim() >= 2 and value.shape[-1] == value.shape[-2] and value.shape[-1] > 1:
        visible = torch.ones(value.shape[-2:], dtype=torch.bool).tril()
        # Ones and zeros, or zeros and a large negative number.
        if bool((value == visible.to(value.dtype)).all()) or bool(
            torch.where(visible, value == 0, value <= _MASKED).all()
        ):
            return True
    return bool((value == 0).all())


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings in a config, at any depth."""
    if isinstance(value, Mapping):
        yield value
        for part in value.values():
            yield from _mappings(part)


def _is_theta(key: str, value: Any) -> bool:
    """Whether a setting is a base of rotary frequencies."""
    return isinstance(value, (int, float)) and (
        "theta" in key or ("base" in key and ("rope" in key or "rotary" in key))
    )
