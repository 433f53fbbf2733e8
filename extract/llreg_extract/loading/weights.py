"""That a loaded model is what its files hold: every tensor of theirs was used, and every one of its own is from them or computed.

transformers loads what fits and passes over the rest; what a model class declares as ignored it does not even report. So the
files' own headers decide here. What is left over is refused, or shown to change nothing: see `leftovers`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llreg_extract.files.card import clean
from llreg_extract.files.config import read_config
from llreg_extract.files.tensors import StoredTensor, stored_tensors
from llreg_extract.loading.leftovers import Leftovers, summary
from llreg_extract.loading.remote_code import is_remote, restore
from llreg_extract.loading.settings import unread_settings
from llreg_extract.source import Source
from llreg_schemas.errors import UnsupportedModelError

# Buffers of which old checkpoints hold copies: transformers ignores them where a model has such buffers.
_OLD_BUFFERS = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")


def account(module: Any, report: dict[str, Any], folder: Path, source: Source, dtype: Any) -> dict[str, str]:
    """Check a loaded model against its safetensors files; one of remote code is given what loading took from it.

    Parameters
    ----------
    module : torch.nn.Module
    report : dict
        What `from_pretrained` gives as output_loading_info. "missing_keys" is corrected: what is computed is not missing, and
        what a model's class declares as dispensable may be.
    folder : Path
        With config and weights.
    source : Source
    dtype : torch.dtype
        It was loaded in.

    Returns
    -------
    dict of str to str
        What the files hold and the model does not use, for the row's record: "unused_weights", "unused_settings".

    Raises
    ------
    UnsupportedModelError
        Tensors of the files are left over, or contradict each other.
    """
    stored = stored_tensors(folder, source.name)
    names, merged = _names_in(module, stored)
    own = module.state_dict().keys()
    taken = {key: name for key, name in names.items() if name in own}
    wrappings = {key.partition(".")[0] for key in names}
    if not taken and len(wrappings) == 1:
        raise UnsupportedModelError(
            f"{source.name}: all tensors of its files are named {wrappings.pop()}.…, and none is of a {type(module).__name__}: a wrapped "
            "model was saved (DataParallel, torch.compile); save the model inside"
        )
    for key in taken:
        if not stored[key].is_indexed:
            raise UnsupportedModelError(
                f"{source.name}: {key} is in {stored[key].path.name}, and the index of the weights does not know it: index and "
                "shards are of two checkpoints; put all files of one in a directory of its own"
            )
    if source.quantize is None and source.settings is None:
        floating = {name for name, weight in module.named_parameters() if weight.is_floating_point()}
        integers = [
            key for key, name in taken.items() if name in floating and stored[key].dtype.startswith(("I", "U", "BOOL"))
        ]
        if integers:
            raise UnsupportedModelError(
                f"{source.name}: {integers[0]} holds integers ({stored[integers[0]].dtype}) and config.json has no quantization_config that "
                "says what they stand for: save it with one, or unpack it"
            )
    _refuse_contradictions(module, stored, {key: taken[key] for key in taken.keys() - merged}, source.name)
    missing = {*report["missing_keys"], *_declared_dispensable(module, taken)}
    if is_remote(module) and source.quantize is None and source.settings is None:
        missing -= restore(module, stored, taken, source.name, dtype)
    report["missing_keys"] = missing

    # What transformers says it has not taken, and what it is told not to say; other names may be those of packed weights.
    declared = re.compile("|".join((*_OLD_BUFFERS, *(module._keys_to_ignore_on_load_unexpected or ()))))
    unexpected = set(report["unexpected_keys"])
    left = [
        key
        for key, name in names.items()
        if key not in taken and ({key, name} & unexpected or declared.search(key) or declared.search(name))
    ]
    config = read_config(folder / "config.json", source.name)
    leftovers = Leftovers(module, stored, names, declared, config, source)
    unused = {
        "unused_weights": summary([key for key in left if leftovers.is_beside(key)]),
        "unused_settings": ", ".join(unread_settings(config, module)),
    }
    return {name: text for name, value in unused.items() if (text := clean(value))}  # names are a stranger's


def _names_in(module: Any, keys: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """By each name of a tensor in the files, the name that transformers looks for in the model.

    Returns
    -------
    names : dict of str to str
    merged : set of str
        Those that are made into others: of all experts of a layer, one tensor.
    """
    own = module.state_dict()
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # transformers 4 knows no conversions, but for the prefix of the base model
        prefix = f"{module.base_model_prefix}."
        spellings = {key: (key, prefix + key, key.removeprefix(prefix)) for key in keys}
        return {key: next((name for name in each if name in own), key) for key, each in spellings.items()}, set()
    conversions = get_model_conversion_mapping(module)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    names, merged = {}, set()
    for key in keys:
        names[key], pattern = rename_source_key(key, renamings, converters, module.base_model_prefix, own)
        if names[key] not in own and key in own:  # as transformers does: a rule that should not have matched
            names[key], pattern = key, None
        if pattern is not None:
            merged.add(key)
    return names, merged


def _refuse_contradictions(
    module: Any, stored: Mapping[str, StoredTensor], taken: Mapping[str, str], name: str
) -> None:
    """Refuse tensors that are one in the model and differ in the files."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    groups: dict[int | str, list[str]] = defaultdict(list)
    for key, own_name in sorted(taken.items()):
        groups[id(parameters[own_name]) if own_name in parameters else own_name].append(key)
    # transformers 5 leaves embeddings that differ untied, whatever the config says.
    weights: set[int] = set()
    with suppress(NotImplementedError, AttributeError):  # code from elsewhere need not have these methods
        weights = {id(layer.weight) for layer in (module.get_input_embeddings(), module.get_output_embeddings())}
    ties = getattr(module.config.get_text_config(), "tie_word_embeddings", False) and module._tied_weights_keys
    if len(weights) == 2 and ties:
        groups["embeddings"] = [key for weight in weights for key in groups[weight]]
    for first, *others in filter(None, groups.values()):
        for other in others:
            a, b = stored[first].read(), stored[other].read()
            if a.shape == b.shape and not bool((a.to(b.dtype) == b).all()):
                raise UnsupportedModelError(
                    f"{name}: {first} and {other} differ in its files and are one tensor by its config.json: if the output layer "
                    "is not tied to the embeddings, set tie_word_embeddings to false there; else remove the one that is not meant"
                )


def _declared_dispensable(module: Any, taken: Mapping[str, str]) -> list[str]:
    """Parameters that the files lack, that the model's class declares as dispensable, and that would be random all the same."""
    patterns = module._keys_to_ignore_on_load_missing
    if not patterns:
        return []
    dispensable = re.compile("|".join(patterns))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    from_files = {id(parameters[name]) for name in taken.values() if name in parameters}
    return [
        name
        for name, parameter in parameters.items()
        if dispensable.search(name)
        and id(parameter) not in from_files
        and bool((parameter != parameter.flatten()[:1]).any())  # not all zeros or ones, as a bias or a scale begins
    ]
