"""How large a file of a repository may be: asked before any byte of it is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llreg.settings import MAX_TEXT_BYTES
from llreg.store.annotations import MAX_TABLE_BYTES
from llreg.store.arrays import PAIR_VARIABLES
from llreg.store.layout import ANNOTATIONS, STORE, TEXTS
from llreg.store.rowfile import row_limit
from llreg.store.zarr_profile import MAX_METADATA_BYTES, file_limit, shard_limit, string_limit
from llreg.store.zarr_write import STRING_CHUNK_ROWS
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.validation import MAX_DOCUMENT_BYTES, MAX_VERSION_BYTES

_TEXT_METADATA_BYTES = 4096  # a text's hash, subset and source


def check_size(name: str, size: int, text_set: Mapping[str, Any] | None = None) -> None:
    """Refuse a file that is larger than its kind can be.

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
    limit = MAX_DOCUMENT_BYTES if text_set is None else _limit(name, text_set)
    if size > limit:
        raise InvalidFileError(name, f"expected at most {limit:,} bytes; the Hub lists {size:,}: it was not downloaded")


def _limit(name: str, text_set: Mapping[str, Any]) -> int:
    folder, count = name.partition("/")[0], int(text_set["num_texts"])
    if folder == "rows":
        return row_limit(count)
    if folder in ("versions", "subsets"):
        return MAX_VERSION_BYTES
    if folder == ANNOTATIONS:
        return MAX_TABLE_BYTES
    if folder == STORE:
        return _store_limit(name, count)
    if name == TEXTS:
        prompts = float(text_set.get("mean_prompt_bytes", 0))
        mean = min(float(text_set["mean_bytes"]), MAX_TEXT_BYTES) + min(prompts, MAX_TEXT_BYTES)
        return MAX_DOCUMENT_BYTES + count * (int(2 * mean) + _TEXT_METADATA_BYTES)
    return MAX_DOCUMENT_BYTES


def _store_limit(name: str, num_texts: int) -> int:
    column = name.split("/")[1]
    if column in ("digest", "record"):
        return file_limit(string_limit(column, STRING_CHUNK_ROWS))
    return shard_limit(num_texts) if column in PAIR_VARIABLES else MAX_METADATA_BYTES
