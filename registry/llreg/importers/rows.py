"""From values that others computed to rows of a registry: all are checked before one is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import atomic, settings
from llreg._version import __version__
from llreg.importers.measurement import Measurement, Origin, make_declared
from llreg.importers.precision import value_precision
from llreg.names import is_name
from llreg.store.rowfile import Row, row_path, to_zip
from llreg_schemas import Identity, RowRecord, check, row_digest
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

QUANTILE = 0.02  # of all values: the clip threshold of Oyama et al. 2025 (arXiv 2502.16173)
_ORDER_TEXTS = 100  # below that many texts, sizes and values may be unrelated by chance
_ORDER_CORRELATION = 0.1
_ROUNDING = 0.01  # nats a text: less than any 16-bit arithmetic puts there


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

    # Everything is checked before anything is written.
    matrix = _raw_matrix(measurements, registry, origin)  # (n_models, n_texts)
    rows = _make_rows(registry, measurements, matrix, origin)
    records = registry.records()
    present, retracted = {record.digest for record in records}, set(registry.retractions())
    refuse_twins([(each.model, each.location) for each in measurements], {each.identity.name for each in records})

    # Rows that are there stay as they are, and retracted ones stay out: the same import can be given again.
    new = [row for row in rows if row.record.digest not in present and row.record.digest not in retracted]
    if not dry_run:
        _write(registry.path, new, progress)
    values = matrix[~np.isnan(matrix)]
    return ImportResult(
        source=origin.file,
        added=[row.record.row_id for row in new],
        present=[row.record.row_id for row in rows if row.record.digest in present],
        retracted=[row.record.row_id for row in rows if row.record.digest in retracted],
        annotations=[],
        shape=(len(matrix), matrix.shape[1]),
        minimum=float(values.min()),
        quantile=float(np.quantile(values, QUANTILE, overwrite_input=True)),
        dry_run=dry_run,
        notes=_notes(registry, matrix, new, records),
    )


def refuse_twins(models: Sequence[tuple[str, str]], present: Collection[str] = ()) -> None:
    """Refuse names that differ only in case: they are one name to a file system, a person, and the Hub.

    Parameters
    ----------
    models : sequence of (str, str)
        Names, and the location of each, for the message.
    present : collection of str
        Names in the registry.
    """
    first = {name.lower(): (name, "in this registry") for name in present}
    for name, location in models:
        twin, twin_location = first.setdefault(name.lower(), (name, location))
        if twin != name and name not in present:
            raise InputError(
                f"{location}: {name} differs only in case from {twin} ({twin_location}); rename one of the two"
            )


def order_note(registry: Contents) -> str:
    """What to say where a file does not name the texts that its values are of."""
    return (
        f"the values were put on the {registry.num_texts:,} texts of {registry.info.text_set.name} in the file's "
        "order; it names no text, so that another order cannot be told for sure"
    )


def _raw_matrix(measurements: Sequence[Measurement], registry: Contents, origin: Origin) -> NDArray[np.float64]:
    """The values, float64 array of shape (n_models, n_texts), nats, in the file's precision; clipped ones are refused."""
    if not measurements:
        raise InputError(f"{origin.file}: expected at least one model; there is none")
    for each in measurements:
        values = each.log_likelihood
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise InputError(f"{each.location}: expected one number a text; got {values.dtype} of shape {values.shape}")
        if len(values) != registry.num_texts:
            raise InputError(
                f"{each.location}: expected {registry.num_texts:,} values, one a text of "
                f"{registry.info.text_set.name}; got {len(values):,}; a registry on the texts that they are of is "
                "made with: llreg init --texts"
            )
    matrix = np.stack([each.log_likelihood for each in measurements], dtype=np.float64, casting="unsafe")

    # Rows are stored raw: values that were clipped have one floor, shared by models on many texts.
    is_floor = matrix == matrix[~np.isnan(matrix)].min(initial=0.0)  # (n_models, n_texts)
    num_models, num_texts = int(is_floor.any(axis=1).sum()), int(is_floor.any(axis=0).sum())
    # One model's minimum is no floor, nor is one that a few texts share: a checkpoint may stand there under two names.
    if num_models >= 2 and num_texts >= max(3, matrix.shape[1] // 1000):
        raise InputError(
            f"{origin.file}: expected raw log-likelihoods; {int(is_floor.sum()):,} values of {num_models:,} models on "
            f"{num_texts:,} texts are exactly {float(matrix[is_floor][0])!r}, so they were clipped there. What lay below is "
            "lost, and a row must be raw, so that every view can clip it; import the raw matrix"
        )
    return matrix


def _make_rows(
    registry: Contents, measurements: Sequence[Measurement], matrix: NDArray[np.float64], origin: Origin
) -> list[Row]:
    """The rows, each checked as one that was computed here."""
    started = datetime.now(UTC)
    provenance = {
        **origin.to_provenance(),
        "contributor": settings.contributor(),
        "versions": {"llreg": __version__},
        "device": {"type": "unknown", "name": "unknown"},
        "tokens": 0,
        "over_context": 0,
        "non_finite": 0,
    }
    num_tokens = np.zeros(registry.num_texts, np.int32)  # unknown
    rows: list[Row] = []
    identities: set[str] = set()
    for k, each in enumerate(measurements):
        if not is_name(each.model):
            raise InputError(
                f"{each.location}: {each.model[:100]!r} cannot name a model; expected name or org/name, of letters, "
                "digits, '.', '_' and '-'"
            )
        if each.weight_dtype is None:
            raise InputError(
                f"{each.location}: the dtype that its weights had is not in the file; give it with --dtype"
            )
        # The importer does not know how the model was run: the source says so.
        identity = Identity(
            model=each.model,
            source="imported",
            revision=each.revision or None,
            weight_dtype=each.weight_dtype,
            quantization=each.quantization or None,
            text_set=registry.info.text_set.id,
            protocol=registry.info.protocol_id,
        )
        if identity.id in identities:
            raise InputError(
                f"{each.location}: it stands there twice, with one revision and dtype; keep one of the two"
            )
        identities.add(identity.id)
        with np.errstate(over="ignore"):  # infinite then, which check_row refuses
            values = matrix[k].astype(np.float32)
        # In the order of the file: a build puts rows in the order of these times.
        added_at = (started + timedelta(microseconds=k)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        record = RowRecord(
            identity,
            {**each.provenance, **provenance, "added_at": added_at},
            dict(each.declared) or make_declared(),
            row_digest(identity.to_json(), values, num_tokens),
        )
        check("row", record.to_json(), each.location)
        registry.check_row(Row(record, values, num_tokens), each.location)
        value_dtype, rounding = value_precision(matrix[k])
        precision = {"value_dtype": value_dtype, "value_rounding": float(f"{rounding:.3g}")}
        rows.append(Row(replace(record, provenance={**record.provenance, **precision}), values, num_tokens))
    return rows


def _write(root: Path, rows: Sequence[Row], progress: Callable[[int, int], None] | None) -> None:
    """Write rows; the next ones are packed while the disk is waited for."""
    with ThreadPoolExecutor(1) as pool:
        try:
            for written, (row, data) in enumerate(zip(rows, pool.map(to_zip, rows), strict=True), 1):
                path = root / row_path(row.record)
                if not path.exists():
                    atomic.write_atomic(root, path, data)
                if progress:
                    progress(written, len(rows))
        finally:
            pool.shutdown(cancel_futures=True)


def _notes(
    registry: Contents, matrix: NDArray[np.float64], new: Sequence[Row], records: Sequence[RowRecord]
) -> list[str]:
    """What is odd about the values, or about the registry now, and no error."""
    notes = []
    # No error: one model may have been measured here as well.
    doubled = {row.record.identity.name for row in new} & {record.identity.name for record in records}
    if doubled:
        notes.append(
            f"of {len(doubled):,} of these models there are other rows here, too, as of {min(doubled)}; name such rows by "
            "their ids"
        )
    coarse = [row.record.provenance for row in new if row.record.provenance["value_rounding"] > _ROUNDING]
    if coarse:
        worst = max(coarse, key=lambda provenance: float(provenance["value_rounding"]))
        kind = f" ({worst['value_dtype']})" if worst["value_dtype"] != "float32" else ""
        notes.append(
            f"the values of {len(coarse):,} rows were rounded before they came{kind}: an error of up to "
            f"{worst['value_rounding']:.2g} nats a text, which noise floors count; import them in full precision if you can"
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
    certain = int((matrix == 0).sum())
    if certain:
        notes.append(
            f"{certain:,} of {matrix.size:,} values are exactly 0, a probability of 1: if such a text was not scored, its value is NaN"
        )
    return notes


def _size_correlation(matrix: NDArray[np.float64], num_bytes: NDArray[np.float64]) -> float | None:
    """Spearman correlation of minus the mean log-likelihood of a text with its bytes; None where it can say nothing."""
    is_scored = ~np.isnan(matrix)  # (n_models, n_texts)
    texts = is_scored.any(axis=0)  # (n_texts,)
    sizes = num_bytes[texts]
    means = np.add.reduce(matrix, axis=0, where=is_scored)[texts] / is_scored.sum(axis=0)[texts]
    # A correlation of few texts is chance, and one of equal values is undefined.
    if len(sizes) < _ORDER_TEXTS or sizes.min() == sizes.max() or means.min() == means.max():
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(-means, sizes).statistic)
