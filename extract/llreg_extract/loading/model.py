"""Load a pinned model for scoring, and describe what it runs on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llreg_extract.fast.selfcheck import prepare
from llreg_extract.files.config import context_length
from llreg_extract.files.hub import download
from llreg_extract.files.quantize import chatter_withheld, check_device, packages
from llreg_extract.libraries import quiet, require, require_for_model
from llreg_extract.loading.checkpoint import checkpoint_folder, load_errors, read_module, read_tokenizer
from llreg_extract.scoring.encoding import special_prefix
from llreg_extract.source import Source
from llreg_schemas.errors import InputError

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Model:
    """A loaded model; the only type that holds torch objects.

    Attributes
    ----------
    source : Source
    module : torch.nn.Module
        In evaluation mode, on `device`.
    tokenizer : transformers tokenizer
    device : torch.device
    weight_dtype : str
        "float32", "bfloat16" or "float16".
    context_length : int or None
        Longest text in tokens that is scored; None where nothing limits it.
    attention : str
        The attention implementation in use: one of transformers, or "llreg_blocked".
    first_token_scored : bool
        Whether the tokenizer puts a special token before a text, so that all its own tokens are scored.
    threads : int
        Worker threads for scoring on the CPU.
    batching : bool
        Whether texts may share a batch; False where the self-check saw padding change a value.
    path : {"replay", "logits"}
        How log-probabilities are computed: the head only where a token is scored, or the model's own whole logits. See
        `llreg_extract.fast.selfcheck`.
    base : torch.nn.Module or None
        What a replay takes the hidden states from; see `llreg_extract.fast.replay`.
    library_attention : str
        The attention implementation that transformers chose.
    trust_remote_code : bool
        Whether code from the checkpoint was allowed to run.
    """

    source: Source
    module: Any
    tokenizer: Any
    device: Any
    weight_dtype: str
    context_length: int | None
    attention: str
    first_token_scored: bool
    threads: int
    batching: bool = True
    path: str = "logits"
    base: Any = None
    library_attention: str = "none"
    trust_remote_code: bool = False

    @property
    def declared(self) -> Mapping[str, Any]:
        """`source.declared`, with what only the loaded model shows filled in where it was unknown."""
        known = dict(self.source.declared)
        if known["architecture"] is None:
            known["architecture"] = type(self.module).__name__
        if known["num_parameters"] is None and self.source.quantization is None:
            known["num_parameters"] = int(self.module.num_parameters())
        if known.get("context_length") is None:
            known["context_length"] = self.context_length
        return known


def choose(source: Source, *, dtype: str = "auto", device: str = "auto", gpus: int | None = None) -> tuple[str, str]:
    """Decide dtype and device without loading anything.

    Parameters
    ----------
    source : Source
    dtype : str
        "float32", "bfloat16", "float16", or "auto": float32 on a CPU, the checkpoint's own on a GPU.
    device : str
        "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one.
    gpus : int, optional
        GPUs of the machine that will score it; those of this one if not given.

    Returns
    -------
    weight_dtype, device : str

    Raises
    ------
    InputError
        An unknown value, or a GPU that is not there.
    UnsupportedModelError
        The checkpoint is quantised in a way that cannot be loaded on this machine's device.
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    if dtype not in ("auto", *_DTYPES):
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(_DTYPES)}")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"unknown device {device!r}: choose auto, cpu, cuda or cuda:N")
    elsewhere = gpus is not None
    gpus = count_gpus() if gpus is None else gpus
    if kind == "cuda" and int(number or 0) >= gpus:
        raise InputError(
            f"device {device} was asked for and torch sees {gpus or 'no'} CUDA GPU{'s' * (gpus > 1)} here: use "
            "--device cpu, or a torch built for CUDA (https://pytorch.org/get-started)"
        )
    if kind == "auto":
        device = "cuda" if gpus else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else source.checkpoint_dtype
    if not elsewhere:
        check_device(source, device)
    return dtype, device


def count_gpus() -> int:
    """CUDA GPUs that torch sees on this machine.

    Raises
    ------
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def load(source: Source, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False) -> Model:
    """Load tokenizer and weights, check them, and return the model ready for scoring.

    Parameters
    ----------
    source : Source
        From `resolve`.
    dtype, device : str
        As for `choose`.
    trust_remote_code : bool
        Whether code from the checkpoint may run.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        It cannot be loaded: no tokenizer, no memory, files that do not fit together.
    ModelNotFoundError, ModelAccessError
        A Hub model's files cannot be fetched.
    UnsupportedModelError
        Weights are missing, or the model is not causal.
    InputError, MissingExtraError
        As for `choose`.
    """
    require("torch", "transformers", "safetensors")
    for package in ["gguf"] * bool(source.file) + ["peft"] * bool(source.adapter):
        require_for_model(package)
    dtype, device = choose(source, dtype=dtype, device=device)
    folder = download(source, trust_remote_code=trust_remote_code)
    with (
        quiet(),
        chatter_withheld(source),
        load_errors(source.name),
        checkpoint_folder(folder, source) as (place, options),
    ):
        options["trust_remote_code"] = trust_remote_code
        tokenizer = read_tokenizer(source, folder, place, options)
        module = read_module(source, place, options, dtype, device)
        return make_ready(source, module, tokenizer, dtype, trust_remote_code=trust_remote_code)


def make_ready(source: Source, module: Any, tokenizer: Any, dtype: str, *, trust_remote_code: bool = False) -> Model:
    """Check a module that is loaded, and set the fastest way to score it.

    Parameters
    ----------
    source : Source
    module : torch.nn.Module
        Causal language model of transformers, in evaluation mode.
    tokenizer : transformers tokenizer
    dtype : str
        Of the weights.
    trust_remote_code : bool
        Whether code from the checkpoint was allowed to run.

    Raises
    ------
    UnsupportedModelError
        The model is not causal.
    """
    attention = str(getattr(module.config, "_attn_implementation", None) or "none")
    model = Model(
        source=source,
        module=module,
        tokenizer=tokenizer,
        device=module.device,
        weight_dtype=dtype,
        context_length=_smallest(context_length(module.config.to_dict()), source.declared.get("context_length")),
        attention=attention,
        library_attention=attention,
        first_token_scored=special_prefix(tokenizer) > 0,
        threads=_available_cpus(),
        trust_remote_code=trust_remote_code,
    )
    prepare(model)
    return model


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Any:
    """Load a model's tokenizer alone, as `load` does; all its files are downloaded if need be.

    Raises
    ------
    ModelError
        As `load`.
    """
    folder = download(source, trust_remote_code=trust_remote_code)
    with quiet(), load_errors(source.name), checkpoint_folder(folder, source) as (place, options):
        options["trust_remote_code"] = trust_remote_code
        return read_tokenizer(source, folder, place, options)


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(model: Model) -> dict[str, Any]:
    """What the scores were computed with: pieces of a row's provenance.

    Returns
    -------
    dict
        "versions", "device", "attention", "scoring_path", "batching", "trust_remote_code" as ``row.schema.json`` has them.
    """
    used = ("torch", "transformers", "tokenizers", *packages(model.source))
    versions = {"python": platform.python_version(), **{name: version(name) for name in used}}
    return {
        "versions": versions,
        "device": {"type": model.device.type, "name": device_name(model.device)},
        "attention": model.attention,
        "scoring_path": model.path,
        "batching": model.batching,
        "trust_remote_code": model.trust_remote_code,
    }


def device_name(device: Any) -> str:
    """Name of a torch device, or of one as `choose` gives it, as provenance has it."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
