"""What a model's card, config and weights declare, in the form rows store it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
    kept = _tags(card.get("tags") if tags is None else tags)
    tagged = [found for tag in tags or () if isinstance(tag, str) and (found := _TAGGED_BASE.fullmatch(tag))]
    licence = card.get("license") or next((tag[8:] for tag in kept if tag.startswith("license:")), None)
    if licence == "other":
        licence = card.get("license_name") or licence
    return {
        "base_model": _base_models(card.get("base_model") or [found[2] for found in tagged]),
        "relation": clean(card.get("base_model_relation")) or next((found[1] for found in tagged if found[1]), None),
        "licence": clean(licence),
        "architecture": clean(architecture),
        "num_parameters": num_parameters,
        "context_length": context_length,
        "created": created,
        "tags": kept,
        "downloads": downloads if isinstance(downloads, int) and 0 <= downloads <= _MAX_COUNT else None,
    }


def clean(value: object) -> str | None:
    """`value` as printable text, or None where it is no text."""
    if not isinstance(value, str):
        return None
    return _UNPRINTABLE.sub("", value)[:_TEXT_LENGTH] or None


def _base_models(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return _distinct(model for model in values if isinstance(model, str) and is_name(model))[:_BASE_MODELS]


def _tags(value: object) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else []
    return _distinct(tag for tag in map(clean, values) if tag)[:_TAGS]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def read_card(path: Path) -> dict[str, Any]:
    """Metadata of a local README.md; empty where there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    if not path.is_file():
        return {}
    try:
        return dict(metadata_load(path) or {})
    except Exception:  # noqa: BLE001 - a malformed card is no reason to refuse a model
        return {}
