"""Model name -> pinned `Source`: found, checked as far as its config tells, hashed; nothing loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llreg_extract.files.checkpoint import ADAPTER_CONFIG
from llreg_extract.files.config import AdapterConfig, read_adapter_config
from llreg_extract.find.folder import HubFolder, LocalFolder, ModelFolder, open_repo
from llreg_extract.find.pin import adapter_source, model_source
from llreg_extract.libraries import require
from llreg_extract.source import Source, check_quantize, is_name, local_name, quantize_of, tidy_subfolder
from llreg_schemas import Identity
from llreg_schemas.errors import InputError, LlregError, ModelError, ModelNotFoundError, UnsupportedModelError

_HUB_GGUF = re.compile(r"([^/]+/[^/]+)/(.+\.gguf)", re.IGNORECASE)


def resolve(
    model: str,
    *,
    revision: str | None = None,
    name: str | None = None,
    subfolder: str | None = None,
    base: str | None = None,
    quantize: str | None = None,
    trust_remote_code: bool = False,
) -> Source:
    """Find a model and pin its content, without loading or (but for its config) downloading it.

    Parameters
    ----------
    model : str
        Local directory, local ``.gguf`` file, Hub id ``org/name``, or ``org/name/file.gguf`` for a GGUF
        file of a Hub repository. A path that exists is local. A PEFT adapter is laid over its base model.
    revision : str, optional
        Branch, tag or commit of a Hub model; its default branch if not given.
    name : str, optional
        Name of a local model; its directory's or file's name if not given.
    subfolder : str, optional
        Folder inside the repository or directory that has the model's files.
    base : str, optional
        Base model of an adapter, as `model`, or ``org/name@revision``; if not given, the one that its
        adapter_config.json names.
    quantize : {"int8", "int4"}, optional
        Pack the weights when they are loaded.
    trust_remote_code : bool
        Whether code from the checkpoint may run when it is loaded.

    Returns
    -------
    Source

    Raises
    ------
    ModelNotFoundError
        No such path, model, revision, folder or file, or it has no weights.
    ModelAccessError
        The model is gated or private, or the Hub cannot be reached.
    UnsupportedModelError
        Not a causal language model, in a format llreg does not load, or quantised by a library that is not there.
    ModelError
        A local file cannot be read.
    InputError
        The arguments contradict each other, or leave open which file is meant.
    MissingExtraError
        torch, transformers, peft or bitsandbytes is needed and not installed.
    """
    require("torch", "transformers", "safetensors")
    if quantize is not None:
        check_quantize(quantize)
    inside = tidy_subfolder(subfolder) if subfolder is not None else None
    try:
        folder, file = _find(model, revision, name, inside)
        if file is not None or ADAPTER_CONFIG not in folder.files:
            if base is not None:
                raise InputError(
                    f"{model} is no adapter, for it has no {ADAPTER_CONFIG}: --base goes with an adapter only"
                )
            return model_source(folder, file, quantize, trust_remote_code)
        config = read_adapter_config(folder.fetch(ADAPTER_CONFIG), folder.name)
        base_folder, file = _find_base(folder, config, base)
        return adapter_source(folder, model_source(base_folder, file, quantize, trust_remote_code), trust_remote_code)
    except LlregError:
        raise
    except OSError as error:
        raise ModelError(f"{model} cannot be read: {error.strerror or error}") from error


def resolve_identity(identity: Identity, *, trust_remote_code: bool = False) -> Source:
    """Find again what a row was measured on: a model of the Hub at the row's commit, with its adapter and quantisation.

    A path of that name on this machine is not looked at. Whether it still is what the row says, `Source.identity` tells.

    Parameters
    ----------
    identity : Identity
    trust_remote_code : bool
        Whether code from the checkpoint may run when it is loaded.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        Its files were not on the Hub, so that only who has them can find them.
    ModelError, MissingExtraError
        As `resolve`.
    """
    require("torch", "transformers", "safetensors")
    adapter, revision = identity.adapter, identity.revision or ""
    pins = (revision, (adapter or {}).get("revision", ""))
    if identity.source != "hub" or any(pin.startswith("sha256:") for pin in pins):
        raise InputError(
            f"{identity.name} was not (all) on the Hub (source {identity.source!r}): only who has its files can score it again"
        )
    quantize = quantize_of(identity.quantization)
    subfolder = tidy_subfolder(identity.subfolder) if identity.subfolder is not None else None
    if adapter is None:
        folder = _open(identity.model, revision, subfolder, identity.file)
        return model_source(folder, identity.file, quantize, trust_remote_code)
    # The subfolder is the adapter's then.
    folder = _open(adapter["model"], adapter["revision"], subfolder)
    read_adapter_config(folder.fetch(ADAPTER_CONFIG), folder.name)  # refuses what llreg cannot score
    base_folder = _open(identity.model, revision, None, identity.file)
    base = model_source(base_folder, identity.file, quantize, trust_remote_code)
    return adapter_source(folder, base, trust_remote_code)


def _find(model: str, revision: str | None, name: str | None, subfolder: str | None) -> tuple[ModelFolder, str | None]:
    """The folder of a model, and the GGUF file in it that `model` names."""
    path = os.path.expanduser(model)  # unlike Path's, it and os.path.exists take any text
    if os.path.exists(path):
        if revision is not None:
            raise InputError(f"{model} is a local path: --revision goes with a Hub model only")
        local = Path(path).resolve()
        if not local.is_file():
            return LocalFolder(local, local_name(local.name, name), subfolder), None
        if local.suffix.lower() != ".gguf":
            raise UnsupportedModelError(f"{local.name} is no .gguf file: give a .gguf file or a model directory")
        _refuse_subfolder(local.name, subfolder)
        return LocalFolder(local.parent, local_name(local.stem, name)), local.name
    # No such path: it is a Hub id, unless it looks like a path all the same.
    if model.startswith((".", "/", "~")) or (model.lower().endswith(".gguf") and not _HUB_GGUF.fullmatch(model)):
        raise ModelNotFoundError(f"{model} does not exist: check the path")
    if name is not None:
        raise InputError(f"{model} is a Hub model and keeps its id: --name goes with a local model only")
    return _find_on_hub(model, revision, subfolder)


def _find_on_hub(model: str, revision: str | None, subfolder: str | None) -> tuple[ModelFolder, str | None]:
    gguf = _HUB_GGUF.fullmatch(model)
    repo, file = (gguf[1], gguf[2]) if gguf else (model, None)
    if not is_name(repo):
        raise ModelNotFoundError(f"{model!r} is neither a path that exists nor a Hub id (org/name)")
    if file is not None:
        _refuse_subfolder(model, subfolder)
    return _open(repo, revision, subfolder, file), file


def _refuse_subfolder(file: str, subfolder: str | None) -> None:
    if subfolder is not None:
        raise InputError(f"{file} is a file: --subfolder goes with a repository or a directory")


def _open(repo: str, revision: str | None, subfolder: str | None, file: str | None = None) -> HubFolder:
    """A folder of a Hub repository, which has a file if one is named."""
    root = open_repo(repo, revision)
    if file is not None and file not in root.root:
        raise ModelNotFoundError(f"{root.name} has no file {file} at revision {root.sha[:12]}: check the name")
    return root.within(subfolder)


def _find_base(adapter: ModelFolder, config: AdapterConfig, base: str | None) -> tuple[ModelFolder, str | None]:
    """The base model of an adapter: the one that the caller names, or else the adapter's config."""
    if base is not None:
        model, _, revision = (base, "", "") if os.path.exists(os.path.expanduser(base)) else base.partition("@")
        return _find(model, revision or (config.revision if model == config.base else None), None, None)
    if config.base is None:
        raise InputError(f"{adapter.name} does not say which model it is an adapter of: give it with --base")
    # A path in a stranger's adapter is one on the stranger's machine.
    if adapter.kind == "local" and os.path.exists(os.path.expanduser(config.base)):
        return _find(config.base, None, None, None)
    if not is_name(config.base):
        raise ModelNotFoundError(
            f"the base model of {adapter.name} is not there: its {ADAPTER_CONFIG} names {config.base!r}; give it with --base"
        )
    return _find_on_hub(config.base, config.revision, None)
