"""The formats of tables that `llreg import` reads, and how a table becomes rows.

A new format is a module with a `Format`, that is a reader and its help text, and a line in `FORMATS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.importers.csvfile import CSV
from llreg.importers.measurement import Measurement, Origin, make_declared, read_bounded
from llreg.importers.npz import NPZ
from llreg.importers.parquet import PARQUET
from llreg.importers.rows import ImportResult, import_rows, order_note
from llreg.importers.table import ABOUT, SHA256, Format, Table
from llreg.importers.titles import texts_of_titles
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

FORMATS: dict[str, Format] = {"npz": NPZ, "csv": CSV, "parquet": PARQUET}  # by the name of the command


def import_table(
    registry: Contents,
    path: Path,
    kind: str,
    *,
    dtype: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import rows from a table.

    Parameters
    ----------
    registry : Contents
    path : Path
    kind : str
        One of `FORMATS`.
    dtype : str, optional
        dtype that the models' weights had, where the file does not say.
    dry_run : bool
        Check everything and write nothing.
    progress : callable, optional
        Called with (rows written, rows to write).

    Raises
    ------
    InputError, InvalidFileError
        If the file or any model in it is refused; nothing was written.
    StorageError
    """
    registry.check_changeable("import into it")
    data = read_bounded(path)
    table = FORMATS[kind].read(data, str(path))

    # An export of another text set or protocol, or of what a view shows, is refused.
    for name, expected in (("text_set", registry.info.text_set.id), ("protocol", registry.info.protocol_id)):
        exported = table.stamp.get(name)
        if exported and not expected.startswith(exported):
            raise InputError(f"{path}: it is of the {name} {exported[:12]}; this registry's is {expected[:12]}")
    if table.stamp.get("values") == "view":
        raise InputError(
            f"{path}: its values are those of a view, clipped perhaps; rows are stored raw: export them raw"
        )

    texts, title_note = table.texts, None
    if table.titles is not None:
        texts, title_note = texts_of_titles(table.titles, registry.num_texts, str(path))
    indices = None if texts is None else _text_indices(registry, texts, str(path))
    measurements = [_measurement(registry, table, k, indices, dtype, str(path)) for k in range(len(table.models))]
    result = import_rows(registry, measurements, Origin.of(kind, path, data), dry_run=dry_run, progress=progress)
    if indices is None:
        result.notes.append(order_note(registry))
    if title_note is not None:
        result.notes.append(title_note)
    return result


def _text_indices(registry: Contents, texts: Sequence[str], name: str) -> NDArray[np.int64]:
    """Index in the registry's set of each text, named by sha256 or by index."""
    # Hashes if all of them are: an index never looks like one.
    if all(SHA256.fullmatch(text) for text in texts):
        index = {digest: k for k, digest in enumerate(registry.text_index.sha256)}
    else:
        index = {str(k): k for k in range(registry.num_texts)}
    strange = [text for text in texts if text not in index]
    if strange:
        raise InputError(
            f"{name}: expected texts of {registry.info.text_set.name}, by index (0 to {registry.num_texts - 1}) "
            f"or sha256; {len(strange):,} are not of it, as {strange[0][:70]!r}"
        )
    if len(set(texts)) < len(texts):
        raise InputError(f"{name}: a text is named twice")
    return np.array([index[text] for text in texts], dtype=np.int64)


def _measurement(
    registry: Contents, table: Table, k: int, indices: NDArray[np.int64] | None, dtype: str | None, name: str
) -> Measurement:
    """Model `k` of a table, its values in the order of the registry's texts."""
    values, location = table.values[k], f"{name}: {table.models[k]}"
    if indices is not None:
        if values.shape != indices.shape:
            raise InputError(f"{location}: expected {len(indices):,} values, one a text; got shape {values.shape}")
        ordered = np.full(registry.num_texts, np.nan)  # NaN: the file has not this text
        ordered[indices] = values
        values = ordered
    declared = {column: table.cell(column, k) for column in ABOUT}
    # Several base models are a list in Parquet, and text in CSV and .npz.
    bases = declared["base_model"]
    declared["base_model"] = re.split(r"[,\s]+", bases.strip()) if isinstance(bases, str) else bases
    declared["num_parameters"] = _integer(declared["num_parameters"], f"{location}: num_parameters")
    return Measurement(
        model=table.models[k],
        log_likelihood=values,
        location=location,
        weight_dtype=table.cell("weight_dtype", k) or dtype,
        revision=table.cell("revision", k),
        quantization=table.cell("quantization", k),
        declared=make_declared(**declared),
    )


def _integer(value: Any, location: str) -> int | None:
    """A whole number, perhaps written as a float; None where it is missing or negative."""
    try:
        # pandas writes whole numbers with gaps as floats.
        number = float("nan" if value is None else value)
        if np.isnan(number) or number < 0:
            return None
        if number == int(number):
            return int(number)
    except (ValueError, TypeError, OverflowError):
        pass
    raise InputError(f"{location}: expected a whole number; got {str(value)[:60]!r}")
