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
from llreg.add.journal import Entries, make_entries
from llreg.store.arrays import UNSCORED, row_variables
from llreg.store.rowfile import Row, make_row
from llreg.texts.segments import Cuts, in_units
from llreg_schemas import Identity, check
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
    kept : Entries
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
    cuts : Cuts or None
        How all texts of the set are cut into segments; None for a row without segments.
    cuts_id : str or None
        Id of the cuts in registry.json.
    """

    source: llreg_extract.Source
    identity: Identity
    device: str
    texts: Sequence[Any]
    sequences: NDArray[np.int64]
    num_texts: int
    kept: Entries = field(default_factory=Entries.from_bytes)
    contributor: str | None = None
    requested_revision: str | None = None
    batch_tokens: int | None = None
    trust_remote_code: bool = False
    rendering: Rendering | None = None
    cuts: Cuts | None = None
    cuts_id: str | None = None


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
        # Why the row has no segments, though the texts of the set are cut into some.
        self._no_segments = ""
        if job.cuts is not None:
            if self.encoded.offsets is None:
                self._no_segments = "the tokenizer does not tell where in a text a token begins"
            elif ((job.kept["num_segments"] == 0) & (job.kept["status"] == llreg_extract.Status.SCORED)).any():
                self._no_segments = "it completes a row that has none"
        self.cuts = None if self._no_segments else job.cuts

    def run(self, keep: Callable[[Entries], None], report: Reporter) -> Computed:
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
        cuts = self.cuts
        batches = llreg_extract.iter_scores(
            self.model,
            self.encoded,
            skip=scored_before,
            batch_tokens=job.batch_tokens,
            cuts=None if cuts is None else [cuts.starts(k % job.num_texts) for k in job.sequences.tolist()],
        )
        entries = [Entries.from_bytes()]  # of this run, a batch each
        try:
            for batch in batches:
                sequences = job.sequences[batch.index]
                bad = sequences[batch.status == llreg_extract.Status.NON_FINITE]
                if len(bad):
                    raise _non_finite(self.identity, int(bad[0]) % job.num_texts)
                # The weights may be read from their files as they are needed.
                llreg_extract.check_unchanged(self.model.files, name)
                entries.append(_entries(sequences, batch))
                keep(entries[-1])
                report.advance(int(lengths[batch.index].sum()))
        finally:
            batches.close()
        seconds = time.monotonic() - started
        scored = Entries.joined(entries)
        row = self._row(Entries.joined([job.kept, scored]), seconds)
        return Computed(row, int((scored["num_tokens"] > 0).sum()), int(scored["num_tokens"].sum()), seconds)

    def _row(self, entries: Entries, seconds: float) -> Row:
        """The row with its record, checked."""
        job, identity, pairs = self.job, self.identity, self.job.rendering is not None
        arrays = row_arrays(entries, job.num_texts, pairs=pairs, cuts=self.cuts)
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
            **({"segments": job.cuts_id} if self.cuts is not None else {}),
            **({"no_segments": self._no_segments} if self._no_segments else {}),
        }
        row = make_row(identity, provenance, self.model.declared, arrays)
        try:
            check("row", row.record.to_json(), "its record")
        except InvalidFileError as error:
            raise ModelError(f"the row of {identity.name} cannot be recorded: {error}") from error
        return row


def _entries(sequences: NDArray[np.int64], batch: llreg_extract.Batch) -> Entries:
    """Journal entries of a batch of sequences: those without a value have no segments."""
    segments = None
    if batch.segments is not None:
        is_scored = (batch.status == llreg_extract.Status.SCORED).tolist()
        segments = [
            in_units(part if scored else part[:0]) for scored, part in zip(is_scored, batch.segments, strict=True)
        ]
    return make_entries(sequences, batch.log_likelihood, batch.num_tokens, batch.num_correct, batch.status, segments)


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


def row_arrays(entries: Entries, num_texts: int, *, pairs: bool, cuts: Cuts | None = None) -> dict[str, NDArray[Any]]:
    """A row's arrays by name, from journal entries of its sequences.

    Parameters
    ----------
    entries : Entries
        See `llreg.add.journal`.
    num_texts : int
    pairs : bool
    cuts : Cuts, optional
        Of a row with segments: how the texts of the set are cut; entries with a value have segments then.

    Returns
    -------
    dict of arrays
        As `llreg.store.rowfile.Row` has them.
    """
    scored = entries.take(np.flatnonzero(entries["status"] == llreg_extract.Status.SCORED))
    half, text = np.divmod(scored["text"], num_texts)
    shape = (2 if pairs else 1, num_texts)
    found: dict[str, NDArray[Any]] = {
        "log_likelihood": np.full(shape, np.nan, np.float32),
        "num_tokens": np.zeros(shape, np.int32),
        "num_correct": np.zeros(shape, np.int32),
    }
    # Rounding must not make a probability exceed 1.
    found["log_likelihood"][half, text] = np.minimum(scored["log_likelihood"], 0.0)
    for name in ("num_tokens", "num_correct"):
        found[name][half, text] = scored[name]
    if cuts is not None:
        segments = np.full((len(found["num_tokens"]), cuts.num_segments), UNSCORED, np.int32)
        for row, k, part in zip(half.tolist(), text.tolist(), scored.segments_of_each(), strict=True):
            segments[row, cuts.first[k] : cuts.first[k + 1]] = part
        found["segment_log_likelihood"] = segments
    return {
        name: found[name.removesuffix("_response")][int(name.endswith("_response"))]
        for name in row_variables(pairs=pairs, fine=cuts is not None)
    }


def row_counts(entries: Entries, num_texts: int, *, pairs: bool) -> dict[str, int]:
    """Tokens scored, and texts left out for a reason, as a row's provenance has them."""
    counts: dict[str, int] = {}
    status = llreg_extract.Status
    for k, ending in enumerate(("", "_response") if pairs else ("",)):
        part = entries.heads[entries["text"] // num_texts == k]
        counts[f"tokens{ending}"] = int(part["num_tokens"][part["status"] == status.SCORED].sum())
        counts[f"over_context{ending}"] = int((part["status"] == status.OVER_CONTEXT).sum())
        counts[f"unscored{ending}"] = int((part["status"] == status.UNSCORED).sum())
        counts[f"unknown_token{ending}"] = int((part["status"] == status.UNKNOWN_TOKEN).sum())
    return counts


def flat_arrays(row: Row) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Log-likelihoods (nats) and numbers of tokens of all sequences of a row: arrays of shape (n_sequences,)."""
    values, tokens = (_halves(row, name) for name in ("log_likelihood", "num_tokens"))
    return np.concatenate(values), np.concatenate(tokens)


def correct_tokens(row: Row) -> NDArray[np.int32]:
    """Tokens of all sequences of a row with segments that were the model's first choice: int32 of shape (n_sequences,)."""
    return np.concatenate(_halves(row, "num_correct"))


def _halves(row: Row, name: str) -> list[NDArray[Any]]:
    """One of a row's arrays, and of pairs that of the responses alone; none where it has no such array."""
    return [row.arrays[each] for each in (name, f"{name}_response") if each in row.arrays]


def segments_of(row: Row, sequences: NDArray[np.integer], cuts: Cuts) -> list[NDArray[np.int32]]:
    """Segments of some sequences of a row that has them: int32 arrays of shape (n_segments,), units of 1/256 nat."""
    halves, first = _halves(row, "segment_log_likelihood"), cuts.first
    places = (divmod(int(sequence), cuts.num_texts) for sequence in sequences)
    return [halves[half][first[text] : first[text + 1]] for half, text in places]


def row_entries(row: Row, cuts: Cuts | None) -> Entries:
    """The scored sequences of a row as journal entries, with their segments if it has some, cut in this way."""
    values, tokens = flat_arrays(row)
    scored = np.flatnonzero(~np.isnan(values))
    status = np.full(len(scored), llreg_extract.Status.SCORED)
    correct, segments = np.zeros(len(scored), np.int32), None
    if row.segment_log_likelihood is not None and cuts is not None:
        correct, segments = correct_tokens(row)[scored], segments_of(row, scored, cuts)
    return make_entries(scored, values[scored].astype(np.float64), tokens[scored], correct, status, segments)
