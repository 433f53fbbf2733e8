"""A model directory, or a folder of it: what lies there, and the hash that pins it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from llreg_extract.files.checkpoint import hash_file, hash_files, in_folder, read_elements, weight_files
from llreg_extract.find.card import read_card
from llreg_extract.source import Kind
from llreg_schemas.errors import ModelNotFoundError


@dataclass(frozen=True)
class LocalFolder:
    """A model directory; it answers as `llreg_extract.files.hub.HubRepo` does.

    Attributes
    ----------
    path : Path
        The directory.
    name : str
        The model's.
    subfolder : str or None
        The folder inside it that has the model's files.
    """

    path: Path
    name: str
    subfolder: str | None = None

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
        return [entry.name for entry in self.folder.iterdir() if entry.is_file()]

    @cached_property
    def root(self) -> list[str]:
        """Names of the files in the directory."""
        return [entry.name for entry in self.path.iterdir() if entry.is_file()]

    @property
    def card(self) -> dict[str, Any]:
        """Metadata of its model card."""
        return read_card(self.folder / "README.md") or read_card(self.path / "README.md")

    @cached_property
    def elements(self) -> Counter[str]:
        """Elements of the weights by safetensors dtype."""
        return read_elements(self.folder, weight_files(self.folder, self.name))

    def revision(self, files: Iterable[str], *, weights: bool = False) -> str:
        """``sha256:<hex>`` over files, named as seen from the directory, and if asked for over the weights.

        A GGUF file is hashed alone, without its name.
        """
        named = list(files)
        if len(named) == 1 and named[0].lower().endswith(".gguf"):
            return f"sha256:{hash_file(self.path / named[0])}"
        if weights:
            _ = self.elements  # which refuses what is no safetensors file
            named += in_folder(self.subfolder, weight_files(self.folder, self.name))
        return f"sha256:{hash_files(self.path, set(named))}"

    def fetch(self, file: str) -> Path:
        """Path of a file of its folder."""
        return self.folder / file

    @contextmanager
    def open(self, file: str) -> Iterator[BinaryIO]:
        """Open a file of its folder."""
        with (self.folder / file).open("rb") as stream:
            yield stream
