"""Where a model's files are, and the pinned source that is made of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from llreg_extract.files.checkpoint import (
    ADAPTER_CONFIG,
    TOKENIZER_FILES,
    TOKENIZER_VOCABULARIES,
    adapter_files,
    check_whole_gguf,
    deciding_files,
    in_folder,
    matching,
    pick_gguf,
    prevailing_dtype,
    tokenizer_place,
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
from llreg_extract.files.gguf_header import GGUFHeader, read_gguf_header
from llreg_extract.files.quantize import LABELS
from llreg_extract.find.card import clean, declared
from llreg_extract.libraries import require_for_model
from llreg_extract.source import Adapter, Kind, Source, check_file_name
from llreg_schemas.errors import InputError, ModelNotFoundError, UnsupportedModelError

# Architectures of llama.cpp that are no causal language models.
_GGUF_REFUSED = ("t5", "bert", "nomic-bert", "jina-bert", "modern-bert", "clip")


class Place(Protocol):
    """Where a model's files are: a repository of the Hub or a directory, or a folder of one."""

    @property
    def kind(self) -> Kind: ...
    @property
    def name(self) -> str: ...
    @property
    def location(self) -> str: ...
    @property
    def subfolder(self) -> str | None: ...
    @property
    def files(self) -> Collection[str]: ...
    @property
    def root(self) -> Collection[str]: ...
    @property
    def card(self) -> dict[str, Any]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def elements(self) -> Any: ...
    def revision(self, files: Iterable[str], *, weights: bool = False) -> str: ...
    def fetch(self, file: str) -> Path: ...
    def open(self, file: str) -> AbstractContextManager[BinaryIO]: ...


def adapter_source(place: Place, under: Source) -> Source:
    """The source of an adapter over a pinned base model."""
    require_for_model("peft")
    files = in_folder(place.subfolder, adapter_files(place.files, place.name))
    adapter = Adapter(under.name, place.kind, place.location, place.revision(files), place.subfolder)
    known = declared(
        place.card,
        architecture=under.declared["architecture"],
        num_parameters=under.declared["num_parameters"],
        context_length=under.declared["context_length"],
        **place.facts,
    )
    known["base_model"] = known["base_model"] or [under.name]
    known["relation"] = known["relation"] or "adapter"
    own = matching(place.files, TOKENIZER_VOCABULARIES)
    return replace(
        under, name=place.name, adapter=adapter, declared=known, tokenizer="adapter" if own else under.tokenizer
    )


def model_source(place: Place, file: str | None, quantize: str | None, trust_remote_code: bool) -> Source:
    """The source of a model that is no adapter."""
    if file is None and ADAPTER_CONFIG in place.files:
        raise UnsupportedModelError(
            f"{place.name} is itself an adapter and cannot be the base of another: merge it, and give the result with --base"
        )
    where = "/".join([place.location, *([place.subfolder] if place.subfolder else [])])
    file = file or pick_gguf(place.name, place.files, where)
    if file is not None:
        return _gguf(place, file, quantize)
    return _checkpoint(place, quantize, trust_remote_code)


def _checkpoint(place: Place, quantize: str | None, trust_remote_code: bool) -> Source:
    if "config.json" not in place.files:
        raise ModelNotFoundError(f"{place.name} has no config.json: it is not a transformers model")
    config = complete_config(read_config(place.fetch("config.json"), place.name), place.name)
    check_causal(config, place.name, trust_remote_code=trust_remote_code)
    method, settings = quantization(config), quantization_settings(config)
    if method and quantize:
        raise InputError(f"{place.name} is quantised already ({method}): --quantize goes with a checkpoint that is not")
    tokenizer = tokenizer_place(place.files, place.root) if place.subfolder else "weights"
    files = in_folder(place.subfolder, deciding_files(place.files, trust_remote_code=trust_remote_code))
    files += matching(place.root, TOKENIZER_FILES) if tokenizer == "root" else []
    return Source(
        name=place.name,
        kind=place.kind,
        location=place.location,
        revision=place.revision(files, weights=True),
        file=None,
        quantization=LABELS[quantize] if quantize else _label(method),
        checkpoint_dtype=checkpoint_dtype(config) or prevailing_dtype(place.elements),
        declared=declared(
            place.card,
            architecture=architecture(config),
            # Packed weights are not parameters, so a quantised checkpoint's headers do not count them.
            num_parameters=count_parameters(config) if method else place.elements.total() or None,
            context_length=context_length(config),
            **place.facts,
        ),
        subfolder=place.subfolder,
        quantize=quantize,
        packed_parameters=count_linear_parameters(config) if quantize else None,
        settings=settings,
        tokenizer=tokenizer,
    )


def _gguf(place: Place, file: str, quantize: str | None) -> Source:
    require_for_model("gguf")
    name, inside = place.name, in_folder(place.subfolder, [file])[0]
    check_file_name(inside)
    check_whole_gguf(name, file)
    if quantize is not None:
        raise InputError(f"{name} is a GGUF file: --quantize goes with safetensors that are not quantised")
    with place.open(file) as stream:
        header = read_gguf_header(stream, name)
    if (header.architecture or "").startswith(_GGUF_REFUSED):
        raise UnsupportedModelError(
            f"{name} is a {header.architecture} GGUF, not a causal language model: llreg scores decoder-only models"
        )
    return Source(
        name=name,
        kind=place.kind,
        location=place.location,
        revision=place.revision([inside]),
        file=inside,
        quantization=header.quantization,
        checkpoint_dtype="float32",
        declared=_declared_of_gguf(header, place),
    )


def _declared_of_gguf(header: GGUFHeader, place: Place) -> dict[str, Any]:
    own = {"license": header.metadata.get("general.license"), "base_model": header.base_models}
    return declared(
        {**own, **(place.card if place.kind == "hub" else {})},
        architecture=None,  # llama.cpp's names are not transformers'; the loaded class fills it in
        num_parameters=header.num_parameters,
        context_length=header.context_length,
        **place.facts,
    )


def _label(method: str | None) -> str | None:
    """A quantisation's name, held to the characters that rows allow."""
    text = clean(method)
    return re.sub(r"[^A-Za-z0-9._:+-]", "-", text).lstrip("._:+-")[:100] or "unknown" if text else None
