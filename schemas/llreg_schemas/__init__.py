"""The ground floor of llreg: document schemas, record types, hashes and errors.

Nothing here imports numpy, zarr, xarray or torch at import time.
"""

from llreg_schemas.canonical import (
    canonical_json,
    hash_json,
    pretty_json,
    row_digest,
    segments_sha256,
    sha256_text,
    text_set_id,
    version_id,
)
from llreg_schemas.errors import LlregError
from llreg_schemas.pairs import Message, Pair
from llreg_schemas.records import (
    Identity,
    RowRecord,
    TextSetInfo,
    conditional_protocol,
    make_view,
    modelmap_protocol,
)
from llreg_schemas.validation import check, load_schema, parse

__all__ = [
    "Identity",
    "LlregError",
    "Message",
    "Pair",
    "RowRecord",
    "TextSetInfo",
    "canonical_json",
    "check",
    "conditional_protocol",
    "hash_json",
    "load_schema",
    "make_view",
    "modelmap_protocol",
    "parse",
    "pretty_json",
    "row_digest",
    "segments_sha256",
    "sha256_text",
    "text_set_id",
    "version_id",
]
