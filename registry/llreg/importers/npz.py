"""Tables of values in ``.npz`` files."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import ZIP_ERRORS
from llreg.importers.bounded import MAX_BYTES
from llreg.importers.table import ABOUT, MODEL, STAMP, TEXT, VALUES, Table
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READ = {f"{name}.npy" for name in (VALUES, *MODEL, *ABOUT, *TEXT, *STAMP)}
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(data: bytes, shown: str) -> Table:
    """Read arrays ``models`` and ``log_likelihood``, and what else is known of models and texts.

    Raises
    ------
    InputError
        If the file is damaged, an array is of another kind or shape, or holds Python objects.
    """
    arrays = _load(data, shown)
    name = next((name for name in MODEL if name in arrays), None)
    if name is None or VALUES not in arrays:
        raise InputError(f"{shown}: expected the arrays models and {VALUES}; got {', '.join(sorted(arrays)) or 'none'}")
    models, values = arrays[name], arrays[VALUES]
    if models.ndim != 1 or models.dtype.kind != "U" or values.ndim != 2 or len(values) != len(models):
        raise InputError(
            f"{shown}: expected {name}, text of shape (n_models,), and {VALUES}, numbers of shape (n_models, n_texts); "
            f"got {models.dtype} {models.shape} and {values.dtype} {values.shape}"
        )
    for column in ABOUT:
        if column in arrays and arrays[column].shape != models.shape:
            raise InputError(f"{shown}: expected one entry a model in {column}; got shape {arrays[column].shape}")
    texts = next((arrays[name] for name in TEXT if name in arrays), None)
    return Table(
        models.tolist(),
        list(values),
        None if texts is None else [str(text) for text in texts.ravel().tolist()],
        {column: arrays[column].tolist() for column in ABOUT if column in arrays},
        {stamp: str(arrays[stamp].item()) for stamp in STAMP if stamp in arrays and arrays[stamp].size == 1},
    )


def _load(data: bytes, shown: str) -> dict[str, NDArray[Any]]:
    """The arrays that are understood; no member is unpacked beyond what its header and the zip say alike."""
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [entry for entry in archive.infolist() if entry.filename in _READ]
            if sum(entry.file_size for entry in members) > MAX_BYTES:
                raise InputError(f"{shown}: expected at most {MAX_BYTES:,} bytes of arrays")
            for entry in members:
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = _load_array(file, entry, shown)
    except InputError:
        raise
    except ZIP_ERRORS as error:
        raise InputError(f"{shown}: expected an .npz file; it is damaged or another kind ({error})") from error
    return arrays


def _load_array(file: Any, entry: zipfile.ZipInfo, shown: str) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise InputError(f"{shown}: {entry.filename}: expected an array of .npy version 1 or 2; got {version}")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "fiubU":
        raise InputError(
            f"{shown}: {entry.filename}: expected numbers or text; got dtype {str(dtype)[:60]}, and Python objects are "
            "not loaded; save text as an array of str"
        )
    size = dtype.itemsize
    for length in shape:
        size *= length
    if not 0 <= size <= entry.file_size:
        raise InputError(f"{shown}: {entry.filename}: its header promises {size:,} bytes, it has {entry.file_size:,}")
    raw = file.read(size)
    if len(raw) != size or file.read(1):
        raise InputError(f"{shown}: {entry.filename}: expected {size:,} bytes, as its header says")
    if not size:
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if fortran else "C")
