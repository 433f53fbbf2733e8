"""Files of any origin, never more of them than memory is for."""

from __future__ import annotations

from pathlib import Path

from llreg_schemas.errors import InputError

MAX_BYTES = 1 << 30  # 1 GiB: of a file, and of memory for what is in it; the published matrices take 82 MB


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's bytes.

    Raises
    ------
    InputError
        If it is missing, no regular file, or longer than the limit.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path}: expected at most {limit:,} bytes; got {size:,}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
