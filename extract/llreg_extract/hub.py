"""The Hub, through its client library: pin a revision, describe it, fetch its files, explain refusals."""

from __future__ import annotations

import errno
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from llreg_extract.checkpoint import DTYPES, TOKENIZER_FILES, WEIGHTS, WEIGHTS_INDEX, indexed_weights
from llreg_extract.libraries import first_line, quiet
from llreg_extract.source import Source, is_name
from llreg_schemas.errors import LlregError, ModelAccessError, ModelError, ModelNotFoundError

_TIMEOUT = 30.0  # seconds for the Hub to answer about a repository
_HEADER_BLOCK = 4 << 20  # 4 MiB: bytes fetched at a time while reading a GGUF header
_SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, WEIGHTS_INDEX)


@dataclass(frozen=True)
class HubRepo:
    """A model repository at one commit.

    Attributes
    ----------
    id : str
        As it was asked for.
    name : str
        As the Hub spells it: a moved or short id is replaced by the present one.
    sha : str
        40-hex commit.
    files : collection of str
        Its files; only the cached ones when offline.
    card : dict
        Metadata of its model card.
    created : str or None
    parameters : mapping of str to int
        Parameters by safetensors dtype, where the Hub has counted them.
    """

    id: str
    name: str
    sha: str
    files: Collection[str]
    card: dict[str, Any]
    created: str | None
    parameters: Mapping[str, int]

    @cached_property
    def num_parameters(self) -> int | None:
        """Parameters in all, or None where the Hub does not say."""
        return sum(self.parameters.values()) or None

    @cached_property
    def saved_dtype(self) -> str | None:
        """dtype of most parameters, or None where the Hub does not say."""
        if not self.parameters:
            return None
        return DTYPES.get(max(self.parameters, key=lambda key: self.parameters[key]))

    def fetch(self, file: str) -> Path:
        """Local path of a small file, downloaded if need be."""
        from huggingface_hub import hf_hub_download

        with hub_errors(self.name, self.sha), quiet():
            return Path(hf_hub_download(self.id, file, revision=self.sha))

    @contextmanager
    def open(self, file: str) -> Iterator[BinaryIO]:
        """Open a file for reading its beginning: from the cache if it is there, else in ranges."""
        from huggingface_hub import HfFileSystem, try_to_load_from_cache

        cached = try_to_load_from_cache(self.id, file, revision=self.sha)
        if isinstance(cached, str):
            with Path(cached).open("rb") as stream:
                yield stream
            return
        with hub_errors(self.name, self.sha), quiet():
            path = f"{self.id}@{self.sha}/{file}"
            with HfFileSystem().open(path, "rb", block_size=_HEADER_BLOCK) as remote:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, remote), _HEADER_BLOCK))


def open_repo(repo: str, revision: str | None) -> HubRepo:
    """Pin a repository's revision to a commit before anything of it is downloaded.

    Raises
    ------
    ModelNotFoundError, ModelAccessError
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    with hub_errors(repo, revision), quiet():
        try:
            info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT)
        except OfflineModeIsEnabled:
            return _cached_repo(repo, revision)
        files = [sibling.rfilename for sibling in info.siblings or []]
        _remember_revision(repo, revision, files)
    return HubRepo(
        id=repo,
        name=info.id if is_name(info.id) else repo,
        sha=str(info.sha),
        files=files,
        card=cast(Any, info.card_data).to_dict() if info.card_data else {},
        created=info.created_at.strftime("%Y-%m-%dT%H:%M:%SZ") if info.created_at else None,
        parameters=info.safetensors.parameters if info.safetensors else {},
    )


def _remember_revision(repo: str, revision: str | None, files: Collection[str]) -> None:
    # Files are fetched by commit, which leaves no trace of the branch in the cache; fetching one small
    # file by its branch does, so that the same name resolves offline later.
    from huggingface_hub import hf_hub_download

    small = next((file for file in ("config.json", "README.md") if file in files), None)
    if small is not None:
        hf_hub_download(repo, small, revision=revision)


def _cached_repo(repo: str, revision: str | None) -> HubRepo:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return HubRepo(repo, repo, folder.name, files, {}, None, {})


def download(source: Source, *, trust_remote_code: bool) -> Path:
    """Directory with the files of a Hub source, downloaded if need be; of a local one, its own.

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
        patterns = [*_SMALL_FILES, *(["*.py"] if trust_remote_code else [])]
        folder = _snapshot(source, patterns)
        weights = indexed_weights(folder, source.name) if (folder / WEIGHTS_INDEX).is_file() else [WEIGHTS]
        _snapshot(source, weights)
    missing = [file for file in weights if not (folder / file).is_file()]
    if missing:
        raise ModelAccessError(
            f"{missing[0]} of {source.name} is not in the local cache and the Hub cannot be reached: {_GO_ON}"
        )
    return folder


def _snapshot(source: Source, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.location, revision=source.revision, allow_patterns=patterns))


_GO_ON = "check the connection, or use a local directory, or HF_HUB_OFFLINE=1 with a model that is in the cache"


@contextmanager
def hub_errors(model: str, revision: str | None) -> Iterator[None]:
    """Turn the client library's refusals about `model` into one sentence each."""
    try:
        yield
    except LlregError:
        raise
    except Exception as error:
        told = _explain(error, model, revision)
        if told is None:
            raise
        raise told from error


def _explain(error: Exception, model: str, revision: str | None) -> ModelError | None:
    """The sentence for an error, most specific first; None for what is not the Hub's."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    at = f" at revision {revision}" if revision else ""
    if isinstance(error, errors.HFValidationError):
        return ModelNotFoundError(f"{model!r} is neither a path that exists nor a valid Hub id (org/name)")
    if isinstance(error, errors.GatedRepoError):
        return ModelAccessError(f"{model} is gated: accept its terms at {endpoint}/{model} and log in (hf auth login)")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{model} has no revision {revision}: check the branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"no model {model} on the Hub, or it is private: check the name; for a private one log in (hf auth login)"
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return ModelAccessError(
            f"the Hub ({endpoint}) cannot be reached and {model}{at} is not in the local cache: {_GO_ON}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return ModelNotFoundError(f"{model}{at} lacks a file: {first_line(error)}")
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error, model, endpoint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"the disk is full while {model} is downloaded: free some space, or move HF_HOME")
    if isinstance(error, (ConnectionError, TimeoutError)) or _from_http_client(error):
        return ModelAccessError(f"the Hub ({endpoint}) cannot be reached for {model}: {_GO_ON}")
    return None


def _explain_status(error: Any, model: str, endpoint: str) -> ModelError:
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return ModelAccessError(
            f"the Hub refuses access to {model} ({status}): check that your token is valid and may read it (hf auth login)"
        )
    return ModelAccessError(
        f"the Hub ({endpoint}) answered {status} for {model}: try again later, or use a local directory"
    )


def _from_http_client(error: Exception) -> bool:
    # The client library lets its HTTP library's network errors through, and has changed that library twice.
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests")
