"""One row, computed: from a pinned model and texts to a `Row`, without a registry, so that any process can do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llreg_extract
from llreg._version import __version__
from llreg.add.journal import make_entries
from llreg.add.sequences import row_arrays, row_counts
from llreg.store.rowfile import Row
from llreg_schemas import Identity, RowRecord, check, row_digest
from llreg_schemas.errors import InvalidFileError, ModelError, NonFiniteError
from llreg_schemas.records import now

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.add.reporter import Reporter
    from llreg_schemas.records import Rendering


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
    texts : sequence of str or Pair
        The texts to score.
    places : int64 array of shape (n_texts_to_score,)
        Their indices in the text set, ascending; of pairs the numbers of their sequences, see `llreg.add.sequences`.
    num_texts : int
        Texts in the set.
    kept : structured array of shape (n_kept,)
        Journal entries of texts that are scored already; see `llreg.add.journal`.
    contributor : str or None
        Who computes it, for the record.
    requested_revision : str or None
        The name that the commit was asked for by.
    batch_tokens : int or None
        Tokens in a batch; None chooses by device.
    trust_remote_code : bool
        Run Python code from the model's repository.
    rendering : {"chat-template", "raw"} or None
        How prompts are rendered, where the texts are pairs.
    """

    source: llreg_extract.Source
    identity: Identity
    device: str
    texts: Sequence[Any]
    places: NDArray[Any]
    num_texts: int
    kept: NDArray[Any]
    contributor: str | None = None
    requested_revision: str | None = None
    batch_tokens: int | None = None
    trust_remote_code: bool = False
    rendering: Rendering | None = None


@dataclass(frozen=True)
class Computed:
    """A row, and what it took.

    Attributes
    ----------
    row : Row
        With the record, complete and checked.
    texts, tokens : int
        Scored now, without those that were scored already.
    seconds : float
        Time of scoring them.
    """

    row: Row
    texts: int
    tokens: int
    seconds: float


def prepare(job: Job, guard: AbstractContextManager[None] | None = None) -> llreg_extract.Encoded:
    """What can be done for a job before its turn: download the model's files, and tokenise the texts.

    Parameters
    ----------
    job : Job
    guard : context manager, optional
        Entered for the second part, which runs in native libraries: they must not when the interpreter ends.

    Raises
    ------
    ModelError
        If that cannot be done.
    """
    llreg_extract.fetch(job.source, trust_remote_code=job.trust_remote_code)
    with guard or nullcontext():
        return _tokenise(job, llreg_extract.load_tokenizer(job.source, trust_remote_code=job.trust_remote_code))


def _tokenise(job: Job, tokenizer: Any) -> llreg_extract.Encoded:
    if job.rendering is not None:
        return llreg_extract.tokenise_pairs(tokenizer, job.texts, job.rendering, name=job.identity.name)
    return llreg_extract.tokenise(tokenizer, job.texts)


