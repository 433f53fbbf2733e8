"""Which files are LFS files: by .gitattributes, by size, by content."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping

from localhub.git import GitRepo

MAX_REGULAR = 10 * 1024 * 1024  # bytes of the largest file in plain git
_GIT_SNIFFS = 8000  # bytes in which git looks for a NUL

_PATTERNS = """
*.7z *.arrow *.avro *.bin *.bz2 *.ckpt *.ftz *.gguf *.gz *.h5 *.joblib *.lfs.* *.lz4 *.mds *.mlmodel *.model *.msgpack
*.npy *.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar
*.tflite *.tgz *.wasm *.xz *.zip *.zst *tfevents*
"""
_MEDIA = """
*.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg *.jpeg *.webp *.mp4 *.webm
"""


def default(kind: str) -> bytes:
    """The .gitattributes a new repository starts with."""
    patterns = (_PATTERNS + (_MEDIA if kind == "dataset" else "")).split()
    return b"".join(line(pattern) for pattern in patterns)


def line(pattern: str) -> bytes:
    return f"{pattern} filter=lfs diff=lfs merge=lfs -text\n".encode()


def covering(current: bytes, paths: Iterable[str]) -> bytes:
    """`current` with a line for each of `paths`."""
    if current and not current.endswith(b"\n"):
        current += b"\n"
    return current + b"".join(line(path.replace(" ", "[[:space:]]")) for path in paths)


def attribute_files(git: GitRepo, sha: str) -> dict[str, str]:
    """Path -> blob of every .gitattributes of a commit."""
    return {
        entry.path: entry.oid
        for entry in git.tree(sha).files()
        if entry.path == ".gitattributes" or entry.path.endswith("/.gitattributes")
    }


def lfs_paths(git: GitRepo, attributes: Mapping[str, str], paths: Iterable[str]) -> set[str]:
    """Those of `paths` that the .gitattributes files (path -> blob) give to LFS: git's own matching."""
    asked = list(paths)
    if not asked or not attributes:
        return set()
    listing = "".join(f"100644 {oid}\t{path}\0" for path, oid in sorted(attributes.items())).encode()
    index = git.path / f"attributes-{hashlib.sha1(listing).hexdigest()}"
    if not index.exists():
        partial = index.with_name(f"{index.name}.{uuid.uuid4().hex}")
        git.run("update-index", "-z", "--index-info", given=listing, env={"GIT_INDEX_FILE": str(partial)})
        os.replace(partial, index)
    known = git.filters.setdefault(index.name, {})
    new = [path for path in asked if path not in known]
    if new:
        given = "".join(f"{path}\0" for path in new).encode("utf-8", "surrogateescape")
        said = git.run(
            "check-attr", "--cached", "-z", "--stdin", "filter", given=given, env={"GIT_INDEX_FILE": str(index)}
        )
        fields = said.decode("utf-8", "surrogateescape").split("\0")[:-1]
        known |= dict(zip(fields[::3], fields[2::3], strict=True))
    return {path for path in asked if known[path] == "lfs"}


def is_binary_sample(sample: bytes) -> bool:
    """Whether the first bytes of a file are not text: a NUL, or no UTF-8 (a cut last character is)."""
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return b"\0" in sample


def is_binary(content: bytes) -> bool:
    """Whether git takes a file for binary, which the Hub refuses outside LFS."""
    return b"\0" in content[:_GIT_SNIFFS]
