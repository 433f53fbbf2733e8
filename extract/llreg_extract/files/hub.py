"""The Hub, through its client library: which files a model takes, and fetching them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llreg_extract.files.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    OTHER_TOKENIZER_FILES,
    TEKKEN_FILE,
    TOKENIZER_CODE_FILES,
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    check_tokenizer,
    in_folder,
    indexed_weights,
    matching,
    weight_files,
)
from llreg_extract.files.hub_errors import GO_ON, hub_errors
from llreg_extract.libraries import quiet
from llreg_extract.source import Adapter, Source
from llreg_schemas.errors import ModelAccessError, ModelError, ModelNotFoundError

TIMEOUT = 30.0  # seconds for the Hub to answer about a repository
_HEX = re.compile("[0-9a-f]{40,64}")  # the name of a blob
_TOKENIZER = (*TOKENIZER_FILES, *OTHER_TOKENIZER_FILES, TEKKEN_FILE)
_SMALL_FILES = ("config.json", "generation_config.json", WEIGHTS_INDEX, *_TOKENIZER)
_ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *_TOKENIZER)


class RepoFile(NamedTuple):
    """A file that loading a source takes from the Hub: its bytes (None where the Hub does not say), whether it is in the
    cache, and the repository and commit that it is of."""

    name: str
    num_bytes: int | None
    cached: bool
    repo: str
    commit: str


class _Content(NamedTuple):
    """Of a file on the Hub its bytes, and what its blob in the cache is called; None where the Hub does not say."""

    num_bytes: int | None
    name: str | None


def needed_files(source: Source, *, trust_remote_code: bool) -> list[RepoFile]:
    """The files that `download` gets or finds in the cache; of sharded weights the index is fetched to know them.

    Of an adapter also its own. What is local takes none.

    Raises
    ------
    ModelError
        It lacks a tokenizer, or the cache has another file in the place of one.
    ModelNotFoundError, ModelAccessError
    """
    files: list[RepoFile] = []
    name, adapter = source.name, source.adapter
    if source.kind == "hub":
        repo, commit = source.location, source.revision
        present = _present_files(name, repo, commit, lambda: download(source, trust_remote_code=trust_remote_code))
        files += _repo_files(name, repo, commit, _needed_names(source, present, trust_remote_code), present)
    if adapter is not None and adapter.kind == "hub":
        repo, commit = adapter.location, adapter.revision
        present = _present_files(name, repo, commit, lambda: _adapter_root(adapter, name))
        names = matching(present, in_folder(adapter.subfolder, _ADAPTER_FILES))
        files += _repo_files(name, repo, commit, names, present)
    return files


def _present_files(name: str, repo: str, commit: str, find_cached: Callable[[], Path]) -> dict[str, _Content]:
    """A repository's files; when offline, those in the cache.

    `find_cached` gives their folder, or raises an error that says what is missing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with hub_errors(name, commit), quiet():
        try:
            info = HfApi().model_info(repo, revision=commit, files_metadata=True, timeout=TIMEOUT)
            return {
                file.rfilename: _Content(file.size, file.lfs.sha256 if file.lfs else file.blob_id)
                for file in info.siblings or []
            }
        except OfflineModeIsEnabled:
            pass
    folder = find_cached()
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _Content(path.stat().st_size, None) for path in paths}


def _repo_files(
    name: str, repo: str, commit: str, needed: Sequence[str], present: Mapping[str, _Content]
) -> list[RepoFile]:
    from huggingface_hub import try_to_load_from_cache

    absent = next((file for file in needed if file not in present), None)
    if absent is not None:
        raise ModelNotFoundError(f"{name} is incomplete: {WEIGHTS_INDEX} names {absent}, which is not there")
    # What the cache knows to be absent is an object, and no path.
    cached = [
        path if isinstance(path, str) else None
        for path in (try_to_load_from_cache(repo, file, revision=commit) for file in needed)
    ]
    for file, path in zip(needed, cached, strict=True):
        blob, content = Path(path or "").resolve().name, present[file].name or ""
        if path and _HEX.fullmatch(blob) and len(blob) == len(content) and blob != content:
            raise ModelError(
                f"{file} of {name} in the Hub's cache is not the one of commit {commit[:12]}, but another commit's or "
                f"model's: delete {path}, and it is downloaded again"
            )
    return [
        RepoFile(file, present[file].num_bytes, path is not None, repo, commit)
        for file, path in zip(needed, cached, strict=True)
    ]


