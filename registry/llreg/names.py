"""Names: of models, text sets and registries, as ``row.schema.json`` and the Hub have them; and of files that are no part of one."""

from __future__ import annotations

import re

from llreg_schemas.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_MAX_LENGTH = 200  # characters
_SUGGESTED_LENGTH = 100  # characters of a name that is made from a file's


def is_name(text: str) -> bool:
    """Whether `text` can name a model, a text set or a registry."""
    return len(text) <= _MAX_LENGTH and _NAME.fullmatch(text) is not None


def valid_name(text: str) -> str:
    """The valid name nearest to `text`, without an organisation: letters, digits, ".", "_" and "-"."""
    name = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text)
    return name.lstrip("._-")[:_SUGGESTED_LENGTH] or "unnamed"


def is_hidden(name: str) -> bool:
    """Whether a file or directory is none of ours: macOS writes ._NAME beside NAME on foreign disks, and .DS_Store."""
    return name.startswith("._") or name == ".DS_Store"


def check_name(name: str) -> str:
    """The name as it is.

    Raises
    ------
    InputError
        If it is not valid; the message suggests one that is.
    """
    if not is_name(name):
        raise InputError(f"name {name[:60]!r}: use letters, digits, '.', '_' and '-', for example {valid_name(name)}")
    return name
