"""A registry as a lazy `xarray.Dataset`: the build and the rows not in it yet, as one array."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray import Dataset, Variable
from xarray.backends import BackendArray
from xarray.core import indexing

from llreg.store.arrays import FINE_VARIABLES, array_attributes, dimension_of, dtype_of
from llreg.store.columns import STORE_COLUMNS, TEXT_COLUMNS
from llreg.store.fine import FineMap, store_arrays
from llreg.store.rowfile import Row
from llreg.store.zarr_profile import StoreForm
from llreg.store.zarr_read import StoreReader
from llreg.texts.textset import TextIndex
from llreg_schemas import RowRecord
from llreg_schemas.errors import NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowSource:
    """Where the values of accepted rows are: in the store, or in row files.

    Parameters
    ----------
    store : StoreReader
    row_files : callable
        Gives the row files that are there by digest; used for rows that the store does not hold.
    read_file : callable
        Reads and checks a row file.
    form : StoreForm
        Of the registry's store.
    fine : callable
        Gives the map to fine coordinates, which rows in files need; None in a registry of format 1.
    """

    def __init__(
        self,
        store: StoreReader,
        row_files: Callable[[], Mapping[str, Path]],
        read_file: Callable[[Path], Row],
        form: StoreForm,
        fine: Callable[[], FineMap | None],
    ) -> None:
        self._store, self._row_files, self._read_file = store, row_files, read_file
        self._files: Mapping[str, Path] = {}
        self.form, self._fine = form, fine

    def read(self, name: str, digests: Sequence[str], columns: slice | NDArray[np.intp] = slice(None)) -> NDArray[Any]:
        """Values of some rows.

        Parameters
        ----------
        name : str
            One of the store's arrays.
        digests : sequence of str
        columns : slice or intp array
            Texts, or coordinates; all by default.

        Returns
        -------
        float32 (log-likelihoods, coordinates; nats) or int32 (counts) array of shape (len(digests), n_columns)

        Raises
        ------
        NotFoundError
            If a row is gone since this dataset was opened.
        """
        while True:
            stored = set(self._store.digests())
            try:
                return self._read(name, digests, columns, stored)
            except NotFoundError:
                if stored == set(self._store.digests()):  # else a new build came between, with other rows
                    raise

    def _read(
        self, name: str, digests: Sequence[str], columns: slice | NDArray[np.intp], stored: Collection[str]
    ) -> NDArray[Any]:
        # Rows in the store are read together, those in files one by one.
        inside = [k for k, digest in enumerate(digests) if digest in stored]
        width = len(range(*columns.indices(self.form.width(name)))) if isinstance(columns, slice) else len(columns)
        values = np.empty((len(digests), width), dtype_of(name))  # (n_models, n_columns)
        if inside:
            values[inside] = self._store.read(name, [digests[k] for k in inside], columns)
        # A row file has all texts: it is read whole, and cut.
        for k, digest in enumerate(digests):
            if digest in stored:
                continue
            if digest not in self._files:
                self._files = self._row_files()  # also a row that was retracted since has left the store for a file
            if digest not in self._files:
                raise NotFoundError(f"row {digest[:12]} has left this registry since it was opened; open it again")
            row = self._read_file(self._files[digest])
            fine = self._fine() if name in FINE_VARIABLES else None
            values[k] = store_arrays(row, self.form, fine)[name][columns]
        return values


class _Values(BackendArray):
    """One variable of the registry, read when it is indexed."""

    def __init__(self, source: RowSource, name: str, digests: Sequence[str]) -> None:
        self._source, self._name, self._digests = source, name, list(digests)
        self.shape = (len(self._digests), source.form.width(name))
        self.dtype = np.dtype(dtype_of(name))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        rows, columns = key
        positions = np.arange(self.shape[0])[rows]  # (n_rows,), or a number
        digests = [self._digests[k] for k in np.atleast_1d(positions)]
        is_single = isinstance(columns, (int, np.integer))
        # xarray gives a number where one row or text is asked for: that dimension goes.
        values = self._source.read(self._name, digests, np.array([columns]) if is_single else columns)
        if is_single:
            values = values[:, 0]  # (n_rows,)
        return np.asarray(values if np.ndim(positions) else values[0])


def make_dataset(
    source: RowSource,
    records: Sequence[RowRecord],
    texts: TextIndex,
    attrs: Mapping[str, Any],
    coordinate_text: NDArray[np.int32] | None = None,
) -> Dataset:
    """The lazy dataset of some rows.

    Returns
    -------
    xarray.Dataset
        Dims (model, text); variables log_likelihood (float32, nats, NaN where not scored) and num_tokens
        (int32), of pairs log_likelihood_response and num_tokens_response, too; num_correct (int32, -1 where not known)
        and fine_coordinate (float32, with dims (model, coordinate)) where the texts are cut into segments; the metadata of
        rows and texts as coordinates, as in ``store.zarr``.
    """
    digests = [record.digest for record in records]
    variables = {
        name: Variable(
            ("model", dimension_of(name)),
            indexing.LazilyIndexedArray(_Values(source, name, digests)),
            array_attributes(name, pairs=texts.has_pairs),
        )
        for name in source.form.variables
    }
    coordinates: dict[str, tuple[str, NDArray[Any]]] = {}
    for column in STORE_COLUMNS:
        dtype = np.int64 if column.kind == "integer" else object
        coordinates[column.name] = "model", np.array(column.stored(records), dtype=dtype)
    for column in TEXT_COLUMNS:
        coordinates[column.name] = "text", np.array(column.get(texts))
    if coordinate_text is not None:
        coordinates["coordinate_text"] = "coordinate", coordinate_text
    return Dataset(variables, coordinates, attrs=dict(attrs))
