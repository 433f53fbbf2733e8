"""A model repository on the Hub at one commit: pinned and described before anything of it is downloaded."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from llreg_extract.files.checkpoint import WEIGHTS, WEIGHTS_INDEX, count_elements, in_folder, indexed_weights
from llreg_extract.files.hub import TIMEOUT
from llreg_extract.files.hub_errors import hub_errors
from llreg_extract.find.card import read_card
from llreg_extract.libraries import quiet
from llreg_extract.source import Kind, is_name
from llreg_schemas.errors import ModelNotFoundError

_HEADER_BLOCK = 4 << 20  # 4 MiB: bytes fetched at a time while reading a GGUF header
_SAFETENSORS_BLOCK = 256 << 10  # 256 KiB: the header of a safetensors file of some thousand tensors


@dataclass(frozen=True)
class HubRepo:
    """A model repository, or a folder of it, at one commit.

    Attributes
    ----------
    location : str
        Its id, as it was asked for.
    name : str
        As the Hub spells it: a moved or short id is replaced by the present one.
    sha : str
        40-hex commit.
    root : collection of str
        Its files; only the cached ones when offline.
    card : dict
        Metadata of its model card.
    parameters : mapping of str to int
        Parameters by safetensors dtype, where the Hub has counted them.
    facts : mapping
        What only the Hub knows: "created" and, unless offline, "tags" and "downloads" (of the last 30 days).
    subfolder : str or None
        The folder; None is the whole repository.
    """

    location: str
    name: str
    sha: str
    root: Collection[str]
    card: dict[str, Any]
    parameters: Mapping[str, int]
    facts: Mapping[str, Any]
    subfolder: str | None = None

    kind: ClassVar[Kind] = "hub"

    @cached_property
    def files(self) -> list[str]:
        """Names of the files in its folder and below, as seen from there."""
        start = f"{self.subfolder}/" if self.subfolder else ""
        return [file[len(start) :] for file in self.root if file.startswith(start)]

    def within(self, subfolder: str | None) -> HubRepo:
        """Its folder of that name.

        Raises
        ------
        ModelNotFoundError
        """
        if subfolder is None:
            return self
        found = replace(self, subfolder=subfolder, parameters={})  # the Hub counts those of the root
        if not found.files:
            raise ModelNotFoundError(
                f"{self.name} has no folder {subfolder} at revision {self.sha[:12]}: check the name"
            )
        return found

    def revision(self, files: Iterable[str], *, weights: bool = False) -> str:
        """Its commit, whichever files count."""
        return self.sha

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

    def fetch(self, file: str) -> Path:
        """Local path of a small file of its folder, downloaded if need be."""
        from huggingface_hub import hf_hub_download

        with hub_errors(self.name, self.sha), quiet():
            return Path(hf_hub_download(self.location, self._path(file), revision=self.sha))

    def _path(self, file: str) -> str:
        return in_folder(self.subfolder, [file])[0]

    @contextmanager
    def open(self, file: str, *, block: int = _HEADER_BLOCK) -> Iterator[BinaryIO]:
        """Open a file of its folder for reading its beginning: cached, or else in ranges of `block` bytes."""
        from huggingface_hub import HfFileSystem, try_to_load_from_cache

        cached = try_to_load_from_cache(self.location, self._path(file), revision=self.sha)
        if isinstance(cached, str):
            with Path(cached).open("rb") as stream:
                yield stream
            return
        with hub_errors(self.name, self.sha), quiet():
            path = f"{self.location}@{self.sha}/{self._path(file)}"
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
            info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        except OfflineModeIsEnabled:
            return _cached_repo(repo, revision)
        files = [sibling.rfilename for sibling in info.siblings or []]
        _remember_revision(repo, revision, files)
    return HubRepo(
        location=repo,
        name=info.id if is_name(info.id) else repo,
        sha=str(info.sha),
        root=files,
        card=cast(Any, info.card_data).to_dict() if info.card_data else {},
        parameters=info.safetensors.parameters if info.safetensors else {},
        facts={
            "created": info.created_at.strftime("%Y-%m-%dT%H:%M:%SZ") if info.created_at else None,
            "tags": info.tags or [],
            "downloads": info.downloads,
        },
    )


def _remember_revision(repo: str, revision: str | None, files: Collection[str]) -> None:
    # Files are fetched by commit, which leaves no trace of the branch in the cache; fetching one small
    # file by its branch does, so that the same name resolves offline later.
    from huggingface_hub import hf_hub_download

    named = (file for file in ("config.json", "README.md") if file in files)
    small = next(named, None) or next((file for file in files if file.endswith("config.json")), None)
    if small is not None:
        hf_hub_download(repo, small, revision=revision)


def _cached_repo(repo: str, revision: str | None) -> HubRepo:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return HubRepo(repo, repo, folder.name, files, read_card(folder / "README.md"), {}, {"created": None})
