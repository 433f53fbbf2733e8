"""Whether a new row looks like a measurement of the model that it names, by its distances to the rows that are there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.noise import noise_bound
from llreg.hub.judge.population import Distances, Population, levels
from llreg.hub.judge.verdict import Finding, Level, Measured, Replicate
from llreg.store.rowfile import row_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.neighbors import Neighbor
    from llreg.hub.judge.verdict import Verdict
    from llreg_schemas import RowRecord

# Thresholds, all of them.
NEAREST = 3  # neighbours that are shown
REPLICATES = 5  # rows of one identity that a new one is compared with text by text: those that differ most
ENOUGH = 20  # rows below which median and spread of a registry say nothing: nothing is then called unusual
# Robust z (deviation from the median over 1.4826 x the median absolute deviation) beyond which a person should look.
# Models are no normal sample, their distribution has long tails: 5 lets those through, and finds values that are no model's.
UNUSUAL = 5.0
# A row that is farther from its nearest than 99 of 100 pairs are from each other is like no model here. Models without any
# relative here are about as far from their nearest as unrelated pairs are; values made up text by text are much farther.
FAR = 0.01
# A replicate whose KL is so many times what arithmetic alone explains was not made from those weights: 100 x in KL is 10 x
# in nats a text, where other hardware and library versions differ by a factor of two or three (ENGINE: 0.3 to 0.96 nats
# in bfloat16, whatever the path).
OTHER_VALUES = 100.0
# ... and differs by more than this: float32 noise is so small that another kernel alone can pass any multiple of it.
LEAST_BITS = 1e-3  # bits per byte; quantising to 8 bits moves a model by more
FEWEST = 20  # texts shared with a row here, or half of the view's if that is less: fewer say nothing
FIRST = datetime(2020, 1, 1, tzinfo=UTC)  # nothing was added before there were models to add
AHEAD = timedelta(days=1)  # clocks differ; a row dated later than this would sort after all that are still to come


def measure(new: Rows, population: Population) -> list[Measured]:
    """Measure new rows against those of a population.

    Parameters
    ----------
    new : Rows
        Through the population's view.
    population : Population
        It holds the new rows, too: they are compared with each other.
    """
    comparison = _Comparison(new, population)
    return [comparison.measured(i) for i in range(len(new))]


def robust_z(values: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations from the median of known values over 1.4826 x their median absolute deviation; NaN if they are too few.

    1.4826 makes it the standard deviation of a normal sample (Rousseeuw and Croux 1993, section 1).
    """
    known = known[np.isfinite(known)]
    if len(known) < ENOUGH:
        return np.full(len(values), np.nan)
    middle = np.median(known)
    scale = 1.4826 * np.median(np.abs(known - middle))
    return np.asarray((values - middle) / max(scale, 1e-12))


def _nearest_gap(distances: Distances) -> NDArray[np.float64]:
    bits = np.where(np.isnan(distances.bits), np.inf, distances.bits)
    return np.asarray(bits.min(axis=1, initial=np.inf))


