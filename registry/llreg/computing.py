"""One row, computed: from a pinned model and texts to a `Row`, without a registry, so that any process can do it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llreg_extract
from llreg import __version__
from llreg.rowfile import Row
from llreg_schemas import Identity, RowRecord, check, row_digest
from llreg_schemas.errors import InvalidFileError, ModelError, NonFiniteError
from llreg_schemas.records import now

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.journal import Journal
    from llreg.reporting import Reporter


@dataclass(frozen=True)
class Job:
    """One row to compute; it can be pickled, for a worker in another process or on another machine.

    Attributes
    ----------
    source : Source
        The model.
    identity : Identity
        Of the row.
    device : str
        Where to score it.
    texts : sequence of str
        The texts to score.
    places : int64 array of shape (n_texts_to_score,)
        Their indices in the text set, ascending.
    num_texts : int
        Texts in the set.
    kept : structured array of shape (n_kept,)
        Journal entries of texts that are scored already; see `llreg.journal`.
    contributor : str or None
        Who computes it, for the record.
    requested_revision : str or None
        The name that the commit was asked for by.
    batch_tokens : int or None
        Tokens in a batch; None chooses by device.
    trust_remote_code : bool
        Run Python code from the model's repository.
    """

    source: llreg_extract.Source
    identity: Identity
    device: str
    texts: Sequence[str]
    places: NDArray[Any]
    num_texts: int
    kept: NDArray[Any]
    contributor: str | None = None
    requested_revision: str | None = None
    batch_tokens: int | None = None
    trust_remote_code: bool = False


def compute(job: Job, journal: Journal, report: Reporter) -> Row:
    """Load a job's model, score its texts, and make the row.

    Parameters
    ----------
    job : Job
    journal : Journal
        Where scored texts are kept, so that an interrupted run goes on from them.
    report : Reporter

    Returns
    -------
    Row
        With the record, complete and checked.

    Raises
    ------
    ModelError
        If the model cannot be loaded, or can score none of the texts.
    NonFiniteError
        If it gives NaN or inf; the journal is gone then.
    StorageError
        If the journal cannot be written.
    """
    model = llreg_extract.load(
        job.source, dtype=job.identity.weight_dtype, device=job.device, trust_remote_code=job.trust_remote_code
    )
    return _Computation(job, model, journal, report).row()


class _Computation:
    """One model's row in the making."""

    def __init__(self, job: Job, model: llreg_extract.Model, journal: Journal, report: Reporter) -> None:
        self.job, self.identity, self.model = job, job.identity, model
        self.journal, self.report = journal, report
        self.encoded = llreg_extract.encode(model, job.texts)

    def row(self) -> Row:
        started = time.monotonic()
        entries = self._score()
        return self._row(entries, time.monotonic() - started)

    def _score(self) -> NDArray[Any]:
        import numpy as np

        job, lengths = self.job, self.encoded.lengths
        done = {int(place) for place in np.searchsorted(job.places, job.kept["text"])}  # places in `job.texts`
        self.report.start(self.identity.model, int(lengths.sum()), int(lengths[sorted(done)].sum()))
        if done:
            self.report.note(
                f"{self.identity.model}: {len(done):,} of {len(job.texts):,} texts are scored already; going on"
            )
        batches = llreg_extract.iter_scores(self.model, self.encoded, skip=done, batch_tokens=job.batch_tokens)
        with self.journal.writing(job.kept):
            try:
                for batch in batches:
                    self._refuse_non_finite(batch)
                    texts = job.places[batch.index]
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
            f"{self.identity.model} gives NaN or inf in {dtype} (first seen on text {self.job.places[bad[0]]}); no row was "
            f"written: use {advice}"
        )

    def _row(self, entries: NDArray[Any], seconds: float) -> Row:
        import numpy as np

        values = np.full(self.job.num_texts, np.nan, np.float32)
        tokens = np.zeros(self.job.num_texts, np.int32)
        scored = entries[entries["status"] == llreg_extract.Status.SCORED]
        # Rounding must not make a probability exceed 1.
        values[scored["text"]] = np.minimum(scored["log_likelihood"], 0.0)
        tokens[scored["text"]] = scored["num_tokens"]
        if not len(scored):
            raise ModelError(
                f"{self.identity.model} can score none of the {len(self.job.texts):,} texts: all are longer than its "
                f"context of {self.model.context_length} tokens or too short; use another text set"
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
        job, environment, status = self.job, llreg_extract.environment(self.model), llreg_extract.Status
        return {
            **environment,
            "versions": {"llreg": __version__, **environment["versions"]},
            "added_at": now(),
            "contributor": job.contributor,
            # The name that the commit was asked for by: a checkpoint's branch tells its training step.
            **({"requested_revision": job.requested_revision} if job.requested_revision else {}),
            "batch_tokens": job.batch_tokens or llreg_extract.default_batch_tokens(self.model.device.type),
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "over_context": int((entries["status"] == status.OVER_CONTEXT).sum()),
            "unscored": int((entries["status"] == status.UNSCORED).sum()),
            "non_finite": 0,
            "special_token_texts": self.encoded.special_token_texts,
            "first_token_scored": self.model.first_token_scored,
        }
