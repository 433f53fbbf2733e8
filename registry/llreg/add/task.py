"""One model to be added: reserved, its job made, its row written, with what an interrupted run left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import atomic, settings
from llreg.add.job import Computed, Job
from llreg.add.journal import no_entries
from llreg.add.pinned import Pinned, find_present, journal_of, runs_dir
from llreg.add.reporter import AddResult
from llreg.add.request import Request
from llreg.add.sequences import row_entries, sequence_places
from llreg.store.rowfile import Row, write_row
from llreg.store.subsets import store_subset
from llreg.store.versions import retract
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, LlregError, NonFiniteError, storage_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents


class Addition:
    """One model to be added.

    Parameters
    ----------
    registry : Contents
    request : Request
    pinned : Pinned

    Attributes
    ----------
    model : str
        As it was given.
    source : Source
    journal : Journal
        Where its scored texts are kept.
    """

    def __init__(self, registry: Contents, request: Request, pinned: Pinned) -> None:
        self.registry, self.request, self.pinned = registry, request, pinned
        self.model, self.source = request.model, pinned.source
        self.journal = journal_of(registry, pinned, request.options)
        self._completes: RowRecord | None = None  # a row that lacks texts, which this one will have

    def present(self) -> AddResult | None:
        """The result if its row is there already, unless it must be (partly) scored again."""
        identity = self.pinned.identity
        record = find_present(self.registry, identity, self.request.options)
        if record is None:
            return None
        where = " on all texts" if record.identity.subset != identity.subset else ""
        told = f"is there already{where} as {record.row_id}; nothing to do"
        return AddResult(self.model, "present", record.row_id, told)

    @contextmanager
    def reserved(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Keep other processes from adding the same row.

        Parameters
        ----------
        waiting : callable
            Called if one is adding it already, before that is waited for; what it raises gives up.
        """
        runs = runs_dir(self.registry.path)
        with storage_errors(runs):
            runs.mkdir(exist_ok=True)
        with atomic.lock(self.registry.path, f"runs/{self.pinned.identity.id[:24]}", waiting=waiting):
            yield

    def job(self) -> Job:
        """The job as far as it is known before its turn: without what is scored already."""
        registry, subset, options = self.registry, self.request.subset, self.request.options
        places = np.arange(registry.num_texts) if subset is None else np.asarray(subset["texts"])
        return Job(
            source=self.source,
            identity=self.pinned.identity,
            device=self.pinned.device,
            texts=registry.texts.complete(places.tolist()),
            places=sequence_places(places, registry.num_texts, pairs=registry.rendering is not None),
            num_texts=registry.num_texts,
            kept=no_entries(),
            contributor=settings.contributor(),
            requested_revision=options.revision,
            batch_tokens=options.batch_tokens,
            trust_remote_code=options.trust_remote_code,
            rendering=registry.rendering,
        )

    def begin(self) -> Job | AddResult:
        """The job, with what is scored already; or the result, if another process has added the row meanwhile.

        Raises
        ------
        InputError
            If it would complete a row that was made in another environment.
        """
        present = self.present()
        if present:
            self._remove_runs()
            return present
        if self.request.options.overwrite == "only-missing":
            there = self.registry.replicates(self.pinned.identity)
            self._completes = there[-1] if there else None
        return replace(self.job(), kept=self._carried())

    def _carried(self) -> NDArray[Any]:
        """Entries of an interrupted run, or else of the row to be completed."""
        kept = self.journal.read()
        if self._completes is None:
            return kept
        _refuse_other_environment(self._completes, self.pinned.device)
        return kept if len(kept) else row_entries(self.registry.row(self._completes.row_id))

    def complete(self, computed: Computed) -> AddResult:
        """Write the row, unless just this one is there already.

        Raises
        ------
        InputError
            If just this one was retracted.
        StorageError
        """
        row, registry, subset = computed.row, self.registry, self.request.subset
        if row.record.digest in registry.retractions():
            self.journal.remove()  # the run is over: nothing is left to go on with
            raise InputError(f"it gave exactly the row that was retracted, {row.record.row_id}; nothing was added")
        there = row.record.digest in registry.digests()
        if not there:
            if subset is not None:  # first: a row never names a subset that is not there
                store_subset(registry.path, subset)
            write_row(registry.path, row)
        self._remove_runs()
        if self._completes and self._completes.digest != row.record.digest:
            retract(
                registry,
                self._completes.digest,
                why=f"superseded by {row.record.row_id}, which has its values and more",
            )
        return AddResult(
            self.model,
            "present" if there else "added",
            row.record.row_id,
            _sentence(row, there),
            computed.texts,
            computed.tokens,
            computed.seconds,
        )

    def _remove_runs(self) -> None:
        """Remove what runs left, also those with other libraries: the row is there."""
        for leftover in runs_dir(self.registry.path).glob(f"{self.pinned.identity.id[:24]}-*"):
            leftover.unlink(missing_ok=True)

    def failed(self, error: LlregError) -> AddResult:
        """The result of a model that could not be added."""
        if isinstance(error, NonFiniteError):
            self.journal.remove()  # the texts it did score must not end in a row
        return AddResult(self.model, "failed", None, str(error))


def _refuse_other_environment(record: RowRecord, device: str) -> None:
    """A row is of one environment: its record could not tell which values came from which."""
    from importlib.metadata import version

    then, names = record.provenance, ("torch", "transformers")
    # Not the build, as "+cu128": a client without a GPU has another one than the workers that score.
    known = [str(then["versions"].get(name)).partition("+")[0] for name in names]
    here = [version(name).partition("+")[0] for name in names]
    if (then["device"]["type"], known) != (device.partition(":")[0], here):
        raise InputError(
            f"{record.row_id} lacks texts, and was scored with other library versions or on another kind of device: "
            "score all again with --overwrite always"
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
