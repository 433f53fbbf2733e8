"""Laying a PEFT adapter over its base model."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from llreg_extract.files.checkpoint import ADAPTER_WEIGHTS
from llreg_extract.libraries import first_line
from llreg_schemas.errors import UnsupportedModelError

_MODULE = "base_model.model."  # what peft puts before the name of a module of the base


def lay_over(module: Any, folder: Path, name: str) -> Any:
    """Lay an adapter over a loaded model.

    Into plain weights it is merged, W + BA for LoRA (Hu et al., arXiv 2106.09685, section 4.1), so that scoring meets
    an ordinary model. Packed weights stay as they are, for merging would round them again: the adapter acts beside them.

    Parameters
    ----------
    module : torch.nn.Module
        The base model; it is changed.
    folder : Path
        With the adapter's files.
    name : str
        The adapter's, for messages.

    Returns
    -------
    torch.nn.Module
        Of the base model's class.

    Raises
    ------
    UnsupportedModelError
        The adapter was not made for this model, or cannot be merged into it.
    """
    from peft import PeftConfig, PeftModel

    try:
        _fit_vocabulary(module, folder / ADAPTER_WEIGHTS, name)
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        adapted = PeftModel(module, config)
        report = adapted.load_adapter(str(folder), "default", torch_device=str(module.device))
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
        # Weights held as packed integers stay so.
        tensors = chain(module.named_parameters(), module.named_buffers())
        if any(not w.is_floating_point() and key.rpartition(".")[2] in ("weight", "qweight") for key, w in tensors):
            return adapted.get_base_model().eval()
        return adapted.merge_and_unload(safe_merge=True).eval()
    except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:
        raise UnsupportedModelError(f"{name} cannot be laid over its base model: {first_line(error)}") from error


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
