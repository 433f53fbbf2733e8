"""The one form that llreg's own writer gives ``store.zarr``, checked before anything of a store is decompressed.

Stores come from strangers, as rows do: what a store says of its own size is compared with what the registry
implies, and nothing is allocated beyond that.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from llreg.settings import CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_TEXTS, SHARD_ROWS
from llreg.store.arrays import dimension_of, dtype_of, is_count, store_variables
from llreg_schemas.errors import FormatVersionError, InvalidFileError
from llreg_schemas.records import FINE_VERSION
from llreg_schemas.validation import MAX_DOCUMENT_BYTES

STRING_CHUNK_ROWS = 4096  # text metadata
TOKENS_CHUNK_ROWS = 64  # models that share a tokenizer compress to almost nothing together
MAX_METADATA_BYTES = 64 << 20  # 64 MiB, zarr.json: it names every retracted digest
REPAIR = (
    "if all rows are also in rows/, delete the directory and run: llreg build; else get it again from where it came"
)
_CODECS = {"float32": ["bytes"], "int32": ["bytes", "zstd"]}
_CHECKSUM = "crc32c"  # last, in all but the oldest stores
_KNOWN_CODECS = {"bytes", "crc32c", "zstd", "vlen-utf8", "sharding_indexed"}
# Longest string of a column, on average over a chunk; a chunk of a single record may hold the largest one.
_STRING_BYTES = {"digest": 64, "record": 16 << 10}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_FRAME_HEADER = 18  # bytes at most


# Shapes and sizes


@dataclass(frozen=True)
class StoreForm:
    """What a registry implies of its store.

    Attributes
    ----------
    num_texts : int
    num_coordinates : int
        A row's fine coordinates; 0 in a registry of format 1.
    pairs : bool
        Whether it is one of (prompt, response) pairs.
    """

    num_texts: int
    num_coordinates: int = 0
    pairs: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of its arrays of values."""
        return store_variables(pairs=self.pairs, fine=bool(self.num_coordinates))

    def width(self, name: str) -> int:
        """Values of a row in one of them."""
        return self.num_coordinates if dimension_of(name) == "coordinate" else self.num_texts


def chunk_rows(width: int) -> int:
    """Rows in a chunk, of so many values: a power of two that keeps one row over HTTP at `CHUNK_BYTES` or one row."""
    rows = 1
    while rows < MAX_CHUNK_ROWS and 2 * rows * 4 * width <= CHUNK_BYTES:
        rows *= 2
    return rows


def string_chunk(count: int) -> int:
    """Rows in a chunk of a metadata column, of so many rows."""
    return max(1, min(STRING_CHUNK_ROWS, count))


def string_chunks(name: str, count: int) -> list[str]:
    """Files that a column of strings has, none of which is empty."""
    return [f"{name}/c/{chunk}" for chunk in range(math.ceil(count / string_chunk(count)))]


def string_limit(name: str, count: int) -> int:
    """Bytes that a chunk of a column of strings may have, decompressed."""
    longest = MAX_DOCUMENT_BYTES if name == "record" else 0
    return 4 + longest + string_chunk(count) * (4 + _STRING_BYTES[name])


def shard_limit(width: int) -> int:
    """Bytes that a shard may have, of rows with so many values."""
    return file_limit(4 * SHARD_ROWS * width)


def file_limit(content: int) -> int:
    """Bytes that a file of so much content may have: with an index, checksums, and what zstd adds to what it cannot compress."""
    return content + content // 128 + (16 << 10)


# Metadata


