"""Untrusted names as they may be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text with control and direction characters escaped: they could drive a terminal, end a line, or reorder what is read."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
