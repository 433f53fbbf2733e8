"""Laying a PEFT adapter over its base model: into its weights where that changes no value, else beside them."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llreg_extract.files.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from llreg_extract.libraries import first_line, is_out_of_memory
from llreg_extract.loading.selfcheck import close
from llreg_extract.scoring.encoding import tokenise
from llreg_extract.scoring.forward import token_log_probs
from llreg_schemas.errors import LlregError, UnsupportedModelError

# What a merged adapter is compared on with the same adapter beside its base.
_TEXTS = (
    "The river had risen in the night, and by morning the lower fields were under water.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "Am 3. Mai 1876 fuhr der erste Zug über die neue Brücke; 1.200 Menschen sahen zu.",
)
_LENGTH = 64  # tokens of each at most
# Error of merging, as a share of what the adapter changes (root mean square over tokens), up to which it is rounding. In 16
# bits a change that is small beside the weights would be rounded away.
_ROUNDING = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.25}

_MODULE = "base_model.model."  # what peft puts before the name of a module of the base
_LAYOUT_SINCE = "0.19.1"  # of peft: how it reads matrices of experts (huggingface/peft, pull request 3165)


@dataclass(frozen=True)
class Adapted:
    """A model with its adapter.

    Attributes
    ----------
    module : torch.nn.Module
        Of the base model's class, in evaluation mode.
    application : {"merged", "beside"}
        Whether the adapter is in the weights, or acts beside them.
    unknown_settings : tuple of str
        Keys of adapter_config.json with a value that the installed peft does not know, and so passes over.
    """

    module: Any
    application: Literal["merged", "beside"]
    unknown_settings: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, str]:
        """Pieces of a row's provenance: "adapter_application", and "unknown_adapter_settings" where there are such."""
        unknown = ", ".join(self.unknown_settings)[:500]
        return {"adapter_application": self.application, **({"unknown_adapter_settings": unknown} if unknown else {})}


def lay_over(read_base: Callable[[], Any], folder: Path, name: str, tokenizer: Any, dtype: str) -> Adapted:
    """Lay an adapter over its base model.

    It is merged, W + BA for LoRA (Hu et al., arXiv 2106.09685, section 4.1), so that scoring meets an ordinary model, if
    the log-probabilities of some texts stay those that peft computes with the adapter beside its base. If they do not, the
    base is read once more, for taking the adapter out of the weights again would round them, and the adapter acts beside it.
    Beside it acts from the start where the weights are packed, which merging would round again, or where a module that is
    adapted shares them with one that is not, as a head with the embeddings.

    Parameters
    ----------
    read_base : callable
        Gives the base model, a torch.nn.Module in evaluation mode, which is changed.
    folder : Path
        With the adapter's files.
    name : str
        The adapter's, for messages.
    tokenizer : tokenizer
        As `tokenise` takes it.
    dtype : str
        Of the weights.

    Raises
    ------
    UnsupportedModelError
        The adapter was not made for this model, or it cannot be told what it does to it.
    """
    settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    sequences = [ids[:_LENGTH] for ids in tokenise(tokenizer, _TEXTS).ids]

    def log_probs(module: Any) -> NDArray[np.float32]:
        return np.concatenate(token_log_probs(module, sequences, module.device))

    def read() -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
        """The adapter beside its base, a peft.PeftModel, and what the base gives without it and with it."""
        module = read_base()
        plain = log_probs(module)
        with _errors_of_peft(name):
            return _wrap(module, folder, settings, name), plain, log_probs(module)

    def read_again(beside: NDArray[np.float32]) -> Any:
        gc.collect()  # a second base might not fit beside the first
        adapted, _, again = read()
        if not close(beside, again, dtype):
            raise UnsupportedModelError(
                f"{name} gives other log-probabilities each time that it is laid over its base model, for a part of it is drawn at "
                "random: save it as plain LoRA (path_initial_model_for_weight_conversion), or give the merged model"
            )
        return adapted

    unknown = _unknown_settings(settings, name)
    adapted, plain, beside = read()
    # Where it begins from a decomposition of the base's weights, that may be drawn at random.
    if isinstance(settings.get("init_lora_weights"), str):
        del adapted
        adapted = read_again(beside)
    module = adapted.get_base_model()
    past = _read_past(module, log_probs)
    stays = _is_packed(module) or _shares_weights(module)
    if not stays:
        try:
            module = adapted.merge_and_unload(safe_merge=True).eval()
            if _is_rounding(plain, beside, log_probs(module), dtype):
                return Adapted(module, "merged", unknown)
        except Exception as error:  # of all kinds, where there is nothing to merge into
            if is_out_of_memory(error):
                raise
    if past:
        raise UnsupportedModelError(
            f"{name} adapts {past[0]}, whose weights this model reads without running it, so that the adapter has an effect when it is "
            "merged and none when it is not: give the merged model"
        )
    if not stays:
        del adapted, module
        module = read_again(beside).get_base_model()
    return Adapted(module, "beside", unknown)


