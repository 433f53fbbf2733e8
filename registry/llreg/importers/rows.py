"""From values that others computed to rows of a registry: all are checked before one is written."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import atomic, settings
from llreg._version import __version__
from llreg.names import is_name
from llreg.store.rowfile import Row, row_path, to_zip
from llreg_schemas import Identity, RowRecord, check, row_digest
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

QUANTILE = 0.02  # of all values: the paper's clip threshold (P1)
_UNPRINTABLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # as row.schema.json
_TEXT_LENGTH, _BASE_MODELS, _TAGS = 500, 32, 200
_ORDER_TEXTS = 100  # below that many texts, sizes and values may be unrelated by chance
_ORDER_CORRELATION = 0.1


@dataclass(frozen=True, eq=False)
class Measurement:
    """One model's values, as a file holds them.

    Attributes
    ----------
    model : str
    log_likelihood : array of shape (n_texts,), nats
        NaN where the text was not scored.
    place : str
        Where in the file, for messages.
    weight_dtype : str or None
    revision, quantization : str or None
    declared : mapping
        What the file says of the model beside its values, in the terms of a row record.
    provenance : mapping
        What it says of how the values came about.
    """

    model: str
    log_likelihood: NDArray[Any]
    place: str
    weight_dtype: str | None
    revision: str | None = None
    quantization: str | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """The file that rows come from.

    Attributes
    ----------
    kind : str
        The importer, as "modelmap".
    file : str
    sha256 : str
    """

    kind: str
    file: str
    sha256: str

    @classmethod
    def of(cls, kind: str, path: Path, data: bytes) -> Origin:
        """The origin of what was read from a file."""
        return cls(kind, clean(path.name) or "unnamed", hashlib.sha256(data).hexdigest())

    def to_provenance(self) -> dict[str, str]:
        """As a row's provenance holds it."""
        return {"import": self.kind, "import_file": self.file, "import_sha256": self.sha256}


@dataclass(frozen=True)
class ImportResult:
    """What an import did, or (dry_run) would do.

    Attributes
    ----------
    source : str
        The file.
    added, present, retracted : list of str
        Row ids: written now, there already, and left out because they were retracted.
    annotations : list of str
        Tables of annotations that were written.
    shape : tuple of int
        Models and texts in the file.
    minimum, quantile : float or None
        Smallest value in the file and its 2 % quantile, nats, in the file's own precision.
    dry_run : bool
    notes : list of str
        What the user should know.
    """

    source: str
    added: list[str]
    present: list[str]
    retracted: list[str]
    annotations: list[str]
    shape: tuple[int, int]
    minimum: float | None
    quantile: float | None
    dry_run: bool
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "shape": list(self.shape)}


