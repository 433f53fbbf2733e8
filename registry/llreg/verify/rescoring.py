"""A row's texts scored again with its model, and what the difference comes from."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg.add.job import Job, Scoring
from llreg.add.journal import read_entries
from llreg.add.reporter import Reporter
from llreg.add.sequences import sequence_places
from llreg.store.subsets import read_subset
from llreg.verify.comparison import Agreement, Comparison, compare, error_of, other_tokens
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg.store.rowfile import Row
    from llreg.verify.comparison import Cause, Outcome
    from llreg_extract import Source
    from llreg_schemas import RowRecord

_LEFT_OUT = 4  # texts that the row has no value for and that are scored, too: the model should give them none
_ENOUGH = 8  # texts from which on the arithmetic's error is measured rather than taken from a table
_MANY = 256  # texts up to which more of them are advised
_TOLERANCE = 4.0  # errors by which a value found at another place of the row may be off
_LOOKED_UP = 64  # texts at most: enough to know
_SHIFTS = (-9, -7, -5, -3, 3, 5, 7, 9)  # in tolerances: where no value of the model is, to know what chance finds


def scorable(registry: Contents, record: RowRecord) -> NDArray[np.bool_]:
    """Texts that a row may have values for, and that are copied here: bool array of shape (n_texts,)."""
    inside = np.ones(registry.num_texts, dtype=bool)
    if record.identity.subset:
        inside[:] = False
        inside[read_subset(registry, record.identity.subset)["texts"]] = True
    copied = np.array([text is not None for text in registry.texts.texts])
    return np.asarray(inside & copied)


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
        Of the whole row; sequences are numbered as in `llreg.add.sequences`.
    """

    def __init__(self, registry: Contents, row: Row, texts: Sequence[int]) -> None:
        self.registry, self.row, self.texts = registry, row, list(texts)
        self.values, self.tokens = _flat(row)

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
        record, told = self.record, self.record.provenance
        absent = np.isnan(self.row.log_likelihood)
        outside = 0
        if record.identity.subset:
            outside = len(absent) - len(read_subset(self.registry, record.identity.subset)["texts"])
        explained = sum(int(told.get(name) or 0) for name in ("over_context", "unscored"))
        if record.identity.source == "imported" or absent.sum() - outside > explained:  # incomplete, and known to be
            return []
        there = np.flatnonzero(scorable(self.registry, record) & absent)
        chosen = np.random.default_rng(self.texts).choice(there, min(_LEFT_OUT, len(there)), replace=False)
        return sorted(int(text) for text in chosen)

    def places(self, texts: Sequence[int]) -> NDArray[np.int64]:
        """Sequences of some texts."""
        found = np.array(texts, dtype=np.int64)
        return sequence_places(found, self.registry.num_texts, pairs=self.registry.rendering is not None)

    def text_of(self, place: int) -> int:
        """Text of a sequence."""
        return int(place) % self.registry.num_texts

    def agreement(self, outcome: Outcome, cause: Cause, why: str, **more: Any) -> Agreement:
        """What was found of this sample."""
        record, texts = self.record, tuple(self.texts)
        return Agreement(
            record.row_id, record.identity.name, outcome, cause, why, texts, row_device=self.device, **more
        )


def _flat(row: Row) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    arrays = list(row.arrays.values())
    return np.concatenate(arrays[::2]).astype(np.float64), np.concatenate(arrays[1::2])


