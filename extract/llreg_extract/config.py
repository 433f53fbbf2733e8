"""What a checkpoint's config.json says: whether llreg can score it, and how it is described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llreg_extract.libraries import first_line, quiet
from llreg_schemas.errors import UnsupportedModelError

# Encoders that AutoModelForCausalLM loads all the same; they see the future unless is_decoder is set.
_ENCODERS = frozenset(
    (
        *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
        *("megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert"),
        *("roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    )
)
_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "context_length",
)
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
_DTYPES = ("float32", "bfloat16", "float16")


def read_config(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a config.json.

    Raises
    ------
    UnsupportedModelError
        It is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{name}: config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnsupportedModelError(f"{name}: config.json holds a {type(config).__name__}, not an object")
    return config


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
            known = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
            return {**config, **known.to_dict(), "is_encoder_decoder": known.is_encoder_decoder}
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

    kind, what = config.get("model_type"), architecture(config) or config.get("model_type")
    if not isinstance(kind, str):
        raise UnsupportedModelError(f"{name}: config.json names no model_type, so its architecture is unknown")
    if config.get("is_encoder_decoder"):
        raise _not_causal(name, f"{what} (encoder-decoder)")
    if kind in _ENCODERS and not config.get("is_decoder"):
        raise _not_causal(name, f"{what} (bidirectional encoder)")
    if any(str(what).endswith(head) for head in _OTHER_HEADS):
        raise _not_causal(name, str(what))
    if kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    remote = config.get("auto_map")
    if not remote and kind in CONFIG_MAPPING:
        raise _not_causal(name, str(what))
    if not remote:
        raise UnsupportedModelError(
            f"{name} is of model type {kind!r}, which this transformers does not know: a newer one may "
            "(pip install -U transformers)"
        )
    if not trust_remote_code:
        raise UnsupportedModelError(f"{name} needs trust_remote_code: add --trust-remote-code if you trust its code")
    if "AutoModelForCausalLM" not in remote:
        raise _not_causal(name, str(what))


def _not_causal(name: str, what: str) -> UnsupportedModelError:
    article = "an" if what[:1].lower() in "aeiou" else "a"
    return UnsupportedModelError(
        f"{name} is {article} {what}, not a causal language model: llreg scores decoder-only models"
    )


def architecture(config: Mapping[str, Any]) -> str | None:
    """Class name of the architecture, as "LlamaForCausalLM"; None where the config names none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def context_length(config: Mapping[str, Any]) -> int | None:
    """Longest text the model takes, in tokens; None where nothing limits it (recurrent models, ALiBi).

    The smallest of the limits that the config and its text part state.
    """
    parts = [config, *(part for key in _TEXT_CONFIGS if isinstance(part := config.get(key), Mapping))]
    limits = [_own_limit(part) for part in parts]
    return min((limit for limit in limits if limit is not None), default=None)


def _own_limit(config: Mapping[str, Any]) -> int | None:
    # ALiBi has no positions to run out of; Bloom configs still carry the seq_length of their training.
    if config.get("model_type") == "bloom" or config.get("alibi"):
        return None
    values = (config.get(key) for key in _CONTEXT_KEYS)
    return min((v for v in values if isinstance(v, int) and v > 0), default=None)


def quantization(config: Mapping[str, Any]) -> str | None:
    """Method by which the checkpoint is quantised, as "gptq"; None where it is not."""
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
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

    Nothing is allocated: the model is made on torch's meta device.

    Parameters
    ----------
    config : mapping
        From `complete_config`; a quantised checkpoint's is counted as if it were not.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        with quiet(), torch.device("meta"):
            known = CONFIG_MAPPING[config["model_type"]].from_dict(plain)
            return int(AutoModelForCausalLM.from_config(known).num_parameters())
    except Exception:  # noqa: BLE001 - what cannot be counted is unknown; loading tells what is wrong
        return None


def checkpoint_dtype(config: Mapping[str, Any]) -> str | None:
    """dtype the config says the weights are saved in: "float32", "bfloat16", "float16", or None."""
    value = config.get("dtype") or config.get("torch_dtype")
    text = str(value).removeprefix("torch.")
    return text if text in _DTYPES else None
