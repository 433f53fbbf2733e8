"""What it takes to score a model, told before anything of it is loaded: bytes to download, and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llreg_extract.files.checkpoint import check_tokenizer, weight_files
from llreg_extract.files.hub import RepoFile, needed_files
from llreg_extract.loading.quantization import packed_bytes, stays_packed
from llreg_extract.source import Source

# What is asked for beyond the weights: activations, logits, and what torch itself holds. Batches shrink where
# memory is short, so it need not cover the largest ones.
MARGIN_SHARE, MARGIN_BYTES = 0.2, 512 << 20  # of the weights; 512 MiB
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Needs:
    """What a model needs.

    Attributes
    ----------
    download_bytes : int or None
        Of its files that are not in the cache; 0 for a local model; None where the Hub does not say.
    weight_bytes : int or None
        Of its weights in the dtype they are scored in; of those that stay packed, as they are packed. None where the
        parameters are not known.
    """

    download_bytes: int | None
    weight_bytes: int | None

    @property
    def memory_bytes(self) -> int | None:
        """1.2 times the weights and 512 MiB; None where the weights are not known."""
        return None if self.weight_bytes is None else int(self.weight_bytes * (1 + MARGIN_SHARE)) + MARGIN_BYTES


def needs(source: Source, *, dtype: str, trust_remote_code: bool = False) -> Needs:
    """What a pinned model needs; nothing is loaded, and of a Hub model only the index of its weights is fetched.

    Parameters
    ----------
    source : Source
        From `resolve`.
    dtype : str
        From `choose`.
    trust_remote_code : bool
        Whether code from the checkpoint may run.

    Raises
    ------
    ModelError
        Files that loading would miss, such as a tokenizer.
    ModelNotFoundError, ModelAccessError
        The Hub lacks files, or they are not in the cache and it cannot be reached.
    """
    files = needed_files(source, trust_remote_code=trust_remote_code)
    if source.kind == "local":
        folder = Path(source.location) / (source.subfolder or "")
        if source.file is None and not trust_remote_code and source.tokenizer == "weights":
            check_tokenizer(source.name, os.listdir(folder))
        names = [source.file] if source.file is not None else weight_files(folder, source.name)
        sizes = [(name, (folder / name).stat().st_size) for name in names]
        files = [RepoFile(name, size, True, source.location, source.revision) for name, size in sizes] + files

    parameters, width = source.declared["num_parameters"], _DTYPE_BYTES[dtype]
    weights: int | None
    if stays_packed(source):
        packed = (file for file in files if file.repo == source.location and file.name.endswith(".safetensors"))
        weights = _sum(file.num_bytes for file in packed)
    elif parameters is None:
        weights = None
    elif source.quantize is not None:
        weights = packed_bytes(source, width, int(parameters))
    else:
        weights = int(parameters) * width
    return Needs(_sum(file.num_bytes for file in files if not file.cached), weights)


def _sum(sizes: Iterable[int | None]) -> int | None:
    """Sum of sizes; None where one of them is not known."""
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total
