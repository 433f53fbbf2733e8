"""`add`: compute models' rows and write them into a registry, resuming what was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llreg import files, settings
from llreg.computing import Job, compute
from llreg.journal import make_entries
from llreg.options import Entry, Request, check_texts, read_requests
from llreg.pinning import Pinned, find_present, journal_of, pin, runs_dir
from llreg.reporting import AddResult, Reporter
from llreg.rowfile import Row, write_row
from llreg.subsets import store_subset
from llreg_schemas import Identity, RowRecord
from llreg_schemas.errors import InputError, ModelError, storage_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.journal import Journal
    from llreg.registry import Registry


def add(
    registry: Registry, models: Sequence[Entry], *, reporter: Reporter | None = None, **options: Any
) -> list[AddResult]:
    """Compute the rows of models and write them into the registry.

    Parameters
    ----------
    registry : Registry
    models : sequence of str or mapping
        Hub ids, directories or ``.gguf`` files; or mappings with a `model` and options of its own, as
        `llreg.runfile.read_run_file` gives them, which go before those for all.
    reporter : Reporter, optional
    **options
        See `llreg.options.Options`.

    Returns
    -------
    list of AddResult
        One a model, in order. A model that cannot be scored has status "failed" and does not stop the others.

    Raises
    ------
    InputError
        If the options do not fit together.
    StorageError
        If the registry cannot be written; what was scored is kept and resumed.
    """
    requests = read_requests(registry, models, options)
    report = reporter or Reporter()
    files.sweep(registry.path)
    files.check_writable(registry.path)
    check_texts(registry, requests)
    results = []
    for request in requests:
        report.begin(request.model)
        try:
            result = _add_one(registry, request, report)
        except (ModelError, InputError) as error:
            result = AddResult(request.model, "failed", None, str(error))
        report.finish(result)
        results.append(result)
    return results


def _add_one(registry: Registry, request: Request, report: Reporter) -> AddResult:
    pinned, options = pin(registry, request), request.options
    source, identity = pinned.source, pinned.identity
    present = _present(registry, request, identity)
    if present:
        return present

    def waiting() -> None:
        report.note(f"{source.name}: another llreg is adding it; waiting for that to finish")

    runs = runs_dir(registry.path)
    with storage_errors(runs):
        runs.mkdir(exist_ok=True)
    with files.lock(registry.path, f"runs/{identity.id[:24]}", waiting=waiting):
        present = _present(registry, request, identity)  # the one we waited for may have written it
        if present is None:
            journal = journal_of(registry, pinned, options)
            present = _Addition(registry, request, pinned, journal).run(report)
        for leftover in runs.glob(f"{identity.id[:24]}-*"):  # also of runs with other libraries: the row is there now
            leftover.unlink()
        return present


def _present(registry: Registry, request: Request, identity: Identity) -> AddResult | None:
    """The result for a row that is there already, unless it must be (partly) scored again."""
    record = find_present(registry, identity, request.options)
    if record is None:
        return None
    where = " on all texts" if record.identity.subset != identity.subset else ""
    told = f"is there already{where} as {record.row_id}; nothing to do"
    return AddResult(request.model, "present", record.row_id, told)


class _Addition:
    """One model's row, computed and written."""

    def __init__(self, registry: Registry, request: Request, pinned: Pinned, journal: Journal) -> None:
        self.registry, self.request, self.pinned, self.journal = registry, request, pinned, journal
        self.completes: RowRecord | None = None  # a row that lacks texts, which this one will have
        if request.options.overwrite == "only-missing":
            there = registry.replicates(pinned.identity)
            self.completes = there[-1] if there else None

    def run(self, report: Reporter) -> AddResult:
        """Score, write the row, and say what became of it."""
        row = compute(self._job(), self.journal, report)
        there = self._write(row)
        return AddResult(self.request.model, "present" if there else "added", row.record.row_id, _sentence(row, there))

    def _job(self) -> Job:
        import numpy as np

        registry, subset, options = self.registry, self.request.subset, self.request.options
        places = np.arange(registry.num_texts) if subset is None else np.asarray(subset["texts"])
        return Job(
            source=self.pinned.source,
            identity=self.pinned.identity,
            device=self.pinned.device,
            texts=registry.texts.complete(places.tolist()),
            places=places,
            num_texts=registry.num_texts,
            kept=self._carried(),
            contributor=settings.contributor(),
            requested_revision=options.revision,
            batch_tokens=options.batch_tokens,
            trust_remote_code=options.trust_remote_code,
        )

    def _carried(self) -> NDArray[Any]:
        """Entries of an interrupted run, or else of the row to be completed."""
        kept = self.journal.read()
        if self.completes is None:
            return kept
        _refuse_other_environment(self.completes, self.pinned.device)
        return kept if len(kept) else _entries_of(self.registry.row(self.completes.row_id))

    def _write(self, row: Row) -> bool:
        """Write the row, unless just this one is there already: then True."""
        registry, subset = self.registry, self.request.subset
        if row.record.digest in registry.retractions():
            self.journal.remove()  # the run is over: nothing is left to go on with
            raise InputError(f"it gave exactly the row that was retracted, {row.record.row_id}; nothing was added")
        there = row.record.digest in registry.digests()
        if not there:
            if subset is not None:  # first: a row never names a subset that is not there
                store_subset(registry.path, subset)
            write_row(registry.path, row)
        if self.completes and self.completes.digest != row.record.digest:
            registry.retract(
                self.completes.digest, why=f"superseded by {row.record.row_id}, which has its values and more"
            )
        return there


def _refuse_other_environment(record: RowRecord, device: str) -> None:
    """A row is of one environment: its record could not tell which values came from which."""
    from importlib.metadata import version

    then = record.provenance
    known = (then["device"]["type"], then["versions"].get("torch"), then["versions"].get("transformers"))
    if known != (device.partition(":")[0], version("torch"), version("transformers")):
        raise InputError(
            f"{record.row_id} lacks texts, and was scored with other library versions or on another kind of device: "
            "score all again with --overwrite always"
        )


def _entries_of(row: Row) -> NDArray[Any]:
    """The scored texts of a row as journal entries."""
    import numpy as np

    scored = np.flatnonzero(~np.isnan(row.log_likelihood))
    return make_entries(
        scored, row.log_likelihood[scored].astype(np.float64), row.num_tokens[scored], np.zeros(len(scored), np.int32)
    )


def _sentence(row: Row, there: bool) -> str:
    record = row.record
    if there:
        return f"gave exactly the row that is there, {record.row_id}"
    counts = record.provenance
    told = [
        f"{counts['over_context']:,} texts are longer than the model's context and NaN"
        if counts["over_context"]
        else "",
        f"{counts['unscored']:,} texts hold fewer than two tokens and are NaN" if counts["unscored"] else "",
    ]
    notes = "; ".join(note for note in told if note)
    scored = (
        f", scored on {(row.num_tokens > 0).sum():,} of {len(row.num_tokens):,} texts" if record.identity.subset else ""
    )
    return f"added as {record.row_id}{scored}" + (f" ({notes})" if notes else "")