def _share_beyond(pairs: NDArray[np.float64], gaps: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Share of the pairs of rows here that are at least so far apart; NaN if rows are too few."""
    if count < ENOUGH or not len(pairs):
        return np.full(len(gaps), np.nan)
    return np.asarray(1 - np.searchsorted(pairs, gaps, side="left") / len(pairs))


class _Comparison:
    """New rows, and all that is computed of them at once."""

    def __init__(self, new: Rows, population: Population) -> None:
        self.new, self.population = new, population
        self.distances = population.distances(new)
        self.shared = population.shared(new, self.distances)
        self.least = min(FEWEST, math.ceil(new.values.shape[1] / 2))
        self.mean, self.spread = levels(new)
        known_mean, known_spread = population.levels
        self.mean_z, self.spread_z = robust_z(self.mean, known_mean), robust_z(self.spread, known_spread)
        self.far_share = _share_beyond(population.pairs, _nearest_gap(self.distances), len(known_mean))

    def measured(self, i: int) -> Measured:
        """What was measured of the i-th row."""
        record, records, bits = self.new.records[i], self.population.records, self.distances.bits[i]
        there = [int(k) for k in np.argsort(bits, kind="stable") if not np.isnan(bits[k])]
        nearest_of: dict[str, int] = {}
        for k in there:
            nearest_of.setdefault(records[k].identity.name, k)
        declared = set(record.base_models)
        bases = sorted(nearest_of[model] for model in declared & nearest_of.keys())
        siblings = [k for k in there if _is_sibling(record, records[k])][:NEAREST]
        same = [k for k in there if records[k].identity.id == record.identity.id]
        lost = [
            k
            for k in np.flatnonzero(np.isnan(bits)).tolist()
            if records[k].identity.id == record.identity.id and records[k].digest != record.digest
        ]
        wanted = list(dict.fromkeys([*there[:NEAREST], *bases, *siblings]))
        found = dict(zip(wanted, self.population.neighbors(self.new, i, self.distances, wanted), strict=True))
        return Measured(
            row_id=record.row_id,
            model=record.identity.name,
            file=row_path(record).as_posix(),
            shared=int(self.shared[i]),
            least=self.least,
            mean=float(self.mean[i]),
            spread=float(self.spread[i]),
            mean_z=float(self.mean_z[i]),
            spread_z=float(self.spread_z[i]),
            far_share=float(self.far_share[i]),
            nearest=[found[k] for k in there[:NEAREST]],
            bases=[found[k] for k in bases],
            siblings=[found[k] for k in siblings],
            missing_bases=sorted(declared - {other.identity.name for other in records}),
            replicates=[self._replicate(i, k) for k in [*same[-REPLICATES:], *lost[:REPLICATES]]],
        )

    def _replicate(self, i: int, k: int) -> Replicate:
        other = self.population.some([k])
        difference = np.abs(self.new.values[i] - other.values[0])
        difference = difference[~np.isnan(difference)]
        kl, floor, count = (part[i, k] for part in (self.distances.kl, self.distances.floor, self.distances.num_texts))
        return Replicate(
            row_id=other.row_ids[0],
            kl=float(kl),
            bound=float(noise_bound(floor, count)),
            max_difference=float(difference.max()) if len(difference) else math.nan,
            rms_difference=float(np.sqrt((difference**2).mean())) if len(difference) else math.nan,
            num_texts=len(difference),
        )


def _is_sibling(record: RowRecord, other: RowRecord) -> bool:
    """Whether another row is of the same model, measured otherwise: other dtype, quantisation, file or revision."""
    return record.identity.name == other.identity.name and record.identity.id != other.identity.id


def judge(measured: Measured, record: RowRecord, population: Population) -> list[Finding]:
    """What is to be said of a new row: nothing of it says that the row is right, only what looks wrong or unusual."""
    return [Finding(level, measured.file, message) for level, message in _judgements(measured, record, population)]


def _judgements(row: Measured, record: RowRecord, population: Population) -> Iterator[tuple[Level, str]]:
    yield from _on_record(record, population)
    for replicate in row.replicates:
        yield _on_replicate(replicate, population)
    yield from _on_twins(row)
    others = len(population) - 1  # the row itself is one of them
    yield from _on_shared(row, population.num_own)
    yield from _on_siblings(row, others)
    yield from _on_bases(row, others)
    yield from _on_level(row)


def _on_record(record: RowRecord, population: Population) -> Iterator[tuple[Level, str]]:
    identity = record.identity
    kinds = {other.identity.source for other in population.records if other.identity.name == identity.name}
    if kinds - {identity.source}:
        others = ", ".join(sorted(kinds - {identity.source}))
        yield "attention", f"it names {identity.name} (source {identity.source}); its rows here are of source {others}"
    if identity.source == "imported":
        yield "note", "imported: its values come from elsewhere and cannot be recomputed"
    if identity.source == "local":
        yield "note", "scored from local files: only who has them can score it again"
    if record.provenance.get("trust_remote_code"):
        yield "note", "scored with code from the checkpoint (trust_remote_code)"
    added = datetime.fromisoformat(record.added_at)
    if not FIRST <= added <= datetime.now(UTC) + AHEAD:
        when = f"before {FIRST.year}" if added < FIRST else "yet to come"
        yield "attention", f"it says that it was added at {record.added_at}, which is {when}"
    if record.digest in population.retractions:
        yield "attention", f"this row was retracted: {population.retractions[record.digest]['why']}"


def judge_count(verdict: Verdict) -> None:
    """Where rows are too few to say what is usual, a person decides, unless new rows were scored again and match."""
    matches = any(row.recomputed and row.recomputed.outcome == "match" for row in verdict.rows)
    if any(math.isnan(row.mean_z) and not math.isnan(row.mean) for row in verdict.rows) and not matches:
        verdict.find(
            "attention",
            "",
            f"too few rows here to say what is usual ({verdict.num_rows:,}; {ENOUGH} are needed): a person decides, and takes it "
            f"over with --merge {verdict.number}; or score some texts again with --recompute",
        )


def _on_replicate(found: Replicate, population: Population) -> tuple[Level, str]:
    if math.isnan(found.distance):
        return "attention", f"it claims the identity of {found.row_id}, and cannot be compared with it in this view"
    figures = (
        f"over {found.num_texts:,} texts, largest difference {found.max_difference:.4g} nats, root mean square "
        f"{found.rms_difference:.4g}, KL {found.kl:.3g} nats a text; their dtypes explain a KL of {found.bound:.3g} and a root "
        f"mean square of {math.sqrt(2 * found.bound):.3g}"
    )
    if found.agrees:
        told = f"a replicate of {found.row_id} that agrees with it, after which that name means two rows"
        return "attention", f"{told}: {figures}"
    bits = found.distance / population.nats_per_bit
    if found.distance > OTHER_VALUES * found.bound and bits > LEAST_BITS:
        told = f"it claims the identity of {found.row_id}, and its values are not those of that model: {figures}"
        return "refused", f"{told}; if the row that is there is the wrong one, retract it first"
    return "attention", f"a replicate of {found.row_id} that differs by more than its arithmetic explains: {figures}"


def _on_twins(row: Measured) -> Iterator[tuple[Level, str]]:
    """Rows of other models that it cannot be told apart from."""
    for other in row.nearest:
        if other.model == row.model or other.verdict not in ("identical", "same within noise"):
            continue
        if other.verdict == "identical":
            yield "attention", f"its values are those of {other.row_id}, which is another model (KL 0)"
        elif not other.relation:
            yield "attention", f"it cannot be told from {other.row_id}, and neither declares the other ({_kl(other)})"
        else:
            yield "note", f"it cannot be told from {other.row_id} ({other.relation}, {_kl(other)})"


def _on_siblings(row: Measured, count: int) -> Iterator[tuple[Level, str]]:
    for place, other in enumerate(row.siblings):
        # Checkpoints share a name, too: only where not even the nearest of the same name is near is something wrong.
        level: Level = "attention" if place == 0 and count >= ENOUGH and other.rank > count / 2 else "note"
        judged = ", which is farther than most rows of other models" if level == "attention" else ""
        yield (
            level,
            f"another measurement of the same model, {other.row_id}: {_kl(other)}, {_rank(other, count)}{judged}",
        )


def _on_bases(row: Measured, count: int) -> Iterator[tuple[Level, str]]:
    for model in row.missing_bases:
        yield "note", f"its declared base {model} has no row here"
    for base in row.bases:
        if base.rank == 1:
            yield "note", f"its declared base {base.row_id} is its nearest row ({_kl(base)})"
        elif count >= ENOUGH and base.rank > count / 2:
            yield (
                "attention",
                f"its declared base {base.row_id} is farther from it than most rows are ({_kl(base)}, {_rank(base, count)})",
            )
        else:
            yield "note", f"its declared base {base.row_id} is not its nearest row: {_kl(base)}, {_rank(base, count)}"


def _on_shared(row: Measured, count: int) -> Iterator[tuple[Level, str]]:
    if count and row.shared < row.least:
        yield (
            "attention",
            f"it shares at most {row.shared:,} scored texts of this view with any row here; fewer than {row.least} say nothing",
        )


def _on_level(row: Measured) -> Iterator[tuple[Level, str]]:
    for what, value, z in (
        ("mean of", f"{row.mean:.4f} bits a byte", row.mean_z),
        ("spread over texts of", f"{row.spread:.4f} bits a byte", row.spread_z),
    ):
        if abs(z) > UNUSUAL:
            yield "attention", f"an unusual {what} {value} (robust z {z:+.1f}; beyond {UNUSUAL:g} is unusual)"
    if row.far_share < FAR and row.nearest:
        told = f"its nearest, {row.nearest[0].row_id}, is at {_kl(row.nearest[0])}"
        share = f"{row.far_share:.1%} of the pairs of rows here are as far apart (under {FAR:.0%} is unusual)"
        yield "attention", f"far from every row: {told}, and {share}"


def _kl(other: Neighbor) -> str:
    return f"{other.kl:.6f} ± {other.kl_se:.6f} bits a byte"


def _rank(other: Neighbor, count: int) -> str:
    return f"number {other.rank:,} of {count:,} by distance"
