"""A model's card, and with it what the model declares of itself, in the form rows store it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llreg_extract.source import is_name

# What row.schema.json refuses in a string: control characters and those that turn the writing direction.
_UNPRINTABLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_TEXT_LENGTH, _BASE_MODELS, _TAGS = 500, 32, 50
_MAX_COUNT = (1 << 53) - 1  # the largest integer that all JSON readers keep
# How the Hub tags what it knows or infers, also where the card says nothing of it.
_TAGGED_BASE = re.compile(r"base_model:(?:(finetune|adapter|quantized|merge):)?([^:]+)")


def declared(
    card: Mapping[str, Any],
    *,
    architecture: str | None,
    num_parameters: int | None,
    context_length: int | None,
    created: str | None,
    tags: Sequence[str] | None = None,
    downloads: int | None = None,
) -> dict[str, Any]:
    """The "declared" part of a row record; None or [] where nothing is known.

    A card is free text by strangers: values of another type are dropped, unprintable characters too.

    Parameters
    ----------
    card : mapping
        Metadata of the model card.
    architecture : str or None
    num_parameters, context_length : int or None
    created : str or None
        When the repository was made.
    tags : sequence of str, optional
        The Hub's tags, the first 50 of which are kept; by default the card's. They also tell licence, base models and
        relation where the card does not.
    downloads : int, optional
        Downloads of the last 30 days, as the Hub counts them.
    """
    tag_values = card.get("tags") if tags is None else tags
    printable = map(clean, tag_values if isinstance(tag_values, (list, tuple)) else ())
    kept_tags = list(dict.fromkeys(tag for tag in printable if tag))[:_TAGS]
    tagged_bases = [match for tag in tags or () if isinstance(tag, str) and (match := _TAGGED_BASE.fullmatch(tag))]

    bases = card.get("base_model") or [match[2] for match in tagged_bases]
    bases = bases if isinstance(bases, list) else [bases]
    base_models = list(dict.fromkeys(base for base in bases if isinstance(base, str) and is_name(base)))[:_BASE_MODELS]
    relation = clean(card.get("base_model_relation")) or next((match[1] for match in tagged_bases if match[1]), None)

    licence = card.get("license") or next((tag[8:] for tag in kept_tags if tag.startswith("license:")), None)
    if licence == "other":
        licence = card.get("license_name") or licence
    return {
        "base_model": base_models,
        "relation": relation,
        "licence": clean(licence),
        "architecture": clean(architecture),
        "num_parameters": num_parameters,
        "context_length": context_length,
        "created": created,
        "tags": kept_tags,
        "downloads": downloads if isinstance(downloads, int) and 0 <= downloads <= _MAX_COUNT else None,
    }


def clean(value: object) -> str | None:
    """`value` as printable text, or None where it is no text."""
    if not isinstance(value, str):
        return None
    return _UNPRINTABLE.sub("", value)[:_TEXT_LENGTH] or None


def read_card(path: Path) -> dict[str, Any]:
    """Metadata of a local README.md; empty where there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    if not path.is_file():
        return {}
    try:
        return dict(metadata_load(path) or {})
    except Exception:  # noqa: BLE001 - a malformed card is no reason to refuse a model
        return {}
