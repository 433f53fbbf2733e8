"""Settings of config.json that the code of a model never reads: written for another class, or another version of it.

transformers keeps any key it does not know and says nothing. Whether such a key would change values only its author knows, so
those whose names say that they might are recorded with the row (`unused_settings`), and nothing is refused.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from llreg_extract.quirks import with_text_part

# What a name says of a setting: how scores, attention, positions and norms are computed; and not how training went, nor how
# many there are of something, which the weights' shapes tell.
_TELLING = re.compile(
    "softcap|logit|scal|multipl|clip|alibi|window|rotary|rope|theta|norm|eps|bias|attention|attn|activation|hidden_act|"
    "position|temperature|parallel|residual|qk_|router|gate|topk|top_k"
)
_HARMLESS = re.compile(
    "^n(um)?_|drop|init|loss|_coef|_impl|implementation|size|_len|aux|jitter|max_|output_|use_cache|fused|flash|token"
)
_ROPE = "transformers.modeling_rope_utils"  # reads the older spellings of what is rope_parameters now


def unread_settings(config: Mapping[str, Any], module: Any) -> list[str]:
    """Keys of a config.json that may change values and that stand nowhere in the code of its model, or that name other code.

    Parameters
    ----------
    config : mapping
        As the file has it.
    module : torch.nn.Module
        The model that was made of it.
    """
    unread = []
    classes = config.get("auto_map")
    if (
        isinstance(classes, Mapping)
        and "AutoModelForCausalLM" in classes
        and type(module).__module__.startswith("transformers.")
    ):
        unread.append("auto_map")  # code of its own, for a model type that transformers has code for, too
    for part, own in zip(with_text_part(config), (module.config, module.config.get_text_config()), strict=False):
        code = _code(type(module), type(own))
        unread += [
            key
            for key, value in part.items()
            if _TELLING.search(key)
            and not _HARMLESS.search(key)
            and (value is True or value not in (None, False, 0, 1, "", [], {}))
            and not re.search(rf"\b{re.escape(key)}\b", code)
        ]
        # Of two spellings of the rotary base the newer one counts.
        newer = part.get("rope_parameters")
        if isinstance(newer, Mapping) and part.get("rope_theta", newer.get("rope_theta")) != newer.get("rope_theta"):
            unread.append("rope_theta")
    return sorted(set(unread))


def _code(*classes: type) -> str:
    """Source of the modules that define classes, and the models that they are derived from: not of what all models share."""
    names = {each.__module__ for cls in classes for each in cls.__mro__}
    own = [
        name
        for name in names
        if name.startswith("transformers.models.") or not name.startswith(("transformers.", "torch."))
    ]
    code = ""
    for name in own:
        with suppress(OSError, TypeError):  # built in, or its file is gone
            code += inspect.getsource(sys.modules[name])
    return code + inspect.getsource(sys.modules[_ROPE]) if "rope_parameters" in code else code
