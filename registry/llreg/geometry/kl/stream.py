"""Rows that do not fit in memory: read through a view, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.rows import Labelled, Rows, common_view, view_rows
from llreg.geometry.view.view import View, view_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

BLOCK = 1024  # rows at a time: 80 MB of float64 for 10,000 texts


@dataclass(frozen=True)
class RowStream(Labelled):
    """Rows of a registry through a view, without their values.

    Attributes
    ----------
    source : Contents
    records : sequence of RowRecord
    view : View
    version : str
    """

    source: Contents
    records: Sequence[RowRecord]
    view: View
    version: str

    @property
    def registry(self) -> str:
        """Name of the registry."""
        return self.source.name

    @cached_property
    def texts(self) -> NDArray[np.intp]:
        """Indices of the view's texts, intp array of shape (n_texts,)."""
        return self.view.texts(self.source.text_index)

    def read(self, positions: slice | Sequence[int] | NDArray[np.intp]) -> Rows:
        """Some of the rows, with their values."""
        records = self.records[positions] if isinstance(positions, slice) else [self.records[k] for k in positions]
        return view_rows(self.source, records, self.view, self.version)

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[slice, Rows]]:
        """All rows in order, a block at a time, with their positions."""
        for start in range(0, len(self), size):
            block = slice(start, min(start + size, len(self)))
            yield block, self.read(block)


def stream_rows(registry: Contents, models: Sequence[str] | None = None, view: View | None = None) -> RowStream:
    """Rows of a registry to be read a block at a time.

    Parameters
    ----------
    registry : Contents
    models : sequence of str, optional
        Which rows, as in `Contents.find`; all by default.
    view : View, optional
        The registry's own by default.
    """
    records, version = registry.select(models)
    return RowStream(registry, records, common_view(registry, records, view_of(registry, view)), version)


def principal_coordinates(rows: RowStream, dims: int = 64, *, seed: int = 0) -> NDArray[np.float64]:
    """The leading principal coordinates of rows, without the Gram matrix and without all rows in memory.

    Parameters
    ----------
    rows : RowStream
    dims : int
        How many coordinates; at most the number of rows or of texts (of fine coordinates).
    seed : int

    Returns
    -------
    float64 array of shape (n_models, dims), sqrt(bit/byte)
        Squared distances between its rows approximate KL; the largest axis comes first, and the sum of each axis' third
        powers is positive.

    Notes
    -----
    Scaled coordinates q / sqrt(2 N B ln 2) (Kishino et al., arXiv 2505.15353), projected by randomised subspace iteration (Halko,
    Martinsson, Tropp 2011) with two passes to find the subspace and one to project. A text that a row lacks counts as
    the row's mean there, also where the row was scored on a sample: an approximation that exact distances do not make.
    """
    total = [block.columns.sum(axis=0) for _, block in rows.blocks()]
    mean = np.asarray(np.sum(total, axis=0) / len(rows))
    first = rows.read(slice(0, 1))
    num_texts = float(first.values.shape[1] if first.weights is None else first.weights.sum())
    dims = min(dims, len(rows), len(mean))
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(
        rng.normal(size=(len(mean), min(dims + 16, len(rows), len(mean))))
    )  # (n_columns, dims + 16)
    for _ in range(2):  # each pass multiplies the basis by q.T q, which turns it to the leading axes
        image = np.zeros_like(basis)
        for _, block in rows.blocks():
            q = _coordinates(block, mean)
            image += q.T @ (q @ basis)
        basis, _ = np.linalg.qr(image)
    projected = np.concatenate(
        [_coordinates(block, mean) @ basis for _, block in rows.blocks()]
    )  # (n_models, dims + 16)
    values, axes = np.linalg.eigh(projected.T @ projected)
    order = np.argsort(-values)[:dims]
    result = projected @ axes[:, order] / np.sqrt(2 * num_texts * first.bits)
    # The sign of an axis is arbitrary: the third moment decides.
    return np.asarray(result * np.where((result**3).sum(axis=0) < 0, -1.0, 1.0))


def _coordinates(rows: Rows, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Double-centred rows times the roots of the weights, float64 array of shape (n_models, n_columns)."""
    q = rows.columns - mean
    return q if rows.column_weights is None else np.asarray(q * np.sqrt(rows.column_weights))
