"""A row's texts scored again with its model, and what the difference comes from."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg.add.job import Job, Scoring, correct_tokens, flat_arrays, segments_of, sequences_of
from llreg.add.reporter import Reporter
from llreg.store.rowcheck import REASONS
from llreg.store.subsets import read_subset
from llreg.verify.comparison import (
    ADVISED_TEXTS,
    DISPLACED_SHARE,
    DISPLACED_TEXTS,
    DISPLACED_TOLERANCE,
    MEASURED_TEXTS,
    Agreement,
    Comparison,
    compare,
    error_of,
    first_choice_difference,
    segment_difference,
    token_difference,
)
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg.store.rowfile import Row
    from llreg.verify.comparison import Cause, Outcome
    from llreg_extract import Source
    from llreg_schemas import RowRecord

_LEFT_OUT = 4  # texts that the row has no value for and that are scored, too: the model should give them none
_MOST_TOKENISED = 10_000  # texts whose tokens are counted again, drawn at random if there are more
_SHIFTS = (-9, -7, -5, -3, 3, 5, 7, 9)  # in tolerances: where no value of the model is, to know what chance finds


def scorable(registry: Contents, record: RowRecord) -> NDArray[np.bool_]:
    """Texts that a row may have values for, and that are copied here: bool array of shape (n_texts,)."""
    in_subset = np.ones(registry.num_texts, dtype=bool)
    if record.identity.subset:
        in_subset[:] = False
        in_subset[read_subset(registry, record.identity.subset)["texts"]] = True
    return np.asarray(in_subset & np.array([text is not None for text in registry.texts.texts]))


class Sample:
    """Some texts of a row, to be scored again.

    Parameters
    ----------
    registry : Contents
    row : Row
    texts : sequence of int
        Ascending; the row has a value for each.

    Attributes
    ----------
    values, tokens : float64 (nats) and int32 arrays of shape (n_sequences,)
        Of the whole row; sequences are numbered as in `llreg.add.job`.
    """

    def __init__(self, registry: Contents, row: Row, texts: Sequence[int]) -> None:
        self.registry, self.row, self.texts = registry, row, list(texts)
        values, self.tokens = flat_arrays(row)
        self.values = values.astype(np.float64)

    @property
    def record(self) -> RowRecord:
        """The row's record."""
        return self.row.record

    @property
    def device(self) -> str:
        """Type of device that the row says it was made on."""
        return str((self.record.provenance.get("device") or {}).get("type", "unknown"))

    @cached_property
    def left_out(self) -> list[int]:
        """A few texts that the row has no value for, since the model cannot score them, as its record says."""
        record, provenance = self.record, self.record.provenance
        absent = np.isnan(self.row.log_likelihood)
        explained = REASONS.keys() - {"non_finite"}
        num_unexplained = int(absent.sum()) - sum(int(provenance.get(name) or 0) for name in explained)
        if record.identity.subset:
            num_unexplained -= len(absent) - len(read_subset(self.registry, record.identity.subset)["texts"])
        if record.identity.source == "imported" or num_unexplained > 0:  # incomplete, and known to be
            return []
        candidates = np.flatnonzero(scorable(self.registry, record) & absent)
        rng = np.random.default_rng(self.texts)
        return sorted(int(text) for text in rng.choice(candidates, min(_LEFT_OUT, len(candidates)), replace=False))

    def sequences(self, texts: Sequence[int]) -> NDArray[np.int64]:
        """Numbers of the sequences of some texts: int64 array of shape (n_sequences_of_them,)."""
        return sequences_of(np.array(texts), self.registry.num_texts, pairs=self.registry.rendering is not None)

    def text_of(self, sequence: int) -> int:
        """Text of a sequence."""
        return int(sequence) % self.registry.num_texts

    def agreement(self, outcome: Outcome, cause: Cause, why: str, **figures: Any) -> Agreement:
        """The verdict on this sample."""
        record, texts = self.record, tuple(self.texts)
        return Agreement(
            record.row_id, record.identity.name, outcome, cause, why, texts, row_device=self.device, **figures
        )


