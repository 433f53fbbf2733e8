"""Large objects: pointers in git, contents in a folder by sha256, addresses signed like a CDN's."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n", re.ASCII
)
POINTER_MIN, POINTER_MAX = 120, 200  # bytes of a pointer blob


class Pointer(NamedTuple):
    """What a git-lfs pointer file names; `pointer_size` is the pointer's own size in bytes."""

    oid: str
    size: int
    pointer_size: int

    @classmethod
    def parse(cls, data: bytes) -> Pointer | None:
        """The pointer that `data` is, None where it is an ordinary file."""
        found = _POINTER.fullmatch(data)
        return cls(found[1].decode(), int(found[2]), len(data)) if found else None


def pointer(oid: str, size: int) -> bytes:
    """The pointer file of an object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


@dataclass(frozen=True)
class LfsStore:
    """The objects of one repository, each a file named by its sha256."""

    path: Path

    def file(self, oid: str) -> Path:
        return self.path / oid[:2] / oid

    def size(self, oid: str) -> int | None:
        """Bytes of an object; None where it was never uploaded."""
        try:
            return self.file(oid).stat().st_size
        except OSError:
            return None

    def put(self, oid: str, data: bytes) -> bool:
        """Keep `data` if its sha256 is `oid`."""
        if hashlib.sha256(data).hexdigest() != oid:
            return False
        target = self.file(oid)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{oid}.{uuid.uuid4().hex}")
        partial.write_bytes(data)
        os.replace(partial, target)
        return True

    def put_part(self, oid: str, number: int, data: bytes) -> str:
        """Keep one part of a multipart upload and return its etag."""
        target = self.path / "parts" / oid / str(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def join_parts(self, oid: str, etags: list[str]) -> bool:
        """Put the parts together, in order, if all are there and the whole hashes to `oid`."""
        folder = self.path / "parts" / oid
        try:
            parts = [(folder / str(k + 1)).read_bytes() for k in range(len(etags))]
        except OSError:
            return False
        if [hashlib.md5(part).hexdigest() for part in parts] != etags:
            return False
        return self.put(oid, b"".join(parts))


def signature(secret: bytes, *what: str) -> str:
    """What makes an address good for one thing only."""
    return hmac.new(secret, "\n".join(what).encode(), hashlib.sha256).hexdigest()
