"""Untrusted names and plain numbers as people read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts with one of these


def printable(text: str) -> str:
    """Text with control and direction characters escaped: they could drive a terminal, end a line, or reorder what is read."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def harmless(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula; control and direction characters are escaped."""
    return "'" + printable(text) if text.startswith(_FORMULA) else printable(text)


def short_names(names: Sequence[str], row_ids: Sequence[str]) -> list[str]:
    """Model names where they are unique among these rows, else row ids."""
    counts = Counter(names)
    return [name if counts[name] == 1 else row_id for name, row_id in zip(names, row_ids, strict=True)]


def short_count(number: int | None) -> str:
    """A count as "124M"; "?" where it is not known."""
    if number is None:
        return "?"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)


def shown_bytes(num_bytes: int | None) -> str:
    """Bytes as "3.2 GiB", or "none"; "?" where they are not known."""
    if not num_bytes:
        return "?" if num_bytes is None else "none"
    for exponent, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if num_bytes >= 1 << exponent:
            amount = num_bytes / (1 << exponent)
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"
    return f"{num_bytes} bytes"


def duration(seconds: float) -> str:
    """Seconds as "35 s", "12 min", "3.4 h" or "2.1 days"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 6000:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