def import_rows(
    registry: Contents,
    measurements: Sequence[Measurement],
    origin: Origin,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Check all values, then write the rows that are not there yet.

    Parameters
    ----------
    registry : Contents
    measurements : sequence of Measurement
        In the order that the rows will have.
    origin : Origin
    dry_run : bool
        Check everything and write nothing.
    progress : callable, optional
        Called with (rows written, rows to write).

    Raises
    ------
    InputError, InvalidFileError
        If anything about any model is wrong; nothing was written.
    StorageError
        If the disk refuses; rows that were written stay, and the same import goes on from there.
    """
    registry.check_changeable("import into it")
    settings.check_contributor()
    if not dry_run:
        atomic.sweep(registry.path)
        atomic.check_writable(registry.path)
    matrix = _matrix(measurements, registry, origin)
    rows = _make_rows(registry, measurements, matrix, origin)
    records = registry.records()
    there, gone = {record.digest for record in records}, set(registry.retractions())
    _refuse_twins([(each.model, each.place) for each in measurements], {record.identity.name for record in records})
    new = [row for row in rows if row.record.digest not in there and row.record.digest not in gone]
    if not dry_run:
        _write(registry.path, new, progress)
    finite = matrix[~np.isnan(matrix)]
    minimum = float(finite.min())
    return ImportResult(
        source=origin.file,
        added=[row.record.row_id for row in new],
        present=[row.record.row_id for row in rows if row.record.digest in there],
        retracted=[row.record.row_id for row in rows if row.record.digest in gone],
        annotations=[],
        shape=(len(matrix), matrix.shape[1]),
        minimum=minimum,
        quantile=float(np.quantile(finite, QUANTILE, overwrite_input=True)),
        dry_run=dry_run,
        notes=_notes(registry, matrix, new, records),
    )


def order_note(registry: Contents) -> str:
    """What to say where a file does not name the texts that its values are of."""
    return (
        f"the values were put on the {registry.num_texts:,} texts of {registry.info['text_set']['name']} in the file's "
        "order; it names no text, so that another order cannot be told for sure"
    )


def clean(value: object) -> str | None:
    """`value` as text that a record may hold, or None where it is no text."""
    return (_UNPRINTABLE.sub("", value)[:_TEXT_LENGTH] or None) if isinstance(value, str) else None


def make_declared(**known: Any) -> dict[str, Any]:
    """The "declared" part of a record, from what a file says; what is no such thing is left out."""
    bases = [known.get("base_model")] if isinstance(known.get("base_model"), str) else known.get("base_model") or []
    number, downloads = known.get("num_parameters"), known.get("downloads")
    declared: dict[str, Any] = {
        "base_model": [base for base in bases if isinstance(base, str) and is_name(base)][:_BASE_MODELS],
        "num_parameters": number if isinstance(number, int) and 0 <= number < 2**53 else None,
    }
    declared |= {name: clean(known.get(name)) for name in ("relation", "licence", "architecture", "created")}
    if isinstance(downloads, int) and downloads >= 0:
        declared["downloads"] = downloads
    tags = [text for text in map(clean, known.get("tags") or []) if text]
    return {**declared, "tags": tags[:_TAGS]} if tags else declared


def _matrix(measurements: Sequence[Measurement], registry: Contents, origin: Origin) -> NDArray[np.float64]:
    """The values, float64 array of shape (n_models, n_texts), nats, in the file's precision."""
    if not measurements:
        raise InputError(f"{origin.file}: expected at least one model; there is none")
    header = registry.info["text_set"]
    for each in measurements:
        values = each.log_likelihood
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise InputError(f"{each.place}: expected one number a text; got {values.dtype} of shape {values.shape}")
        if len(values) != registry.num_texts:
            raise InputError(
                f"{each.place}: expected {registry.num_texts:,} values, one a text of {header['name']}; got "
                f"{len(values):,}; a registry on the texts that they are of is made with: llreg init --texts"
            )
    matrix = np.stack([each.log_likelihood for each in measurements], dtype=np.float64, casting="unsafe")
    _refuse_clipped(matrix, origin)
    return matrix


def _refuse_clipped(matrix: NDArray[np.float64], origin: Origin) -> None:
    """Rows are stored raw: values that were clipped have one floor, shared by models on many texts."""
    floor = matrix == matrix[~np.isnan(matrix)].min(initial=0.0)
    models, texts = int(floor.any(axis=1).sum()), int(floor.any(axis=0).sum())
    if models < 2 or texts < max(3, matrix.shape[1] // 1000):
        return
    raise InputError(
        f"{origin.file}: expected raw log-likelihoods; {int(floor.sum()):,} values of "
        f"{models:,} models on {texts:,} texts are exactly {float(matrix[floor][0])!r}, so they were clipped there. What lay "
        "below is lost, and a row must be raw, so that every view can clip it; import the raw matrix"
    )


def _make_rows(
    registry: Contents, measurements: Sequence[Measurement], matrix: NDArray[np.float64], origin: Origin
) -> list[Row]:
    """The rows, each as checked as one that was computed here."""
    started = datetime.now(UTC)
    tokens = np.zeros(registry.num_texts, np.int32)  # unknown
    rows: list[Row] = []
    seen: set[str] = set()
    for k, each in enumerate(measurements):
        if not is_name(each.model):
            raise InputError(
                f"{each.place}: {each.model[:100]!r} cannot name a model; expected name or org/name, of letters, "
                "digits, '.', '_' and '-'"
            )
        if each.weight_dtype is None:
            raise InputError(f"{each.place}: the dtype that its weights had is not in the file; give it with --dtype")
        identity = Identity(
            model=each.model,
            source="imported",
            revision=each.revision or None,
            weight_dtype=each.weight_dtype,
            quantization=each.quantization or None,
            text_set=registry.info.text_set.id,
            protocol=registry.info.protocol_id,
        )
        if identity.id in seen:
            raise InputError(f"{each.place}: it stands there twice, with one revision and dtype; keep one of the two")
        seen.add(identity.id)
        with np.errstate(over="ignore"):
            values = matrix[k].astype(np.float32)
        # In the order of the file: a build puts rows in the order of these times.
        added_at = (started + timedelta(microseconds=k)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        provenance = {**each.provenance, **origin.to_provenance(), **_provenance(added_at)}
        declared = dict(each.declared) or make_declared()
        record = RowRecord(identity, provenance, declared, row_digest(identity.to_json(), values, tokens))
        check("row", record.to_json(), each.place)
        row = Row(record, values, tokens)
        registry.check_row(row, each.place)
        rows.append(row)
    return rows


def _write(root: Path, rows: Sequence[Row], progress: Callable[[int, int], None] | None) -> None:
    """Write rows; the next ones are packed while the disk is waited for."""
    with ThreadPoolExecutor(1) as pool:
        try:
            for done, (row, data) in enumerate(zip(rows, pool.map(to_zip, rows), strict=True), 1):
                path = root / row_path(row.record)
                if not path.exists():
                    atomic.write_atomic(root, path, data)
                if progress:
                    progress(done, len(rows))
        finally:
            pool.shutdown(cancel_futures=True)


def _provenance(added_at: str) -> dict[str, Any]:
    return {
        "added_at": added_at,
        "contributor": settings.contributor(),
        "versions": {"llreg": __version__},
        "device": {"type": "unknown", "name": "unknown"},
        "tokens": 0,
        "over_context": 0,
        "non_finite": 0,
    }


def _refuse_twins(names: Sequence[tuple[str, str]], known: Collection[str] = ()) -> None:
    """Names that differ only in case are one name to a file system, a person, and the Hub."""
    seen = {name.lower(): (name, "in this registry") for name in known}
    for name, place in names:
        other, where = seen.setdefault(name.lower(), (name, place))
        if other != name and name not in known:
            raise InputError(f"{place}: {name} differs only in case from {other} ({where}); rename one of the two")


def refuse_twins(names: Sequence[str], source: str) -> None:
    """Refuse names of models in a table that are equal, or differ only in case."""
    _refuse_twins([(name, f"{source}: model {k + 1}") for k, name in enumerate(names)])
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{source}: {repeated[0]} stands there {Counter(names)[repeated[0]]} times; keep one")


def _notes(
    registry: Contents,
    matrix: NDArray[np.float64],
    new: Sequence[Row],
    records: Sequence[RowRecord],
) -> list[str]:
    notes = []
    known = {record.identity.name for record in records}
    doubled = {row.record.identity.name for row in new} & known
    if doubled:
        notes.append(
            f"of {len(doubled):,} of these models there are other rows here, too, as of {min(doubled)}; name such rows by "
            "their ids"
        )
    correlation = _size_correlation(matrix, registry.text_index.bytes_per_text)
    if correlation is not None and correlation < _ORDER_CORRELATION:
        notes.append(
            f"the values hardly follow the sizes of the texts (rank correlation {correlation:.2f}; longer texts are "
            "less likely): are they of these texts, in this order?"
        )
    missing = int(np.isnan(matrix).sum())
    if missing:
        notes.append(
            f"{missing:,} of {matrix.size:,} values are NaN: not scored, for reasons that the file does not say"
        )
    return notes


def _size_correlation(matrix: NDArray[np.float64], num_bytes: NDArray[np.float64]) -> float | None:
    """Spearman correlation of minus the mean log-likelihood of a text with its bytes; None where it can say nothing."""
    scored = ~np.isnan(matrix)
    known = scored.any(axis=0)
    if known.sum() < _ORDER_TEXTS or len(set(num_bytes[known].tolist())) < 2:
        return None
    means = np.add.reduce(matrix, axis=0, where=scored)[known] / scored.sum(axis=0)[known]
    if means.min() == means.max():
        return None
    return float(np.corrcoef(_ranks(-means), _ranks(num_bytes[known]))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
