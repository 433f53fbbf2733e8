"""Timing, counting files and bytes, and Markdown: what the benchmarks share."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

Action = Callable[[], Any]


def seconds(action: Action, repeats: int, *, prepare: Action | None = None) -> float:
    """Median wall time of an action, after one unmeasured run that warms the caches."""
    times = []
    for _ in range(repeats + 1):
        if prepare:
            prepare()
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


class Tree(NamedTuple):
    """Bytes and number of files."""

    bytes: int
    files: int

    def __str__(self) -> str:
        return f"{show_bytes(self.bytes)}, {self.files:,} file{'s' * (self.files != 1)}"


def _status(path: Path) -> dict[Path, os.stat_result]:
    found = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file() and ".llreg" not in p.parts)
    return {file: file.stat() for file in found}


def size(*paths: Path) -> Tree:
    """What files and directories hold together."""
    sizes = [status.st_size for path in paths for status in _status(path).values()]
    return Tree(sum(sizes), len(sizes))


def written(path: Path, action: Action) -> Tree:
    """Files in a directory that an action writes, and their bytes."""
    before = {file: (s.st_ino, s.st_mtime_ns) for file, s in _status(path).items()}
    action()
    sizes = [s.st_size for file, s in _status(path).items() if before.get(file) != (s.st_ino, s.st_mtime_ns)]
    return Tree(sum(sizes), len(sizes))


def show_seconds(value: float) -> str:
    """Seconds with the unit that suits them."""
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.0f} µs"


def show_bytes(value: float) -> str:
    """Bytes in decimal units, as the Hub shows them."""
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:,.1f} {unit}"
    return f"{value:.0f} B"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, [":--", *["--:"] * (len(header) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine(*libraries: str) -> str:
    """The machine and the versions, in words: no host names, no paths."""
    versions = [f"Python {platform.python_version()}"]
    for name in libraries:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()}"
    return f"{hardware}; {', '.join(versions)}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
