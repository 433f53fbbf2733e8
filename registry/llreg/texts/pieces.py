"""Cutting documents into consecutive pieces of UTF-8, never inside a character."""

from __future__ import annotations

from collections.abc import Iterator

from llreg.texts.recipe import Pieces


def cut(data: bytes, rule: Pieces | None) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of the pieces of a document that are kept.

    Pieces are counted before short ones are left out, so that a number names the same bytes under any `min_bytes`. P1
    (section 4; the text set of its repository): at most 1,024 bytes, moved back to the beginning of a character, more
    than 256 kept.

    Parameters
    ----------
    data : bytes
        UTF-8.
    rule : Pieces or None
        None: the whole document is one piece.
    """
    if rule is None:
        if data:
            yield 0, 0, len(data)
        return
    begin, number, size = 0, 0, len(data)
    while size - begin >= rule.min_bytes:  # what is left would be too short, whatever the cuts
        end = min(begin + rule.max_bytes, size)
        while end < size and data[end] & 0xC0 == 0x80:
            end -= 1
        if end - begin >= rule.min_bytes:
            yield number, begin, end
        begin, number = end, number + 1
