"""Export as ``.npz``: arrays for NumPy, without pickles, written a block of rows at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import output_file
from llreg.exporters.columns import keys
from llreg.store.arrays import CORRECT_VARIABLES, PAIR_VARIABLES, dtype_of
from llreg_schemas import canonical_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.exporters.selection import Selection

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member: equal rows give equal files


def write_npz(selection: Selection, path: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write rows for `numpy.load`, which needs no ``allow_pickle``.

    Parameters
    ----------
    selection : Selection
    path : Path
    progress : callable, optional
        Called with (done, rows).

    Raises
    ------
    StorageError
        If it cannot be written.

    Notes
    -----
    ``log_likelihood`` float32 (n_models, n_texts), nats, NaN where not scored (through a view of another vector of pairs
    ``pmi`` or ``log_likelihood_response``); ``num_tokens`` int32; of raw rows of pairs both also with the ending
    ``_response``; ``model`` (row ids, fixed-width unicode) and the other columns of rows; ``text`` (indices in the text
    set), ``subset``, ``text_bytes``, ``text_sha256``; and single strings: ``registry``, ``version``, ``text_set``,
    ``protocol``, ``view`` (ids), ``values`` ("raw" or "view") and ``view_document`` (JSON).
    """
    shape = len(selection), len(selection.texts)
    facts = {
        name: value if isinstance(value, str) else canonical_json(value) for name, value in selection.facts.items()
    }
    texts = selection.text_columns
    names = keys(
        [column.name for column in selection.columns], {*facts, *texts, *PAIR_VARIABLES, *CORRECT_VARIABLES, "pmi"}
    )
    arrays = {name: column.array() for name, column in zip(names, selection.columns, strict=True)}
    arrays |= {**texts, **{name: np.array(value) for name, value in facts.items()}}
    with output_file(path) as temp, zipfile.ZipFile(temp, "w") as archive:
        # Compression would save little of the log-likelihoods.
        values = map(selection.values, selection.blocks(progress=progress))
        _write(archive, selection.vector, np.dtype(np.float32), shape, values, zipfile.ZIP_STORED)
        tokens = map(selection.tokens, selection.blocks())
        _write(archive, "num_tokens", np.dtype(np.int32), shape, tokens)
        for name in selection.further:
            blocks = (selection.read(name, block) for block in selection.blocks())
            _write(archive, name, np.dtype(dtype_of(name)), shape, blocks)
        for name, array in arrays.items():
            _write(archive, name, array.dtype, array.shape, [array])


def _write(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[NDArray[Any]],
    compression: int = zipfile.ZIP_DEFLATED,
) -> None:
    """One array, little-endian, from parts that follow each other along its first axis."""
    dtype = dtype.newbyteorder("<")
    member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    member.compress_type = compression
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())
