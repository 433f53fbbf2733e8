"""Architectures that are not like the others, each with its reason: the one file to edit for another of them.

All functions take a config as a mapping: ``config.json`` completed by its type's defaults, or ``module.config.to_dict()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Encoders that AutoModelForCausalLM loads all the same: they see the future unless is_decoder is set.
_ENCODERS = frozenset(
    (
        *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
        *("megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert"),
        *("roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    )
)
# The same by the names of llama.cpp, or the beginning of a name.
_GGUF_ENCODERS = ("t5", "bert", "nomic-bert", "jina-bert", "modern-bert", "clip")

# The position of a first token is so much more than the padding's id: as many fewer are left for texts.
_POSITIONS_BEHIND_PADDING = {
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "roberta-prelayernorm"), 1),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "xmod"), 1),
    "prophetnet": 2,  # its predicting stream looks one position further
}

# A forward pass changes the module, so that two at once would disturb each other.
_STATEFUL_TYPES = frozenset(("recurrent_gemma",))  # keeps the recurrent state on its layers
_STATEFUL_ROPE = frozenset(("dynamic", "longrope"))  # swap the module's frequencies with the length of the text

_TEXT_CONFIGS = (
    "text_config",
    "llm_config",
    "language_config",
)  # where models of several media describe their text part


def with_text_part(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A config, and behind it those of its text part where it has one."""
    return [config, *(part for key in _TEXT_CONFIGS if isinstance(part := config.get(key), Mapping))]


def why_not_causal(config: Mapping[str, Any]) -> str | None:
    """Why a model of this config sees the future, in two words; None where the config does not say that it does."""
    kind = config.get("model_type")
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    if kind in _ENCODERS and not config.get("is_decoder"):
        return "bidirectional encoder"
    if kind == "xlm" and not config.get("causal"):
        return "bidirectional encoder"
    for part in with_text_part(config):
        # "vision", which Gemma 4 has here, is for images alone.
        if part.get("use_bidirectional_attention") in (True, "all") or part.get("is_causal") is False:
            return "bidirectional encoder"
    if kind == "reformer" and "lsh" in config.get("attn_layers", ()):  # which buckets a text fills depends on its end
        return "hashed attention"
    return None


def is_gguf_encoder(architecture: str | None) -> bool:
    """Whether llama.cpp's name of an architecture is one of an encoder."""
    return (architecture or "").startswith(_GGUF_ENCODERS)


def has_no_positions(config: Mapping[str, Any]) -> bool:
    """Whether a model has no positions to run out of: with ALiBi, for one, though Bloom's configs still carry the
    seq_length of their training."""
    return config.get("model_type") == "bloom" or bool(config.get("alibi"))


def reserved_positions(config: Mapping[str, Any]) -> int:
    """Positions that are counted in the config's context and that no token of a text can have."""
    kind = config.get("model_type")
    if kind not in _POSITIONS_BEHIND_PADDING:
        return 0
    return int(config.get("pad_token_id") or 0) + _POSITIONS_BEHIND_PADDING[kind]


def keeps_state(config: Mapping[str, Any]) -> bool:
    """Whether a forward pass changes the module, so that one thread only may score."""
    return config.get("model_type") in _STATEFUL_TYPES or bool(rope_types(config) & _STATEFUL_ROPE)


def rope_boundary(config: Mapping[str, Any]) -> int | None:
    """Length, in tokens, above which long rope uses other frequencies, for the whole batch at once; else None."""
    if "longrope" not in rope_types(config):
        return None
    parts = [config, config.get("text_config") or {}, config.get("rope_parameters") or {}]
    limits = [part.get("original_max_position_embeddings") for part in parts]
    return next((limit for limit in limits if isinstance(limit, int)), None)


def rope_types(config: Any) -> set[str]:
    """All rope types a config names, at any depth: some have one per kind of layer."""
    if isinstance(config, list):
        return set().union(*map(rope_types, config))
    if not isinstance(config, dict):
        return set()
    types = {str(config[key]) for key in ("rope_type", "type") if isinstance(config.get(key), str)}
    return types.union(*map(rope_types, config.values()))
