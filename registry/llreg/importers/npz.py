"""Tables of values in ``.npz`` files."""

from __future__ import annotations

import io
import re
import zipfile
from typing import IO, TYPE_CHECKING

import numpy as np

from llreg import settings
from llreg.atomic import ZIP_ERRORS
from llreg.importers.table import ABOUT, MODEL, STAMP, TEXT, VALUES, Format, Table
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MEMBERS = {f"{name}.npy" for name in (VALUES, *MODEL, *ABOUT, *TEXT, *STAMP)}
# Other names under which a file may say which text a value is of.
_SAYS_WHICH = re.compile(
    r"((text|doc|sample)s?(_?(id|index|name|title|hash)(e?s)?)?|ids?|idx|index|indices|order|permutation|sha256|hash(es)?|columns)\.npy"
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(data: bytes, name: str) -> Table:
    """Read arrays ``models`` and ``log_likelihood``, and what else is known of models and texts.

    Raises
    ------
    InputError
        If the file is damaged, an array is of another kind or shape, or holds Python objects.
    """
    arrays: dict[str, NDArray[np.generic]] = {}  # those that are understood
    limit = settings.MAX_IMPORT_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [entry for entry in archive.infolist() if entry.filename in _MEMBERS]
            if sum(entry.file_size for entry in members) > limit:
                raise InputError(f"{name}: expected at most {limit:,} bytes of arrays")
            for entry in members:
                with archive.open(entry) as file:
                    array = _read_array(file, entry.file_size, f"{name}: {entry.filename}")
                    arrays[entry.filename.removesuffix(".npy")] = array
            others = [
                file for file in archive.namelist() if _SAYS_WHICH.fullmatch(file.lower()) and file not in _MEMBERS
            ]
    except InputError:
        raise
    except ZIP_ERRORS as error:
        raise InputError(f"{name}: expected an .npz file; it is damaged or another kind ({error})") from error

    # What they are, by names and shapes.
    column = next((column for column in MODEL if column in arrays), None)
    if column is None or VALUES not in arrays:
        raise InputError(f"{name}: expected the arrays models and {VALUES}; got {', '.join(sorted(arrays)) or 'none'}")
    models, values = arrays[column], arrays[VALUES]
    if models.ndim != 1 or models.dtype.kind != "U" or values.ndim != 2 or len(values) != len(models):
        raise InputError(
            f"{name}: expected {column}, text of shape (n_models,), and {VALUES}, numbers of shape (n_models, n_texts); "
            f"got {models.dtype} {models.shape} and {values.dtype} {values.shape}"
        )
    about = {column: arrays[column] for column in ABOUT if column in arrays}
    for column, entries in about.items():
        if entries.shape != models.shape:
            raise InputError(f"{name}: expected one entry a model in {column}; got shape {entries.shape}")
    texts = next((arrays[column] for column in TEXT if column in arrays), None)
    if texts is None and others:
        raise InputError(
            f"{name}: the array {others[0].removesuffix('.npy')} seems to say which texts they are, and is not understood: call it "
            "text (index) or text_sha256, or leave it out if it says something else"
        )
    return Table(
        models.tolist(),
        list(values),
        None if texts is None else [str(text) for text in texts.ravel().tolist()],
        {column: entries.tolist() for column, entries in about.items()},
        {column: str(arrays[column].item()) for column in STAMP if column in arrays and arrays[column].size == 1},
    )


def _read_array(file: IO[bytes], size: int, location: str) -> NDArray[np.generic]:
    """An array of a member of `size` bytes by the zip; no more is unpacked than that and its header allow."""
    # Not by numpy.load, which makes an array of whatever shape the header says before it reads.
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise InputError(f"{location}: expected an array of .npy version 1 or 2; got {version}")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if dtype.kind not in "fiubU":
        raise InputError(
            f"{location}: expected numbers or text; got dtype {str(dtype)[:60]}, and Python objects are not loaded; save "
            "text as an array of str"
        )
    # Exact integers: a product of numpy's own could overflow.
    promised = dtype.itemsize
    for length in shape:
        promised *= length
    if not 0 <= promised <= size:
        raise InputError(f"{location}: its header promises {promised:,} bytes, it has {size:,}")
    # Neither fewer bytes nor more: the zip's size is a claim, too.
    data = file.read(promised)
    if len(data) != promised or file.read(1):
        raise InputError(f"{location}: expected {promised:,} bytes, as its header says")
    if not promised:
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if is_fortran else "C")


NPZ = Format(
    read_npz,
    """Arrays models (text) and log_likelihood (models x texts) from an .npz file.

    Optional arrays: text_sha256 or text (index), by which values find their texts; revision, weight_dtype,
    quantization, base_model, relation, licence, architecture, num_parameters, created, one entry a model.
    """,
)
