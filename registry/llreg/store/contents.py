"""What is in a registry: rows, texts, retractions, versions. Reading only; `llreg.registry` adds the verbs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.store import rowfile
from llreg.store.documents import read_info, read_manifest, read_retraction
from llreg.store.fine import FineMap, coordinate_text, store_form
from llreg.store.folder import Folder, LocalFolder
from llreg.store.layout import CONFIG, COPY, KEPT, RECIPE, RETRACTIONS, ROWS, STORE, TEXTS, VERSIONS, version_file
from llreg.store.lookup import find_record, find_records
from llreg.store.rowfile import Row
from llreg.store.segments import read_segments
from llreg.store.zarr_read import StoreReader
from llreg.texts.segments import Cuts
from llreg.texts.textset import TextIndex, TextSet, from_parquet, read_cuts, read_index
from llreg_schemas import Identity, RowRecord, version_id
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.store.dataset import RowSource
    from llreg.texts.design import Design
    from llreg.texts.recipe import Recipe
    from llreg_schemas.records import RegistryInfo, Rendering


def open_folder(path: str | Path, revision: str | None = None) -> Contents:
    """What a registry on this machine holds.

    Parameters
    ----------
    path : str or Path
        Its directory.
    revision : str, optional
        A version's tag.

    Raises
    ------
    NotFoundError
        If it is no registry, or has no such version.
    InvalidFileError
        If registry.json is damaged, or of a newer format.
    """
    root = Path(path).expanduser().resolve()
    return Contents(LocalFolder(root), StoreReader(root / STORE), revision=revision)


class Contents:
    """What a registry holds. Reading never writes; every call sees the rows that are there now.

    Parameters
    ----------
    folder : Folder
        Its files.
    store : StoreReader
        Its build.
    revision : str, optional
        A version's tag.

    Attributes
    ----------
    path : Path
        Its directory.
    info : RegistryInfo
        registry.json.
    """

    def __init__(self, folder: Folder, store: StoreReader, *, revision: str | None = None) -> None:
        self.folder, self.store = folder, store
        self.path = folder.root
        self.info = self._read_config()
        # What the store says of its own size is not believed: it may come from anywhere.
        store.form = store_form(self.info)
        self.revision = revision
        self._frozen: frozenset[str] | None = None
        if revision is not None:
            self._frozen = frozenset(self.version_manifest(revision)["rows"])
        self._records: dict[Path, tuple[tuple[int, int], RowRecord]] = {}

    def __repr__(self) -> str:
        return f"<llreg.Registry {self.name} at {self.where}>"

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return str(self.path)

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        # Opened again where it is unpickled: a Dask worker that sees the same files.
        return open_folder, (str(self.path), self.revision)

    def check_changeable(self, doing: str = "change it") -> None:
        """Refuse, with InputError, to change a named version; `doing` says in the message what is about to be done."""
        if self.revision is not None:
            raise InputError(f"version {self.revision} is fixed; open the registry without a version to {doing}")

    def _read_config(self) -> RegistryInfo:
        path = self.path / CONFIG
        self.folder.fetch(path)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"{self.path} is not a registry (no {CONFIG}); make one with: llreg init {self.path}"
            ) from None
        except OSError as error:
            raise InvalidFileError(CONFIG, f"cannot be read: {error.strerror}") from error
        return read_info(data, str(path))

    def reload(self) -> None:
        """Read registry.json again, after it was replaced."""
        self.info = self._read_config()

    # What the registry is

    @property
    def name(self) -> str:
        """Name of the registry."""
        return self.info.name

    @property
    def num_texts(self) -> int:
        """Texts in its text set."""
        return self.info.text_set.num_texts

    @property
    def rendering(self) -> Rendering | None:
        """How models see the prompts of its (prompt, response) pairs; None in a registry of texts."""
        return self.info.rendering

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the arrays of values that `values` reads; see `llreg.store.arrays`."""
        return store_form(self.info).variables

    @property
    def clip(self) -> float | None:
        """Frozen clip threshold of the default view, nats per text; None: values as they are."""
        clip = self.view_document["clip"]
        return None if clip is None else float(clip)

    @property
    def view_document(self) -> Mapping[str, Any]:
        """Document of the default view: of a named version the one it was named with."""
        current = self.info.view
        if self.revision is None:
            return current
        manifest = self.version_manifest(self.revision)
        if "view_document" not in manifest and manifest["view"] != current["id"]:
            warnings.warn(
                f"version {self.revision} was named under another view, {manifest['view'][:12]}, which it does not keep; "
                "distances go through today's view",
                LlregWarning,
                stacklevel=3,
            )
        view: Mapping[str, Any] = manifest.get("view_document", current)
        return view

    @cached_property
    def text_index(self) -> TextIndex:
        """Sizes, hashes and subsets of its texts, checked against the text set's id."""
        return read_index(self._texts_file(), self.info["text_set"], str(self.path / TEXTS))

    @cached_property
    def cuts(self) -> Cuts | None:
        """How its texts, or the responses of pairs, are cut into segments; None in a registry of format 1."""
        segments = self.info.segments
        if segments is None:
            return None
        return read_cuts(self._texts_file(), segments, self.text_index, str(self.path / TEXTS))

    @cached_property
    def fine_map(self) -> FineMap | None:
        """From its rows' segments to their fine coordinates; None in a registry of format 1."""
        return None if self.cuts is None else FineMap(self.info.segments or {}, self.cuts)

    @cached_property
    def coordinate_text(self) -> NDArray[np.int32] | None:
        """The text of each fine coordinate, int32 array of shape (n_coordinates,); None in a registry of format 1."""
        return coordinate_text(self.info, lambda: self.cuts)

    def _texts_file(self) -> Path | io.RawIOBase:
        """The file of the texts, to read some of its columns."""
        self.folder.fetch(self.path / TEXTS)
        return self.path / TEXTS

    @cached_property
    def texts(self) -> TextSet:
        """Its text set; every text is checked against its hash. What is not published is taken from this machine's copy."""
        self.folder.fetch(self.path / TEXTS)
        name, header, segments = str(self.path / TEXTS), self.info["text_set"], self.info.segments
        published = from_parquet(self.path / TEXTS, header, name, segments=segments)
        copy = self.path / COPY
        if None not in published.texts or not copy.is_file():
            return published  # all texts are public, or this machine has no more
        try:
            return replace(published, texts=from_parquet(copy, header, str(copy), segments=segments).texts)
        except InvalidFileError as error:
            warnings.warn(f"left out, {error}; rebuild it with: llreg texts build", LlregWarning, stacklevel=3)
            return published

    def forget_texts(self) -> None:
        """Read the texts again when they are asked for: they have come to this machine meanwhile."""
        self.__dict__.pop("texts", None)

    @property
    def recipe(self) -> Recipe | None:
        """How its text set is made, if it was built by a recipe.

        Raises
        ------
        InvalidFileError, FormatVersionError
        """
        from llreg.texts.recipe import read_recipe

        path = self.path / RECIPE
        self.folder.fetch(path)
        return read_recipe(self._bytes(path), self.label(path)) if path.is_file() else None

    # What is in it

    def row_files(self, *, whole: bool = False) -> dict[str, Path]:
        """Row files by the digest in their name; their content is not read.

        Parameters
        ----------
        whole : bool
            Without what a build left of fine rows, see `llreg.store.rowfile.write_kept`: files that can be published.
        """
        rows = self.path / ROWS
        files: dict[str, Path] = {}
        # rows/<first two digits>/<name>-<digest>.zarr.zip
        for folder in self.folder.folders(rows):
            for name in self.folder.names(rows / folder):
                path, digest = rows / folder / name, rowfile.digest_in_name(name)
                # Two files of one digest differ in the model's name: the sound one counts.
                if digest and digest[:2] == folder and (digest not in files or self.is_sound(path)):
                    files[digest] = path
        if not whole:
            for path in self._kept_files():
                files.setdefault(str(rowfile.digest_in_name(path.name)), path)
        return files

    def _kept_files(self) -> list[Path]:
        """What a build left of fine rows that it lost, on this machine."""
        folder = self.path / KEPT
        return [folder / name for name in self.folder.names(folder) if rowfile.digest_in_name(name)]

    def is_sound(self, path: Path) -> bool:
        """Whether a row file can be read: asked where two files claim one digest."""
        try:
            self.file_record(path)
        except InvalidFileError:
            return False
        return True

    def retractions(self) -> dict[str, dict[str, Any]]:
        """Retractions by row digest."""
        paths = self._documents(RETRACTIONS)
        return {path.stem: read_retraction(path.stem, self._bytes(path), self.label(path)) for path in paths}

    def _documents(self, directory: str) -> list[Path]:
        """JSON files of a directory."""
        folder = self.path / directory
        return [folder / name for name in self.folder.names(folder) if name.endswith(".json")]

    def records(self, *, strict: bool = False) -> list[RowRecord]:
        """Records of the accepted rows, in build order (time added, then digest).

        Accepted are the rows of the version, or all that are not retracted.

        Parameters
        ----------
        strict : bool
            Trust no old build where there is a row file, and raise on a damaged one. Otherwise rows of the build
            are taken from there, and a damaged row file is left out with a warning.

        Raises
        ------
        InvalidFileError
            If the build, or (strict) a row file, is damaged.
        NotFoundError
            If rows of the version are not here.
        """
        while True:
            signature = self.store.signature()
            records = self._accepted_records(strict)
            if strict or self.store.signature() == signature:  # else rows, or retractions, of two stores
                break
        # A version is whole or not at all: results under its name must not depend on what is here.
        num_missing = len((self._frozen or frozenset()) - records.keys())
        if num_missing:
            raise NotFoundError(
                f"version {self.revision} holds {num_missing:,} rows that are not here; get them from where the registry came"
            )
        return sorted(records.values(), key=lambda record: record.sort_key)

    def _accepted_records(self, strict: bool) -> dict[str, RowRecord]:
        stored, files = self.build_records(), self.row_files()
        # Read last: a row that is retracted meanwhile is left out, never one too many shown.
        accepted = stored.keys() | files.keys()
        if self._frozen is not None:
            accepted &= self._frozen
        else:
            accepted -= self.retractions().keys()
            if not strict:
                # A pull swaps the store in before it writes the files of new retractions: the store names them, too,
                # so that rows come and go in one step.
                accepted -= self.store.retracted()
        records = {digest: record for digest, record in stored.items() if digest in accepted}
        for digest, path in files.items():
            if digest in accepted and (strict or digest not in records):
                try:
                    records[digest] = self.file_record(path)
                except InvalidFileError as error:
                    if strict:
                        raise
                    warnings.warn(f"left out, {error}", LlregWarning, stacklevel=3)
        return records

    def digests(self) -> set[str]:
        """Digests of the accepted rows."""
        return {record.digest for record in self.records()}

    def build_records(self) -> dict[str, RowRecord]:
        """Records of the rows in the build, by digest."""
        return {record.digest: record for record in self.store.records()}

    def all_records(self) -> dict[str, RowRecord]:
        """Records of every row that is here, retracted ones too, by digest."""
        # The build's records come in one read; files only for what it lacks.
        records = self.build_records()
        for digest, path in self.row_files().items():
            if digest not in records and self.is_sound(path):
                records[digest] = self.file_record(path)
        return records

    def file_record(self, path: Path) -> RowRecord:
        """Record of a row file, read once: a row file never changes."""
        self.folder.fetch(path)
        status = path.stat()  # a damaged file may have been replaced by a good one
        key = status.st_mtime_ns, status.st_size
        if self._records.get(path, (None,))[0] != key:
            self._records[path] = key, self.read_file(path).record
        return self._records[path][1]

    @property
    def version(self) -> str:
        """Version id: sha256 over the sorted digests of the accepted rows; 12 digits are shown."""
        return version_id(self.digests())

    def read_file(self, path: Path) -> Row:
        """Read and check one of the registry's row files."""
        self.folder.fetch(path)
        form, label, is_kept = store_form(self.info), self.label(path), path.parent == self.path / KEPT
        num_coordinates = form.num_coordinates if is_kept else 0
        row = rowfile.read_row(
            path, self.num_texts, self.info.num_segments, num_coordinates=num_coordinates, label=label
        )
        self.check_row(row, label)
        expected = rowfile.row_path(row.record)
        if self.path / expected != path and not is_kept:
            raise InvalidFileError(label, f"expected the name {expected}")
        return row

    def check_row(self, row: Row, label: str) -> None:
        """Check a row's values, counts and identity against this registry."""
        from llreg.store.rowcheck import check_values

        fine = self.fine_map if row.record.is_fine else None
        check_values(row, self.info, self.text_index.bytes_per_text, label, fine)

    def _bytes(self, path: Path) -> bytes:
        self.folder.fetch(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidFileError(self.label(path), f"cannot be read: {error.strerror}") from error

    def label(self, path: Path) -> str:
        """A path as messages name it: relative to the registry."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)

    def find(self, name: str) -> RowRecord:
        """The one row that a model name, row id or digest prefix means; errors are those of `find_record`."""
        return find_record(self.records(), name)

    def replicates(self, identity: Identity) -> list[RowRecord]:
        """Accepted rows with this identity: the same measurement, made more than once."""
        return [record for record in self.records() if record.identity.is_replicate_of(identity)]

    def row(self, name: str) -> Row:
        """One row with its values; `name` as in `find`. Without segments where its file is not here: see `segments`."""
        record = self.find(name)
        path = self.row_files().get(record.digest)
        if path and record.is_fine and self.is_sound(path):  # only the file has the segments
            return replace(self.read_file(path), record=record)
        # A build whose values were changed does not hide a good file.
        row = self.store.intact_rows([record]).get(record.digest)
        return row or self.read_file(self.row_files()[record.digest])

    def select(self, models: Sequence[str] | None) -> tuple[list[RowRecord], str]:
        """Records of some rows, as in `find`, in the order given (of all in build order if None), and the version."""
        records = self.records()
        version = version_id(record.digest for record in records)  # of the same reading: rows may come meanwhile
        return (records if models is None else find_records(records, models)), version

    def values(
        self, records: Sequence[RowRecord], texts: slice = slice(None), *, variable: str = "log_likelihood"
    ) -> NDArray[Any]:
        """Raw values of some rows.

        Parameters
        ----------
        records : sequence of RowRecord
        texts : slice
            Or coordinates, of fine coordinates.
        variable : str
            One of `variables`.

        Returns
        -------
        float32 or int32 array of shape (n_models, n_texts), or (n_models, n_coordinates)
            Log-likelihoods and fine coordinates are float32, nats, NaN where not scored, and coordinates NaN in rows without
            segments; counts are int32, those of correct tokens -1 in rows without segments.

        Raises
        ------
        InputError
            If the rows have no such variable.
        """
        if variable not in self.variables:
            raise InputError(f"no variable {variable!r} in {self.name}: its rows have {', '.join(self.variables)}")
        return self.row_source().read(variable, [record.digest for record in records], texts)

    def has_segments(self, record: RowRecord) -> bool:
        """Whether a row has segments, and so fine coordinates."""
        return record.is_fine

    def segments(self, record: RowRecord, *, variable: str = "segment_log_likelihood") -> NDArray[np.int32] | None:
        """A row's segments, from its file: a pull brings none, and the build has none.

        Parameters
        ----------
        record : RowRecord
        variable : {"segment_log_likelihood", "segment_log_likelihood_response"}
            The latter in a registry of pairs: of the responses alone.

        Returns
        -------
        int32 array of shape (n_segments,), in units of 1/256 nat; `llreg.store.arrays.UNSCORED` where not scored
            None if the row has none, or its file is not here.

        Raises
        ------
        InvalidFileError
            If the file is damaged.
        """
        path = self.row_files(whole=True).get(record.digest)
        if path is None or not record.is_fine:
            return None
        read, size = self._file_reader(path)
        return read_segments(read, size, record, self.info, self.label(path))[variable]

    def _file_reader(self, path: Path) -> tuple[Callable[[int, int], bytes], int]:
        """What reads a range of a file's bytes, and how many these are."""

        def read(start: int, end: int) -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(end - start)

        return read, path.stat().st_size

    def designs(self, records: Sequence[RowRecord]) -> list[Design | None]:
        """How the texts of each row were drawn; None for a row scored on the whole set."""
        from llreg.store.subsets import read_designs

        return read_designs(self, records)

    def row_source(self) -> RowSource:
        """Where values of rows are read from; it stays usable while rows come and go."""
        from llreg.store.dataset import RowSource

        return RowSource(self.store, self.row_files, self.read_file, store_form(self.info), lambda: self.fine_map)

    def dataset(self, models: Sequence[str] | None = None) -> Dataset:
        """The rows as a lazy `xarray.Dataset` with dims (model, text).

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `find`; all by default.

        Returns
        -------
        xarray.Dataset
            ``log_likelihood`` float32 (model, text), nats, NaN where not scored; ``num_tokens`` int32; of pairs both
            of the response given its prompt, and ``log_likelihood_response``, ``num_tokens_response`` of the response
            alone; where the texts are cut into segments ``num_correct`` int32, -1 in rows without, and
            ``fine_coordinate`` float32 (model, coordinate), nats; metadata of rows and texts as coordinates. Values are
            read when they are used.
        """
        from llreg.store.dataset import make_dataset

        records, version = self.select(models)
        attrs = {"registry": self.name, "version": version, "view": self.view_document["id"]}
        return make_dataset(self.row_source(), records, self.text_index, attrs, self.coordinate_text)

    # Versions

    def versions(self) -> list[dict[str, Any]]:
        """Manifests of the named versions, oldest first."""
        manifests = [self._manifest(path) for path in self._documents(VERSIONS)]
        return sorted(manifests, key=lambda manifest: (manifest["created"], manifest["tag"]))

    def version_manifest(self, tag: str) -> dict[str, Any]:
        """Manifest of one named version."""
        path = self.path / version_file(tag)
        if path not in self._documents(VERSIONS):
            tags = ", ".join(manifest["tag"] for manifest in self.versions()) or "none"
            raise NotFoundError(f"no version {tag!r} in {self.where}; versions here: {tags}")
        return self._manifest(path)

    def _manifest(self, path: Path) -> dict[str, Any]:
        return read_manifest(path.stem, self._bytes(path), self.label(path))