@contextmanager
def _errors_of_peft(name: str) -> Iterator[None]:
    """What goes wrong in peft is the adapter's error."""
    try:
        yield
    except LlregError:
        raise
    except Exception as error:  # of all kinds
        if is_out_of_memory(error):
            raise
        raise UnsupportedModelError(f"{name} cannot be laid over its base model: {first_line(error)}") from error


def _unknown_settings(settings: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Keys of an adapter_config.json that peft will pass over although they are set.

    Raises
    ------
    UnsupportedModelError
        They are of a newer peft: what they do would be missing.
    """
    import peft
    from packaging.version import Version
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = PEFT_TYPE_TO_CONFIG_MAPPING[settings["peft_type"]].__dataclass_fields__
    unknown = tuple(sorted(key for key, value in settings.items() if value and key not in {*known, "peft_version"}))
    if unknown and _made_by(settings) > Version(peft.__version__):
        raise UnsupportedModelError(
            f"{name} was made by peft {settings['peft_version']} and sets {', '.join(unknown)}, which peft {peft.__version__} "
            "does not know: pip install -U peft"
        )
    return unknown


def _made_by(settings: Mapping[str, Any]) -> Any:
    """Version of the peft that made an adapter, which its config holds from 0.18 on; 0 where it does not say."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(str(settings.get("peft_version")).partition("@")[0])  # a commit stands behind the @
    except InvalidVersion:
        return Version("0")


def _wrap(module: Any, folder: Path, settings: Mapping[str, Any], name: str) -> Any:
    """Put an adapter's layers around those of its base, with all its weights.

    Parameters
    ----------
    module : torch.nn.Module
        The base, which is changed.
    folder : Path
    settings : mapping
        The adapter's config.
    name : str

    Returns
    -------
    peft.PeftModel
    """
    from peft import PeftConfig, PeftModel

    _fit_vocabulary(module, folder / ADAPTER_WEIGHTS, name)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    if getattr(config, "lora_dropout", 0):
        config.lora_dropout = 0.0  # acts in training only, and peft refuses it where experts are adapted
    adapted = PeftModel(module, config)
    _check_experts(module, config, settings, name)
    try:
        report = adapted.load_adapter(str(folder), "default", torch_device=str(module.device))
    except RuntimeError as error:
        mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
        if mismatch is None:
            raise
        turned = (
            f", or laid out by a peft before {_LAYOUT_SINCE}: merge it there, and give the merged model"
            if settings.get("target_parameters")
            else ""
        )
        raise UnsupportedModelError(
            f"{name} cannot be laid over its base model: it was made for another one{turned} ({mismatch[:200]})"
        ) from error
    # Weights that are missing would be as before training, and others have no place in the model.
    for keys, complaint in (
        (report.missing_keys, "lacks weights"),
        (report.unexpected_keys, "has weights without a place"),
    ):
        if keys:
            examples = f"{', '.join(sorted(keys)[:2])}{', …' * (len(keys) > 2)}"
            raise UnsupportedModelError(
                f"{name} {complaint} ({len(keys)}: {examples}): it was made for another base model, or its file is damaged"
            )
    _check_whole_weights(adapted, folder / ADAPTER_WEIGHTS, name)
    module.eval()
    return adapted


def _check_experts(module: Any, config: Any, settings: Mapping[str, Any], name: str) -> None:
    """Refuse adapters of experts' weights (experts, rows, columns) that peft might read in another way than they were made.

    Which of rows and columns is the input changed in peft 0.19.0 and again in 0.19.1, and with some releases of transformers
    in between; where they differ in length, the shapes of the adapter's matrices tell, and loading fails.

    Raises
    ------
    UnsupportedModelError
    """
    import peft
    from packaging.version import Version

    if not settings.get("target_parameters"):
        # Adapters of single experts, from before transformers kept them together: peft puts theirs together, too, but takes
        # rank and scale as if all were the same and not divided by a root.
        if getattr(config, "target_parameters", None) and any(
            settings.get(key) for key in ("use_rslora", "rank_pattern", "alpha_pattern")
        ):
            raise UnsupportedModelError(
                f"{name} adapts single experts with ranks or scales of their own, which peft cannot put together: merge it "
                "with the transformers that made it, and give the merged model"
            )
        return
    # By whether the layer has them input first: that of one shape tells of others only where they are alike.
    square: set[bool] = set()
    oblong: set[bool] = set()
    for part in module.modules():
        if type(part).__name__ == "ParamWrapper" and part.get_param().ndim == 3:
            _, rows, columns = part.get_param().shape
            input_first = bool(getattr(part.get_base_layer(), "is_transposed", False))
            (square if rows == columns else oblong).add(input_first)
    if square - oblong and min(_made_by(settings), Version(peft.__version__)) < Version(_LAYOUT_SINCE):
        raise UnsupportedModelError(
            f"{name} adapts square matrices of experts, and by its config was made by a peft before {_LAYOUT_SINCE}, which may have "
            "laid them out the other way: merge it with the peft that made it, and give the merged model"
        )


def _check_whole_weights(adapted: Any, weights: Path, name: str) -> None:
    """Refuse an adapter of whose weights for the base itself, such as new embeddings, one took the place of another.

    Raises
    ------
    UnsupportedModelError
    """
    import torch
    from safetensors import safe_open

    state = adapted.state_dict()
    with safe_open(weights, framework="pt") as tensors:
        for key in state.keys() & tensors.keys():
            if not torch.equal(state[key].cpu(), tensors.get_tensor(key).to(state[key].dtype)):
                raise UnsupportedModelError(
                    f"{name} holds a {key.removeprefix(_MODULE)} of its own, which its base model shares with another part that it "
                    "holds otherwise: it was made for a base model that does not tie them"
                )


def _is_packed(module: Any) -> bool:
    """Whether weights are held as packed integers."""
    tensors = chain(module.named_parameters(), module.named_buffers())
    return any(not w.is_floating_point() and key.rpartition(".")[2] in ("weight", "qweight") for key, w in tensors)


def _read_past(module: Any, run: Callable[[Any], Any]) -> list[str]:
    """Names of layers that are adapted and do not run, though what holds them does: where it reads their weights itself.

    Parameters
    ----------
    module : torch.nn.Module
        With the adapter beside it.
    run : callable
        Runs it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    active: set[Any] = set()
    hooks = [part.register_forward_pre_hook(lambda part, _: active.add(part)) for part in module.modules()]
    run(module)
    for hook in hooks:
        hook.remove()
    layers = [name for name, part in module.named_modules() if isinstance(part, BaseTunerLayer) and part not in active]
    holders = {name: module.get_submodule(name.rpartition(".")[0]) for name in layers}
    return [
        name for name in layers if holders[name] in active and not type(holders[name]).__module__.startswith("peft.")
    ]


def _shares_weights(module: Any) -> bool:
    """Whether a layer that is adapted shares its weights with another part of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders: Counter[int] = Counter()
    for part in module.modules():
        holders.update(map(id, {*part.parameters(recurse=False), *part.children()}))
    bases = [part.get_base_layer() for part in module.modules() if isinstance(part, BaseTunerLayer)]
    return any(holders[id(each)] > 1 for base in bases for each in (base, *base.parameters(recurse=False)))


def _is_rounding(
    plain: NDArray[np.float32], beside: NDArray[np.float32], merged: NDArray[np.float32], dtype: str
) -> bool:
    """Whether merging an adapter changed no more than rounding does.

    Parameters
    ----------
    plain, beside, merged : float32 arrays of shape (token,), nats
        Log-probabilities of the base, with the adapter beside it, and with the adapter merged.
    dtype : str
        Of the weights.
    """
    if not close(beside, merged, dtype):
        return False
    finite = np.isfinite(plain) & np.isfinite(beside)
    error, change = (np.linalg.norm(values[finite].astype(np.float64) - beside[finite]) for values in (merged, plain))
    return bool(error <= _ROUNDING[dtype] * change)


def _fit_vocabulary(module: Any, weights: Path, name: str) -> None:
    """Give a model as many embeddings as its adapter has, where training changed their number.

    Raises
    ------
    UnsupportedModelError
        The adapter holds some of the new embeddings only, so that the others would be random.
    """
    from safetensors import safe_open

    # Which of the input and output embeddings the adapter's file holds whole, and their rows.
    layers = [module.get_input_embeddings(), module.get_output_embeddings()]
    names = [key for key, layer in module.named_modules() if any(layer is embedding for embedding in layers)]
    with safe_open(weights, framework="np") as tensors:
        shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 - not iterable
    endings = (".weight", ".modules_to_save.weight", ".base_layer.weight")
    whole = {key: shapes[k][0] for key in names for end in endings if (k := f"{_MODULE}{key}{end}") in shapes}

    rows, base_rows = max(whole.values(), default=0), module.get_input_embeddings().weight.shape[0]
    if not rows or rows == base_rows:
        return
    tied = module.get_output_embeddings() is None or bool(module.config.get_text_config().tie_word_embeddings)
    if rows > base_rows and len(whole) < (1 if tied else 2):
        raise UnsupportedModelError(
            f"{name} has a vocabulary of {rows:,} tokens, its base model {base_rows:,}, and it does not hold all the "
            "embeddings of the new ones: save it again with save_embedding_layers=True"
        )
    module.resize_token_embeddings(rows, mean_resizing=False)
