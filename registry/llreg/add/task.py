"""One model to be added: a request becomes a task, the task a job, the job a row, and the row is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

import llreg_extract
from llreg import atomic, settings
from llreg._version import __version__
from llreg.add.job import Computed, Job, row_entries, sequences_of
from llreg.add.journal import Journal
from llreg.add.reporter import AddResult, Reporter
from llreg.add.request import Request
from llreg.store.layout import RUNS
from llreg.store.rowcheck import REASONS
from llreg.store.rowfile import write_row
from llreg.store.subsets import load_subset, store_subset
from llreg.store.versions import retract
from llreg_schemas import Identity, RowRecord, hash_json
from llreg_schemas.errors import ChangedFilesError, InputError, LlregError, NonFiniteError, storage_errors

if TYPE_CHECKING:
    from llreg.store.contents import Contents


_COMMITS_COMPARED = 3  # rows of other commits that the Hub is asked about
_COMMIT = re.compile("[0-9a-f]{7,40}")


class BusyError(LlregError):
    """Another process is adding the row, or this one is."""


class Task:
    """One model to be added: what exactly will be measured, known before anything is loaded, and what there is of it.

    Parameters
    ----------
    registry : Contents
    request : Request
    gpus : int, optional
        GPUs of the machine that will score it; those of this one if not given.

    Attributes
    ----------
    model : str
        As it was given.
    source : Source
        The model's content.
    identity : Identity
        Of its row.
    device : str
        Where it will be scored.

    Raises
    ------
    ModelError, InputError
        As `llreg_extract.resolve` and `llreg_extract.choose`.
    """

    def __init__(self, registry: Contents, request: Request, *, gpus: int | None = None) -> None:
        self.registry, self.request, self.model = registry, request, request.model
        options = request.options
        self.source = llreg_extract.resolve(
            request.model,
            revision=options.revision,
            name=options.name,
            subfolder=options.subfolder,
            base=options.base,
            quantize=options.quantize,
            trust_remote_code=options.trust_remote_code,
        )
        dtype, self.device = llreg_extract.choose(self.source, dtype=options.dtype, device=options.device, gpus=gpus)
        self.identity = Identity(
            **self.source.identity,
            weight_dtype=dtype,
            text_set=registry.info.text_set.id,
            protocol=registry.info.protocol_id,
            subset=None if request.subset is None else request.subset["id"],
        )
        self._runs = registry.path / RUNS
        self._completes: RowRecord | None = None  # a row that lacks texts, which this one will have

    @cached_property
    def journal(self) -> Journal:
        """Where its scored texts are kept: values of other library versions or another device must not be mixed into it."""
        packages = ("torch", "transformers", *llreg_extract.packages(self.source))
        parts = {
            "device": self.device,
            "again": self.request.options.overwrite == "always",
            "libraries": [__version__, *map(_version, packages)],
            "remote_code": self.request.options.trust_remote_code,
            "tokenization": "checkpoint",  # texts of before were tokenised by transformers
            "segments": self.registry.info.segments and self.registry.info.segments["id"],
        }
        return Journal(self._runs / f"{self.identity.id[:24]}-{hash_json(parts)[:12]}.journal")

    def present_record(self) -> RowRecord | None:
        """The row that is there already, unless it must be (partly) scored again.

        For a subset of the texts also a row of all of them, which holds its values.

        Raises
        ------
        InputError
            If it was retracted.
        """
        registry, identity, overwrite = self.registry, self.identity, self.request.options.overwrite
        if overwrite == "always":
            return None
        records = registry.replicates(identity)
        if records:
            record = records[-1]
            return None if overwrite == "only-missing" and self._lacks_texts(record) else record
        # A row that was retracted would come out just the same.
        retractions = registry.retractions()
        for record in registry.all_records().values() if retractions else ():
            if record.digest in retractions and record.identity.id == identity.id:
                why = retractions[record.digest]["why"]
                raise InputError(
                    f"{record.row_id} was retracted ({why}); to measure it again all the same: --overwrite always"
                )
        records = registry.replicates(replace(identity, subset=None)) if identity.subset else []
        return records[-1] if records else self._record_of_same_files

    def _lacks_texts(self, record: RowRecord) -> bool:
        """Whether a row lacks texts for no reason of the model's own, such as a context too short for them."""
        values = self.registry.row(record.row_id).log_likelihood  # (n_texts,)
        if record.identity.subset is not None:
            values = values[load_subset(self.registry, record.identity.subset)["texts"]]
        num_explained = sum(int(record.provenance.get(reason, 0)) for reason in REASONS)
        return bool(np.isnan(values).sum() > num_explained)

    @cached_property
    def _record_of_same_files(self) -> RowRecord | None:
        """The row of another commit of a model on the Hub that differs in no file that decides values, as in its card alone.

        The Hub is asked only where there are rows of other commits, and about the newest of them.
        """
        identity, options = self.identity, self.request.options
        name = _branch(options.revision)
        others = [
            record
            for record in self.registry.records()
            if identity.source == record.identity.source == "hub"
            and record.identity.subset in (identity.subset, None)
            # Checkpoints of a training, each on a branch of its own, are no copies of each other.
            and _branch(record.provenance.get("requested_revision")) == name
            and _without_commits(record.identity) == _without_commits(identity)
        ]
        for record in others[: -_COMMITS_COMPARED - 1 : -1]:
            if llreg_extract.has_same_files(
                self.source, record.identity, trust_remote_code=options.trust_remote_code
            ) and not (options.overwrite == "only-missing" and self._lacks_texts(record)):
                return record
        return None

    def name_advice(self) -> str | None:
        """What to say of a local model's name that other models have, too, or could have; None if nothing."""
        identity, suggestion = self.identity, llreg_extract.suggest_name(self.source)
        namesakes = [
            record.row_id
            for record in self.registry.records()
            if record.identity.name == identity.name
            and record.identity.is_pinned
            and record.identity.weights != identity.weights
        ]
        revision = identity.adapter["revision"] if identity.adapter else identity.revision or ""
        if namesakes and revision.startswith("sha256:"):
            why = f"is the name of other weights here, too ({namesakes[0]})"
        elif suggestion is not None:
            why = "is a name that any run may have"
        else:
            return None
        return (
            f"{identity.name} {why}, and scores and annotations go by names: give it one of its own with --name, for example "
            f"{suggestion or f'{identity.name}-{revision[-4:]}'}"
        )

    def present(self) -> AddResult | None:
        """The result if its row is there already, unless it must be (partly) scored again."""
        record = self.present_record()
        if record is None:
            return None
        scope = " on all texts" if record.identity.subset != self.identity.subset else ""
        message = f"is there already{scope} as {record.row_id}; nothing to do"
        if _commits(record.identity) != _commits(self.identity):
            old, new = (
                " and ".join(each[:12] for each in _commits(i) if each) for i in (record.identity, self.identity)
            )
            message += f": its files at {new} are those at {old}"
        return AddResult(self.model, "present", record.row_id, message)

    @contextmanager
    def reserved(self, report: Reporter, *, wait: bool = True) -> Iterator[None]:
        """Keep other processes from adding the same row.

        Parameters
        ----------
        report : Reporter
            Told if that has to be waited for.
        wait : bool
            Whether to wait for one that is adding it already.

        Raises
        ------
        BusyError
            If one is adding it already, and that is not to be waited for.
        """

        def busy() -> None:
            if not wait:
                raise BusyError
            report.note(f"{self.source.name}: another llreg is adding it; waiting for that to finish")

        with storage_errors(self._runs):
            self._runs.mkdir(exist_ok=True)
        with atomic.lock(self.registry.path, f"runs/{self.identity.id[:24]}", waiting=busy):
            yield

    def job(self) -> Job:
        """The job as far as it is known before its turn: without what is scored already."""
        registry, subset, options = self.registry, self.request.subset, self.request.options
        texts = np.arange(registry.num_texts) if subset is None else np.asarray(subset["texts"])
        return Job(
            source=self.source,
            identity=self.identity,
            device=self.device,
            texts=registry.texts.complete(texts.tolist()),
            sequences=sequences_of(texts, registry.num_texts, pairs=registry.rendering is not None),
            num_texts=registry.num_texts,
            contributor=settings.contributor(),
            requested_revision=options.revision,
            batch_tokens=options.batch_tokens,
            trust_remote_code=options.trust_remote_code,
            rendering=registry.rendering,
            cuts=registry.cuts,
            cuts_id=registry.info.segments["id"] if registry.info.segments else None,
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
            records = self.registry.replicates(self.identity)
            self._completes = records[-1] if records else None
        kept = self.journal.read()  # of an interrupted run, or else of the row to be completed
        if self._completes is not None:
            # A row is of one environment: its record could not tell which values came from which.
            provenance, packages = self._completes.provenance, ("torch", "transformers")
            row_versions = [str(provenance["versions"].get(package)).partition("+")[0] for package in packages]
            environment = self.device.partition(":")[0], [*map(_version, packages)]
            other_tokens = (
                "tokenization" not in provenance
            )  # by transformers, before llreg read the checkpoint's own file
            if other_tokens or (provenance["device"]["type"], row_versions) != environment:
                raise InputError(
                    f"{self._completes.row_id} lacks texts, and was scored with {'an older llreg' if other_tokens else 'other library'}"
                    " versions or on another kind of device: score all again with --overwrite always"
                )
            kept = kept if len(kept) else row_entries(self.registry.row(self._completes.row_id), self.registry.cuts)
        return replace(self.job(), kept=kept)

    def complete(self, computed: Computed) -> AddResult:
        """Write the row, unless just this one is there already.

        Raises
        ------
        InputError
            If just this one was retracted.
        StorageError
        """
        record, registry, subset = computed.row.record, self.registry, self.request.subset
        if record.digest in registry.retractions():
            self.journal.remove()  # the run is over: nothing is left to go on with
            raise InputError(f"it gave exactly the row that was retracted, {record.row_id}; nothing was added")
        is_new = record.digest not in registry.digests()
        if is_new:
            if subset is not None:  # first: a row never names a subset that is not there
                store_subset(registry.path, subset)
            write_row(registry.path, computed.row)
        self._remove_runs()
        # The row that was completed: the new one has its values and more.
        if self._completes and self._completes.digest != record.digest:
            why = f"superseded by {record.row_id}, which has its values and more"
            retract(registry, self._completes.digest, why=why)
        figures = computed.texts, computed.tokens, computed.seconds
        if not is_new:
            message = f"gave exactly the row that is there, {record.row_id}"
            return AddResult(self.model, "present", record.row_id, message, *figures)
        # What was added, in one sentence.
        counts, scope, notes = record.provenance, "", []
        if subset is not None:
            num_tokens = computed.row.num_tokens  # (n_texts,)
            scope = f", scored on {(num_tokens > 0).sum():,} of {len(num_tokens):,} texts"
        if counts["over_context"]:
            notes.append(f"{counts['over_context']:,} texts are longer than the model's context and NaN")
        if counts["unscored"]:
            notes.append(f"{counts['unscored']:,} texts hold fewer than two tokens and are NaN")
        if counts["unknown_token"]:
            notes.append(
                f"{counts['unknown_token']:,} texts hold what the model's vocabulary has no token for and are NaN"
            )
        if counts["altered_texts"]:
            shortened = f", {counts['shortened_texts']:,} of them without some characters" * (
                counts["shortened_texts"] > 0
            )
            notes.append(
                f"{counts['altered_texts']:,} texts are shown to the model as its tokenizer changes them{shortened}"
            )
        message = f"added as {record.row_id}{scope}" + (f" ({'; '.join(notes)})" if notes else "")
        return AddResult(self.model, "added", record.row_id, message, *figures)

    def _remove_runs(self) -> None:
        """Remove what runs left, also those with other libraries: the row is there."""
        for leftover in self._runs.glob(f"{self.identity.id[:24]}-*"):
            leftover.unlink(missing_ok=True)

    def failed(self, error: LlregError) -> AddResult:
        """The result of a model that could not be added."""
        if isinstance(error, (NonFiniteError, ChangedFilesError)):
            self.journal.remove()  # the texts it did score must not end in a row
        return AddResult(self.model, "failed", None, str(error))


def _commits(identity: Identity) -> tuple[str | None, str | None]:
    """Commits of a model and of its adapter."""
    return identity.revision, (identity.adapter or {}).get("revision")


def _without_commits(identity: Identity) -> Identity:
    adapter = {**identity.adapter, "revision": "0" * 40} if identity.adapter else None
    return replace(identity, revision="0" * 40, adapter=adapter, subset=None)


def _branch(revision: str | None) -> str | None:
    """A branch or tag that a model was asked for by; None for the default one, and for a commit."""
    return None if revision is None or revision == "main" or _COMMIT.fullmatch(revision) else revision


def _version(package: str) -> str:
    # Without the build, as "+cu128": a client without a GPU has another one than the workers that score.
    return version(package).partition("+")[0]
