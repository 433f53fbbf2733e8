"""What config.json and adapter_config.json say: whether llreg can score the model, and how it is described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llreg_extract.files.checkpoint import ADAPTER_CONFIG
from llreg_extract.files.tensors import DTYPES
from llreg_extract.libraries import first_line, quiet
from llreg_extract.quirks import has_no_positions, reserved_positions, why_not_causal, with_text_part
from llreg_schemas.errors import UnsupportedModelError

# Endings of architectures that have another head than the one for the next token.
_OTHER_HEADS = ("Classification", "ForQuestionAnswering", "ForMaskedLM", "ForMultipleChoice", "RewardModel")

_CONTEXT_KEYS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"),
    *("context_length", "model_max_length", "max_target_positions"),
)

# Methods that change what the model reads, or mix adapters by what it reads: no weights come of them.
_NOT_WEIGHTS = ("PROMPT", "PREFIX_TUNING", "P_TUNING", "CPT", "CARTRIDGE", "XLORA", "POLY", "SHADOW")


def read_config(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a config.json.

    Raises
    ------
    UnsupportedModelError
        It is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_hook=_special_float)
    except ValueError as error:
        raise UnsupportedModelError(f"{name}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnsupportedModelError(f"{name}: config.json holds a {type(config).__name__}, not an object")
    return config


def _special_float(value: dict[str, Any]) -> Any:
    """transformers writes infinity and NaN, which JSON lacks, as objects."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def complete_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`config` with the defaults of its model type filled in; as it is where transformers knows no such type.

    Raises
    ------
    UnsupportedModelError
        transformers refuses the values.
    """
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return dict(config)
    try:
        with quiet():
            complete = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
            return {**config, **complete.to_dict(), "is_encoder_decoder": complete.is_encoder_decoder}
    except Exception as error:  # whatever a config class checks, the config is at fault
        raise UnsupportedModelError(f"{name}: config.json is not accepted: {first_line(error)}") from error


def check_causal(config: Mapping[str, Any], name: str, *, trust_remote_code: bool) -> None:
    """Refuse what is no decoder-only causal language model, as far as its config tells.

    Parameters
    ----------
    config : mapping
        From `complete_config`.
    name : str
        The model, for messages.
    trust_remote_code : bool
        Whether code from the checkpoint may run.

    Raises
    ------
    UnsupportedModelError
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UnsupportedModelError(f"{name}: config.json names no model_type, so its architecture is unknown")
    class_name = architecture(config) or kind
    reason = why_not_causal(config)
    if reason is not None:
        raise _not_causal(name, f"{class_name} ({reason})")
    if any(class_name.endswith(head) for head in _OTHER_HEADS):
        raise _not_causal(name, class_name)
    remote = config.get("auto_map")
    if trust_remote_code and isinstance(remote, dict):
        check_code(name, remote.get("AutoConfig"), remote.get("AutoModelForCausalLM"))
    if kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    # transformers has no causal class for it: code from the checkpoint may.
    if not remote and kind in CONFIG_MAPPING and class_name.endswith("ForCausalLM"):
        raise UnsupportedModelError(
            f"{name} is a {class_name} on its own ({kind}), which transformers loads only as a part of a larger model"
        )
    if not remote and kind in CONFIG_MAPPING:
        raise _not_causal(name, class_name)
    if not remote:
        raise UnsupportedModelError(
            f"{name} is of model type {kind!r}, which this transformers does not know: a newer one may "
            "(pip install -U transformers)"
        )
    if not trust_remote_code:
        raise UnsupportedModelError(f"{name} needs trust_remote_code: add --trust-remote-code if you trust its code")
    if "AutoModelForCausalLM" not in remote:
        raise _not_causal(name, class_name)


def check_code(name: str, *references: Any) -> None:
    """Refuse code that is not the checkpoint's own.

    Parameters
    ----------
    name : str
        The model, for messages.
    references : str
        Classes as ``auto_map`` names them: "file.Class", or "org/name--file.Class". What is no string is passed over.

    Raises
    ------
    UnsupportedModelError
    """
    for reference in references:
        repository, dashes, _ = reference.partition("--") if isinstance(reference, str) else ("", "", "")
        if dashes:
            raise UnsupportedModelError(
                f"the code of {name} lies in another repository ({repository}), where its commit does not pin it: copy the code "
                "beside the weights and give that directory, or leave out --trust-remote-code if transformers has code for it"
            )


def _not_causal(name: str, class_name: str) -> UnsupportedModelError:
    article = "an" if class_name[:1].lower() in "aeiou" else "a"
    return UnsupportedModelError(
        f"{name} is {article} {class_name}, not a causal language model: llreg scores decoder-only models"
    )


