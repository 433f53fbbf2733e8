"""Defaults, with units, and the environment variables llreg reads: all of them, here only."""

from __future__ import annotations

import os
from pathlib import Path

from llreg_schemas.errors import InputError

# Shapes in store.zarr, chosen with benchmarks/store.py: a chunk is what one row costs over HTTP,
# a shard is one file.
CHUNK_BYTES = 160 << 10  # 160 KiB of float32: four rows of 10,000 texts
MAX_CHUNK_ROWS = 16  # short rows: a partly filled chunk must not dwarf them
SHARD_ROWS = 256  # 10 MB a shard at 10,000 texts

MAX_TEXT_BYTES = 1 << 20  # 1 MiB, one text
MAX_TEXTS = 10_000_000
# Of a file of others' values, and of memory for what is in it; the published matrices take 82 MB.
MAX_IMPORT_BYTES = 1 << 30  # 1 GiB
STALE_TEMP_SECONDS = 3600.0  # leftovers of killed processes older than this are swept
JOURNAL_SYNC_SECONDS = 5.0  # scored texts reach the disk at least this often


def registry_setting() -> str | None:
    """LLREG_REGISTRY: the registry to use when no option names one."""
    return os.environ.get("LLREG_REGISTRY") or None


def contributor() -> str | None:
    """LLREG_CONTRIBUTOR: the name recorded as who added a row."""
    return os.environ.get("LLREG_CONTRIBUTOR") or None


def check_contributor() -> None:
    """Refuse a LLREG_CONTRIBUTOR that a record cannot hold."""
    name = contributor()
    if name is not None and (not name.isprintable() or len(name) > 200):
        raise InputError("LLREG_CONTRIBUTOR: expected one printable line of at most 200 characters")


WORKER_CPUS = "LLREG_WORKER_CPUS"


def worker_cpus() -> set[int]:
    """LLREG_WORKER_CPUS, set by llreg for the worker processes it starts: the cores that this one may use; empty: all."""
    return {int(number) for number in os.environ.get(WORKER_CPUS, "").split(",") if number}


def default_registry() -> Path:
    """The user's own registry: ``$XDG_DATA_HOME/llreg/default``."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "llreg" / "default"
