"""What the safetensors files of a checkpoint hold, from their headers, and whether files, headers and index fit together.

Layout: 8 bytes with the length of the header (little-endian), the header in JSON, the tensors; see
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llreg_extract.files.checkpoint import WEIGHTS, WEIGHTS_INDEX, refuse_pointer, weight_files
from llreg_schemas.errors import UnsupportedModelError

_MAX_HEADER = 100_000_000  # bytes; what the safetensors library takes
# What llreg loads weights in, by the names of safetensors.
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class StoredTensor(NamedTuple):
    """A tensor of a safetensors file: its name there, dtype as safetensors names it ("F32"), shape, whether the index knows it."""

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    is_indexed: bool = True

    @property
    def num_elements(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def read(self) -> Any:
        """Its values, a torch tensor on the CPU."""
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.key)


def stored_tensors(directory: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint's safetensors files, by their names.

    Parameters
    ----------
    directory : Path
        With the files.
    name : str
        The model, for messages.

    Raises
    ------
    ModelNotFoundError
        A file that the index names is not there.
    UnsupportedModelError
        A file is no safetensors file, cut short or padded, or the files are not those that the index was written for.
    """
    files = weight_files(directory, name)
    places = None  # file of each tensor, as the index has it
    if files != [WEIGHTS]:
        places = json.loads((directory / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"]
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for key, tensor in _read_file(directory / file, name).items():
            if key in tensors:
                raise UnsupportedModelError(
                    f"{name}: {key} is in {tensors[key].path.name} and in {file}, and only one of them can be meant: "
                    "the shards are of two checkpoints; put all files of one in a directory of its own"
                )
            tensors[key] = tensor if places is None else tensor._replace(is_indexed=places.get(key) == file)
    strayed = [key for key, file in (places or {}).items() if key not in tensors or tensors[key].path.name != file]
    if places is not None and strayed:
        raise UnsupportedModelError(
            f"{name}: {WEIGHTS_INDEX} says that {strayed[0]} is in {places[strayed[0]]}, where it is not: index and shards are "
            "of two checkpoints; put all files of one in a directory of its own"
        )
    return tensors


def _read_file(path: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of one file, whose size must be what its header says."""
    refuse_pointer(path, name)
    with path.open("rb") as stream:
        header = read_header(stream, path.name)
        start = stream.tell()
    end = start + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    size = path.stat().st_size
    if size != end:
        state = "cut short" if size < end else "longer than it should be"
        raise UnsupportedModelError(
            f"{path.name} of {name} is {state}: it has {size:,} bytes, and its header describes {end:,}; copy or download it again"
        )
    return {key: StoredTensor(path, key, tensor["dtype"], tuple(tensor["shape"])) for key, tensor in header.items()}


def read_header(stream: BinaryIO, file: str) -> dict[str, dict[str, Any]]:
    """The tensors that the header at the start of a safetensors file describes: "dtype", "shape" and "data_offsets" of each.

    Raises
    ------
    UnsupportedModelError
        It is no safetensors file.
    """
    size = int.from_bytes(stream.read(8), "little")
    try:
        if not 2 <= size <= _MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        data = stream.read(size)
        if len(data) < size:
            raise ValueError(f"a header of {len(data)} bytes instead of {size}")
        header: dict[str, Any] = json.loads(data)
        header.pop("__metadata__", None)
        for tensor in header.values():
            numbers = [*tensor["shape"], *tensor["data_offsets"]]
            if (
                not all(isinstance(number, int) and number >= 0 for number in numbers)
                or len(tensor["data_offsets"]) != 2
            ):
                raise ValueError("a tensor of no valid shape or place")
            tensor["dtype"] = str(tensor["dtype"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(f"{file} is not a safetensors file or is cut short: {error}") from error
    return header


def count_elements(tensors: Iterable[tuple[str, Iterable[int]]]) -> Counter[str]:
    """Elements by dtype ("F32", "BF16", ...) of tensors, given by dtype and shape."""
    elements: Counter[str] = Counter()
    for dtype, shape in tensors:
        elements[dtype] += math.prod(shape)
    return elements


def prevailing_dtype(elements: Counter[str]) -> str:
    """dtype of most of the elements, counted by safetensors' names; "float32" where it is none that llreg loads in."""
    return DTYPES.get(elements.most_common(1)[0][0] if elements else "F32", "float32")
