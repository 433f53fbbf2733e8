"""The rules of a review: when a new row is refused, when a person should look at it, and what is only noted.

Nothing here says that a row is right, only what looks wrong or unusual. A replicate, which is another row of an identity that is
here already, is refused by `_judge_replicate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from llreg.hub.judge.measure import ENOUGH, Measured, Replicate
from llreg.hub.judge.verdict import Finding, Level

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor
    from llreg.hub.judge.population import Population
    from llreg.hub.judge.verdict import Verdict
    from llreg_schemas import RowRecord

# The thresholds.
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
FIRST = datetime(2020, 1, 1, tzinfo=UTC)  # nothing was added before there were models to add
AHEAD = timedelta(days=1)  # clocks differ; a row dated later than this would sort after all that are still to come


def judge(row: Measured, record: RowRecord, population: Population) -> list[Finding]:
    """What is to be said of a new row.

    Parameters
    ----------
    row : Measured
        What `llreg.hub.judge.measure.measure` found.
    record : RowRecord
    population : Population
        The rows it was compared with, the new ones among them.
    """
    findings = [
        *_judge_record(record, population),
        *(_judge_replicate(replicate, population.nats_per_bit) for replicate in row.replicates),
        *_judge_neighbors(row, population),
        *_judge_levels(row),
    ]
    return [Finding(level, row.file, message) for level, message in findings]


def _judge_record(record: RowRecord, population: Population) -> Iterator[tuple[Level, str]]:
    """Of what the row says of itself."""
    identity = record.identity
    # A local model under the name of one on the Hub may be something else.
    sources = {row.identity.source for row in population.records if row.identity.name == identity.name}
    if differing := ", ".join(sorted(sources - {identity.source})):
        yield (
            "attention",
            f"it names {identity.name} (source {identity.source}); its rows here are of source {differing}",
        )
    if identity.source == "imported":
        yield "note", "imported: its values come from elsewhere and cannot be recomputed"
    # No replicates: whether their weights are the same is not known, so their difference is no noise.
    alike = [row.row_id for row in population.records if row.identity.id == identity.id and row.digest != record.digest]
    if alike and not identity.is_pinned:
        message = f"of {identity.name} without a revision, as {alike[0]} is: whether both are of the same weights is not known"
        yield "attention", f"{message}; that name then means two rows"
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


def _judge_replicate(replicate: Replicate, nats_per_bit: float) -> tuple[Level, str]:
    """Of a row with the identity of one that is here: their values should differ by their arithmetic alone."""
    if math.isnan(replicate.distance):
        return "attention", f"it claims the identity of {replicate.row_id}, and cannot be compared with it in this view"
    figures = (
        f"over {replicate.num_texts:,} texts, largest difference {replicate.max_difference:.4g} nats, root mean square "
        f"{replicate.rms_difference:.4g}, KL {replicate.kl:.3g} nats a text; their dtypes explain a KL of {replicate.bound:.3g} "
        f"and a root mean square of {math.sqrt(2 * replicate.bound):.3g}"
    )
    if replicate.agrees:
        return (
            "attention",
            f"a replicate of {replicate.row_id} that agrees with it, after which that name means two rows: {figures}",
        )
    if replicate.distance > OTHER_VALUES * replicate.bound and replicate.distance / nats_per_bit > LEAST_BITS:
        message = f"it claims the identity of {replicate.row_id}, and its values are not those of that model: {figures}"
        return "refused", f"{message}; if the row that is there is the wrong one, retract it first"
    return (
        "attention",
        f"a replicate of {replicate.row_id} that differs by more than its arithmetic explains: {figures}",
    )


def _judge_neighbors(row: Measured, population: Population) -> Iterator[tuple[Level, str]]:
    """Of the distances to rows of other identities."""
    # Rows of other models that it cannot be told apart from.
    for neighbor in row.nearest:
        if neighbor.model == row.model or neighbor.verdict not in ("identical", "same within noise"):
            continue
        if neighbor.verdict == "identical":
            yield "attention", f"its values are those of {neighbor.row_id}, which is another model (KL 0)"
        elif not neighbor.relation:
            yield (
                "attention",
                f"it cannot be told from {neighbor.row_id}, and neither declares the other ({_kl(neighbor)})",
            )
        else:
            yield "note", f"it cannot be told from {neighbor.row_id} ({neighbor.relation}, {_kl(neighbor)})"

    if population.num_own and row.shared < row.least:
        yield (
            "attention",
            f"it shares at most {row.shared:,} scored texts of this view with any row here; fewer than {row.least} say nothing",
        )

    count = len(population) - 1  # the row itself is one of them
    for position, sibling in enumerate(row.siblings):
        # Checkpoints share a name, too: only where not even the nearest of the same name is near is something wrong.
        is_far = position == 0 and count >= ENOUGH and sibling.rank > count / 2
        judged = ", which is farther than most rows of other models" if is_far else ""
        yield (
            "attention" if is_far else "note",
            f"another measurement of the same model, {sibling.row_id}: {_kl(sibling)}, {_rank(sibling, count)}{judged}",
        )

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


def _judge_levels(row: Measured) -> Iterator[tuple[Level, str]]:
    """Of how unusual a row is among those of the registry."""
    for quantity, value, z in (("mean of", row.mean, row.mean_z), ("spread over texts of", row.spread, row.spread_z)):
        if abs(z) > UNUSUAL:
            yield (
                "attention",
                f"an unusual {quantity} {value:.4f} bits a byte (robust z {z:+.1f}; beyond {UNUSUAL:g} is unusual)",
            )
    if row.far_share < FAR and row.nearest:
        nearest = row.nearest[0]
        share = f"{row.far_share:.1%} of the pairs of rows here are as far apart (under {FAR:.0%} is unusual)"
        yield "attention", f"far from every row: its nearest, {nearest.row_id}, is at {_kl(nearest)}, and {share}"


def _kl(neighbor: Neighbor) -> str:
    return f"{neighbor.kl:.6f} ± {neighbor.kl_se:.6f} bits a byte"


def _rank(neighbor: Neighbor, count: int) -> str:
    return f"number {neighbor.rank:,} of {count:,} by distance"


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
