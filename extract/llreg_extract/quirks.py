"""What a forward pass leaves behind in a model, and where it computes differently, as the config tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def keeps_state(config: Mapping[str, Any]) -> bool:
    """Whether a forward pass changes the module, so that two at once would disturb each other."""
    # Dynamic and long rope swap the module's frequencies with the length of the text.
    return config.get("model_type") == "recurrent_gemma" or bool(_rope_types(config) & {"dynamic", "longrope"})


def rope_boundary(config: Mapping[str, Any]) -> int | None:
    """Length above which long rope uses other frequencies, for the whole batch at once; else None."""
    if "longrope" not in _rope_types(config):
        return None
    places = [config, config.get("text_config") or {}, config.get("rope_parameters") or {}]
    found = [place.get("original_max_position_embeddings") for place in places]
    return next((value for value in found if isinstance(value, int)), None)


def _rope_types(config: Any) -> set[str]:
    """All rope types a config names, at any depth: some have one per kind of layer."""
    if isinstance(config, list):
        return set().union(*map(_rope_types, config))
    if not isinstance(config, dict):
        return set()
    here = {str(config[key]) for key in ("rope_type", "type") if isinstance(config.get(key), str)}
    return here.union(*map(_rope_types, config.values()))
