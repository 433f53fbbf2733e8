"""What a model's card, config and weights declare, in the form rows store it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llreg_extract.source import is_name

# What row.schema.json refuses in a string: control characters and those that turn the writing direction.
_UNPRINTABLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_TEXT_LENGTH, _BASE_MODELS = 500, 32


def declared(
    card: Mapping[str, Any],
    *,
    architecture: str | None,
    num_parameters: int | None,
    context_length: int | None,
    created: str | None,
) -> dict[str, Any]:
    """The "declared" part of a row record; None or [] where nothing is known.

    A card is free text by strangers: values of another type are dropped, unprintable characters too.
    """
    licence = card.get("license")
    if licence == "other":
        licence = card.get("license_name") or licence
    return {
        "base_model": _base_models(card.get("base_model")),
        "relation": clean(card.get("base_model_relation")),
        "licence": clean(licence),
        "architecture": clean(architecture),
        "num_parameters": num_parameters,
        "context_length": context_length,
        "created": created,
    }


def clean(value: object) -> str | None:
    """`value` as printable text, or None where it is no text."""
    if not isinstance(value, str):
        return None
    return _UNPRINTABLE.sub("", value)[:_TEXT_LENGTH] or None


def _base_models(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [model for model in values if isinstance(model, str) and is_name(model)][:_BASE_MODELS]


def read_card(path: Path) -> dict[str, Any]:
    """Metadata of a local README.md; empty where there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    if not path.is_file():
        return {}
    try:
        return dict(metadata_load(path) or {})
    except Exception:  # noqa: BLE001 - a malformed card is no reason to refuse a model
        return {}
