"""The Hub, through its client library: pin a revision, describe it, fetch its files, explain refusals."""

from __future__ import annotations

import errno
import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from llreg_extract.card import read_card
from llreg_extract.checkpoint import (
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    check_tokenizer,
    count_elements,
    indexed_weights,
    matching,
    prevailing_dtype,
)
from llreg_extract.libraries import first_line, quiet
from llreg_extract.source import Source, is_name
from llreg_schemas.errors import LlregError, ModelAccessError, ModelError, ModelNotFoundError

_TIMEOUT = 30.0  # seconds for the Hub to answer about a repository
_HEADER_BLOCK = 4 << 20  # 4 MiB: bytes fetched at a time while reading a GGUF header
_SAFETENSORS_BLOCK = 256 << 10  # 256 KiB: the header of a safetensors file of some thousand tensors
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
    tags : sequence of str or None
        The Hub's tags; None when offline.
    downloads : int or None
        Of the last 30 days.
    """

    id: str
    name: str
    sha: str
    files: Collection[str]
    card: dict[str, Any]
    created: str | None
    parameters: Mapping[str, int]
    tags: Sequence[str] | None = None
    downloads: int | None = None

    @cached_property
    def elements(self) -> Counter[str]:
        """Parameters by safetensors dtype: the Hub's count, or what the weights' headers say.

        Empty where neither is at hand: the weights are not in the cache, and the Hub is off.
        """
        if self.parameters:
            return Counter(dict(self.parameters))
        elements: Counter[str] = Counter()
        for file in self._weights():
            with self.open(file, block=_SAFETENSORS_BLOCK) as stream:
                elements += count_elements(stream, file)
        return elements

    def _weights(self) -> list[str]:
        """The safetensors files, or none where some are neither in the cache nor to be had."""
        if WEIGHTS in self.files:
            return [WEIGHTS]
        if WEIGHTS_INDEX not in self.files:
            return []
        files = indexed_weights(self.fetch(WEIGHTS_INDEX).parent, self.name)
        return files if set(files) <= set(self.files) else []

    @property
    def num_parameters(self) -> int | None:
        """Parameters in all, or None where nothing says."""
        return self.elements.total() or None

    @property
    def saved_dtype(self) -> str | None:
        """dtype of most parameters, or None where nothing says."""
        return prevailing_dtype(self.elements) if self.elements else None

    def fetch(self, file: str) -> Path:
        """Local path of a small file, downloaded if need be."""
        from huggingface_hub import hf_hub_download

        with hub_errors(self.name, self.sha), quiet():
            return Path(hf_hub_download(self.id, file, revision=self.sha))

    @contextmanager
    def open(self, file: str, *, block: int = _HEADER_BLOCK) -> Iterator[BinaryIO]:
        """Open a file for reading its beginning: from the cache if it is there, else in ranges of `block` bytes."""
        from huggingface_hub import HfFileSystem, try_to_load_from_cache

        cached = try_to_load_from_cache(self.id, file, revision=self.sha)
        if isinstance(cached, str):
            with Path(cached).open("rb") as stream:
                yield stream
            return
        with hub_errors(self.name, self.sha), quiet():
            path = f"{self.id}@{self.sha}/{file}"
            with HfFileSystem().open(path, "rb", block_size=block) as remote:
                yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, remote), block))


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
        tags=info.tags or [],
        downloads=info.downloads,
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
    return HubRepo(repo, repo, folder.name, files, read_card(folder / "README.md"), None, {})


class RepoFile(NamedTuple):
    """A file that loading a Hub source takes: its bytes (None where the Hub does not say), and whether it is in the cache."""

    name: str
    num_bytes: int | None
    cached: bool


def needed_files(source: Source, *, trust_remote_code: bool) -> list[RepoFile]:
    """The files that `download` gets or finds in the cache; of sharded weights the index is fetched to know them.

    Raises
    ------
    ModelError
        It lacks a tokenizer.
    ModelNotFoundError, ModelAccessError
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import OfflineModeIsEnabled

    api, commit = HfApi(), source.revision
    with hub_errors(source.name, commit), quiet():
        try:
            info = api.model_info(source.location, revision=commit, files_metadata=True, timeout=_TIMEOUT)
        except OfflineModeIsEnabled:
            return _cached_files(source, trust_remote_code)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
        wanted = _wanted_files(source, sizes, trust_remote_code)
        gone = next((file for file in wanted if file not in sizes), None)
        if gone is not None:
            raise ModelNotFoundError(f"{source.name} is incomplete: {WEIGHTS_INDEX} names {gone}, which is not there")
        cached = [isinstance(try_to_load_from_cache(source.location, file, revision=commit), str) for file in wanted]
        return [RepoFile(file, sizes[file], here) for file, here in zip(wanted, cached, strict=True)]


def _cached_files(source: Source, trust_remote_code: bool) -> list[RepoFile]:
    folder = download(source, trust_remote_code=trust_remote_code)  # from the cache, or it tells what is missing
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    wanted = _wanted_files(source, files, trust_remote_code)
    return [RepoFile(file, (folder / file).stat().st_size, True) for file in wanted]


def _wanted_files(source: Source, files: Collection[str], trust_remote_code: bool) -> list[str]:
    from huggingface_hub import hf_hub_download

    if source.file is not None:
        return [source.file]
    if not trust_remote_code:
        check_tokenizer(source.name, files)
    small = matching(files, _patterns(trust_remote_code))
    if WEIGHTS_INDEX not in files:
        return [*small, WEIGHTS]
    index = Path(hf_hub_download(source.location, WEIGHTS_INDEX, revision=source.revision))
    return [*small, *indexed_weights(index.parent, source.name)]


def _patterns(trust_remote_code: bool) -> list[str]:
    return [*_SMALL_FILES, *(["*.py"] if trust_remote_code else [])]


def cache_folder() -> Path:
    """Where the client library keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


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
        folder = _snapshot(source, _patterns(trust_remote_code))
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
