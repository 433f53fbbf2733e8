"""`add`: compute models' rows and write them into a registry, resuming what was interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import llreg_extract
from llreg import __version__, files, settings
from llreg.journal import Journal, make_entries
from llreg.options import Entry, Options, Request, check_texts, read_requests
from llreg.pinning import find_present, journal_of, pin, runs_dir
from llreg.rowfile import Row, write_row
from llreg.subsets import store_subset
from llreg_schemas import Identity, RowRecord, check, row_digest
from llreg_schemas.errors import InputError, InvalidFileError, ModelError, NonFiniteError, storage_errors
from llreg_schemas.records import now

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.registry import Registry


@dataclass(frozen=True)
class AddResult:
    """What became of one model.

    Attributes
    ----------
    model : str
        As it was given.
    status : {"added", "present", "failed"}
    row_id : str or None
        The row's id; None if the model failed.
    message : str
        One sentence for the user.
    """

    model: str
    status: Literal["added", "present", "failed"]
    row_id: str | None
    message: str


class Reporter:
    """Told what goes on; does nothing itself. Override what you want to hear."""

    def note(self, message: str) -> None:
        """Something the user should know."""

    def begin(self, model: str) -> None:
        """A model's turn: it is looked up and loaded."""

    def start(self, model: str, tokens: int, done: int) -> None:
        """Scoring begins: tokens in all and tokens done by an earlier run."""

    def advance(self, tokens: int) -> None:
        """Tokens scored since the last call."""

    def finish(self, result: AddResult) -> None:
        """A model is done."""


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
            loaded = llreg_extract.load(
                source, dtype=pinned.dtype, device=pinned.device, trust_remote_code=options.trust_remote_code
            )
            journal = journal_of(registry, pinned, options)
            present = _Run(registry, identity, request.subset, loaded, journal, options, report).result(request.model)
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