@dataclass(frozen=True)
class _Scored:
    """A sample as this machine scores it: arrays as of `Sample`, provenance as of a row, the model's limit and tokenizer."""

    values: NDArray[np.float64]
    tokens: NDArray[np.int32]
    provenance: Mapping[str, Any]
    context_length: int | None
    tokenizer: Any


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
        """Score the sample, and say what comes out.

        Raises
        ------
        ModelError
            If the model cannot be loaded, or fails.
        """
        sample, scored = self.sample, self._score(self.dtype, [*self.sample.texts, *self.sample.left_out])
        where: dict[str, Any] = {"dtype": self.dtype, "device": str(scored.provenance["device"]["type"])}
        uncovered = self._uncovered(scored)
        if uncovered:
            return sample.agreement("mismatch", "coverage", uncovered, **where)
        places = sample.places(sample.texts)
        places = places[~np.isnan(sample.values[places])]
        stored, found = sample.tokens[places], scored.tokens[places]
        other = other_tokens([sample.text_of(place) for place in places], stored, found)
        if other:
            by_table = self._compare(places, scored, self.dtype)
            return sample.agreement("mismatch", *self._tokens(other, scored), comparison=by_table, **where)
        comparison = self._judge(places, scored)
        return sample.agreement(
            comparison.outcome, *self._meaning(comparison, places, scored), comparison=comparison, **where
        )

    def _score(self, dtype: str, texts: Sequence[int]) -> _Scored:
        registry, ordered = self.sample.registry, sorted(texts)
        job = Job(
            source=self.source,
            identity=replace(self.sample.record.identity, weight_dtype=dtype),
            device=self.device,
            texts=registry.texts.complete(ordered),
            places=self.sample.places(ordered),
            num_texts=registry.num_texts,
            kept=read_entries(b""),
            trust_remote_code=self.trust_remote_code,
            rendering=registry.rendering,
        )
        scoring = Scoring(job)
        row, model = scoring.run(lambda entries: None, Reporter()).row, scoring.model
        return _Scored(*_flat(row), row.record.provenance, model.context_length, model.tokenizer)

    # Texts that only one of the two has a value for

    def _uncovered(self, scored: _Scored) -> str:
        sample = self.sample
        places = sample.places(sample.texts)
        absent = places[~np.isnan(sample.values[places]) & np.isnan(scored.values[places])]
        if len(absent):
            tokens, limit = int(sample.tokens[absent[0]]), scored.context_length
            long = limit is not None and tokens >= limit
            why = f"takes at most {limit:,}" if long else "finds fewer than two in it"
            return (
                f"the row has a value for text {sample.text_of(absent[0])}, of {tokens:,} tokens, and the model {why} here"
                f"{self._versions(scored)}"
            )
        there = [text for text in sample.left_out if not np.isnan(scored.values[text])]
        if there:
            return f"the row says that the model cannot score text {there[0]}, and here it can{self._versions(scored)}"
        return ""

    def _versions(self, scored: _Scored) -> str:
        then, now = self.sample.record.provenance.get("versions") or {}, scored.provenance["versions"]
        differ = [
            f"{name} {then[name]}, here {now[name]}"
            for name in ("transformers", "tokenizers", "llreg")
            if name in then and then[name] != now.get(name)
        ]
        return f" (the row was made with {'; '.join(differ)})" if differ else ""

    # Other tokens

    def _tokens(self, other: str, scored: _Scored) -> tuple[Cause, str]:
        if self._are_permuted(scored):
            return (
                "text order",
                f"the row is of these texts in another order: {other}, and in all they have the same numbers",
            )
        return "tokens", f"the row was made with another tokenizer, or otherwise set: {other}{self._versions(scored)}"

    def _are_permuted(self, scored: _Scored) -> bool:
        """Whether the row's numbers of tokens are those of its texts here, in another order."""
        registry, record = self.sample.registry, self.sample.record
        if registry.rendering is not None or not scorable(registry, record).all():
            return False
        lengths = llreg_extract.tokenise(scored.tokenizer, registry.texts.complete()).lengths
        longest = np.inf if scored.context_length is None else scored.context_length
        counts = np.where((lengths < 2) | (lengths > longest), 0, lengths - 1)
        return bool(np.array_equal(np.sort(counts), np.sort(self.sample.tokens)))

    # Other values

    def _judge(self, places: NDArray[np.int64], scored: _Scored) -> Comparison:
        equal = self._compare(places, scored, "float32")
        if self.dtype == "float32" or equal.outcome == "match":  # to the last digits, so that nothing is hidden
            return equal
        by_table = self._compare(places, scored, self.dtype)
        imported = self.sample.record.identity.source == "imported"  # by other programs, of other arithmetic
        if by_table.outcome == "mismatch" or len(places) < _ENOUGH or imported:
            return by_table
        gc.collect()  # the model that has just been used
        try:
            if not self._fits_in_float32():
                return by_table
            exact = self._score("float32", self.sample.texts)
        except (ModelError, InputError):  # weights that come in one dtype only
            return by_table
        return self._compare(places, scored, self.dtype, exact.values[places])

    def _compare(
        self, places: NDArray[np.int64], scored: _Scored, dtype: str, exact: NDArray[np.float64] | None = None
    ) -> Comparison:
        return compare(
            self.sample.values[places],
            scored.values[places],
            scored.tokens[places],
            dtype,
            exact=exact,
            on_cpu=self.sample.device == "cpu",
            repeats=self._repeats(scored),
        )

    def _repeats(self, scored: _Scored) -> bool:
        """Whether the row says that it was made on a CPU like this one, with the same libraries and in the same way."""
        then, now = self.sample.record.provenance, scored.provenance
        fields = ("device", "versions", "attention", "scoring_path", "batching")
        return self.sample.device == "cpu" and all(then.get(field) == now.get(field) for field in fields)

    def _fits_in_float32(self) -> bool:
        needed = llreg_extract.needs(
            self.source, dtype="float32", trust_remote_code=self.trust_remote_code
        ).memory_bytes
        there = llreg_extract.device_memory(self.device).num_bytes
        return needed is None or there is None or needed <= there

    def _meaning(self, found: Comparison, places: NDArray[np.int64], scored: _Scored) -> tuple[Cause, str]:
        if found.outcome == "match":
            more = f" (--texts {_MANY} shows smaller ones)" if found.measured and len(self.sample.texts) < _MANY else ""
            return "", (
                f"the row holds what this model gives; weights that move a text by less than {found.unseen:.2g} nats (root mean "
                f"square) would look the same{more}"
            )
        if found.outcome == "inconclusive":
            return "arithmetic", _open(found, self.dtype, len(self.sample.texts))
        elsewhere = self._elsewhere(places[:_LOOKED_UP], scored)
        if elsewhere:
            return "text order", (
                f"the row is of these texts in another order: {elsewhere} of {min(len(places), _LOOKED_UP)} values stand at other "
                "places of it"
            )
        return "weights", "the row was not made with these weights: no arithmetic moves its values so far"

    def _elsewhere(self, places: NDArray[np.int64], scored: _Scored) -> int:
        """Values of the model that the row has for other texts; 0 if they are few, or no more than chance finds."""
        sample, found = self.sample, scored.values[places]
        values = np.where(np.isnan(sample.values), np.inf, sample.values)
        tolerance = _TOLERANCE * error_of(found, scored.tokens[places], self.dtype)
        others = places[:, None] != np.arange(len(values))  # (places, values)

        def hits(shift: int) -> int:
            off = np.abs(values - (found + shift * tolerance)[:, None])
            return int((others & (off <= tolerance[:, None])).any(axis=1).sum())

        there, by_chance = hits(0), float(np.mean([hits(shift) for shift in _SHIFTS]))
        return there if there >= max(2, len(places) / 2) and there > 3 * by_chance else 0


def _open(found: Comparison, dtype: str, num_texts: int) -> str:
    """Why a comparison tells nothing, and what would."""
    if found.repeats and found.distance <= found.allowed:
        return (
            "the row says that it was made on such a machine with these libraries, where llreg repeats itself, and its values "
            f"are others, if by no more than {dtype} arithmetic elsewhere might explain: a row in float32 can tell (llreg add "
            "--dtype float32)"
        )
    told = "it stays open: the values are further apart than arithmetic should put them, and not so far that only other weights do"
    if found.measured and num_texts < _MANY:
        return f"{told}; more texts may tell (--texts {_MANY})"
    if dtype == "float32":
        return f"{told}; the whole row scored again may (llreg add --overwrite always, then llreg dist)"
    return f"{told}; a row in float32 can tell (llreg add --dtype float32)"
