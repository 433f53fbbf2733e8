"""The recipe for a user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llreg.texts.recipe import Pieces, Recipe, Source
from llreg.texts.textset import valid_name
from llreg_schemas.errors import InputError


def recipe_for(
    files: Sequence[str],
    *,
    text_field: str = "text",
    subset_field: str = "subset",
    unit: str = "paragraph",
    max_bytes: int | None = None,
    min_bytes: int | None = None,
    licence: str | None = None,
    no_copy: bool = False,
) -> Recipe:
    """A recipe of files: every text of them in order, whole, none twice.

    Parameters
    ----------
    files : sequence of str
        JSON Lines, Parquet or plain text.
    text_field, subset_field : str
        Fields of the text and its label; a field `source`, if there is one, says where a text comes from.
    unit : str
        What a text is in plain text: "paragraph", "line" or "file".
    max_bytes, min_bytes : int, optional
        Cut texts into pieces, and leave short ones out.
    licence : str, optional
    no_copy : bool
        The texts must not be published.

    Raises
    ------
    InputError
    """
    if min_bytes is not None and max_bytes is None:
        raise InputError("--min-bytes leaves out short pieces: say how long a piece may be, with --max-bytes N")
    if max_bytes is not None and (min_bytes or 1) > max_bytes:
        raise InputError(f"--min-bytes {min_bytes} is more than --max-bytes {max_bytes}: no piece would be kept")
    source = Source(text_field, files=tuple(files), subset=subset_field, source=("source",), unit=unit)
    return Recipe(
        name=valid_name(Path(files[0]).name.partition(".")[0]),
        licence=licence or "unknown",
        sources=(source,),
        copy=not no_copy,
        pieces=None if max_bytes is None else Pieces(max_bytes, min_bytes or 1),
    )