def _needed_names(source: Source, files: Collection[str], trust_remote_code: bool) -> list[str]:
    """Which of its files are needed of the repository with the weights."""
    from huggingface_hub import hf_hub_download

    if source.file is not None:
        return [source.file]
    small = matching(files, _patterns(source, trust_remote_code))
    if not trust_remote_code and source.tokenizer != "adapter":
        check_tokenizer(source.name, (Path(file).name for file in small))
    (index,) = in_folder(source.subfolder, [WEIGHTS_INDEX])
    if index not in files:
        return [*small, *in_folder(source.subfolder, [WEIGHTS])]
    with hub_errors(source.name, source.revision), quiet():
        path = Path(hf_hub_download(source.location, index, revision=source.revision))
    return [*small, *in_folder(source.subfolder, indexed_weights(path.parent, source.name))]


def _patterns(source: Source, trust_remote_code: bool) -> list[str]:
    """The small files beside the weights, and a tokenizer's that is at the root."""
    code = TOKENIZER_CODE_FILES if trust_remote_code else ()
    beside = in_folder(source.subfolder, [*_SMALL_FILES, *code])
    return beside + ([*_TOKENIZER, *code] if source.tokenizer == "root" else [])


def cache_folder() -> Path:
    """Where the client library keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """Where the client library keeps what it downloads of a model repository."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=repo, repo_type="model")


def cached_commit(repo: str, revision: str | None) -> str | None:
    """The commit that a branch or tag had when it was last looked up; `revision` itself if the cache does not know it.

    The client library's own reading takes a newline, as an editor or `echo` puts behind the commit, for a part of it.
    """
    try:
        commit = (repo_folder(repo) / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return revision
    return commit or revision


def download(source: Source, *, trust_remote_code: bool) -> Path:
    """Directory that holds a Hub source's files as its repository does, downloaded if need be; of a local one, its own.

    An adapter's own files are not among them: see `adapter_folder`.

    Raises
    ------
    ModelNotFoundError, ModelAccessError, ModelError
    """
    if source.kind == "local":
        return Path(source.location)
    from huggingface_hub import hf_hub_download

    with hub_errors(source.name, source.revision), quiet():
        if source.file is not None:
            path = Path(hf_hub_download(source.location, source.file, revision=source.revision))
            return path.parents[source.file.count("/")]
        root = _snapshot(source.location, source.revision, _patterns(source, trust_remote_code))
        folder = root / (source.subfolder or "")
        names = indexed_weights(folder, source.name) if (folder / WEIGHTS_INDEX).is_file() else [WEIGHTS]
        _snapshot(source.location, source.revision, in_folder(source.subfolder, names))
    _refuse_missing(source.name, folder, names)
    return root


def loaded_files(source: Source, folder: Path, *, trust_remote_code: bool) -> list[Path]:
    """The files in the cache that a source, and its adapter, are loaded from; of what is local, none.

    Parameters
    ----------
    source : Source
    folder : Path
        From `download`.
    trust_remote_code : bool
        Whether code from the checkpoint may run.
    """
    files: list[Path] = []
    if source.kind == "hub":
        if source.file is not None:
            files.append(folder / source.file)
        else:
            names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
            files += [folder / file for file in matching(names, _patterns(source, trust_remote_code))]
            beside = folder / (source.subfolder or "")
            files += [beside / file for file in weight_files(beside, source.name)]
    if source.adapter is not None and source.adapter.kind == "hub":
        beside = adapter_folder(source.adapter, source.name)
        files += [beside / file for file in matching((path.name for path in beside.iterdir()), _ADAPTER_FILES)]
    return files


def adapter_folder(adapter: Adapter, name: str) -> Path:
    """Directory with an adapter's files, downloaded if need be.

    Parameters
    ----------
    adapter : Adapter
    name : str
        Its name, for messages.

    Raises
    ------
    ModelNotFoundError, ModelAccessError, ModelError
    """
    root = Path(adapter.location) if adapter.kind == "local" else _adapter_root(adapter, name)
    folder = root / (adapter.subfolder or "")
    _refuse_missing(name, folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
    return folder


def _adapter_root(adapter: Adapter, name: str) -> Path:
    with hub_errors(name, adapter.revision), quiet():
        return _snapshot(adapter.location, adapter.revision, in_folder(adapter.subfolder, _ADAPTER_FILES))


def _snapshot(repo: str, commit: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))


def _refuse_missing(name: str, folder: Path, files: Iterable[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ModelAccessError(
            f"{missing[0]} of {name} is not in the local cache and the Hub cannot be reached: {GO_ON}"
        )
