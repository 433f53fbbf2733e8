"""Load a pinned model for scoring, and describe what it runs on."""

from __future__ import annotations

import errno
import io
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llreg_extract.checkpoint import check_tokenizer
from llreg_extract.config import context_length
from llreg_extract.encoding import PROBE_TEXT, special_prefix
from llreg_extract.hub import download
from llreg_extract.libraries import first_line, is_out_of_memory, quiet, require
from llreg_extract.selfcheck import check_causality, padding_is_exact
from llreg_extract.source import Source
from llreg_schemas.errors import InputError, LlregError, ModelError, UnsupportedModelError

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
        The attention implementation of transformers in use.
    first_token_scored : bool
        Whether the tokenizer puts a special token before a text, so that all its own tokens are scored.
    threads : int
        Worker threads for scoring on the CPU.
    batching : bool
        Whether texts may share a batch; False where the self-check saw padding change a value.
    path : {"replay", "logits"}
        How log-probabilities are computed: the head only where a token is scored, or the model's own whole logits. See
        `llreg_extract.selfcheck`.
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


def choose(source: Source, *, dtype: str = "auto", device: str = "auto") -> tuple[str, str]:
    """Decide dtype and device without loading anything.

    Parameters
    ----------
    source : Source
    dtype : str
        "float32", "bfloat16", "float16", or "auto": float32 on a CPU, the checkpoint's own on a GPU.
    device : str
        "cpu", "cuda", "cuda:N", or "auto": the GPU if there is one.

    Returns
    -------
    weight_dtype, device : str

    Raises
    ------
    InputError
        An unknown value, or a GPU that is not there.
    MissingExtraError
        torch is not installed.
    """
    require("torch")
    import torch

    if dtype not in ("auto", *_DTYPES):
        raise InputError(f"unknown dtype {dtype!r}: choose auto, {', '.join(_DTYPES)}")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"unknown device {device!r}: choose auto, cpu, cuda or cuda:N")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= gpus:
        raise InputError(
            f"device {device} was asked for and torch sees {gpus or 'no'} CUDA GPU{'s' * (gpus > 1)} here: use "
            "--device cpu, or a torch built for CUDA (https://pytorch.org/get-started)"
        )
    if kind == "auto":
        device = "cuda" if gpus else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else source.checkpoint_dtype
    return dtype, device


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
    require("torch", "transformers", "safetensors", *(["gguf"] if source.file else []))
    dtype, device = choose(source, dtype=dtype, device=device)
    folder = download(source, trust_remote_code=trust_remote_code)
    with quiet(), _load_errors(source.name), _checkpoint_folder(folder, source.file) as (place, options):
        options["trust_remote_code"] = trust_remote_code
        tokenizer = _load_tokenizer(source, place, options)
        module = _load_module(source, place, options, dtype, device)
        first_token_scored = special_prefix(tokenizer) > 0
        model = Model(
            source=source,
            module=module,
            tokenizer=tokenizer,
            device=module.device,
            weight_dtype=dtype,
            context_length=_smallest(context_length(module.config.to_dict()), source.declared.get("context_length")),
            attention=str(getattr(module.config, "_attn_implementation", None) or "none"),
            first_token_scored=first_token_scored,
            threads=_available_cpus(),
            trust_remote_code=trust_remote_code,
        )
        check_causality(model)
        model.batching = padding_is_exact(model)
    return model


@contextmanager
def _checkpoint_folder(folder: Path, file: str | None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where transformers shall load from, and the options that say so."""
    if file is None:
        yield folder, {}
        return
    # transformers also reads config and tokenizer files that lie beside a GGUF, which its hash does not cover.
    with tempfile.TemporaryDirectory(prefix="llreg-") as alone:
        (Path(alone) / "model.gguf").symlink_to((folder / file).resolve())
        yield Path(alone), {"gguf_file": "model.gguf"}


def _load_tokenizer(source: Source, place: Path, options: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    if not source.file and not options["trust_remote_code"]:
        check_tokenizer(source.name, [path.name for path in place.iterdir()])
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        raise ModelError(f"the tokenizer of {source.name} cannot be loaded: {first_line(error)}") from error
    if not tokenizer(PROBE_TEXT)["input_ids"]:
        raise ModelError(f"the tokenizer of {source.name} makes no tokens: is its vocabulary there?")
    return tokenizer


def _load_module(source: Source, place: Path, options: Mapping[str, Any], dtype: str, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {**options, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if not source.file:
        settings["use_safetensors"] = True
    if device != "cpu":
        settings["device_map"] = {"": device}
    # The bar of transformers' GGUF reader heeds no setting; it goes to stderr, which is put back right after.
    with redirect_stderr(io.StringIO()) if source.file else nullcontext():
        module, report = AutoModelForCausalLM.from_pretrained(place, **settings)
    absent = sorted(str(key) for key in {*report["missing_keys"], *report["mismatched_keys"]})
    if absent:
        raise UnsupportedModelError(
            f"{source.name} lacks {len(absent)} of the weights of a {type(module).__name__} "
            f"({', '.join(absent[:3])}{', …' * (len(absent) > 3)}), which would be random: it was saved from another kind of model"
        )
    return module.eval()


@contextmanager
def _load_errors(name: str) -> Iterator[None]:
    """Whatever goes wrong while one model is loaded becomes that model's error."""
    try:
        yield
    except LlregError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(f"{name} does not fit in memory: try --dtype bfloat16, or a machine with more") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"the disk is full while {name} is loaded: free some space") from error
        raise ModelError(f"{name} cannot be loaded: {first_line(error)}") from error


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
        "versions", "device", "attention", "trust_remote_code" as ``row.schema.json`` has them.
    """
    packages = ("torch", "transformers", "tokenizers")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return {
        "versions": versions,
        "device": {"type": model.device.type, "name": device_name(model.device)},
        "attention": model.attention,
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
