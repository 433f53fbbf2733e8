"""Metadata and tensor list of a GGUF file, read without its weights.

The gguf package reads whole files from disk only; this reads the first megabytes of any stream, so
that a file on the Hub is described before it is downloaded. Layout: the GGUF specification,
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from llreg_schemas.errors import UnsupportedModelError

# Types of values by number, and how `struct` reads the scalars among them.
_SCALARS = dict(enumerate(["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"])) | {10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_COUNT = 1 << 24  # entries of a list; real vocabularies stay below 2^19
_MAX_STRING = 1 << 24  # bytes; chat templates take some 10^4
_MAX_DIMENSIONS = 8  # of a tensor; ggml has 4
_MAX_BASES = 32
_ALIGNMENT = 32  # bytes, where general.alignment says nothing else
_REPO_URL = re.compile(r"https://huggingface\.co/([^/?#]+/[^/?#]+)/?")


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies in a GGUF file.

    Attributes
    ----------
    shape : tuple of int
        As numpy has it: the dimension that moves fastest is last.
    kind : int
        GGML type.
    offset : int
        From the beginning of the data, in bytes.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself.

    Attributes
    ----------
    metadata : dict
        Scalars and strings by key.
    arrays : dict
        Lists by key; empty unless they were asked for.
    tensors : dict
        Tensors by name, in the file's order.
    data_start : int
        Where the tensors' data begin in the file.
    """

    metadata: Mapping[str, Any]
    arrays: Mapping[str, list[Any]]
    tensors: Mapping[str, TensorEntry]
    data_start: int

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def architecture(self) -> str | None:
        """Name of the architecture as llama.cpp has it, such as "llama"."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None

    @property
    def context_length(self) -> int | None:
        """Context in tokens; None where the file names none."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def base_models(self) -> list[str]:
        """Hub ids of the models it was made from, where it gives their addresses."""
        count = self.metadata.get("general.base_model.count")
        numbers = range(min(count, _MAX_BASES) if isinstance(count, int) else 0)
        urls = (self.metadata.get(f"general.base_model.{k}.repo_url") for k in numbers)
        matches = (_REPO_URL.fullmatch(url) for url in urls if isinstance(url, str))
        return [match[1] for match in matches if match]

    @property
    def quantization(self) -> str | None:
        """Type of the weights, as "gguf:Q4_K_M"; None for float32."""
        from gguf import GGMLQuantizationType, LlamaFileType

        elements: Counter[int] = Counter()
        for tensor in self.tensors.values():
            elements[tensor.kind] += math.prod(tensor.shape)
        prevailing = elements.most_common(1)[0][0] if elements else 0
        try:
            label = LlamaFileType(self.metadata["general.file_type"]).name.removeprefix("MOSTLY_")
        except (KeyError, ValueError):
            try:
                label = GGMLQuantizationType(prevailing).name
            except ValueError:
                label = f"type-{prevailing}"
        return None if label in ("ALL_F32", "F32") else f"gguf:{label}"


def read_gguf_header(stream: BinaryIO, name: str, *, arrays: bool = False) -> GGUFHeader:
    """Read the header at the start of `stream`.

    Parameters
    ----------
    stream : file
        Open for reading, at its beginning.
    name : str
        The model, for messages.
    arrays : bool
        Whether the metadata's lists are wanted, which the vocabulary is among.

    Raises
    ------
    UnsupportedModelError
        It is not a GGUF header, or of a version or byte order not known here.
    """
    try:
        if stream.read(4) != b"GGUF":
            raise _bad(name, "it does not start with GGUF")
        version = _number(stream, "<I")
        if version not in (2, 3):
            raise _bad(name, f"version {version}, expected 2 or 3 in little-endian order")
        num_tensors, num_entries = _count(stream), _count(stream)
        # Layout: magic, version, counts; then keys and values; then name, shape, type and offset of each tensor.
        metadata, lists = {}, {}
        for _ in range(num_entries):
            key = _string(stream)
            value = _value(stream, _number(stream, "<I"), arrays)
            if isinstance(value, list):
                lists[key] = value
            elif value is not None:
                metadata[key] = value
        tensors: dict[str, TensorEntry] = {}
        for _ in range(num_tensors):
            tensor, dimensions = _string(stream), _number(stream, "<I")
            if dimensions > _MAX_DIMENSIONS:
                raise _MalformedError(f"a tensor of {dimensions} dimensions")
            shape = tuple(reversed([_number(stream, "<Q") for _ in range(dimensions)]))
            if tensor in tensors:
                raise _MalformedError(f"two tensors are called {tensor}")
            tensors[tensor] = TensorEntry(shape, _number(stream, "<I"), _number(stream, "<Q"))
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise _MalformedError(f"general.alignment is {alignment}")
        data_start = -(-stream.tell() // alignment) * alignment
    except (struct.error, UnicodeDecodeError, _MalformedError) as error:
        raise _bad(name, str(error)) from error
    return GGUFHeader(metadata, lists, tensors, data_start)


class _MalformedError(Exception):
    """What is read cannot be a header."""


def _bad(name: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} is not a GGUF file llreg can read: {why}")


def _number(stream: BinaryIO, layout: str) -> Any:
    return struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]


def _count(stream: BinaryIO) -> int:
    count: int = _number(stream, "<Q")
    if count > _MAX_COUNT:
        raise _MalformedError(f"{count} entries")
    return count


def _string(stream: BinaryIO) -> str:
    size: int = _number(stream, "<Q")
    if size > _MAX_STRING:
        raise _MalformedError(f"a string of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise _MalformedError("the file is cut short")
    return data.decode("utf-8", errors="replace")


def _value(stream: BinaryIO, kind: int, arrays: bool) -> Any:
    """One value of a type; None for an array where arrays are not wanted."""
    if kind == _STRING:
        return _string(stream)
    if kind in _SCALARS:
        return _number(stream, _SCALARS[kind])
    if kind != _ARRAY:
        raise _MalformedError(f"value type {kind}")
    item, count = _number(stream, "<I"), _count(stream)
    if item in _SCALARS:
        data = stream.read(count * struct.calcsize(_SCALARS[item]))
        return list(struct.unpack(f"<{count}{_SCALARS[item][1]}", data)) if arrays else None
    if item == _ARRAY:
        raise _MalformedError("an array of arrays")
    strings = [_string(stream) for _ in range(count)]
    return strings if arrays else None
