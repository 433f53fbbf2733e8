"""A pinned model: what it is called, where it lies, and the exact content that will be scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llreg_schemas.errors import InputError

# The patterns of row.schema.json: a name or file that breaks them could be scored but never stored.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_FILE = re.compile(r"(?!.*(^|/)\.\.(/|$))[A-Za-z0-9][A-Za-z0-9._ +=@/-]*")
_NAME_LENGTH, _FILE_LENGTH = 200, 300


@dataclass(frozen=True)
class Source:
    """A pinned model; nothing of it is loaded yet.

    Attributes
    ----------
    name : str
        Hub id, or the name of a local model.
    kind : {"hub", "local"}
    location : str
        Hub id, or the directory's path.
    revision : str
        40-hex commit, or ``sha256:<hex>`` over a local model's files.
    file : str or None
        GGUF file inside `location`.
    quantization : str or None
        How the checkpoint says its weights are quantised, as "gguf:Q4_1" or "gptq".
    checkpoint_dtype : str
        dtype the weights are saved in: "float32", "bfloat16", "float16". A GGUF is dequantised to
        "float32".
    declared : mapping
        What card, config and weights say of the model: the "declared" part of ``row.schema.json``.
    """

    name: str
    kind: Literal["hub", "local"]
    location: str
    revision: str
    file: str | None
    quantization: str | None
    checkpoint_dtype: str
    declared: Mapping[str, Any]


def is_name(text: str) -> bool:
    """Whether a row may carry `text` as its model's name."""
    return len(text) <= _NAME_LENGTH and _NAME.fullmatch(text) is not None


def local_name(stem: str, name: str | None) -> str:
    """Name of a local model: `name` if given, else `stem` with invalid characters made "-".

    Raises
    ------
    InputError
        `name` is not valid, or nothing valid can be made of `stem`.
    """
    if name is not None:
        if not is_name(name):
            raise InputError(
                f"{name!r} is no valid model name: letters, digits, '.', '_' and '-', starting with a letter "
                "or digit, with at most one '/'"
            )
        return name
    made = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-")[:_NAME_LENGTH]
    if not made:
        raise InputError(f"no model name can be made of {stem!r}: give one with --name")
    return made


def check_file_name(file: str) -> None:
    """Refuse a GGUF file name that a row cannot carry.

    Raises
    ------
    InputError
    """
    if len(file) > _FILE_LENGTH or _FILE.fullmatch(file) is None:
        raise InputError(
            f"the file name {file!r} cannot be stored with a row: rename it to letters, digits, spaces and . _ + = @ -"
        )
