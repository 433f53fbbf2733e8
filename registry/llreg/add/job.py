"""One row, computed: from a model and texts to a `Row`, without a registry, so that any process can do it.

What is scored are *sequences*: the texts of the set; or, of n (prompt, response) pairs, every response behind its prompt, numbered
0 to n - 1, and every response alone, numbered n to 2 n - 1. Journals and engines know of sequences only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg._version import __version__
from llreg.add.journal import make_entries, read_entries
from llreg.store.arrays import dtype_of, is_count, row_variables
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
    sequences : int64 array of shape (n_sequences,)
        Numbers of the sequences to score, ascending.
    num_texts : int
        Texts in the set.
    kept : structured array of shape (n_kept,)
        Journal entries of sequences that are scored already; see `llreg.add.journal`.
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
    sequences: NDArray[np.int64]
    num_texts: int
    kept: NDArray[Any] = field(default_factory=read_entries)
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
            job.source,
            dtype=self.identity.weight_dtype,
            device=job.device,
            trust_remote_code=job.trust_remote_code,
            tokenizer=encoded.tokenizer if encoded is not None else None,
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
        ChangedFilesError
            If its files are others than they were when it was looked up.
        """
        job, name = self.job, self.identity.name
        lengths = self.encoded.lengths  # (n_sequences,), tokens
        scored_before = {int(index) for index in np.searchsorted(job.sequences, job.kept["text"])}
        started = time.monotonic()
        report.start(name, int(lengths.sum()), int(lengths[sorted(scored_before)].sum()))
        if scored_before:
            report.note(f"{name}: {len(scored_before):,} of {len(job.sequences):,} texts are scored already; going on")
        batches = llreg_extract.iter_scores(self.model, self.encoded, skip=scored_before, batch_tokens=job.batch_tokens)
        entries = [job.kept[:0]]  # journal entries of this run, a batch each
        try:
            for batch in batches:
                sequences = job.sequences[batch.index]
                bad = sequences[batch.status == llreg_extract.Status.NON_FINITE]
                if len(bad):
                    raise _non_finite(self.identity, int(bad[0]) % job.num_texts)
                # The weights may be read from their files as they are needed.
                llreg_extract.check_unchanged(self.model.files, name)
                entries.append(make_entries(sequences, batch.log_likelihood, batch.num_tokens, batch.status))
                keep(entries[-1])
                report.advance(int(lengths[batch.index].sum()))
        finally:
            batches.close()
        seconds = time.monotonic() - started
        scored = np.concatenate(entries)
        row = self._row(np.concatenate([job.kept, scored]), seconds)
        return Computed(row, int((scored["num_tokens"] > 0).sum()), int(scored["num_tokens"].sum()), seconds)

    def _row(self, entries: NDArray[Any], seconds: float) -> Row:
        """The row with its record, checked."""
        job, identity, pairs = self.job, self.identity, self.job.rendering is not None
        arrays = row_arrays(entries, job.num_texts, pairs=pairs)
        if np.isnan(arrays["log_likelihood"]).all():
            raise ModelError(
                f"{identity.name} can score none of the {len(job.texts):,} texts: all are longer than its context of "
                f"{self.model.context_length} tokens, too short, or hold what its vocabulary has no token for; use another text set"
            )
        environment = llreg_extract.environment(self.model)
        prompts = (
            llreg_extract.prompt_provenance(self.model.tokenizer, job.rendering, self.encoded) if job.rendering else {}
        )
        provenance = {
            **environment,
            **prompts,
            "versions": {"llreg": __version__, **environment["versions"]},
            "added_at": now(),
            "contributor": job.contributor,
            # The name that the commit was asked for by: a checkpoint's branch tells its training step.
            **({"requested_revision": job.requested_revision} if job.requested_revision else {}),
            "batch_tokens": job.batch_tokens
            or llreg_extract.default_batch_tokens(self.model.device.type, job.source.declared.get("num_parameters")),
            "seconds": round(seconds, 3),
            **row_counts(entries, job.num_texts, pairs=pairs),
            "non_finite": 0,  # a run that meets one makes no row
            "special_token_texts": self.encoded.special_token_texts,
            "altered_texts": self.encoded.altered_texts,
            "shortened_texts": self.encoded.shortened_texts,
            "first_token_scored": self.model.first_token_scored,
        }
        record = RowRecord(identity, provenance, self.model.declared, row_digest(identity.to_json(), **arrays))
        try:
            check("row", record.to_json(), "its record")
        except InvalidFileError as error:
            raise ModelError(f"the row of {identity.name} cannot be recorded: {error}") from error
        return Row(record, **arrays)


