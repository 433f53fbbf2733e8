"""Untrusted names as they may be shown."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that starts with one of these


def printable(text: str) -> str:
    """Text with control and direction characters escaped: they could drive a terminal, end a line, or reorder what is read."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def harmless(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula; control and direction characters are escaped."""
    return "'" + printable(text) if text.startswith(_FORMULA) else printable(text)
