"""Sizes that the files of a registry can have: a larger one is not downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llreg.settings import MAX_TEXT_BYTES
from llreg.store.annotations import MAX_TABLE_BYTES
from llreg.store.arrays import PAIR_VARIABLES
from llreg.store.layout import ANNOTATIONS, ROWS, STORE, SUBSETS, TEXTS, VERSIONS
from llreg.store.rowfile import row_limit
from llreg.store.zarr_profile import MAX_METADATA_BYTES, STRING_CHUNK_ROWS, file_limit, shard_limit, string_limit
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.validation import MAX_DOCUMENT_BYTES, MAX_VERSION_BYTES

_TEXT_METADATA_BYTES = 4096  # a text's hash, subset and source


def check_size(name: str, size: int, text_set: Mapping[str, Any] | None = None) -> None:
    """Refuse a file that is larger than its kind can be, before any byte of it is fetched.

    Parameters
    ----------
    name : str
        Path in the repository.
    size : int
        Bytes, as the Hub lists them.
    text_set : mapping, optional
        Header of the text set, in registry.json; needed for all but registry.json itself.

    Raises
    ------
    InvalidFileError
    """
    limit = MAX_DOCUMENT_BYTES if text_set is None else size_limit(name, text_set)
    if size > limit:
        raise InvalidFileError(name, f"expected at most {limit:,} bytes; the Hub lists {size:,}: it was not downloaded")


def size_limit(name: str, text_set: Mapping[str, Any]) -> int:
    """Bytes that a file may have, by its path in the repository and the header of the text set."""
    folder, num_texts = name.partition("/")[0], int(text_set["num_texts"])
    if folder == ROWS:
        return row_limit(num_texts)
    if folder in (VERSIONS, SUBSETS):
        return MAX_VERSION_BYTES
    if folder == ANNOTATIONS:
        return MAX_TABLE_BYTES
    if folder == STORE:
        array = name.split("/")[1]
        if array in ("digest", "record"):
            return file_limit(string_limit(array, STRING_CHUNK_ROWS))
        return shard_limit(num_texts) if array in PAIR_VARIABLES else MAX_METADATA_BYTES
    if name == TEXTS:
        # The header is a stranger's claim, too: a mean beyond what a text may have counts as that.
        mean_prompt = min(float(text_set.get("mean_prompt_bytes", 0)), MAX_TEXT_BYTES)
        mean = min(float(text_set["mean_bytes"]), MAX_TEXT_BYTES) + mean_prompt
        # Twice the mean leaves room for what Parquet adds.
        return MAX_DOCUMENT_BYTES + num_texts * (int(2 * mean) + _TEXT_METADATA_BYTES)
    return MAX_DOCUMENT_BYTES
