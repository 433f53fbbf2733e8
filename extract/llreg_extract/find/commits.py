"""Two commits of a model on the Hub: whether they differ in a file that decides its values."""

from __future__ import annotations

from collections.abc import Iterable

from llreg_extract.files.checkpoint import (
    WEIGHTS_INDEX,
    adapter_files,
    deciding_files,
    in_folder,
    matching,
    tokenizer_files,
)
from llreg_extract.files.hub import TIMEOUT
from llreg_extract.files.hub_errors import hub_errors
from llreg_extract.libraries import quiet
from llreg_extract.source import Source
from llreg_schemas import Identity
from llreg_schemas.errors import ModelError


def has_same_files(source: Source, identity: Identity, *, trust_remote_code: bool = False) -> bool:
    """Whether a source is, but for its commits, what a row was measured on: all files that decide its values are the same.

    Parameters
    ----------
    source : Source
        Of the Hub.
    identity : Identity
        Of the row; another commit of the same model, or of its adapter.
    trust_remote_code : bool
        Whether code from the checkpoint may run.

    Returns
    -------
    bool
        False also where the Hub does not tell.
    """
    adapter = source.adapter
    try:
        if source.kind == "hub" and source.revision != identity.revision:
            base, other = (_blobs(source.location, commit) for commit in (source.revision, identity.revision or ""))
            if _pick(source, base, trust_remote_code) != _pick(source, other, trust_remote_code):
                return False
        if adapter is not None and adapter.revision != (identity.adapter or {}).get("revision"):
            if adapter.kind != "hub" or identity.adapter is None:
                return False
            start = f"{adapter.subfolder}/" if adapter.subfolder else ""
            own, other = (
                _blobs(adapter.location, commit) for commit in (adapter.revision, identity.adapter["revision"])
            )
            inside = ([file.removeprefix(start) for file in each if file.startswith(start)] for each in (own, other))
            names = [adapter_files(files, source.name, trust_remote_code=trust_remote_code) for files in inside]
            return _only(own, in_folder(adapter.subfolder, names[0])) == _only(
                other, in_folder(adapter.subfolder, names[1])
            )
    except ModelError:
        return False
    return True


def _blobs(repo: str, commit: str) -> dict[str, str | None]:
    """Git's or git-lfs' name of the content of each file of a repository."""
    from huggingface_hub import HfApi

    with hub_errors(repo, commit), quiet():
        info = HfApi().model_info(repo, revision=commit, files_metadata=True, timeout=TIMEOUT)
    return {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or []}


def _pick(source: Source, blobs: dict[str, str | None], trust_remote_code: bool) -> dict[str, str | None]:
    """Of the files of a repository those that a source is loaded from; with all weights, for which of them an index tells."""
    if source.file is not None:
        return _only(blobs, [source.file])
    start = f"{source.subfolder}/" if source.subfolder else ""
    inside = [file.removeprefix(start) for file in blobs if file.startswith(start)]
    names = deciding_files(inside, trust_remote_code=trust_remote_code)
    names += matching(inside, [WEIGHTS_INDEX, "*.safetensors"])
    beside = [file for file in blobs if "/" not in file]
    root = tokenizer_files(beside, trust_remote_code=trust_remote_code) if source.tokenizer == "root" else []
    return _only(blobs, [*in_folder(source.subfolder, names), *root])


def _only(blobs: dict[str, str | None], names: Iterable[str]) -> dict[str, str | None]:
    """Some of the files; one without a name of its content is like no other."""
    return {name: blobs.get(name) or f"unknown {id(blobs)}" for name in names}