def read_metadata(data: bytes, label: str) -> dict[str, Any]:
    """The store's ``zarr.json``, as JSON.

    Raises
    ------
    FormatVersionError
        If a newer llreg made it.
    InvalidFileError
        If it is not the metadata of a Zarr v3 group with consolidated metadata.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(label, f"is damaged: zarr.json is no JSON ({error}); {REPAIR}") from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
        raise InvalidFileError(label, "expected a group with attributes", field="zarr.json")
    version = document["attributes"].get("build_format_version")
    if isinstance(version, int) and version > FINE_VERSION:
        raise FormatVersionError(
            label,
            f"expected build format {FINE_VERSION} or older; got {version}, made by a newer llreg: "
            "pip install --upgrade llreg",
        )
    if document.get("zarr_format") != 3 or document.get("node_type") != "group":
        raise InvalidFileError(label, "expected a Zarr v3 group", field="zarr.json")
    return document


def check_profile(metadata: Mapping[str, Any], form: StoreForm | None, label: str) -> tuple[int, StoreForm]:
    """Check shapes, types, chunks and codecs; return how many rows the store has, and its form.

    Parameters
    ----------
    metadata : mapping
        From `read_metadata`.
    form : StoreForm or None
        What the registry implies; None: what the store says of itself.
    label : str
        Name used in messages.

    Raises
    ------
    InvalidFileError
        If an array is not what llreg's writer makes of so many rows and texts.
    """
    arrays = (metadata.get("consolidated_metadata") or {}).get("metadata")
    if not isinstance(arrays, dict):
        raise InvalidFileError(label, "expected consolidated metadata", field="zarr.json")
    for name, array in arrays.items():
        if not isinstance(array, dict) or not set(codec_names(array.get("codecs"))) <= _KNOWN_CODECS:
            raise InvalidFileError(
                label, "expected an array with codecs that llreg writes", field=ascii(name)[1:60].rstrip("'")
            )

    def find(name: str) -> Mapping[str, Any]:
        if name not in arrays:
            raise InvalidFileError(label, "expected this array; it is missing", field=name)
        array: Mapping[str, Any] = arrays[name]
        return array

    shape = find("digest").get("shape")
    if not (isinstance(shape, list) and len(shape) == 1 and _is_count(shape[0])):
        raise InvalidFileError(label, f"expected one dimension; got shape {str(shape)[:60]}", field="digest")
    count = int(shape[0])
    for name in _STRING_BYTES:
        column = find(name)
        _expect(label, name, "shape", [count], column.get("shape"))
        _expect(label, name, "data type", "string", column.get("data_type"))
        chunk = configuration(column.get("chunk_grid")).get("chunk_shape")
        _expect(label, name, "chunks", [string_chunk(count)], chunk)
        _expect(label, name, "codecs", ["vlen-utf8", "zstd"], codec_names(column.get("codecs")))
    is_pairs, is_fine = "log_likelihood_response" in arrays, "fine_coordinate" in arrays
    if form is None:
        num_coordinates = _width(find("fine_coordinate"), "fine_coordinate", label) if is_fine else 0
        form = StoreForm(_width(find("log_likelihood"), "log_likelihood", label), num_coordinates, is_pairs)
    elif (is_pairs, is_fine) != (form.pairs, bool(form.num_coordinates)):
        raise InvalidFileError(
            label,
            f"expected the arrays {', '.join(form.variables)}, as the registry's rows have them",
            field="zarr.json",
        )
    for name in form.variables:
        _check_values(find(name), name, count, form.width(name), label)
    return count, form


def _width(array: Mapping[str, Any], name: str, label: str) -> int:
    """Values of a row, as an array says."""
    shape = array.get("shape")
    width = shape[1] if isinstance(shape, list) and len(shape) == 2 else None
    if not _is_count(width) or width > MAX_TEXTS:
        raise InvalidFileError(label, f"expected a text set's size; got {str(width)[:60]}", field=name)
    return width


def _check_values(array: Mapping[str, Any], name: str, count: int, width: int, label: str) -> None:
    grid = configuration(array.get("chunk_grid"))
    keys = configuration(array.get("chunk_key_encoding"))
    _expect(label, name, "shape", [count, width], array.get("shape"))
    _expect(label, name, "data type", dtype_of(name), array.get("data_type"))
    _expect(label, name, "shards", [SHARD_ROWS, width], grid.get("chunk_shape"))
    _expect(label, name, "file names with", ".", keys.get("separator"))
    # The one outer codec is the sharding; what is inside a shard is in its configuration.
    outer = array.get("codecs")
    shard = configuration(outer[0] if isinstance(outer, list) and len(outer) == 1 else None)
    rows = TOKENS_CHUNK_ROWS if is_count(name) else chunk_rows(width)
    codecs = codec_names(shard.get("codecs"))
    if codecs[1:] and codecs[-1] == _CHECKSUM:
        codecs = codecs[:-1]
    _expect(label, name, "chunks", [rows, width], shard.get("chunk_shape"))
    _expect(label, name, "codecs", _CODECS[dtype_of(name)], codecs)
    _expect(label, name, "codecs of the index", ["bytes", _CHECKSUM], codec_names(shard.get("index_codecs")))
    _expect(label, name, "place of the index", "end", shard.get("index_location"))
    for part in ("codecs", "index_codecs"):
        _expect(label, name, "byte order", "little", configuration(shard[part][0]).get("endian"))


def _expect(label: str, name: str, what: str, expected: Any, got: Any) -> None:
    if got != expected or type(got) is not type(expected):
        raise InvalidFileError(label, f"expected {what} {expected}; got {ascii(got)[:60]}", field=name)


def configuration(part: Any) -> dict[str, Any]:
    """The configuration of a codec, grid or encoding in an array's metadata; empty for what is none."""
    value = part.get("configuration") if isinstance(part, dict) else None
    return value if isinstance(value, dict) else {}


