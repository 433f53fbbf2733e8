"""Files in the Hub's cache: whether a blob still is what its name says, checked once and remembered.

The Hub's client names a blob in its cache by the content: the sha256 of what git-lfs or Xet keep, the git object id of other
files, which is the sha1 of "blob <bytes>", a zero byte and the content. It checks neither when it takes one from the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from llreg_extract.files.checkpoint import hash_file
from llreg_extract.source import FileStamp
from llreg_schemas.errors import ModelError

_BLOCK = 1 << 20  # 1 MiB: bytes hashed at a time
_SHA256, _GIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
_MOST_LINES = 10_000  # that the memory grows to


def check_blobs(paths: Iterable[Path], name: str) -> dict[str, FileStamp]:
    """Check that files of the Hub's cache have the content that they are named by.

    A file whose size, time and inode are those that it was checked with is not read again. What is no blob, as in a cache
    without links, has no name to go by.

    Parameters
    ----------
    paths : iterable of Path
        Files in a snapshot.
    name : str
        The model, for messages.

    Returns
    -------
    dict of str to FileStamp
        The files, by path, as they were when they were checked.

    Raises
    ------
    ModelError
        A blob is not what its name says.
    """
    checked, stamps, fresh = _recall(), {}, []
    for path in paths:
        blob = path.resolve()
        stamp = stamps[str(path)] = FileStamp.of(blob)
        line = json.dumps([str(blob), *stamp])
        if line in checked or not (_SHA256.fullmatch(blob.name) or _GIT.fullmatch(blob.name)):
            continue
        if _content_name(blob, stamp.num_bytes) != blob.name:
            raise ModelError(
                f"{path.name} of {name} in the Hub's cache is damaged, or was changed there: delete {blob}, and it is downloaded again"
            )
        fresh.append(line)
    if fresh:
        _remember(fresh, checked)
    return stamps


def _content_name(blob: Path, num_bytes: int) -> str:
    """What a blob of that content is called: by git's rule where the name it has is as long as git's."""
    if len(blob.name) == 64:
        return hash_file(blob)
    digest = hashlib.sha1(b"blob %d\0" % num_bytes, usedforsecurity=False)
    with blob.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llreg" / "checked-blobs"


def _recall() -> set[str]:
    """Blobs that were checked: a line each, path, bytes, time, inode. What cannot be read is checked again."""
    try:
        return set(_memory().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return set()


def _remember(fresh: Iterable[str], checked: set[str]) -> None:
    """Add lines to the memory; of one grown long those are left out whose blob is gone or another one."""
    text, mode = "".join(f"{line}\n" for line in fresh), "a"
    if len(checked) > _MOST_LINES:
        text, mode = "".join(f"{line}\n" for line in checked if _is_current(line)) + text, "w"
    with suppress(OSError):  # no room, no right: it is checked again
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with _memory().open(mode, encoding="utf-8") as stream:
            stream.write(text)


def _is_current(line: str) -> bool:
    try:
        path, *stamp = json.loads(line)
        return tuple(stamp) == FileStamp.of(Path(path))
    except (OSError, ValueError, TypeError):
        return False