class Scoring:
    """A job with its model loaded.

    Parameters
    ----------
    job : Job
    encoded : Encoded, optional
        From `prepare`.

    Raises
    ------
    ModelError
        If the model cannot be downloaded or loaded.
    """

    def __init__(self, job: Job, encoded: llreg_extract.Encoded | None = None) -> None:
        self.job, self.identity = job, job.identity
        if encoded is None:
            llreg_extract.fetch(job.source, trust_remote_code=job.trust_remote_code)
        self.model = llreg_extract.load(
            job.source, dtype=self.identity.weight_dtype, device=job.device, trust_remote_code=job.trust_remote_code
        )
        self.encoded = _tokenise(job, self.model.tokenizer) if encoded is None else encoded
        llreg_extract.check_range(self.model, self.encoded)

    def run(self, keep: Callable[[NDArray[Any]], None], report: Reporter) -> Computed:
        """Score the texts, and make the row.

        Parameters
        ----------
        keep : callable
            Given the journal entries of texts as they are scored.
        report : Reporter

        Raises
        ------
        ModelError
            If the model fails, or can score none of the texts.
        NonFiniteError
            If it gives NaN or inf: nothing of this run may be gone on from.
        """
        import numpy as np

        started = time.monotonic()
        scored = self._score(keep, report)
        seconds = time.monotonic() - started
        row = self._row(np.concatenate([self.job.kept, *scored]), seconds)
        counts = np.concatenate([self.job.kept[:0], *scored])["num_tokens"]
        return Computed(row, int((counts > 0).sum()), int(counts.sum()), seconds)

    def _score(self, keep: Callable[[NDArray[Any]], None], report: Reporter) -> list[NDArray[Any]]:
        import numpy as np

        job, lengths = self.job, self.encoded.lengths
        done = {int(place) for place in np.searchsorted(job.places, job.kept["text"])}  # places in `job.texts`
        report.start(self.identity.name, int(lengths.sum()), int(lengths[sorted(done)].sum()))
        if done:
            report.note(
                f"{self.identity.name}: {len(done):,} of {len(job.places):,} texts are scored already; going on"
            )
        batches = llreg_extract.iter_scores(self.model, self.encoded, skip=done, batch_tokens=job.batch_tokens)
        scored = []
        try:
            for batch in batches:
                self._refuse_non_finite(batch)
                texts = job.places[batch.index]
                scored.append(make_entries(texts, batch.log_likelihood, batch.num_tokens, batch.status))
                keep(scored[-1])
                report.advance(int(lengths[batch.index].sum()))
        finally:
            batches.close()
        return scored

    def _refuse_non_finite(self, batch: llreg_extract.Batch) -> None:
        bad = batch.index[batch.status == llreg_extract.Status.NON_FINITE]
        if not len(bad):
            return
        dtype = self.identity.weight_dtype
        advice = "--dtype bfloat16 or --dtype float32" if dtype == "float16" else "--dtype float32"
        if dtype == "float32":
            advice = "a sound checkpoint; this one's weights may be damaged"
        raise NonFiniteError(
            f"{self.identity.name} gives NaN or inf in {dtype} (first seen on text {self.job.places[bad[0]] % self.job.num_texts}); "
            f"no row was written: use {advice}"
        )

    def _row(self, entries: NDArray[Any], seconds: float) -> Row:
        import numpy as np

        arrays = row_arrays(entries, self.job.num_texts, pairs=self.job.rendering is not None)
        if np.isnan(arrays["log_likelihood"]).all():
            raise ModelError(
                f"{self.identity.name} can score none of the {len(self.job.texts):,} texts: all are longer than its "
                f"context of {self.model.context_length} tokens or too short; use another text set"
            )
        digest = row_digest(self.identity.to_json(), **arrays)
        record = RowRecord(self.identity, self._provenance(entries, seconds), self.model.declared, digest)
        try:
            check("row", record.to_json(), "its record")
        except InvalidFileError as error:
            raise ModelError(f"the row of {self.identity.name} cannot be recorded: {error}") from error
        return Row(record, **arrays)

    def _provenance(self, entries: NDArray[Any], seconds: float) -> dict[str, Any]:
        job, environment = self.job, llreg_extract.environment(self.model)
        rendered = llreg_extract.prompt_provenance(self.model.tokenizer, job.rendering) if job.rendering else {}
        return {
            **environment,
            **rendered,
            "versions": {"llreg": __version__, **environment["versions"]},
            "added_at": now(),
            "contributor": job.contributor,
            # The name that the commit was asked for by: a checkpoint's branch tells its training step.
            **({"requested_revision": job.requested_revision} if job.requested_revision else {}),
            "batch_tokens": job.batch_tokens
            or llreg_extract.default_batch_tokens(self.model.device.type, job.source.declared.get("num_parameters")),
            "seconds": round(seconds, 3),
            **row_counts(entries, job.num_texts, pairs=job.rendering is not None),
            "non_finite": 0,
            "special_token_texts": self.encoded.special_token_texts,
            "first_token_scored": self.model.first_token_scored,
        }
