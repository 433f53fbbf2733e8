"""The file of a built text set: Parquet with columns text, subset, source, and the recipe in its metadata."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from llreg.texts.recipe import Recipe, read_recipe
from llreg.texts.textset import TextSet, make_text_set
from llreg_schemas import check
from llreg_schemas.errors import InputError, InvalidFileError

_RECIPE, _NAME, _LICENCE = b"llreg.recipe", b"llreg.name", b"llreg.licence"
_COLUMNS = ("text", "subset", "source")


def to_bytes(texts: TextSet, recipe: Recipe) -> bytes:
    """The file's bytes; equal texts and recipes give equal bytes with the same pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(list(column), type=pa.string()) for column in (texts.texts, texts.subset, texts.source)]
    metadata = {_RECIPE: recipe.to_text().encode(), _NAME: recipe.name.encode(), _LICENCE: recipe.licence.encode()}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns, names=list(_COLUMNS)).replace_schema_metadata(metadata), buffer, compression="zstd"
    )
    return buffer.getvalue()


def read_built(path: Path) -> TextSet | None:
    """The text set in a built file; None if the Parquet file is none.

    Texts may repeat and may be blank, if the recipe has it so: a published set is what it is.

    Raises
    ------
    InputError
        If the texts are not those that were built.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        if _RECIPE not in metadata:
            return None
        rows = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error
    try:
        recipe = read_recipe(metadata[_RECIPE], f"{path}: llreg.recipe")
        rows = [check("text", row, f"{path}: row {number}") for number, row in enumerate(rows)]
    except InvalidFileError as error:
        raise InputError(str(error)) from error
    if not rows:
        raise InputError(f"{path}: expected at least one text; the file is empty")
    texts = make_text_set(recipe.name, rows, licence=recipe.licence, description=recipe.description)
    if texts.info.id != recipe.expect.text_set:
        raise InputError(f"{path}: the texts were changed after they were built; build them again: llreg texts build")
    return replace(texts, recipe=recipe.to_json())
