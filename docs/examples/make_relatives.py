"""Make relatives of a model: copies whose weights were rounded, pruned, disturbed or averaged.

    python make_relatives.py MODEL.gguf OUTPUT_DIRECTORY

Each relative is a directory that transformers loads, so `llreg add` can measure how far it moved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from transformers import PreTrainedModel
from transformers.utils import logging

from llreg_extract.files.gguf_file import open_gguf
from llreg_extract.loading.gguf import load_module
from llreg_extract.loading.gguf_tokenizer import gguf_tokenizer

Weights = dict[str, torch.Tensor]
Change = Callable[[Weights], Weights]

REMOVED_LAYERS = (14, 15)  # two in the middle of 30
NOISE = 0.02  # standard deviation, as a share of each matrix's own


def matrices(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change every weight matrix and leave vectors (norms) as they are."""
    return lambda weights: {name: change(w) if w.ndim == 2 else w for name, w in weights.items()}


def to_bf16(weight: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16: 8 significant bits."""
    return weight.to(torch.bfloat16).float()


def to_int(bits: int, group: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Round to signed integers with one scale a row, or one a group of `group` weights in a row."""
    top = 2 ** (bits - 1) - 1

    def change(weight: torch.Tensor) -> torch.Tensor:
        blocks = weight.reshape(weight.shape[0], -1, group or weight.shape[1])  # (row, group, weight)
        scale = blocks.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / top
        return ((blocks / scale).round().clamp(-top, top) * scale).reshape(weight.shape)

    return change


def with_noise(weight: torch.Tensor) -> torch.Tensor:
    """Add Gaussian noise of `NOISE` times the matrix's standard deviation."""
    return weight + NOISE * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def halfway(weights: Weights, other: Weights) -> Weights:
    """The mean of two models' weights."""
    return {name: (weights[name] + other[name]) / 2 for name in weights}


def relatives(model: PreTrainedModel) -> Iterator[tuple[str, PreTrainedModel]]:
    """Names and models; each is the same object with other weights, so save it before asking for the next."""
    original = {name: weight.clone() for name, weight in model.state_dict().items()}
    to_int8, to_int4 = matrices(to_int(8, group=None)), matrices(to_int(4, group=32))
    changes: dict[str, Change] = {
        "copy": lambda weights: weights,
        "bf16": matrices(to_bf16),
        "int8": to_int8,
        "int4": to_int4,
        "noise": matrices(with_noise),
        "halfway-to-int4": lambda weights: halfway(weights, to_int4(weights)),
    }
    for name, change in changes.items():
        model.load_state_dict(change(original))
        yield name, model
    model.load_state_dict(original)
    layers = model.model.layers
    kept = [layer for number, layer in enumerate(layers) if number not in REMOVED_LAYERS]
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    yield f"{len(layers) - len(kept)}-layers-removed", model


def main(gguf: Path, output: Path) -> None:
    """Write every relative into its own directory under `output`."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # As llreg reads the file itself: weights dequantised to float32, and the tokenizer that the metadata describe.
    file = open_gguf(gguf, gguf.stem)
    tokenizer = gguf_tokenizer(file.header, gguf.stem)
    model, _ = load_module(file, torch.float32, None)
    with Progress(transient=True) as progress:
        task = progress.add_task("writing relatives", total=7)
        for name, relative in relatives(model):
            progress.update(task, advance=1, description=f"writing SmolLM2-135M-{name}")
            directory = output / f"SmolLM2-135M-{name}"
            relative.save_pretrained(directory)
            tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