def codec_names(codecs: Any) -> list[Any]:
    """Names of codecs; [None] for what is no list of them."""
    if not isinstance(codecs, list):
        return [None]
    return [str(codec.get("name")) if isinstance(codec, dict) else None for codec in codecs]


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# Content


def decode_strings(data: bytes, name: str, count: int) -> list[str]:
    """Strings of one chunk of a column (codecs vlen-utf8, zstd).

    Parameters
    ----------
    data : bytes
    name : {"digest", "record"}
    count : int
        Rows of the whole column.

    Raises
    ------
    ValueError
        If it is damaged, or says that it is larger than such a column can be.
    """
    import pyarrow as pa

    size, limit = frame_size(data), string_limit(name, count)
    if size > limit:
        raise ValueError(f"{name}: a chunk of {size:,} bytes; at most {limit:,} are possible")
    raw = memoryview(pa.decompress(data, decompressed_size=size, codec="zstd"))
    if int.from_bytes(raw[:4], "little") != string_chunk(count):
        raise ValueError(f"{name}: expected {string_chunk(count):,} strings in a chunk")
    texts, start = [], 4
    for _ in range(string_chunk(count)):
        length = int.from_bytes(raw[start : start + 4], "little")
        start += 4
        if start + length > len(raw):
            raise ValueError(f"{name}: a string is cut off")
        texts.append(str(raw[start : start + length], "utf-8"))
        start += length
    return texts


def frame_size(data: bytes) -> int:
    """Bytes that a zstd frame decompresses to, as its header says (RFC 8878, section 3.1.1.1).

    Raises
    ------
    ValueError
        If it does not say so: the frames that llreg writes do.
    """
    if len(data) < 6 or data[:4] != _ZSTD_MAGIC:
        raise ValueError("expected a zstd frame")
    flags = data[4]
    single = bool(flags & 0x20)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    field = data[start : start + width]
    if not width or len(field) < width:
        raise ValueError("expected a zstd frame that says its size")
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def check_tokens(
    name: str, read: Callable[[int, int], bytes], size: int, num_texts: int, part: tuple[int, int] | None = None
) -> None:
    """Check that the chunks in a shard of token counts decompress to the size they must have.

    Parameters
    ----------
    name : str
        The array's, in messages.
    read : callable
        (start, end) -> bytes of the shard.
    size : int
        Bytes of the shard.
    num_texts : int
    part : (int, int), optional
        Only the chunks that begin in this part of the shard.

    Raises
    ------
    ValueError
    """
    chunks = SHARD_ROWS // TOKENS_CHUNK_ROWS
    if size < 16 * chunks + 4:
        raise ValueError(f"{name}: expected a shard with an index")
    first, end = (0, size) if part is None else part
    index = struct.unpack(f"<{2 * chunks}Q", read(size - 16 * chunks - 4, size)[:-4])
    expected = 4 * TOKENS_CHUNK_ROWS * num_texts
    for start in index[::2]:
        if first <= start < end:
            got = frame_size(read(start, min(start + _FRAME_HEADER, size)))
            if got != expected:
                raise ValueError(f"{name}: expected chunks of {expected:,} bytes; got {got:,}")
