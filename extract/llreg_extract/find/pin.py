"""From a folder with a model's files to a pinned `Source`: checked as far as config and headers tell."""

from __future__ import annotations

import re
from dataclasses import replace

from llreg_extract.files.card import clean, declared
from llreg_extract.files.checkpoint import (
    ADAPTER_CONFIG,
    TOKENIZER_VOCABULARIES,
    adapter_files,
    check_whole_gguf,
    deciding_files,
    in_folder,
    matching,
    pick_gguf,
    tokenizer_files,
    tokenizer_location,
)
from llreg_extract.files.config import (
    architecture,
    check_causal,
    checkpoint_dtype,
    complete_config,
    context_length,
    count_linear_parameters,
    count_parameters,
    quantization,
    quantization_settings,
    read_config,
)
from llreg_extract.files.gguf_header import read_gguf_header
from llreg_extract.files.tensors import prevailing_dtype
from llreg_extract.find.folder import ModelFolder
from llreg_extract.libraries import require_for_model
from llreg_extract.quirks import is_gguf_encoder
from llreg_extract.source import QUANTIZATIONS, Adapter, Source, check_file_name
from llreg_schemas.errors import InputError, ModelNotFoundError, UnsupportedModelError


def adapter_source(folder: ModelFolder, base: Source, trust_remote_code: bool) -> Source:
    """The source of an adapter over a pinned base model."""
    require_for_model("peft")
    files = in_folder(folder.subfolder, adapter_files(folder.files, folder.name, trust_remote_code=trust_remote_code))
    adapter = Adapter(base.name, folder.kind, folder.location, folder.revision(files), folder.subfolder)
    declaration = declared(
        folder.card,
        architecture=base.declared["architecture"],
        num_parameters=base.declared["num_parameters"],
        context_length=base.declared["context_length"],
        **folder.facts,
    )
    declaration["base_model"] = declaration["base_model"] or [base.name]
    declaration["relation"] = declaration["relation"] or "adapter"
    # Training may have added tokens: an adapter with a vocabulary has its own tokenizer.
    tokenizer = "adapter" if matching(folder.files, TOKENIZER_VOCABULARIES) else base.tokenizer
    return replace(
        base,
        name=folder.name,
        adapter=adapter,
        declared=declaration,
        tokenizer=tokenizer,
        files={**base.files, **folder.hashed},
    )


def model_source(folder: ModelFolder, file: str | None, quantize: str | None, trust_remote_code: bool) -> Source:
    """The source of a model that is no adapter."""
    if file is None and ADAPTER_CONFIG in folder.files:
        raise UnsupportedModelError(
            f"{folder.name} is itself an adapter and cannot be the base of another: merge it, and give the result with --base"
        )
    location = "/".join([folder.location, *([folder.subfolder] if folder.subfolder else [])])
    file = file or pick_gguf(folder.name, folder.files, location)
    if file is not None:
        return _gguf_source(folder, file, quantize)
    return _checkpoint_source(folder, quantize, trust_remote_code)


def _checkpoint_source(folder: ModelFolder, quantize: str | None, trust_remote_code: bool) -> Source:
    if "config.json" not in folder.files:
        raise ModelNotFoundError(f"{folder.name} has no config.json: it is not a transformers model")
    config = complete_config(read_config(folder.fetch("config.json"), folder.name), folder.name)
    check_causal(config, folder.name, trust_remote_code=trust_remote_code)
    method, settings = quantization(config), quantization_settings(config)
    if method and quantize:
        raise InputError(
            f"{folder.name} is quantised already ({method}): --quantize goes with a checkpoint that is not"
        )
    # The hash of a local model covers its config and weights, and the tokenizer wherever it lies.
    tokenizer = tokenizer_location(folder.files, folder.root) if folder.subfolder else "weights"
    files = in_folder(folder.subfolder, deciding_files(folder.files, trust_remote_code=trust_remote_code))
    files += tokenizer_files(folder.root, trust_remote_code=trust_remote_code) if tokenizer == "root" else []
    # Packing is a matter of loading: the revision is that of the weights as they are.
    return Source(
        name=folder.name,
        kind=folder.kind,
        location=folder.location,
        revision=folder.revision(files, weights=True),
        file=None,
        quantization=QUANTIZATIONS[quantize] if quantize else _label(method),
        checkpoint_dtype=checkpoint_dtype(config) or prevailing_dtype(folder.elements),
        declared=declared(
            folder.card,
            architecture=architecture(config),
            # Packed weights are not parameters, so a quantised checkpoint's headers do not count them.
            num_parameters=count_parameters(config) if method else folder.elements.total() or None,
            context_length=context_length(config),
            **folder.facts,
        ),
        subfolder=folder.subfolder,
        quantize=quantize,
        packed_parameters=count_linear_parameters(config) if quantize else None,
        settings=settings,
        tokenizer=tokenizer,
        files=folder.hashed,
    )


def _gguf_source(folder: ModelFolder, file: str, quantize: str | None) -> Source:
    require_for_model("gguf")
    name, inside = folder.name, in_folder(folder.subfolder, [file])[0]
    check_file_name(inside)
    check_whole_gguf(name, file)
    if quantize is not None:
        raise InputError(f"{name} is a GGUF file: --quantize goes with safetensors that are not quantised")
    # From the first megabytes of the file: on the Hub nothing else is fetched.
    with folder.open(file) as stream:
        header = read_gguf_header(stream, name)
    if is_gguf_encoder(header.architecture):
        raise UnsupportedModelError(
            f"{name} is a {header.architecture} GGUF, not a causal language model: llreg scores decoder-only models"
        )
    header_card = {"license": header.metadata.get("general.license"), "base_model": header.base_models}
    return Source(
        name=name,
        kind=folder.kind,
        location=folder.location,
        revision=folder.revision([inside]),
        file=inside,
        quantization=header.quantization,
        checkpoint_dtype="float32",
        declared=declared(
            {**header_card, **(folder.card if folder.kind == "hub" else {})},
            architecture=None,  # llama.cpp's names are not transformers'; the loaded class fills it in
            num_parameters=header.num_parameters,
            context_length=header.context_length,
            **folder.facts,
        ),
        files=folder.hashed,
    )


def _label(method: str | None) -> str | None:
    """A quantisation's name, held to the characters that rows allow."""
    text = clean(method)
    return re.sub(r"[^A-Za-z0-9._:+-]", "-", text).lstrip("._:+-")[:100] or "unknown" if text else None
