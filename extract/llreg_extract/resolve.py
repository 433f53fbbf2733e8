"""Model name -> pinned `Source`: found, checked as far as its config tells, hashed; nothing loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from llreg_extract.card import clean, declared, read_card
from llreg_extract.checkpoint import (
    check_whole_gguf,
    deciding_files,
    describe_weights,
    hash_file,
    hash_files,
    pick_gguf,
    weight_files,
)
from llreg_extract.config import (
    architecture,
    check_causal,
    checkpoint_dtype,
    complete_config,
    context_length,
    count_parameters,
    quantization,
    read_config,
)
from llreg_extract.gguf_header import GGUFHeader, read_gguf_header
from llreg_extract.hub import HubRepo, open_repo
from llreg_extract.libraries import require
from llreg_extract.source import Source, check_file_name, is_name, local_name
from llreg_schemas.errors import InputError, ModelError, ModelNotFoundError, UnsupportedModelError

_HUB_GGUF = re.compile(r"([^/]+/[^/]+)/(.+\.gguf)", re.IGNORECASE)
# Architectures of llama.cpp that are no causal language models.
_GGUF_REFUSED = ("t5", "bert", "nomic-bert", "jina-bert", "modern-bert", "clip")


def resolve(
    model: str,
    *,
    revision: str | None = None,
    name: str | None = None,
    trust_remote_code: bool = False,
) -> Source:
    """Find a model and pin its content, without loading or (but for its config) downloading it.

    Parameters
    ----------
    model : str
        Local directory, local ``.gguf`` file, Hub id ``org/name``, or ``org/name/file.gguf`` for a GGUF
        file of a Hub repository. A path that exists is local.
    revision : str, optional
        Branch, tag or commit of a Hub model; its default branch if not given.
    name : str, optional
        Name of a local model; its directory's or file's name if not given.
    trust_remote_code : bool
        Whether code from the checkpoint may run when it is loaded.

    Returns
    -------
    Source

    Raises
    ------
    ModelNotFoundError
        No such path, model, revision or file, or it has no weights.
    ModelAccessError
        The model is gated or private, or the Hub cannot be reached.
    UnsupportedModelError
        Not a causal language model, or in a format llreg does not load.
    ModelError
        A local file cannot be read.
    InputError
        The arguments contradict each other, or leave open which file is meant.
    MissingExtraError
        torch or transformers is not installed.
    """
    require("torch", "transformers", "safetensors")
    path = os.path.expanduser(model)  # unlike Path's, it and os.path.exists take any text
    if os.path.exists(path):
        if revision is not None:
            raise InputError(f"{model} is a local path: --revision goes with a Hub model only")
        try:
            return _local(Path(path).resolve(), name, trust_remote_code)
        except OSError as error:
            raise ModelError(f"{model} cannot be read: {error.strerror or error}") from error
    on_hub = _HUB_GGUF.fullmatch(model)
    if model.startswith((".", "/", "~")) or (model.lower().endswith(".gguf") and not on_hub):
        raise ModelNotFoundError(f"{model} does not exist: check the path")
    repo, file = (on_hub[1], on_hub[2]) if on_hub else (model, None)
    if not is_name(repo):
        raise ModelNotFoundError(f"{model!r} is neither a path that exists nor a Hub id (org/name)")
    if name is not None:
        raise InputError(f"{model} is a Hub model and keeps its id: --name goes with a local model only")
    return _hub(open_repo(repo, revision), file, trust_remote_code)


def _local(path: Path, name: str | None, trust_remote_code: bool) -> Source:
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise UnsupportedModelError(f"{path.name} is no .gguf file: give a .gguf file or a model directory")
        return _local_gguf(path, local_name(path.stem, name))
    chosen = local_name(path.name, name)
    files = [entry.name for entry in path.iterdir() if entry.is_file()]
    gguf = pick_gguf(chosen, files, str(path))
    if gguf is not None:
        return _local_gguf(path / gguf, chosen)
    if "config.json" not in files:
        raise ModelNotFoundError(f"{chosen} has no config.json: is {path.name} a model directory?")
    return _local_directory(path, chosen, trust_remote_code)


def _local_directory(path: Path, name: str, trust_remote_code: bool) -> Source:
    config = complete_config(read_config(path / "config.json", name), name)
    check_causal(config, name, trust_remote_code=trust_remote_code)
    size, saved_dtype = describe_weights(path, weight_files(path, name))
    method = quantization(config)
    files = deciding_files(path, name, trust_remote_code=trust_remote_code)
    return Source(
        name=name,
        kind="local",
        location=str(path),
        revision=f"sha256:{hash_files(path, files)}",
        file=None,
        quantization=_label(method),
        checkpoint_dtype=checkpoint_dtype(config) or saved_dtype,
        # Packed weights are not parameters, so a quantised checkpoint's headers do not count them.
        declared=_declared(read_card(path / "README.md"), config, count_parameters(config) if method else size),
    )


def _local_gguf(path: Path, name: str) -> Source:
    check_file_name(path.name)
    check_whole_gguf(name, path.name)
    with path.open("rb") as stream:
        header = read_gguf_header(stream, name)
    revision = f"sha256:{hash_file(path)}"
    return _gguf_source(header, name, "local", str(path.parent), revision, path.name)


def _hub(repo: HubRepo, file: str | None, trust_remote_code: bool) -> Source:
    if file is None:
        file = pick_gguf(repo.name, repo.files, repo.name)
    elif file not in repo.files:
        raise ModelNotFoundError(f"{repo.name} has no file {file} at revision {repo.sha[:12]}: check the name")
    if file is not None:
        check_file_name(file)
        check_whole_gguf(repo.name, file)
        with repo.open(file) as stream:
            header = read_gguf_header(stream, repo.name)
        return _gguf_source(header, repo.name, "hub", repo.id, repo.sha, file, repo)
    if "config.json" not in repo.files:
        raise ModelNotFoundError(f"{repo.name} has no config.json: it is not a transformers model")
    config = complete_config(read_config(repo.fetch("config.json"), repo.name), repo.name)
    check_causal(config, repo.name, trust_remote_code=trust_remote_code)
    method = quantization(config)
    return Source(
        name=repo.name,
        kind="hub",
        location=repo.id,
        revision=repo.sha,
        file=None,
        quantization=_label(method),
        checkpoint_dtype=checkpoint_dtype(config) or repo.saved_dtype or "float32",
        declared=_declared(repo.card, config, count_parameters(config) if method else repo.num_parameters, repo),
    )


def _gguf_source(
    header: GGUFHeader,
    name: str,
    kind: Any,
    location: str,
    revision: str,
    file: str,
    repo: HubRepo | None = None,
) -> Source:
    require("gguf")
    if (header.architecture or "").startswith(_GGUF_REFUSED):
        raise UnsupportedModelError(
            f"{name} is a {header.architecture} GGUF, not a causal language model: llreg scores decoder-only models"
        )
    return Source(
        name=name,
        kind=kind,
        location=location,
        revision=revision,
        file=file,
        quantization=header.quantization,
        checkpoint_dtype="float32",
        declared=declared(
            {
                "license": header.metadata.get("general.license"),
                "base_model": header.base_models,
                **(repo.card if repo else {}),
            },
            architecture=None,  # llama.cpp's names are not transformers'; the loaded class fills it in
            num_parameters=header.num_parameters,
            context_length=header.context_length,
            **_hub_facts(repo),
        ),
    )


def _declared(
    card: dict[str, Any], config: dict[str, Any], num_parameters: int | None, repo: HubRepo | None = None
) -> dict[str, Any]:
    return declared(
        card,
        architecture=architecture(config),
        num_parameters=num_parameters,
        context_length=context_length(config),
        **_hub_facts(repo),
    )


def _hub_facts(repo: HubRepo | None) -> dict[str, Any]:
    """What only the Hub knows of a model."""
    if repo is None:
        return {"created": None}
    return {"created": repo.created, "tags": repo.tags, "downloads": repo.downloads}


def _label(method: str | None) -> str | None:
    """A quantisation's name, held to the characters that rows allow."""
    text = clean(method)
    return re.sub(r"[^A-Za-z0-9._:+-]", "-", text).lstrip("._:+-")[:100] or "unknown" if text else None
