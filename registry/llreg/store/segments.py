"""A row's segments, read from its file without the rest of it: two parts of the file, here or on the Hub."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from llreg.store.arrays import SEGMENT_VARIABLES, row_variables
from llreg.store.rowfile import row_limit
from llreg_schemas import RowRecord, segments_sha256
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import RegistryInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TAIL_BYTES = 4096  # hold the zip's list of members, which is at its end, as `to_zip` writes it
# Zip, sections 4.3.7, 4.3.12 and 4.3.16 of APPNOTE.TXT: a member's header, its entry in the list, and the end of the list.
_HEADER, _ENTRY, _END = struct.Struct("<4s22xHH"), struct.Struct("<4s16xI4xHHH8xI"), struct.Struct("<4s8xII2x")


def read_segments(
    read: Callable[[int, int], bytes], size: int, record: RowRecord, info: RegistryInfo, label: str
) -> dict[str, NDArray[np.int32]]:
    """Segments of a fine row, checked against the hash in its record.

    Parameters
    ----------
    read : callable
        (start, end) -> bytes of the row's file; called twice at most.
    size : int
        Bytes of the file.
    record : RowRecord
        Of the row.
    info : RegistryInfo
    label : str
        Name of the file in messages.

    Returns
    -------
    dict of str to int32 array of shape (n_segments,), in units of 1/256 nat
        By the names in `llreg.store.arrays.SEGMENT_VARIABLES`.

    Raises
    ------
    InvalidFileError
    """
    import numpy as np

    names = [name for name in row_variables(pairs=info.has_pairs, fine=True) if name in SEGMENT_VARIABLES]
    try:
        if size > row_limit(info.text_set.num_texts, info.num_segments):
            raise ValueError(f"it has {size:,} bytes")
        tail_start = max(0, size - _TAIL_BYTES)
        tail = read(tail_start, size)
        offsets, end = _list_members(tail, tail_start)
        wanted = {name: offsets[f"{name}/c/0"] for name in names}
        # What lies between the members of pairs is a few hundred bytes.
        start = min(first for first, _ in wanted.values())
        end = min([first for first, _ in offsets.values() if first > max(wanted.values())[0]], default=end)
        part = tail[start - tail_start : end - tail_start] if start >= tail_start else read(start, end)
        segments = {
            name: _unpack(part[first - start :], length, info.num_segments) for name, (first, length) in wanted.items()
        }
        if segments_sha256(*segments.values()) != record.segments_sha256:
            raise ValueError("they are not those that the row's record names")
    except (ValueError, KeyError, struct.error, zlib.error) as error:
        raise InvalidFileError(
            label, f"expected the segments of {record.row_id} ({error}); get the original again"
        ) from error
    return {name: np.asarray(values, np.int32) for name, values in segments.items()}


def _list_members(tail: bytes, tail_start: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Offset and stored bytes of each member of a zip, by name, and where their list begins."""
    signature, _, start = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or start < tail_start:
        raise ValueError("expected a zip as llreg writes it")
    members: dict[str, tuple[int, int]] = {}
    position, end = start - tail_start, len(tail) - _END.size
    while position < end:
        signature, length, name_bytes, extra, comment, offset = _ENTRY.unpack_from(tail, position)
        if signature != b"PK\1\2":
            raise ValueError("expected a zip as llreg writes it")
        position += _ENTRY.size
        members[tail[position : position + name_bytes].decode("ascii")] = offset, length
        position += name_bytes + extra + comment
    return members, start


def _unpack(data: bytes, length: int, num_segments: int) -> NDArray[np.int32]:
    """The array in a member that is one gzip chunk, of no more values than there are segments."""
    import numpy as np

    signature, name_bytes, extra = _HEADER.unpack_from(data)
    if signature != b"PK\3\4":
        raise ValueError("expected a zip as llreg writes it")
    first = _HEADER.size + name_bytes + extra
    stream = zlib.decompressobj(wbits=31)  # 31: gzip framing
    raw = stream.decompress(data[first : first + length], 4 * num_segments + 1)
    if len(raw) != 4 * num_segments or not stream.eof:
        raise ValueError(f"expected {num_segments:,} of them")
    return np.frombuffer(raw, "<i4")
