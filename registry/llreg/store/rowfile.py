"""Row files: one immutable measurement each, a Zarr v3 group in a stored zip.

Any Zarr reader opens them. llreg's own reader accepts only the exact profile its writer makes (fixed
member names, one gzip chunk an array, known sizes), because rows come from strangers: nothing is
allocated or decompressed beyond what the text set's size implies.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import ZIP_ERRORS, state_dir, write_atomic
from llreg.store.arrays import (
    CORRECT_VARIABLES,
    FINE_VARIABLES,
    PAIR_VARIABLES,
    SEGMENT_VARIABLES,
    UNSCORED,
    array_attributes,
    dimension_of,
    dtype_of,
    is_count,
    row_variables,
    store_variables,
)
from llreg.store.layout import KEPT, ROWS
from llreg.store.zarr_profile import codec_names, configuration
from llreg_schemas import Identity, RowRecord, canonical_json, check, row_digest, segments_sha256
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import FINE_VERSION
from llreg_schemas.validation import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".zarr.zip"
_NAME = re.compile(r"(?P<slug>[A-Za-z0-9][A-Za-z0-9._-]*)-(?P<digest>[0-9a-f]{64})\.zarr\.zip")
_SLUG_CHARS = 100
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest a zip can hold: equal rows give equal files


@dataclass(frozen=True)
class Row:
    """A row: its record and its values.

    Attributes
    ----------
    record : RowRecord
    log_likelihood : float32 array of shape (n_texts,), nats
        NaN where the text was not scored.
    num_tokens : int32 array of shape (n_texts,)
        Tokens scored; 0 where the text was not scored.
    log_likelihood_response, num_tokens_response : arrays of the same kinds, or None
        In a row of (prompt, response) pairs those of the response alone, and the two above those of the response given
        its prompt; else None.
    num_correct : int32 array of shape (n_texts,), or None
        Scored tokens that were the model's first choice; None in a row without segments.
    segment_log_likelihood : int32 array of shape (n_segments,), or None
        In units of 1/256 nat, `llreg.store.arrays.UNSCORED` in texts that were not scored; None in a row without
        segments, and in a row of the store, which has coordinates in their place.
    fine_coordinate : float32 array of shape (n_coordinates,), or None
        Of a row of the store; see `llreg.store.fine`.
    num_correct_response, segment_log_likelihood_response, fine_coordinate_response : arrays of the same kinds, or None
        Of the responses alone.
    """

    record: RowRecord
    log_likelihood: NDArray[np.float32]
    num_tokens: NDArray[np.int32]
    log_likelihood_response: NDArray[np.float32] | None = None
    num_tokens_response: NDArray[np.int32] | None = None
    num_correct: NDArray[np.int32] | None = None
    num_correct_response: NDArray[np.int32] | None = None
    segment_log_likelihood: NDArray[np.int32] | None = None
    segment_log_likelihood_response: NDArray[np.int32] | None = None
    fine_coordinate: NDArray[np.float32] | None = None
    fine_coordinate_response: NDArray[np.float32] | None = None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, those that it has."""
        names = (*row_variables(pairs=True, fine=True), *FINE_VARIABLES)
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    @property
    def digest(self) -> str:
        """What its record must have for a digest: that of its identity and values."""
        # A row of the store has no segments: there the record says their hash.
        own = _hash_of_segments(self.arrays)
        return _digest(self.record.identity, self.arrays, own or self.record.segments_sha256)


