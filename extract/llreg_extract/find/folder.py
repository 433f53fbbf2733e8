"""Where a model's files are: a directory, or a repository on the Hub at one commit, pinned before it is downloaded."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, cast

from llreg_extract.files.card import read_card
from llreg_extract.files.checkpoint import (
    WEIGHTS,
    WEIGHTS_INDEX,
    hash_file,
    hash_files,
    in_folder,
    indexed_weights,
    refuse_pointer,
    refuse_two_weights,
    weight_files,
)
from llreg_extract.files.hub import TIMEOUT, cached_commit
from llreg_extract.files.hub_errors import UNWRITABLE, hub_errors
from llreg_extract.files.tensors import count_elements, read_header, stored_tensors
from llreg_extract.libraries import quiet
from llreg_extract.source import FileStamp, Kind, check_unchanged, is_name
from llreg_schemas.errors import ModelNotFoundError

_HEADER_BLOCK = 4 << 20  # 4 MiB: bytes fetched at a time while reading a GGUF header
_SAFETENSORS_BLOCK = 256 << 10  # 256 KiB: the header of a safetensors file of some thousand tensors


class ModelFolder(Protocol):
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
    @property
    def hashed(self) -> Mapping[str, FileStamp]: ...
    def revision(self, files: Iterable[str], *, weights: bool = False) -> str: ...
    def fetch(self, file: str) -> Path: ...
    def open(self, file: str) -> AbstractContextManager[BinaryIO]: ...


@dataclass(frozen=True)
class LocalFolder:
    """A model directory, or a folder of it.

    Attributes
    ----------
    path : Path
        The directory.
    name : str
        The model's.
    subfolder : str or None
        The folder inside it that has the model's files.
    hashed : dict of str to FileStamp
        The files that `revision` has hashed, by path, as they were then.
    """

    path: Path
    name: str
    subfolder: str | None = None
    hashed: dict[str, FileStamp] = field(default_factory=dict)

    kind: ClassVar[Kind] = "local"
    facts: ClassVar[Mapping[str, Any]] = {"created": None}

    @property
    def location(self) -> str:
        """Path of the directory."""
        return str(self.path)

    @property
    def folder(self) -> Path:
        """Path of the folder with the model's files."""
        return self.path / (self.subfolder or "")

    @cached_property
    def files(self) -> list[str]:
        """Names of the files in its folder."""
        if not self.folder.is_dir():
            raise ModelNotFoundError(f"{self.path.name} has no folder {self.subfolder}: check the name")
        return file_names(self.folder)

    @cached_property
    def root(self) -> list[str]:
        """Names of the files in the directory."""
        return file_names(self.path)

    @property
    def card(self) -> dict[str, Any]:
        """Metadata of its model card."""
        return read_card(self.folder / "README.md") or read_card(self.path / "README.md")

    @cached_property
    def elements(self) -> Counter[str]:
        """Elements of the weights by safetensors dtype."""
        tensors = stored_tensors(self.folder, self.name).values()
        return count_elements((tensor.dtype, tensor.shape) for tensor in tensors)

    def revision(self, files: Iterable[str], *, weights: bool = False) -> str:
        """``sha256:<hex>`` over files, named as seen from the directory, and if asked for over the weights.

        A GGUF file is hashed alone, without its name.
        """
        names = list(files)
        if weights:
            _ = self.elements  # which refuses files that do not fit together
            names += in_folder(self.subfolder, weight_files(self.folder, self.name))
        for path in (self.path / name for name in names):
            refuse_pointer(path, self.name)
            self.hashed[str(path)] = FileStamp.of(path)
        is_gguf = len(names) == 1 and names[0].lower().endswith(".gguf")
        digest = hash_file(self.path / names[0]) if is_gguf else hash_files(self.path, set(names))
        check_unchanged(self.hashed, self.name)
        return f"sha256:{digest}"

    def fetch(self, file: str) -> Path:
        """Path of a file of its folder."""
        refuse_pointer(self.folder / file, self.name)
        return self.folder / file

    @contextmanager
    def open(self, file: str) -> Iterator[BinaryIO]:
        """Open a file of its folder."""
        with self.fetch(file).open("rb") as stream:
            yield stream


def file_names(directory: Path) -> list[str]:
    """Names of the files in a directory, but for the ._NAME that macOS writes beside NAME on foreign disks."""
    return [entry.name for entry in directory.iterdir() if entry.is_file() and not entry.name.startswith("._")]


@dataclass(frozen=True)
class HubFolder:
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
    hashed: ClassVar[Mapping[str, FileStamp]] = {}

    @cached_property
    def files(self) -> list[str]:
        """Names of the files in its folder and below, as seen from there."""
        start = f"{self.subfolder}/" if self.subfolder else ""
        return [file[len(start) :] for file in self.root if file.startswith(start)]

    def within(self, subfolder: str | None) -> HubFolder:
        """Its folder of that name.

        Raises
        ------
        ModelNotFoundError
        """
        if subfolder is None:
            return self
        folder = replace(self, subfolder=subfolder, parameters={})  # the Hub counts those of the root
        if not folder.files:
            raise ModelNotFoundError(
                f"{self.name} has no folder {subfolder} at revision {self.sha[:12]}: check the name"
            )
        return folder

    def revision(self, files: Iterable[str], *, weights: bool = False) -> str:
        """Its commit, whichever files count."""
        if weights and WEIGHTS in self.files and WEIGHTS_INDEX in self.files:
            refuse_two_weights(self.fetch(WEIGHTS_INDEX).parent, self.name)
        return self.sha

    @cached_property
    def elements(self) -> Counter[str]:
        """Parameters by safetensors dtype: the Hub's count, or what the weights' headers say.

        Empty where neither is at hand: the weights are not in the cache, and the Hub is off.
        """
        if self.parameters:
            return Counter(dict(self.parameters))
        weights: list[str] = []
        if WEIGHTS in self.files:
            weights = [WEIGHTS]
        elif WEIGHTS_INDEX in self.files:
            shards = indexed_weights(self.fetch(WEIGHTS_INDEX).parent, self.name)
            weights = shards if set(shards) <= set(self.files) else []
        elements: Counter[str] = Counter()
        for file in weights:
            with self.open(file, block=_SAFETENSORS_BLOCK) as stream:
                tensors = read_header(stream, file).values()
                elements += count_elements((tensor["dtype"], tensor["shape"]) for tensor in tensors)
        return elements

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


def open_repo(repo: str, revision: str | None) -> HubFolder:
    """Pin a repository's revision to a commit before anything of it is downloaded.

    Raises
    ------
    ModelNotFoundError, ModelAccessError
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    with hub_errors(repo, revision), quiet():
        try:
            info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        except OfflineModeIsEnabled:
            commit = cached_commit(repo, revision)
            cached = snapshot_download(repo, revision=commit, local_files_only=True, allow_patterns=["config.json"])
            folder = Path(cached)
            files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
            return HubFolder(repo, repo, folder.name, files, read_card(folder / "README.md"), {}, {"created": None})
        files = [sibling.rfilename for sibling in info.siblings or []]
        # Files are fetched by commit, which leaves no trace of the branch in the cache; fetching one small file by its
        # branch does, so that the same name resolves offline later. A cache that may only be read gets no trace.
        describing: list[str] = [file for file in ("config.json", "README.md") if file in files]
        describing += [file for file in files if file.endswith("config.json")]
        if describing:
            try:
                hf_hub_download(repo, describing[0], revision=revision)
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
    return HubFolder(
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
