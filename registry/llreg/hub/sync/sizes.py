"""Sizes that the files of a registry can have: a larger one is not downloaded."""

from __future__ import annotations

from llreg.settings import MAX_TEXT_BYTES
from llreg.store.annotations import MAX_TABLE_BYTES
from llreg.store.fine import store_form
from llreg.store.layout import ANNOTATIONS, ROWS, STORE, SUBSETS, TEXTS, VERSIONS
from llreg.store.rowfile import row_limit
from llreg.store.zarr_profile import MAX_METADATA_BYTES, STRING_CHUNK_ROWS, file_limit, shard_limit, string_limit
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import RegistryInfo
from llreg_schemas.validation import MAX_DOCUMENT_BYTES, MAX_VERSION_BYTES

_TEXT_METADATA_BYTES = 4096  # a text's hash, subset and source


def check_size(name: str, size: int, info: RegistryInfo | None = None) -> None:
    """Refuse a file that is larger than its kind can be, before any byte of it is fetched.

    Parameters
    ----------
    name : str
        Path in the repository.
    size : int
        Bytes, as the Hub lists them.
    info : RegistryInfo, optional
        Needed for all but registry.json itself.

    Raises
    ------
    InvalidFileError
    """
    limit = MAX_DOCUMENT_BYTES if info is None else size_limit(name, info)
    if size > limit:
        raise InvalidFileError(name, f"expected at most {limit:,} bytes; the Hub lists {size:,}: it was not downloaded")


def size_limit(name: str, info: RegistryInfo) -> int:
    """Bytes that a file may have, by its path in the repository and what registry.json says of the texts."""
    folder, text_set = name.partition("/")[0], info.text_set
    if folder == ROWS:
        return row_limit(text_set.num_texts, info.num_segments)
    if folder in (VERSIONS, SUBSETS):
        return MAX_VERSION_BYTES
    if folder == ANNOTATIONS:
        return MAX_TABLE_BYTES
    if folder == STORE:
        array = name.split("/")[1]
        if array in ("digest", "record"):
            return file_limit(string_limit(array, STRING_CHUNK_ROWS))
        form = store_form(info)
        return shard_limit(form.width(array)) if array in form.variables else MAX_METADATA_BYTES
    if name == TEXTS:
        # The header is a stranger's claim, too: a mean beyond what a text may have counts as that.
        mean_prompt = min(text_set.mean_prompt_bytes or 0.0, MAX_TEXT_BYTES)
        mean = min(text_set.mean_bytes, MAX_TEXT_BYTES) + mean_prompt
        # Twice the mean leaves room for what Parquet adds, and for the segments' sizes.
        return MAX_DOCUMENT_BYTES + text_set.num_texts * (int(2 * mean) + _TEXT_METADATA_BYTES)
    return MAX_DOCUMENT_BYTES