class _Run:
    """One model's row in the making."""

    def __init__(
        self,
        registry: Registry,
        identity: Identity,
        subset: Mapping[str, Any] | None,
        model: llreg_extract.Model,
        journal: Journal,
        options: Options,
        report: Reporter,
    ) -> None:
        import numpy as np

        self.registry, self.identity, self.subset, self.model = registry, identity, subset, model
        self.journal, self.options, self.report = journal, options, report
        self.wanted = np.arange(registry.num_texts) if subset is None else np.asarray(subset["texts"])  # of the set
        self.texts = registry.texts.complete(self.wanted.tolist())
        self.completes: RowRecord | None = None
        self.encoded = llreg_extract.encode(model, self.texts)

    def result(self, given: str) -> AddResult:
        """Score, write the row, and say what became of it."""
        started = time.monotonic()
        entries = self._score(self._carried())
        row = self._row(entries, time.monotonic() - started)
        if row.record.digest in self.registry.retractions():
            self.journal.remove()  # the run is over: nothing is left to go on with
            raise InputError(f"it gave exactly the row that was retracted, {row.record.row_id}; nothing was added")
        there = row.record.digest in self.registry.digests()
        if not there:
            if self.subset is not None:  # first: a row never names a subset that is not there
                store_subset(self.registry.path, self.subset)
            write_row(self.registry.path, row)
        if self.completes and self.completes.digest != row.record.digest:
            self.registry.retract(
                self.completes.digest, why=f"superseded by {row.record.row_id}, which has its values and more"
            )
        return AddResult(given, "present" if there else "added", row.record.row_id, _sentence(row, there))

    def _carried(self) -> NDArray[Any]:
        """Entries of an interrupted run, or else of the row to be completed."""
        kept = self.journal.read()
        there = self.registry.replicates(self.identity) if self.options.overwrite == "only-missing" else []
        if not there:
            return kept
        self.completes = there[-1]
        self._refuse_other_environment(self.completes)
        return kept if len(kept) else _entries_of(self.registry.row(self.completes.row_id))

    def _refuse_other_environment(self, record: RowRecord) -> None:
        """A row is of one environment: its record could not tell which values came from which."""
        here = llreg_extract.environment(self.model)
        then = record.provenance
        if (then["device"]["type"], then["versions"].get("torch"), then["versions"].get("transformers")) != (
            here["device"]["type"],
            here["versions"]["torch"],
            here["versions"]["transformers"],
        ):
            raise InputError(
                f"{record.row_id} lacks texts, and was scored with other library versions or on another kind of device: "
                "score all again with --overwrite always"
            )

    def _score(self, kept: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        lengths = self.encoded.lengths
        done = {int(place) for place in np.searchsorted(self.wanted, kept["text"])}  # places in `wanted`
        self.report.start(self.identity.model, int(lengths.sum()), int(lengths[sorted(done)].sum()))
        if done:
            self.report.note(
                f"{self.identity.model}: {len(done):,} of {len(self.texts):,} texts are scored already; going on"
            )
        batches = llreg_extract.iter_scores(self.model, self.encoded, skip=done, batch_tokens=self.options.batch_tokens)
        with self.journal.writing(kept):
            try:
                for batch in batches:
                    self._refuse_non_finite(batch)
                    texts = self.wanted[batch.index]
                    self.journal.append(texts, batch.log_likelihood, batch.num_tokens, batch.status)
                    self.report.advance(int(lengths[batch.index].sum()))
            finally:
                batches.close()
        return self.journal.read()

    def _refuse_non_finite(self, batch: llreg_extract.Batch) -> None:
        bad = batch.index[batch.status == llreg_extract.Status.NON_FINITE]
        if not len(bad):
            return
        self.journal.remove()
        dtype = self.identity.weight_dtype
        advice = "--dtype bfloat16 or --dtype float32" if dtype == "float16" else "--dtype float32"
        if dtype == "float32":
            advice = "a sound checkpoint; this one's weights may be damaged"
        raise NonFiniteError(
            f"{self.identity.model} gives NaN or inf in {dtype} (first seen on text {self.wanted[bad[0]]}); no row was written: "
            f"use {advice}"
        )

    def _row(self, entries: NDArray[Any], seconds: float) -> Row:
        import numpy as np

        values = np.full(self.registry.num_texts, np.nan, np.float32)
        tokens = np.zeros(self.registry.num_texts, np.int32)
        scored = entries[entries["status"] == llreg_extract.Status.SCORED]
        values[scored["text"]] = np.minimum(
            scored["log_likelihood"], 0.0
        )  # rounding must not make a probability exceed 1
        tokens[scored["text"]] = scored["num_tokens"]
        if not len(scored):
            raise ModelError(
                f"{self.identity.model} can score none of the {len(self.texts):,} texts: all are longer than its context "
                f"of {self.model.context_length} tokens or too short; use another text set"
            )
        digest = row_digest(self.identity.to_json(), values, tokens)
        record = RowRecord(
            self.identity, self._provenance(entries, int(tokens.sum()), seconds), self.model.declared, digest
        )
        try:
            check("row", record.to_json(), "its record")
        except InvalidFileError as error:
            raise ModelError(f"the row of {self.identity.model} cannot be recorded: {error}") from error
        return Row(record, values, tokens)

    def _provenance(self, entries: NDArray[Any], tokens: int, seconds: float) -> dict[str, Any]:
        environment = llreg_extract.environment(self.model)
        status = llreg_extract.Status
        return {
            **environment,
            "versions": {"llreg": __version__, **environment["versions"]},
            "added_at": now(),
            "contributor": settings.contributor(),
            # The name that the commit was asked for by: a checkpoint's branch tells its training step.
            **({"requested_revision": self.options.revision} if self.options.revision else {}),
            "batch_tokens": self.options.batch_tokens or llreg_extract.default_batch_tokens(self.model.device.type),
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "over_context": int((entries["status"] == status.OVER_CONTEXT).sum()),
            "unscored": int((entries["status"] == status.UNSCORED).sum()),
            "non_finite": 0,
            "special_token_texts": self.encoded.special_token_texts,
            "first_token_scored": self.model.first_token_scored,
        }


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
