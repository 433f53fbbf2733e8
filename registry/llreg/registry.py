"""The registry: a directory of rows measured under one protocol on one text set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import rowfile
from llreg.documents import check_ids, read_manifest
from llreg.find import find_record, find_records
from llreg.rowfile import Row
from llreg.store import STORE
from llreg.storereader import StoreReader
from llreg.textset import TextIndex, TextSet, from_parquet, read_index
from llreg_schemas import Identity, RowRecord, parse, version_id
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.adding import AddResult
    from llreg.checking import Problem
    from llreg.dataset import RowSource
    from llreg.geometry.design import Design
    from llreg.geometry.lineage import Duplicates, Lineage
    from llreg.geometry.neighbors import Neighbors
    from llreg.geometry.prediction import Prediction
    from llreg.geometry.rows import Rows
    from llreg.geometry.tree import Tree
    from llreg.geometry.view import View
    from llreg.maps.document import Map
    from llreg.maps.making import MapResult

    AnyView = View | Mapping[str, Any] | Path | str

CONFIG, TEXTS = "registry.json", "texts.parquet"


def open_registry(path: str | Path, *, revision: str | None = None) -> Registry:
    """Open a registry.

    Parameters
    ----------
    path : str or Path
        Directory of the registry.
    revision : str, optional
        A version's tag: show only the rows that it holds.

    Raises
    ------
    NotFoundError
        If there is no registry or no such version.
    InvalidFileError
        If registry.json is not valid, or of a newer format.
    """
    return Registry(path, revision=revision)


class Registry:
    """A registry on disk. Reading never writes; every call sees the rows that are there now.

    Parameters
    ----------
    path : str or Path
    revision : str, optional
        A version's tag.
    """

    def __init__(self, path: str | Path, *, revision: str | None = None) -> None:
        self.path = Path(path).expanduser().resolve()
        self.info = self._read_config()
        self.store = StoreReader(self.path / STORE)
        self.revision = revision
        self._frozen: frozenset[str] | None = None
        if revision is not None:
            self._frozen = frozenset(self.version_manifest(revision)["rows"])
        self._records: dict[Path, tuple[tuple[int, int], RowRecord]] = {}

    def __repr__(self) -> str:
        return f"<llreg.Registry {self.name} at {self.path}>"

    def _read_config(self) -> dict[str, Any]:
        file = self.path / CONFIG
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"{self.path} is not a registry (no {CONFIG}); make one with: llreg init {self.path}"
            ) from None
        except OSError as error:
            raise InvalidFileError(CONFIG, f"cannot be read: {error.strerror}") from error
        info = parse("registry", data, str(file))
        check_ids(info, str(file))
        return info

    # What the registry is

    @property
    def name(self) -> str:
        """Name of the registry."""
        return str(self.info["name"])

    @property
    def num_texts(self) -> int:
        """Texts in its text set."""
        return int(self.info["text_set"]["num_texts"])

    @property
    def clip(self) -> float | None:
        """Frozen clip threshold of the default view, nats per text; None: values as they are."""
        value = self._view_document["clip"]
        return None if value is None else float(value)

    @property
    def _view_document(self) -> Mapping[str, Any]:
        """Document of the default view: of a named version the one it was named with."""
        current: Mapping[str, Any] = self.info["view"]
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
        kept: Mapping[str, Any] = manifest.get("view_document", current)
        return kept

    @cached_property
    def text_index(self) -> TextIndex:
        """Sizes, hashes and subsets of its texts, checked against the text set's id."""
        return read_index(self.path / TEXTS, self.info["text_set"], str(self.path / TEXTS))

    @cached_property
    def texts(self) -> TextSet:
        """Its text set; every text is checked against its hash."""
        return from_parquet(self.path / TEXTS, self.info["text_set"], str(self.path / TEXTS))

    # What is in it

    def row_files(self) -> dict[str, Path]:
        """Row files by the digest in their name; their content is not read."""
        rows = self.path / "rows"
        found: dict[str, Path] = {}
        # A scan, not a glob: a registry may hold a hundred thousand rows.
        for folder in sorted(entry.name for entry in _scan(rows) if entry.is_dir(follow_symlinks=False)):
            for name in sorted(entry.name for entry in _scan(rows / folder)):
                digest = rowfile.digest_in_name(name)
                if digest and digest[:2] == folder and (digest not in found or self.is_sound(rows / folder / name)):
                    found[digest] = rows / folder / name
        return found

    def is_sound(self, path: Path) -> bool:
        """Whether a row file can be read: asked where two files claim one digest."""
        try:
            self.file_record(path)
        except InvalidFileError:
            return False
        return True

    def retractions(self) -> dict[str, dict[str, Any]]:
        """Retractions by row digest."""
        found = {}
        for path in sorted((self.path / "retractions").glob("*.json")):
            document = parse("retraction", self._bytes(path), self.shown(path))
            if path.stem != document["digest"]:
                raise InvalidFileError(
                    self.shown(path), f"expected {path.stem}; got {document['digest']}", field="digest"
                )
            found[path.stem] = document
        return found

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
        stored, files_there = self.build_records(), self.row_files()
        accepted = self._accepted()  # read last: a row retracted meanwhile is left out, never one too many seen
        found = {digest: record for digest, record in stored.items() if accepted(digest)}
        for digest, path in files_there.items():
            if accepted(digest) and (strict or digest not in found):
                try:
                    found[digest] = self.file_record(path)
                except InvalidFileError as error:
                    if strict:
                        raise
                    warnings.warn(f"left out, {error}", LlregWarning, stacklevel=2)
        missing = (self._frozen or frozenset()) - set(found)
        if missing:
            raise NotFoundError(
                f"version {self.revision} holds {len(missing):,} rows that are not here; get them from where the registry came"
            )
        return sorted(found.values(), key=lambda record: record.sort_key)

    def _accepted(self) -> Callable[[str], bool]:
        if self._frozen is not None:
            return self._frozen.__contains__
        retracted = self.retractions()
        return lambda digest: digest not in retracted

    def digests(self) -> set[str]:
        """Digests of the accepted rows."""
        return {record.digest for record in self.records()}

    def build_records(self) -> dict[str, RowRecord]:
        """Records of the rows in the build, by digest."""
        return {record.digest: record for record in self.store.records()}

    def has_build(self) -> bool:
        """Whether there is a build."""
        return (self.path / STORE / "zarr.json").is_file()

    def all_records(self) -> dict[str, RowRecord]:
        """Records of every row that is here, retracted ones too, by digest."""
        found = self.build_records()
        for digest, path in self.row_files().items():
            if digest not in found and self.is_sound(path):
                found[digest] = self.file_record(path)
        return found

    def file_record(self, path: Path) -> RowRecord:
        """Record of a row file, read once: a row file never changes."""
        status = path.stat()
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
        row = rowfile.read_row(path, self.num_texts, shown=self.shown(path))
        self.check_row(row, self.shown(path))
        if self.path / rowfile.row_path(row.record) != path:
            raise InvalidFileError(self.shown(path), f"expected the name {rowfile.row_path(row.record)}")
        return row

    def check_row(self, row: Row, shown: str) -> None:
        """Check a row's values, counts and identity against this registry."""
        from llreg.checking import check_values

        check_values(row, self.info, self.text_index.bytes_per_text, shown)

    def _bytes(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InvalidFileError(self.shown(path), f"cannot be read: {error.strerror}") from error

    def shown(self, path: Path) -> str:
        """A path as messages show it: relative to the registry."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)

    def find(self, name: str) -> RowRecord:
        """The one row that a model name, row id or digest prefix means.

        Raises
        ------
        NotFoundError
            If there is none; the message shows the nearest names.
        InputError
            If several rows match; the message lists their ids.
        """
        return find_record(self.records(), name)

    def summary(self) -> list[dict[str, Any]]:
        """A line a row: what `llreg ls` shows.

        Returns
        -------
        list of dict
            Keys model, row_id, revision, weights, num_parameters, texts_scored, subset (id of the sample of texts it was
            scored on, or None), mean_log_likelihood (nats per
            text, over the scored texts), bits_per_byte (minus the sum of log-likelihoods, in bits, over the bytes of
            the scored texts), added_at, contributor.
        """
        from llreg.summary import summarise

        records = self.records()
        source = self._source()
        return summarise(
            records,
            self.text_index.bytes_per_text,
            lambda ids: source.read("log_likelihood", ids, slice(None), self.num_texts),
            self.designs(records),
        )

    def replicates(self, identity: Identity) -> list[RowRecord]:
        """Accepted rows with this identity: the same measurement, made more than once."""
        return [record for record in self.records() if record.identity.id == identity.id]

    def row(self, name: str) -> Row:
        """One row with its values; `name` as in `find`."""
        record = self.find(name)
        stored = self.store.intact_rows([record])
        return stored.get(record.digest) or self.read_file(self.row_files()[record.digest])

    def select(self, models: Sequence[str] | None) -> tuple[list[RowRecord], str]:
        """Records of some rows, as in `find`, in the order given (of all in build order if None), and the version."""
        records = self.records()
        version = version_id(record.digest for record in records)  # of the same reading: rows may come meanwhile
        return (records if models is None else find_records(records, models)), version

    def values(self, records: Sequence[RowRecord], texts: slice = slice(None)) -> NDArray[np.float32]:
        """Raw log-likelihoods of some rows, float32 array of shape (n_models, n_texts), nats; NaN where not scored."""
        digests = [record.digest for record in records]
        values: NDArray[np.float32] = self._source().read("log_likelihood", digests, texts, self.num_texts)
        return values

    def designs(self, records: Sequence[RowRecord]) -> list[Design | None]:
        """How the texts of each row were drawn; None for a row scored on the whole set."""
        from llreg.subsets import read_designs

        return read_designs(self, records)

    def _source(self) -> RowSource:
        from llreg.dataset import RowSource

        return RowSource(self.store, self.row_files(), self.read_file)

    def dataset(self, models: Sequence[str] | None = None) -> Dataset:
        """The rows as a lazy `xarray.Dataset` with dims (model, text).

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `find`; all by default.

        Returns
        -------
        xarray.Dataset
            ``log_likelihood`` float32 (model, text), nats, NaN where not scored; ``num_tokens`` int32; metadata
            of rows and texts as coordinates. Values are read when they are used.
        """
        from llreg.dataset import make_dataset

        records, version = self.select(models)
        attrs = {"registry": self.name, "version": version, "view": self.view.id}
        return make_dataset(self._source(), records, self.text_index, attrs)

    # Geometry

    @property
    def view(self) -> View:
        """The default view: its clip threshold is frozen, so that distances do not move when rows come."""
        from llreg.geometry.view import View

        return View.from_json(self._view_document)

    def rows(self, models: Sequence[str] | None = None, *, view: AnyView = "default") -> Rows:
        """Rows as a view shows them, in memory: what all geometry is computed from.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `find`; all by default.
        view : View, mapping, path or "default"
            A view, its document, a JSON file that holds one, or the registry's own.
        """
        from llreg.geometry.rows import load_rows

        return load_rows(self, models, self.seen_through(view))

    def seen_through(self, view: AnyView | None) -> View:
        """A view from what may be given for one: the registry's own for "default" or None."""
        from llreg.geometry.view import read_view

        return self.view if view is None or view == "default" else read_view(view)

    def kl(
        self,
        models: Sequence[str] | None = None,
        others: Sequence[str] | None = None,
        *,
        clip: float | str | None = "default",
        view: AnyView = "default",
        se: bool = True,
        tail_share: bool | None = None,
    ) -> Dataset:
        """KL divergences between rows, with standard errors.

        Parameters
        ----------
        models, others : sequence of str, optional
            Which rows, as in `find`. `models` are all by default; `others` are `models` by default.
        clip : float, None or "default"
            Clip threshold instead of the view's, nats per text; None for none.
        view : View, mapping, path or "default"
            As in `rows`.
        se, tail_share : bool
            Whether to compute standard errors and tail shares; the latter by default up to 20,000 pairs.

        Returns
        -------
        xarray.Dataset
            Dims (model, other); float64 ``kl``, ``kl_se`` in nats per text, ``kl_bits_per_byte``,
            ``kl_bits_per_byte_se``, ``tail_share``; int64 ``num_texts``; row ids and model names as coordinates;
            the version and the view in the attributes. Formulas in `llreg.geometry.kl_matrix`.
        """
        from dataclasses import replace

        from llreg.geometry.distance import kl_rows

        seen = self.seen_through(view)
        if clip != "default":
            if isinstance(clip, str):
                raise InputError(f"clip: expected a number, None or 'default'; got {clip!r}")
            seen = replace(seen, clip=clip)
        rows = self.rows(models, view=seen)
        second = None if others is None else self.rows(others, view=seen)
        return kl_rows(rows, second, se=se, tail_share=tail_share)

    def neighbors(
        self, query: str | Path | NDArray[np.floating], k: int = 10, *, view: AnyView = "default", **options: Any
    ) -> Neighbors:
        """The rows nearest to a row or a vector; see `llreg.geometry.neighbors.neighbors`."""
        from llreg.geometry.neighbors import neighbors

        return neighbors(self, query, k, view=self.seen_through(view), **options)

    def lineage(self, model: str, *, view: AnyView = "default", **options: Any) -> Lineage:
        """Whether the nearest rows are relatives of a row; see `llreg.geometry.lineage.lineage`."""
        from llreg.geometry.lineage import lineage

        return lineage(self, model, view=self.seen_through(view), **options)

    def duplicates(self, *, view: AnyView = "default") -> list[Duplicates]:
        """Rows of different models that cannot be told apart; see `llreg.geometry.lineage.duplicates`."""
        from llreg.geometry.lineage import duplicates

        return duplicates(self, view=self.seen_through(view))

    def tree(self, models: Sequence[str] | None = None, *, view: AnyView = "default", **options: Any) -> Tree:
        """A tree of rows by their KL divergences; see `llreg.geometry.tree.make_tree`."""
        from llreg.geometry.tree import make_tree

        return make_tree(self.rows(models, view=view), **options)

    def trajectory(self, models: Sequence[str], *, view: AnyView = "default", **options: Any) -> Dataset:
        """Checkpoints or sizes as a path; see `llreg.geometry.trajectory.trajectory`."""
        from llreg.geometry.trajectory import trajectory

        return trajectory(self.rows(models, view=view), **options)

    def map(self, models: Sequence[str] | None = None, **options: Any) -> MapResult:
        """A map of rows in the plane; see `llreg.maps.making.make_map`."""
        from llreg.maps.making import make_map

        return make_map(self, models, **options)

    def place(self, onto: Map | Path | str, models: Sequence[str] | None = None) -> MapResult:
        """Place rows into a map without moving what is on it; see `llreg.maps.making.place_onto`."""
        from llreg.maps.making import place_onto

        return place_onto(self, onto, models)

    def predict(
        self,
        scores: Any,
        *,
        tasks: Sequence[str] | None = None,
        family: str | None = None,
        view: AnyView = "default",
        **options: Any,
    ) -> Prediction:
        """Predict benchmark scores from rows; see `llreg.geometry.predict.predict`."""
        from llreg.geometry.predict import predict
        from llreg.geometry.scores import read_scores

        return predict(self.rows(view=view), read_scores(scores, tasks=tasks, family=family), **options)

    def subset(self, size: int | None = None, *, view: AnyView = "default", **options: Any) -> dict[str, Any]:
        """Draw a sample of the texts for `add(..., subset=...)`; see `llreg.subsets.make_subset`."""
        from llreg.subsets import make_subset

        return make_subset(self, size, view=self.seen_through(view), **options)

    def status(self) -> dict[str, Any]:
        """What is not built or not finished; see `llreg.history.status`."""
        from llreg.history import status

        return status(self)

    def log(self) -> list[dict[str, Any]]:
        """What happened, newest first; see `llreg.history.log`."""
        from llreg.history import log

        return log(self)

    # Changing it

    def add(self, models: Sequence[str], **options: Any) -> list[AddResult]:
        """Compute rows and add them; see `llreg.adding.add`."""
        from llreg.adding import add

        return add(self, models, **options)

    def build(self) -> str:
        """Make ``store.zarr``, ``models.parquet`` and the card from the accepted rows; return the version id."""
        from llreg.maintenance import build

        return build(self)

    def check_build(self) -> list[str]:
        """What is not current in the build; an empty list if it is."""
        from llreg.maintenance import check_build

        return check_build(self)

    def tag(self, name: str) -> dict[str, Any]:
        """Name the present version; see `llreg.maintenance.tag`."""
        from llreg.maintenance import tag

        return tag(self, name)

    def retract(self, name: str, *, why: str) -> RowRecord:
        """Withdraw a row; see `llreg.maintenance.retract`."""
        from llreg.maintenance import retract

        return retract(self, name, why=why)

    def validate(
        self, paths: Sequence[Path] = (), *, progress: Callable[[int, int], None] | None = None
    ) -> list[Problem]:
        """Check every file, or the given ones; return what is wrong."""
        from llreg.checking import validate

        return validate(self, paths, progress=progress)

    # Versions

    def versions(self) -> list[dict[str, Any]]:
        """Manifests of the named versions, oldest first."""
        manifests = [self._manifest(path) for path in (self.path / "versions").glob("*.json")]
        return sorted(manifests, key=lambda manifest: (manifest["created"], manifest["tag"]))

    def version_manifest(self, tag: str) -> dict[str, Any]:
        """Manifest of one named version."""
        path = self.path / "versions" / f"{tag}.json"
        if path.parent != self.path / "versions" or not path.is_file():
            known = ", ".join(manifest["tag"] for manifest in self.versions()) or "none"
            raise NotFoundError(f"no version {tag!r} in {self.path}; versions here: {known}")
        return self._manifest(path)

    def _manifest(self, path: Path) -> dict[str, Any]:
        return read_manifest(path.stem, self._bytes(path), self.shown(path))


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    """Entries of a directory; none if it is missing."""
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