def architecture(config: Mapping[str, Any]) -> str | None:
    """Class name of the architecture, as "LlamaForCausalLM"; None where the config names none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def context_length(config: Mapping[str, Any]) -> int | None:
    """Longest text the model takes, in tokens; None where nothing limits it (recurrent models, ALiBi).

    The smallest of the limits that the config and its text part state.
    """
    limits = []
    for part in with_text_part(config):
        if not has_no_positions(part):
            stated = [value for key in _CONTEXT_KEYS if isinstance(value := part.get(key), int) and value > 0]
            limits += [min(stated) - reserved_positions(part)] if stated else []
    return min(limits, default=None)


def quantization_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a config, or its text part, says of how the weights are quantised; None where they are not."""
    stated = (part.get("quantization_config") for part in with_text_part(config))
    settings = next((value for value in stated if isinstance(value, Mapping)), None)
    return None if settings is None else dict(settings)


def quantization(config: Mapping[str, Any]) -> str | None:
    """Method by which the checkpoint is quantised, as "gptq:4bit"; None where it is not."""
    settings = quantization_settings(config)
    if settings is None:
        return None
    method = str(settings.get("quant_method") or "unknown")
    bits = settings.get("bits")
    if settings.get("load_in_8bit"):
        bits = 8
    elif settings.get("load_in_4bit"):
        bits = 4
    return f"{method}:{bits}bit" if isinstance(bits, int) else method


def count_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of the architecture a config describes, tied ones once; None where transformers cannot build it.

    Parameters
    ----------
    config : mapping
        From `complete_config`; a quantised checkpoint's is counted as if it were not.
    """
    module = _hollow_module(config)
    return None if module is None else int(module.num_parameters())


def count_linear_parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters in the weights of linear layers, without the output layer: what bitsandbytes packs.

    Experts that an architecture keeps in one tensor are no layers of their own, and stay as they are.

    Parameters
    ----------
    config : mapping
        From `complete_config`.

    Returns
    -------
    int or None
        None where transformers cannot build the architecture.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    module = _hollow_module(config)
    if module is None:
        return None
    head = module.get_output_embeddings()
    layers = (layer for layer in module.modules() if isinstance(layer, (torch.nn.Linear, Conv1D)) and layer is not head)
    return sum(layer.weight.numel() for layer in layers)


def _hollow_module(config: Mapping[str, Any]) -> Any:
    """The model a config describes, on torch's meta device, where nothing is allocated; None where it cannot be built."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        with quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(plain))
    except Exception:  # noqa: BLE001 - what cannot be counted is unknown; loading tells what is wrong
        return None


def checkpoint_dtype(config: Mapping[str, Any]) -> str | None:
    """dtype the config says the weights are saved in: "float32", "bfloat16", "float16", or None."""
    value = config.get("dtype") or config.get("torch_dtype")
    text = str(value).removeprefix("torch.")
    return text if text in DTYPES.values() else None


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter says of itself.

    Attributes
    ----------
    method : str
        As peft names it: "LORA".
    base : str or None
        Hub id or path of the model it was trained on.
    revision : str or None
        Revision of that model.
    """

    method: str
    base: str | None
    revision: str | None


def read_adapter_config(path: Path, name: str) -> AdapterConfig:
    """The adapter_config.json of an adapter that llreg can score.

    Raises
    ------
    UnsupportedModelError
        It is malformed, or no adapter of weights.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{name}: {ADAPTER_CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise UnsupportedModelError(f"{name}: {ADAPTER_CONFIG} names no peft_type, so its kind is unknown")
    method = config["peft_type"]
    if any(word in method for word in _NOT_WEIGHTS):
        raise UnsupportedModelError(
            f"{name} is a {method} adapter, which changes what the model reads and not its weights: llreg scores adapters "
            "of weights, such as LoRA"
        )
    # The first is a name of Python code to import; the second acts only behind tokens that a text does not hold.
    for key, remedy in (
        ("megatron_config", "give the merged model"),
        (
            "alora_invocation_tokens",
            "it acts only behind these tokens, so score its base model, or train it as plain LoRA",
        ),
    ):
        if config.get(key):
            raise UnsupportedModelError(f"{name}: {ADAPTER_CONFIG} sets {key}, which llreg does not take: {remedy}")
    return AdapterConfig(method, _text(config, "base_model_name_or_path"), _text(config, "revision"))


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    return value if isinstance(value, str) and value else None
