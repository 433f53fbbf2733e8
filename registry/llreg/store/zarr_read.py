"""Reading ``store.zarr`` by row digest, also while another process swaps it for a newer one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llreg.settings import SHARD_ROWS
from llreg.store import zarr_profile
from llreg.store.arrays import is_count, is_fine_only
from llreg.store.layout import STORE
from llreg.store.rowfile import Row
from llreg_schemas import RowRecord
from llreg_schemas.errors import InvalidFileError, LlregError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

# What damaged or half-copied files make zarr, numpy and json raise.
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, RuntimeError, ExceptionGroup)


class StoreReader:
    """Reads rows of a ``store.zarr`` by digest.

    Every read happens against one store: where it was swapped meanwhile, the read is repeated, because
    rows may have moved.

    Parameters
    ----------
    path : Path
        The store; it may be missing, which reads as no rows.
    label : str
        Name used in messages.

    Attributes
    ----------
    form : StoreForm or None
        What the registry implies, and a store must have; None: what it says of itself.
    """

    def __init__(self, path: Path, *, label: str = STORE) -> None:
        self.path, self.label = path, label
        self.form: zarr_profile.StoreForm | None = None
        self._signature: tuple[int, int, int] | None = None
        self._group: Any = None
        self._form = zarr_profile.StoreForm(0)  # of the opened store
        self._positions: dict[str, int] = {}
        self._records: list[RowRecord] | None = None
        self._sound: set[str] = set()  # shards whose chunks were found to have the size they must have

    def exists(self) -> bool:
        """Whether there is a store."""
        return self.signature() is not None

    def retracted(self) -> set[str]:
        """Digests of the rows that were retracted when the store was made."""
        return self._consistently(lambda: set(self._group.attrs.get("retracted", ())) if self._group else set())

    def digests(self) -> list[str]:
        """Digests of the store's rows, in its order."""
        return self._consistently(lambda: list(self._positions))

    def records(self) -> list[RowRecord]:
        """Records of the store's rows, in its order.

        Raises
        ------
        InvalidFileError
            If the store is damaged.
        """
        return self._consistently(self._read_records)

    def read(self, name: str, digests: Sequence[str], columns: slice | NDArray[np.intp]) -> NDArray[Any]:
        """Values of an array for some rows.

        Parameters
        ----------
        name : str
            One of the arrays of `llreg.store.arrays.store_variables`.
        digests : sequence of str
            Rows that are in the store.
        columns : slice or intp array
            Texts, or coordinates, to read.

        Returns
        -------
        float32 (log-likelihoods, coordinates; nats) or int32 (counts) array of shape (len(digests), n_columns)

        Raises
        ------
        InvalidFileError
            If the store is damaged.
        NotFoundError
            If it does not hold such a row.
        """
        return self._consistently(lambda: self._read(name, digests, columns))

    def intact_rows(self, records: Sequence[RowRecord]) -> dict[str, Row]:
        """Those of the given rows that are in the store with the values their digest names, by digest."""
        stored = set(self.digests())
        records = [record for record in records if record.digest in stored]
        if not records:
            return {}
        digests = [record.digest for record in records]
        names = list(self._consistently(lambda: self._form.variables))
        # Only of fine rows are counts of correct tokens and coordinates values.
        names = names if any(record.is_fine for record in records) else [n for n in names if not is_fine_only(n)]
        arrays = {
            name: self.read(name, digests, slice(None)) for name in names
        }  # each (n_rows, n_texts or n_coordinates)
        rows = {}
        for k, record in enumerate(records):
            own = [name for name in arrays if record.is_fine or not is_fine_only(name)]
            row = Row(record, **{name: arrays[name][k] for name in own})
            if row.digest == record.digest:
                rows[record.digest] = row
        return rows

    def _consistently(self, read: Callable[[], T]) -> T:
        """Open the store if need be and read; again if it was swapped before the read was over."""
        while True:
            signature = self.signature()
            try:
                if signature != self._signature:
                    self._open(signature)
                value = read()
            except _DAMAGE as raised:
                # Swapped meanwhile: what looked like damage was half of the old store.
                if self.signature() != signature:
                    continue
                error: Exception = raised
                while isinstance(error, ExceptionGroup):  # zarr from 3.2 on reads chunks in a task group
                    error = error.exceptions[0]
                if isinstance(error, LlregError):
                    raise error from error.__cause__
                raise InvalidFileError(
                    self.label,
                    f"is damaged ({type(error).__name__}: {str(error)[:100]}); {zarr_profile.REPAIR}",
                ) from error
            if self.signature() == signature:
                return value

    def signature(self) -> tuple[int, int, int] | None:
        """What changes when the store is swapped for another; None where there is none."""
        try:
            status = (self.path / "zarr.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    # Where the store's files are: the Hub overrides these

    def source(self) -> Any:
        """The store as `zarr.open_group` takes it."""
        return self.path

    def size(self, key: str) -> int | None:
        """Bytes of one of the store's files; None if there is none of that name."""
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def load(self, key: str, start: int, end: int) -> bytes:
        """Bytes `start` up to `end` of one of the store's files."""
        with (self.path / key).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def prepare(self, name: str, positions: Sequence[int]) -> None:
        """Check what is about to be read of an array, at rows of these positions."""
        for shard in sorted({position // SHARD_ROWS for position in positions}):
            key = f"{name}/c.{shard}.0"
            if is_fine_only(name) and not self.size(key):
                # No row of it has segments, or it is lost.
                records = self._read_records()
                if any(records[position].is_fine for position in positions if position // SHARD_ROWS == shard):
                    raise ValueError(f"{key} is missing")
            elif is_count(name):  # compressed
                self.check_shard(key)

    def check_shard(self, key: str) -> None:
        """Check once that the chunks of a shard of token counts have the size they must have."""
        if key in self._sound:
            return
        size = self.size(key) or 0
        name = key.partition("/")[0]
        zarr_profile.check_tokens(name, lambda start, end: self.load(key, start, end), size, self._form.num_texts)
        self._sound.add(key)

    def _open(self, signature: tuple[int, int, int] | None) -> None:
        """Open the store of that signature, after its metadata, digests and sizes of shards were checked."""
        self._signature, self._records = None, None  # so that a failure is not taken for an opened store
        self._sound = set()
        self._group, self._positions = None, {}
        if signature is not None:
            import zarr

            metadata = zarr_profile.read_metadata(self._whole("zarr.json", zarr_profile.MAX_METADATA_BYTES), self.label)
            # Only the form that llreg writes is opened, so that metadata cannot make Zarr do anything else.
            count, self._form = zarr_profile.check_profile(metadata, self.form, self.label)
            digests = self._strings("digest", count)
            group: Any = zarr.open_group(self.source(), mode="r", zarr_format=3, use_consolidated=True)
            # Zarr reads a missing file as missing values: a half-copied store must not pass for one full of NaN.
            for name in self._form.variables:
                for shard in range(math.ceil(count / SHARD_ROWS)):
                    key = f"{name}/c.{shard}.0"
                    # Those of which fine rows alone have values may be missing: see `prepare`.
                    if not is_fine_only(name) or self.size(key) is not None:
                        self._check_size(key, zarr_profile.shard_limit(self._form.width(name)))
            self._group, self._positions = group, {digest: position for position, digest in enumerate(digests)}
        self._signature = signature

    def _check_size(self, key: str, limit: int) -> int:
        """Bytes of one of the store's files, if it is no larger than it can be."""
        size = self.size(key)
        if size is None:
            raise ValueError(f"{key} is missing")
        if size > limit:
            raise ValueError(f"{key} has {size:,} bytes; at most {limit:,} are possible")
        return size

    def _whole(self, key: str, limit: int) -> bytes:
        return self.load(key, 0, self._check_size(key, limit))

    def _strings(self, name: str, count: int) -> list[str]:
        """A column of strings, none of which is empty."""
        limit = zarr_profile.file_limit(zarr_profile.string_limit(name, count))
        chunks = (self._whole(key, limit) for key in zarr_profile.string_chunks(name, count))
        texts = [text for chunk in chunks for text in zarr_profile.decode_strings(chunk, name, count)]
        return texts[:count]

    def _read_records(self) -> list[RowRecord]:
        if self._records is None:
            texts = [] if self._group is None else self._strings("record", len(self._positions))
            records = [RowRecord.from_json(json.loads(text)) for text in texts]
            # Two columns say which rows these are; neither is believed alone.
            if [record.digest for record in records] != list(self._positions):
                raise ValueError("its records are of other rows than its digests")
            self._records = records
        return list(self._records)

    def _read(self, name: str, digests: Sequence[str], columns: slice | NDArray[np.intp]) -> NDArray[Any]:
        import numpy as np

        for digest in digests:
            if digest not in self._positions:
                raise NotFoundError(f"row {digest[:12]} is not in {self.label}")
        positions = [self._positions[digest] for digest in digests]
        self.prepare(name, positions)
        # A slice reads neighbouring rows in one piece.
        first, end = positions[0], positions[0] + len(positions)
        rows: Any = slice(first, end) if positions == list(range(first, end)) else np.asarray(positions)
        return np.asarray(self._group[name].oindex[rows, columns])
