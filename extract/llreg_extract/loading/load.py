"""Load a pinned model for scoring, and describe what it runs on."""

from __future__ import annotations

import errno
import io
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llreg_extract.files.checkpoint import TOKENIZER_FILES, check_tokenizer, matching
from llreg_extract.files.config import context_length
from llreg_extract.files.hub import adapter_folder, download
from llreg_extract.libraries import first_line, is_out_of_memory, quiet, require, require_for_model
from llreg_extract.loading.adapter import lay_over
from llreg_extract.loading.device import choose, device_name
from llreg_extract.loading.quantization import chatter_withheld, finish, loading_config, packages
from llreg_extract.loading.selfcheck import prepare
from llreg_extract.model import Model
from llreg_extract.scoring.encoding import PROBE_TEXT, special_prefix
from llreg_extract.source import Source
from llreg_schemas.errors import LlregError, ModelError, UnsupportedModelError


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


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def checkpoint_folder(folder: Path, source: Source) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where transformers shall load from, and the options that say so.

    Parameters
    ----------
    folder : Path
        From `llreg_extract.files.hub.download`.
    source : Source
    """
    if source.file is None:
        yield folder / (source.subfolder or ""), {}
        return
    # transformers also reads config and tokenizer files that lie beside a GGUF, which its hash does not cover.
    with _links({"model.gguf": folder / source.file}) as alone:
        yield alone, {"gguf_file": "model.gguf"}


@contextmanager
def _links(files: Mapping[str, Path]) -> Iterator[Path]:
    """A folder of links to files, by their names in it."""
    with tempfile.TemporaryDirectory(prefix="llreg-") as alone:
        for name, path in files.items():
            (Path(alone) / name).symlink_to(path.resolve())
        yield Path(alone)


@contextmanager
def _tokenizer_folder(source: Source, folder: Path, place: Path, *, code: bool) -> Iterator[Path]:
    """A tokenizer that does not lie beside the weights, put beside the config of the model."""
    elsewhere = (
        adapter_folder(source.adapter, source.name) if source.adapter and source.tokenizer == "adapter" else folder
    )
    names = [path.name for path in elsewhere.iterdir() if path.is_file()]
    wanted = matching(names, [*TOKENIZER_FILES, *(["*.py"] if code else [])])
    config = {"config.json": place / "config.json"} if source.file is None else {}
    with _links({**{name: elsewhere / name for name in wanted}, **config}) as alone:
        yield alone


def read_tokenizer(source: Source, folder: Path, place: Path, options: Mapping[str, Any]) -> Any:
    """The tokenizer of a source.

    Parameters
    ----------
    source : Source
    folder : Path
        From `llreg_extract.files.hub.download`.
    place, options
        From `checkpoint_folder`; with trust_remote_code.

    Raises
    ------
    ModelError
        There is none, or it makes no tokens.
    """
    code = bool(options["trust_remote_code"])
    if source.tokenizer == "weights":
        return _from_folder(source, place, options)
    with _tokenizer_folder(source, folder, place, code=code) as alone:
        return _from_folder(source, alone, {"trust_remote_code": code})


def _from_folder(source: Source, place: Path, options: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    if "gguf_file" not in options and not options["trust_remote_code"]:
        check_tokenizer(source.name, [path.name for path in place.iterdir()])
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except Exception as error:
        raise ModelError(f"the tokenizer of {source.name} cannot be loaded: {first_line(error)}") from error
    if not tokenizer(PROBE_TEXT)["input_ids"]:
        raise ModelError(f"the tokenizer of {source.name} makes no tokens: is its vocabulary there?")
    return tokenizer


def read_module(source: Source, place: Path, options: Mapping[str, Any], dtype: str, device: str) -> Any:
    """The module of a source, in evaluation mode, with its weights packed and its adapter laid over them as it says.

    Parameters
    ----------
    source : Source
    place, options
        From `checkpoint_folder`; with trust_remote_code.
    dtype, device : str
        From `llreg_extract.choose`.

    Raises
    ------
    UnsupportedModelError
        Weights are missing, or the adapter does not fit.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {**options, "dtype": getattr(torch, dtype), "output_loading_info": True}
    if not source.file:
        settings["use_safetensors"] = True
    quantized = loading_config(source, settings["dtype"])
    if quantized is not None:
        settings["quantization_config"] = quantized
    if device != "cpu" or source.quantize or source.settings:  # those choose a device themselves if none is given
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
    finish(module, source, settings["dtype"])
    if source.adapter is not None:
        module = lay_over(module, adapter_folder(source.adapter, source.name), source.name)
    return module.eval()


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Whatever goes wrong while one model is loaded becomes that model's error."""
    try:
        yield
    except LlregError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"{name} does not fit in memory: try --dtype bfloat16 or --quantize int8, or a machine with more"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"the disk is full while {name} is loaded: free some space") from error
        raise ModelError(f"{name} cannot be loaded: {first_line(error)}") from error
