"""Untrusted names as they may be shown."""

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