def make_row(
    identity: Identity, provenance: Mapping[str, Any], declared: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> Row:
    """A row of some values, with its digest and the hash of its segments in its record.

    Parameters
    ----------
    identity : Identity
    provenance, declared : mapping
    arrays : mapping of str to array
        By the names of `llreg.store.arrays.row_variables`.
    """
    segments = _hash_of_segments(arrays)
    provenance = {**provenance, **({"segments_sha256": segments} if segments else {})}
    return Row(RowRecord(identity, provenance, declared, _digest(identity, arrays, segments)), **arrays)


def _hash_of_segments(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    segments = [arrays[name] for name in SEGMENT_VARIABLES if name in arrays]
    return segments_sha256(*segments) if segments else None


def _digest(identity: Identity, arrays: Mapping[str, NDArray[Any]], segments: str | None) -> str:
    values = {name: arrays[name] for name in (*PAIR_VARIABLES, *CORRECT_VARIABLES) if name in arrays}
    return row_digest(identity.to_json(), **values, segments_sha256=segments)


def row_path(record: RowRecord) -> Path:
    """Path of a row inside its registry: ``rows/<hh>/<slug>-<digest>.zarr.zip``."""
    slug = record.identity.name.replace("/", "--")[:_SLUG_CHARS]
    return Path(ROWS) / record.digest[:2] / f"{slug}-{record.digest}{SUFFIX}"


def digest_in_name(name: str) -> str | None:
    """The digest a row file's name claims; None if it is not a row file's name."""
    match = _NAME.fullmatch(name)
    return match["digest"] if match else None


def row_limit(num_texts: int, num_segments: int = 0) -> int:
    """Bytes that a row file may have, of texts or of pairs; in a registry whose texts have so many segments."""
    # gzip of random bytes grows by less than 0.1 %; the record is bounded by the schema.
    sizes = {"text": num_texts, "segment": num_segments}
    names = row_variables(pairs=True, fine=bool(num_segments))
    values = sum(4 * size + size // 64 + 4096 for size in (sizes[dimension_of(name)] for name in names))
    return values + MAX_DOCUMENT_BYTES


# Writing


def write_row(root: Path, row: Row) -> Path:
    """Write a row into a registry and return its path; a row already there is left as it is.

    Raises
    ------
    StorageError
        If the disk is full or read-only; nothing is left behind.
    """
    path = root / row_path(row.record)
    if not path.exists():
        write_atomic(root, path, to_zip(row))
    return path


def write_kept(root: Path, row: Row) -> None:
    """Keep what a build had of a fine row, in a file of this machine alone: the row without its segments.

    Raises
    ------
    StorageError
    """
    state_dir(root)
    write_atomic(root, root / KEPT / row_path(row.record).name, to_zip(row))


def to_zip(row: Row) -> bytes:
    """A row file's bytes: equal rows give equal bytes. Of a row of the store, those of the file that `write_kept` writes."""
    import zarr
    from zarr.codecs import GzipCodec
    from zarr.storage import MemoryStore

    members: dict[str, Any] = {}
    record = json.loads(canonical_json(row.record.to_json()))  # with sorted keys
    group = zarr.create_group(MemoryStore(members), zarr_format=3, attributes=record)
    arrays = row.arrays
    for name, values in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=dtype_of(name),
            compressors=[GzipCodec(level=6)],
            fill_value=fill_value(name),
            dimension_names=[dimension_of(name)],
            attributes=array_attributes(name, pairs="log_likelihood_response" in arrays),
            config={"write_empty_chunks": True},  # every row file has the same members
        )
        array[:] = values
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(members):
            data = members[key].to_bytes()
            if key.endswith("/c/0"):
                data = data[:4] + bytes(4) + data[8:]  # without the time in gzip's header
            archive.writestr(zipfile.ZipInfo(key, _ZIP_DATE), data)
    return buffer.getvalue()


def fill_value(name: str) -> int | float:
    """What a reader sees where an array of a row file has no chunk."""
    if name in SEGMENT_VARIABLES:
        return UNSCORED
    return 0 if is_count(name) else float("nan")


# Reading


def read_row(
    path: Path, num_texts: int, num_segments: int = 0, *, num_coordinates: int = 0, label: str | None = None
) -> Row:
    """Read a row file and check its form, its record and its digest.

    Parameters
    ----------
    path : Path
    num_texts, num_segments : int
        Texts in the registry's text set, and their segments (0: its rows have none); they bound every allocation.
    num_coordinates : int
        Of a file of `write_kept`, which has fine coordinates in the place of segments; 0: it must have the segments.
    label : str, optional
        Name used in messages; by default the path.

    Raises
    ------
    InvalidFileError
        If the file is truncated, tampered with, or not a row of a set of `num_texts` texts.
    """
    label = label or str(path)
    limit = row_limit(num_texts, num_segments)
    try:
        size = path.stat().st_size
        if size > limit:
            raise InvalidFileError(label, f"expected at most {limit:,} bytes for {num_texts:,} texts; got {size:,}")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidFileError(label, f"cannot be read: {error.strerror}") from error
    return parse_row(data, num_texts, num_segments, num_coordinates=num_coordinates, label=label)


def parse_row(data: bytes, num_texts: int, num_segments: int = 0, *, num_coordinates: int = 0, label: str) -> Row:
    """As `read_row`, from the file's bytes."""
    document, members = _unzip(data, label, kept=bool(num_coordinates))
    record = RowRecord.from_json(document)
    names = [
        name for name in (*row_variables(pairs=True, fine=True), *FINE_VARIABLES) if f"{name}/zarr.json" in members
    ]
    fine = "num_correct" in names
    if not fine == record.is_fine == (document["format_version"] == FINE_VERSION):
        raise InvalidFileError(
            label,
            f"expected segments and their hash in a row of format version {FINE_VERSION}, and in no other; got version "
            f"{document['format_version']} with{'' if fine else 'out'} segments and with{'' if record.is_fine else 'out'} hash",
            field="format_version",
        )
    if fine and not num_segments:
        raise InvalidFileError(label, "expected no segments: this registry is of format 1, whose rows have none")
    sizes = {"text": num_texts, "segment": num_segments, "coordinate": num_coordinates}
    row = Row(record, **{name: _parse_array(members, name, sizes[dimension_of(name)], label) for name in names})
    # The digest is over the identity and the values, not over the rest of the record.
    digest, segments = row.digest, _hash_of_segments(row.arrays)
    if digest != record.digest or (segments is not None and segments != record.segments_sha256):
        raise InvalidFileError(
            label,
            f"expected the digest of the values, {digest[:12]}…; got {record.digest[:12]}…: "
            "the file was changed after it was written; get the original again",
            field="digest",
        )
    return row


def _unzip(data: bytes, label: str, *, kept: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The record and the zip's members, after checking names, sizes and that they are stored."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
                    raise InvalidFileError(label, "expected an uncompressed zip", field=entry.filename)
            names = sorted(entry.filename for entry in entries)
            record: dict[str, Any] = {}
            if "zarr.json" in names:  # a row of a newer format may have any members: the record says so first
                group = _parse_object(archive.read("zarr.json"), label, "zarr.json")
                if group.get("zarr_format") != 3 or group.get("node_type") != "group":
                    raise InvalidFileError(label, "expected a Zarr v3 group", field="zarr.json")
                record = check("row", group.get("attributes"), label)
            # A row of pairs, if there is anything of a response alone; one with segments, if there is anything of these.
            folders = {name.partition("/")[0] for name in names}
            variables = (store_variables if kept else row_variables)(
                pairs=any(name.endswith("_response") for name in folders),
                fine=bool(folders & {*CORRECT_VARIABLES, *SEGMENT_VARIABLES}),
            )
            expected = sorted(["zarr.json", *(f"{name}/{part}" for name in variables for part in ("zarr.json", "c/0"))])
            if names != expected:
                raise InvalidFileError(label, f"expected the members {expected}; got {names[:12]}")
            return record, {entry.filename: archive.read(entry) for entry in entries}
    except InvalidFileError:
        raise
    except ZIP_ERRORS as error:
        raise InvalidFileError(
            label, f"expected a whole row file; it is truncated or damaged ({error}); get the original again"
        ) from error


def _parse_array(members: dict[str, bytes], name: str, length: int, label: str) -> NDArray[Any]:
    """One array, of shape (n_texts,) or (n_segments,); its form is checked before anything of it is decompressed."""
    import numpy as np

    metadata = _parse_object(members[f"{name}/zarr.json"], label, name)
    shape, dtype = metadata.get("shape"), metadata.get("data_type")
    codecs: Any = metadata.get("codecs")
    if shape != [length]:
        each = dimension_of(name)
        raise InvalidFileError(
            label, f"expected shape ({length},), one value a {each}; got {str(shape)[:60]}", field=name
        )
    if dtype != dtype_of(name):
        raise InvalidFileError(label, f"expected data type {dtype_of(name)}; got {ascii(dtype)[:60]}", field=name)
    chunk = configuration(metadata.get("chunk_grid")).get("chunk_shape")
    if metadata.get("zarr_format") != 3 or codec_names(codecs) != ["bytes", "gzip"] or chunk != [length]:
        raise InvalidFileError(label, "expected Zarr v3 with codecs bytes, gzip and one chunk", field=name)
    if configuration(codecs[0]).get("endian") != "little":
        raise InvalidFileError(label, "expected little-endian values", field=name)

    size = 4 * length
    stream = zlib.decompressobj(wbits=31)  # 31: gzip framing
    try:
        # One byte more than allowed shows that there is more, and no more than that is unpacked.
        raw = stream.decompress(members[f"{name}/c/0"], size + 1)
    except zlib.error as error:
        raise InvalidFileError(label, f"expected gzip data; {error}", field=name) from error
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise InvalidFileError(label, f"expected exactly {size:,} bytes of values", field=name)
    return np.frombuffer(raw, np.dtype(dtype_of(name)).newbyteorder("<")).astype(dtype_of(name))


def _parse_object(data: bytes, label: str, field: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(label, f"expected JSON; {error}", field=field) from error
    if not isinstance(document, dict):
        raise InvalidFileError(label, "expected a JSON object", field=field)
    return document
