"""Markdown of pull requests and comments. What strangers wrote goes in as code or plain text, never as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from llreg.printable import printable

NOTHING = "-"
_MAX_CHARS, _MAX_PROSE_CHARS = 160, 600  # characters of an untrusted text that are shown
# What begins HTML, code or a table cell, and a character that looks like it.
_LOOKALIKES = str.maketrans(
    {
        "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
        ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
        "`": "'",
        "|": "¦",
    }
)
_MARKUP = re.compile(r"([\\*_\[\]#~&$])")
# Words that a renderer may take for a mention or a link; row ids are among them.
_ACTIVE = re.compile(r"[^\s()]*(?:@|://|www\.)[^\s()]*[^\s().,;:]", re.IGNORECASE)


def code(text: object) -> str:
    """Untrusted text as inline code: nothing in it is markup, a mention or a link, not even where HTML is let through."""
    line = _one_line(text).strip()
    return f"`{line}`" if line else NOTHING


def prose(text: object) -> str:
    """Untrusted text as plain text, for sentences that quote what strangers wrote; what could become a link is code."""
    line, parts, end = _one_line(text, max_chars=_MAX_PROSE_CHARS), [], 0
    for word in _ACTIVE.finditer(line):
        parts += [_MARKUP.sub(r"\\\1", line[end : word.start()]), f"`{word[0]}`"]
        end = word.end()
    return "".join([*parts, _MARKUP.sub(r"\\\1", line[end:])])


def _one_line(text: object, *, max_chars: int = _MAX_CHARS) -> str:
    line = printable(str(text)).translate(_LOOKALIKES)
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def link(label: str, address: str) -> str:
    """A link; `label` is Markdown already, and every part of the address is quoted."""
    return f"[{label}]({quote(address, safe=':/.-_~%')})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; `right` lists the columns that hold numbers."""
    rule = ["--:" if k in right else "---" for k in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
