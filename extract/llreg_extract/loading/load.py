"""Load a pinned model for scoring, and describe what it runs on."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from llreg_extract.files.blobs import check_blobs
from llreg_extract.files.card import clean
from llreg_extract.files.config import context_length, read_config
from llreg_extract.files.gguf_file import open_gguf
from llreg_extract.files.hub import adapter_folder, download, loaded_files
from llreg_extract.files.tensors import DTYPES, stored_tensors
from llreg_extract.libraries import first_line, is_out_of_memory, quiet, require, require_for_model
from llreg_extract.loading.adapter import lay_over
from llreg_extract.loading.device import choose, device_name
from llreg_extract.loading.gguf import load_module
from llreg_extract.loading.quantization import chatter_withheld, finish, loading_config, packages
from llreg_extract.loading.selfcheck import prepare
from llreg_extract.loading.tokenizer import read_tokenizer
from llreg_extract.loading.weights import account
from llreg_extract.model import Model
from llreg_extract.quirks import rope_types
from llreg_extract.scoring.encoding import Tokenizer
from llreg_extract.source import Source, check_unchanged
from llreg_schemas.errors import LlregError, ModelError, UnsupportedModelError


def load(
    source: Source,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    tokenizer: Tokenizer | None = None,
) -> Model:
    """Load tokenizer and weights, check them, and return the model ready for scoring.

    Parameters
    ----------
    source : Source
        From `resolve`.
    dtype, device : str
        As for `choose`.
    trust_remote_code : bool
        Whether code from the checkpoint may run.
    tokenizer : Tokenizer, optional
        From `load_tokenizer`, where it was called before.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        It cannot be loaded: no tokenizer, no memory, files that do not fit together, or changed since they were hashed.
    ModelNotFoundError, ModelAccessError
        A Hub model's files cannot be fetched.
    UnsupportedModelError
        Weights are missing, or the model is not causal.
    InputError, MissingExtraError
        As for `choose`.
    """
    require("torch", "transformers", "safetensors")
    if source.file is not None:
        require_for_model("gguf")
    if source.adapter is not None:
        require_for_model("peft")
    dtype, device = choose(source, dtype=dtype, device=device)
    folder = download(source, trust_remote_code=trust_remote_code)
    cached = check_blobs(loaded_files(source, folder, trust_remote_code=trust_remote_code), source.name)
    with chatter_withheld(source), _checkpoint(source, folder, trust_remote_code) as (weights, options):
        tokenizer = tokenizer or read_tokenizer(source, folder, weights, options)
        unused: dict[str, str] = {}
        read_module = partial(_read_module, source, weights, options, dtype, device, unused)
        adapter: Mapping[str, str] = {}
        if source.adapter is None:
            module = read_module()
        else:
            adapted = lay_over(read_module, adapter_folder(source.adapter, source.name), source.name, tokenizer, dtype)
            module, adapter = adapted.module, adapted.provenance
        files = {**source.files, **cached}
        check_unchanged(files, source.name)
        model = make_ready(source, module, tokenizer, dtype, trust_remote_code=trust_remote_code)
        model.adapter, model.unused, model.files = adapter, unused, files
        return model


def make_ready(
    source: Source, module: Any, tokenizer: Tokenizer, dtype: str, *, trust_remote_code: bool = False
) -> Model:
    """Check a module that is loaded, and set the fastest way to score it.

    Parameters
    ----------
    source : Source
    module : torch.nn.Module
        Causal language model of transformers, in evaluation mode.
    tokenizer : Tokenizer
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
    # A GGUF's header may state less than the config that transformers makes of it.
    limits = (context_length(module.config.to_dict()), source.declared.get("context_length"))
    model = Model(
        source=source,
        module=module,
        tokenizer=tokenizer,
        device=module.device,
        weight_dtype=dtype,
        context_length=min((limit for limit in limits if limit is not None), default=None),
        attention=attention,
        library_attention=attention,
        first_token_scored=len(tokenizer.prefix) > 0,
        # The cores that this process may use; macOS does not tell them.
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        trust_remote_code=trust_remote_code,
    )
    prepare(model)
    return model


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load a model's tokenizer alone, as `load` does; all its files are downloaded if need be.

    Raises
    ------
    ModelError
        As `load`.
    """
    folder = download(source, trust_remote_code=trust_remote_code)
    with _checkpoint(source, folder, trust_remote_code) as (weights, options):
        return read_tokenizer(source, folder, weights, options)


def environment(model: Model) -> dict[str, Any]:
    """What the scores were computed with: pieces of a row's provenance.

    Returns
    -------
    dict
        "versions", "device", "attention", "scoring_path", "batching", "trust_remote_code", `Tokenizer.provenance`,
        `Model.adapter` and `Model.unused`, as ``row.schema.json`` has them.
    """
    names = ("torch", "transformers", "tokenizers", *packages(model.source))
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "device": {"type": model.device.type, "name": device_name(model.device)},
        "attention": model.attention,
        "scoring_path": model.path,
        "batching": model.batching,
        **model.tokenizer.provenance,
        "trust_remote_code": model.trust_remote_code,
        **model.adapter,
        **model.unused,
    }


@contextmanager
def _checkpoint(source: Source, folder: Path, trust_remote_code: bool) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that transformers shall load from, and options for that; what goes wrong meanwhile is the model's error.

    Parameters
    ----------
    source : Source
    folder : Path
        From `llreg_extract.files.hub.download`.
    trust_remote_code : bool
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with quiet():
            if source.file is None:
                yield folder / (source.subfolder or ""), options
                return
            # Nothing that lies beside a GGUF counts: its hash does not cover it.
            yield folder, {**options, "gguf": open_gguf(folder / source.file, source.name)}
    except LlregError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"{source.name} does not fit in memory: try --dtype bfloat16 or --quantize int8, or a machine with more"
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"the disk is full while {source.name} is loaded: free some space") from error
        if trust_remote_code and isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ModelError(
                f"{source.name} cannot be loaded: {first_line(error)}; transformers copies its code to HF_MODULES_CACHE before it "
                "runs: set that to a directory that may be written"
            ) from error
        raise ModelError(f"{source.name} cannot be loaded: {first_line(error)}") from error


def _read_module(
    source: Source, weights: Path, options: Mapping[str, Any], dtype: str, device: str, unused: dict[str, str]
) -> Any:
    """The module of a source, without its adapter, in evaluation mode, with its weights packed as it says.

    Parameters
    ----------
    source : Source
    weights, options
        From `_checkpoint`.
    dtype, device : str
        From `choose`.
    unused : dict of str to str
        Filled with what its files hold and it does not use; see `account`.

    Raises
    ------
    UnsupportedModelError
        Weights are missing or left over.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if source.file:
        device_map = {"": device} if device != "cpu" else None
        module, beside = load_module(options["gguf"], getattr(torch, dtype), device_map)
        if text := clean(beside):  # names are a stranger's
            unused["unused_weights"] = text
        return module.eval()
    settings: dict[str, Any] = {**options, "dtype": getattr(torch, dtype), "output_loading_info": True}
    settings["use_safetensors"] = True
    settings["ignore_mismatched_sizes"] = True  # they are refused below, by name
    quantized = loading_config(source, settings["dtype"])
    if quantized is not None:
        settings["quantization_config"] = quantized
    if device != "cpu" or source.quantize or source.settings:  # those choose a device themselves if none is given
        settings["device_map"] = {"": device}
    try:
        module, report = AutoModelForCausalLM.from_pretrained(weights, **settings)
    except KeyError as error:
        kind = str(error.args[0]) if error.args else ""
        if kind not in rope_types(read_config(weights / "config.json", source.name)):
            raise
        raise UnsupportedModelError(
            f"{source.name}: its config.json asks for rotary positions of the kind {kind!r}, which transformers {version('transformers')} does "
            "not know: correct rope_type there, or install the transformers that it was made with"
        ) from error
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise UnsupportedModelError(
            f"{source.name}: tensors in its files that are one in the model, such as those of a layer's experts, do not fit together: "
            "some are missing, or of another size than the others"
        ) from error
    for key, size, own_size in sorted(report["mismatched_keys"])[:1]:
        raise UnsupportedModelError(
            f"{source.name}: {key} has the shape {tuple(size)} in its files, and {tuple(own_size)} by its config.json: the two are not of "
            "one model, or something is missing in one of them"
        )
    if source.kind == "local" and device == "cpu" and quantized is None and source.settings is None:
        # On a CPU weights may lie in the mapped file itself: whoever cuts that short while texts are scored would end this
        # process (SIGBUS) before it can say that the file has changed. The Hub's files nobody writes to.
        # What was converted to another dtype is a copy already.
        stored = {DTYPES.get(each.dtype) for each in stored_tensors(weights, source.name).values()}
        for tensor in chain(module.parameters(), module.buffers()):
            if not tensor.is_floating_point() or str(tensor.dtype).removeprefix("torch.") in stored:
                tensor.data = tensor.data.clone()
    unused.update(account(module, report, weights, source, settings["dtype"]))
    absent = sorted(map(str, report["missing_keys"]))
    if absent:
        raise UnsupportedModelError(
            f"{source.name} lacks {len(absent)} of the weights of a {type(module).__name__} "
            f"({', '.join(absent[:3])}{', …' * (len(absent) > 3)}), which would be random: its files are incomplete, or of another kind of model"
        )
    finish(module, source, settings["dtype"])
    return module.eval()
