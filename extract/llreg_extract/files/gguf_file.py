"""A GGUF file on disk: its header, its tensors, and whether all of its data are there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.files.gguf_header import GGUFHeader, TensorEntry, read_gguf_header
from llreg_schemas.errors import UnsupportedModelError


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file whose header was read.

    Attributes
    ----------
    path : Path
    name : str
        The model, for messages.
    header : GGUFHeader
        With its lists.
    """

    path: Path
    name: str
    header: GGUFHeader

    def refuse(self, why: str) -> UnsupportedModelError:
        """An error that says why the file cannot be loaded as what it says that it is."""
        return UnsupportedModelError(
            f"{self.name} cannot be loaded: {why}; score the model's safetensors instead of this GGUF file"
        )

    def tensor(self, name: str) -> NDArray[Any]:
        """Values of a tensor, float32 unless it is saved in float16."""
        from gguf import GGMLQuantizationType, dequantize

        entry = self.header.tensors[name]
        start, size = self.header.data_start + entry.offset, _bytes(entry)
        data = np.memmap(self.path, mode="r", dtype=np.uint8, offset=start, shape=(size,))
        kind = GGMLQuantizationType(entry.kind)
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            return data.view("<f4" if kind == GGMLQuantizationType.F32 else "<f2").reshape(entry.shape)
        rows = data.reshape(*entry.shape[:-1], -1)
        try:
            values: NDArray[Any] = dequantize(rows, kind).reshape(entry.shape)
        except NotImplementedError as error:
            raise self.refuse(f"{name} is in {kind.name}, which the gguf package does not unpack") from error
        return values


def open_gguf(path: Path, name: str) -> GGUFFile:
    """Read a GGUF file's header, and check that all of its data are there.

    Parameters
    ----------
    path : Path
    name : str
        The model, for messages.

    Raises
    ------
    UnsupportedModelError
        It is no GGUF file, holds what is not known here, or was cut.
    """
    with path.open("rb") as stream:
        header = read_gguf_header(stream, name, arrays=True)
    file = GGUFFile(path, name, header)
    try:
        end = max((entry.offset + _bytes(entry) for entry in header.tensors.values()), default=0)
    except ValueError as error:
        raise file.refuse(str(error)) from error
    if header.data_start + end > path.stat().st_size:
        raise UnsupportedModelError(
            f"the GGUF of {name} is cut short: its tensors end at byte {header.data_start + end}, the file at "
            f"{path.stat().st_size}; fetch it again"
        )
    return file


def _bytes(entry: TensorEntry) -> int:
    """Size of a tensor in its file."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(entry.kind)]  # ValueError: a type that is not known
    if not entry.shape or entry.shape[-1] % block:
        raise ValueError(f"a tensor of shape {entry.shape} is no multiple of {block} elements")
    return int(math.prod(entry.shape) // block * size)