def _non_finite(identity: Identity, text: int) -> NonFiniteError:
    """The error of a model that gives NaN or inf, with what to do."""
    dtype = identity.weight_dtype
    advice = {
        "float32": "a sound checkpoint; this one's weights may be damaged",
        "float16": "--dtype bfloat16 or --dtype float32",
    }.get(dtype, "--dtype float32")
    return NonFiniteError(
        f"{identity.name} gives NaN or inf in {dtype} (first seen on text {text}); no row was written: use {advice}"
    )


# Sequences


def sequences_of(texts: NDArray[np.integer], num_texts: int, *, pairs: bool) -> NDArray[np.int64]:
    """Numbers of the sequences to score for some texts, given by their indices in the set, ascending."""
    indices = np.asarray(texts, dtype=np.int64)
    return np.concatenate([indices, indices + num_texts]) if pairs else indices


def row_arrays(entries: NDArray[Any], num_texts: int, *, pairs: bool) -> dict[str, NDArray[Any]]:
    """A row's arrays by name, from journal entries of its sequences.

    Parameters
    ----------
    entries : structured array of shape (n_entries,)
        See `llreg.add.journal`.
    num_texts : int
    pairs : bool

    Returns
    -------
    dict of float32 (nats) and int32 arrays of shape (n_texts,)
    """
    names = row_variables(pairs=pairs)
    num_sequences = num_texts * (len(names) // 2)
    values, tokens = np.full(num_sequences, np.nan, np.float32), np.zeros(num_sequences, np.int32)
    scored = entries[entries["status"] == llreg_extract.Status.SCORED]
    # Rounding must not make a probability exceed 1.
    values[scored["text"]] = np.minimum(scored["log_likelihood"], 0.0)
    tokens[scored["text"]] = scored["num_tokens"]
    parts = {  # each of shape (n_texts,)
        name: (tokens if is_count(name) else values).reshape(-1, num_texts)[k // 2] for k, name in enumerate(names)
    }
    return {name: np.ascontiguousarray(part, dtype=dtype_of(name)) for name, part in parts.items()}


def row_counts(entries: NDArray[Any], num_texts: int, *, pairs: bool) -> dict[str, int]:
    """Tokens scored, and texts left out for a reason, as a row's provenance has them."""
    counts: dict[str, int] = {}
    status = llreg_extract.Status
    for k, ending in enumerate(("", "_response") if pairs else ("",)):
        part = entries[entries["text"] // num_texts == k]
        counts[f"tokens{ending}"] = int(part["num_tokens"][part["status"] == status.SCORED].sum())
        counts[f"over_context{ending}"] = int((part["status"] == status.OVER_CONTEXT).sum())
        counts[f"unscored{ending}"] = int((part["status"] == status.UNSCORED).sum())
        counts[f"unknown_token{ending}"] = int((part["status"] == status.UNKNOWN_TOKEN).sum())
    return counts


def flat_arrays(row: Row) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Log-likelihoods (nats) and numbers of tokens of all sequences of a row: arrays of shape (n_sequences,)."""
    arrays = list(row.arrays.values())  # log-likelihoods and counts in turn
    return np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])


def row_entries(row: Row) -> NDArray[Any]:
    """The scored sequences of a row as journal entries."""
    values, tokens = flat_arrays(row)
    scored = np.flatnonzero(~np.isnan(values))
    status = np.full(len(scored), llreg_extract.Status.SCORED)
    return make_entries(scored, values[scored].astype(np.float64), tokens[scored], status)