@dataclass(frozen=True)
class _Scored:
    """A sample as this machine scores it: the row, arrays as of `Sample`, whether a text has a part without a token, the
    model's limit and tokenizer."""

    row: Row
    values: NDArray[np.float64]
    tokens: NDArray[np.int32]
    unknown: NDArray[np.bool_]
    context_length: int | None
    tokenizer: Any

    @property
    def provenance(self) -> Mapping[str, Any]:
        """As of a row."""
        return self.row.record.provenance


class Rescoring:
    """A sample, and the model to score it with.

    Parameters
    ----------
    sample : Sample
    source : Source
    device : str
        From `llreg_extract.choose`.
    trust_remote_code : bool
    """

    def __init__(self, sample: Sample, source: Source, device: str, *, trust_remote_code: bool = False) -> None:
        self.sample, self.source, self.device = sample, source, device
        self.trust_remote_code, self.dtype = trust_remote_code, sample.record.identity.weight_dtype

    def agreement(self) -> Agreement:
        """Score the sample, and say what comes out: by texts that cannot be scored, then by tokens, then by values.

        Raises
        ------
        ModelError
            If the model cannot be loaded, or fails.
        """
        sample = self.sample
        scored = self._score(self.dtype, [*sample.texts, *sample.left_out])
        figures: dict[str, Any] = {"dtype": self.dtype, "device": str(scored.provenance["device"]["type"])}
        problem = self._coverage_problem(scored)
        if problem:
            return sample.agreement("mismatch", "coverage", problem + self._other_versions(scored), **figures)
        sequences = sample.sequences(sample.texts)
        sequences = sequences[~np.isnan(sample.values[sequences] + scored.values[sequences])]
        problem, are_permuted = self._token_problem(scored)
        if problem:
            if len(sequences):
                figures["comparison"] = self._compare(sequences, scored, self.dtype)
            if are_permuted:
                why = f"the row is of these texts in another order: {problem}, and in all they have the same numbers"
                return sample.agreement("mismatch", "text order", why, **figures)
            maker = "with another tokenizer, or otherwise set"
            if "tokenization" not in sample.record.provenance and sample.record.identity.source != "imported":
                maker = (
                    "with another tokenisation, by a version of llreg that did not yet follow the checkpoint's own file"
                )
            why = f"the row was made {maker}: {problem}{self._other_versions(scored)}"
            return sample.agreement("mismatch", "tokens", why, **figures)
        comparison = self._judge(sequences, scored)
        if comparison.outcome != "mismatch" and (problem := self._segment_problem(sequences, scored, comparison)):
            return sample.agreement("mismatch", "segments", problem, comparison=comparison, **figures)
        cause, why = self._reason(comparison, sequences, scored)
        return sample.agreement(comparison.outcome, cause, why, comparison=comparison, **figures)

    def _score(self, dtype: str, texts: Sequence[int]) -> _Scored:
        registry, ordered = self.sample.registry, sorted(texts)
        job = Job(
            source=self.source,
            identity=replace(self.sample.record.identity, weight_dtype=dtype),
            device=self.device,
            texts=registry.texts.complete(ordered),
            sequences=self.sample.sequences(ordered),
            num_texts=registry.num_texts,
            trust_remote_code=self.trust_remote_code,
            rendering=registry.rendering,
            cuts=registry.cuts,
            cuts_id=registry.info.segments["id"] if registry.info.segments else None,
        )
        scoring = Scoring(job)
        row, model = scoring.run(lambda entries: None, Reporter()).row, scoring.model
        values, tokens = flat_arrays(row)
        unknown = np.zeros(len(values), dtype=bool)
        unknown[job.sequences] = scoring.encoded.unknown
        limits = model.context_length, model.tokenizer
        return _Scored(row, values.astype(np.float64), tokens, unknown, *limits)

    def _coverage_problem(self, scored: _Scored) -> str:
        """A text that only one of the two has a value for, in words; "" if there is none."""
        sample = self.sample
        sequences = sample.sequences(sample.texts)
        has_value = ~np.isnan(sample.values[sequences]) & ~scored.unknown[sequences]  # those are a matter of tokens
        lost = sequences[has_value & np.isnan(scored.values[sequences])]
        if len(lost):
            tokens, limit = int(sample.tokens[lost[0]]), scored.context_length
            is_long = limit is not None and tokens >= limit
            reason = f"takes at most {limit:,}" if is_long else "finds fewer than two in it"
            return f"the row has a value for text {sample.text_of(lost[0])}, of {tokens:,} tokens, and the model {reason} here"
        for text in sample.left_out:
            if not np.isnan(scored.values[text]):
                return f"the row says that the model cannot score text {text}, and here it can"
        return ""

    def _other_versions(self, scored: _Scored) -> str:
        """In parentheses, the libraries of the row that are of other versions here."""
        row_versions, versions = self.sample.record.provenance.get("versions") or {}, scored.provenance["versions"]
        differences = [
            f"{name} {row_versions[name]}, here {versions[name]}"
            for name in ("transformers", "tokenizers", "llreg")
            if name in row_versions and row_versions[name] != versions.get(name)
        ]
        return f" (the row was made with {'; '.join(differences)})" if differences else ""

    def _token_problem(self, scored: _Scored) -> tuple[str, bool]:
        """How the numbers of tokens of the row's texts are others here, in words ("" if they are not), and whether they are
        the same in another order.

        All texts at hand are tokenised, not the sample alone: another tokenizer may differ in a few of them.
        """
        registry, sample = self.sample.registry, self.sample
        texts = np.flatnonzero(scorable(registry, sample.record))
        if len(texts) > _MOST_TOKENISED:
            drawn = np.random.default_rng(sample.texts).choice(texts, _MOST_TOKENISED, replace=False)
            texts = np.union1d(drawn, sample.texts)
        copied = registry.texts.complete(texts.tolist())
        if registry.rendering is None:
            encoded = llreg_extract.tokenise(scored.tokenizer, copied)
        else:
            encoded = llreg_extract.tokenise_pairs(scored.tokenizer, copied, registry.rendering, name=self.source.name)
        counts, sequences = encoded.num_scored(scored.context_length), sample.sequences(texts.tolist())
        # What only one of the two has a value for is a matter of coverage.
        counted = (sample.tokens[sequences] > 0) & ((counts > 0) | encoded.unknown)
        stored, here = sample.tokens[sequences][counted], counts[counted]
        numbers = [sample.text_of(sequence) for sequence in sequences[counted]]
        # Before, what a tokenizer puts behind a text was scored with it.
        place = "behind" if scored.provenance.get("appended_tokens") else "before"
        problem = token_difference(numbers, stored, here, place=place)
        is_whole = registry.rendering is None and len(texts) == registry.num_texts
        return problem, is_whole and bool(np.array_equal(np.sort(counts), np.sort(sample.tokens)))

    def _segment_problem(self, sequences: NDArray[np.int64], scored: _Scored, comparison: Comparison) -> str:
        """That the row's segments or counts of correct tokens are others here, in words; "" if they are not, or it has none."""
        row, cuts = self.sample.row, self.sample.registry.cuts
        if cuts is None or row.segment_log_likelihood is None or scored.row.segment_log_likelihood is None:
            return ""
        stored, here = (segments_of(each, sequences, cuts) for each in (row, scored.row))
        if difference := segment_difference(stored, here, comparison.beyond):
            return f"the texts' values are this model's, and those of their segments are not: {difference}"
        correct, correct_here = (correct_tokens(each)[sequences] for each in (row, scored.row))
        difference = first_choice_difference(correct, correct_here, int(scored.tokens[sequences].sum()))
        return (
            difference and f"the row's values are this model's, and its counts of correct tokens are not: {difference}"
        )

    # Values

    def _judge(self, sequences: NDArray[np.int64], scored: _Scored) -> Comparison:
        """Compare as strictly as can be: to the last digits, then by the arithmetic of the dtype, measured if possible."""
        in_float32 = self._compare(sequences, scored, "float32")
        if self.dtype == "float32" or in_float32.outcome == "match":  # nothing is hidden by the dtype
            return in_float32
        by_table = self._compare(sequences, scored, self.dtype)
        imported = self.sample.record.identity.source == "imported"  # by other programs, of other arithmetic
        if by_table.outcome == "mismatch" or len(sequences) < MEASURED_TEXTS or imported:
            return by_table
        gc.collect()  # the model that has just been used
        try:
            needs = llreg_extract.needs(self.source, dtype="float32", trust_remote_code=self.trust_remote_code)
            free = llreg_extract.device_memory(self.device).num_bytes
            if needs.memory_bytes is not None and free is not None and needs.memory_bytes > free:
                return by_table
            exact = self._score("float32", self.sample.texts)
        except (ModelError, InputError):  # weights that come in one dtype only
            return by_table
        return self._compare(sequences, scored, self.dtype, exact.values[sequences])

    def _compare(
        self, sequences: NDArray[np.int64], scored: _Scored, dtype: str, exact: NDArray[np.float64] | None = None
    ) -> Comparison:
        sample, provenance = self.sample, self.sample.record.provenance
        # Whether the row says that it was made on a CPU like this one, with the same libraries and in the same way.
        fields = ("device", "versions", "attention", "scoring_path", "batching")
        same_machine = all(provenance.get(field) == scored.provenance.get(field) for field in fields)
        return compare(
            sample.values[sequences],
            scored.values[sequences],
            scored.tokens[sequences],
            dtype,
            exact=exact,
            on_cpu=sample.device == "cpu",
            repeats=sample.device == "cpu" and same_machine,
        )

    def _reason(self, comparison: Comparison, sequences: NDArray[np.int64], scored: _Scored) -> tuple[Cause, str]:
        """What the outcome comes from, and what it means."""
        may_try_more = comparison.measured and len(self.sample.texts) < ADVISED_TEXTS
        if comparison.outcome == "match":
            more = f" (--texts {ADVISED_TEXTS} shows smaller ones)" if may_try_more else ""
            return "", (
                "the row holds what this model gives; weights that move a text by less than "
                f"{comparison.unseen:.2g} nats (root mean square) would look the same{more}"
            )
        if comparison.outcome == "mismatch":
            looked_up = sequences[:DISPLACED_TEXTS]
            num_displaced = self._count_displaced(looked_up, scored)
            if num_displaced:
                return "text order", (
                    f"the row is of these texts in another order: {num_displaced} of {len(looked_up)} values stand at "
                    "other places of it"
                )
            return "weights", "the row was not made with these weights: no arithmetic moves its values so far"
        if comparison.repeats and comparison.distance <= comparison.allowed:
            return "arithmetic", (
                "the row says that it was made on such a machine with these libraries, where llreg repeats itself, and its "
                f"values are others, if by no more than {self.dtype} arithmetic elsewhere might explain: a row in float32 can "
                "tell (llreg add --dtype float32)"
            )
        advice = "a row in float32 can tell (llreg add --dtype float32)"
        if may_try_more:
            advice = f"more texts may tell (--texts {ADVISED_TEXTS})"
        elif self.dtype == "float32":
            advice = "the whole row scored again may (llreg add --overwrite always, then llreg dist)"
        return "arithmetic", (
            "it stays open: the values are further apart than arithmetic should put them, and not so far that only other "
            f"weights do; {advice}"
        )

    def _count_displaced(self, sequences: NDArray[np.int64], scored: _Scored) -> int:
        """Values of the model that the row has for other texts; 0 if they are few, or no more than chance finds."""
        sample, values = self.sample, scored.values[sequences]  # (n_sequences,)
        row_values = np.where(np.isnan(sample.values), np.inf, sample.values)  # (n_row,)
        tolerance = DISPLACED_TOLERANCE * error_of(values, scored.tokens[sequences], self.dtype)
        is_elsewhere = sequences[:, None] != np.arange(len(row_values))  # (n_sequences, n_row)

        def count(shift: int) -> int:
            distance = np.abs(row_values - (values + shift * tolerance)[:, None])
            return int((is_elsewhere & (distance <= tolerance[:, None])).any(axis=1).sum())

        displaced, by_chance = count(0), float(np.mean([count(shift) for shift in _SHIFTS]))
        return displaced if displaced >= max(2, len(sequences) * DISPLACED_SHARE) and displaced > 3 * by_chance else 0
