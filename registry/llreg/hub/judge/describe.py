"""The description of a pull request that adds rows: what they are, how they were measured, and what they are near to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llreg.hub.client.markdown import code, link, table

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor
    from llreg.hub.judge.verdict import Measured
    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

_SHOWN = 30  # rows that are told one by one: a comment of some 20,000 characters
_SHA_CHARS = 10


def describe(registry: Contents, records: Sequence[RowRecord]) -> str:
    """Describe new rows in Markdown, for the pull request that adds them.

    Parameters
    ----------
    registry : Contents
        It holds them already.
    records : sequence of RowRecord
        The new rows.

    Returns
    -------
    str
        Everything that models, machines and people are called stands in it as inline code.
    """
    from llreg.geometry.kl.rows import view_rows
    from llreg.hub.judge.plausibility import measure
    from llreg.hub.judge.population import Population

    if not records:
        return _heading(registry, records) + "\n"
    shown = list(records)[:_SHOWN]
    population = Population(registry)
    new = {record.digest for record in records}
    measured = measure(view_rows(registry, shown, population.view, population.version), population)
    added = {record.row_id for record in population.records if record.digest in new}
    parts = [
        _heading(registry, records),
        row_table(shown, registry.num_texts),
        _beyond(len(records)),
        "### Neighbours",
        _neighbour_table(measured, added),
        _beyond(len(records)),
        "KL divergences under this registry's texts, ± their standard error over texts, through the default view.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(registry: Contents, records: Sequence[RowRecord]) -> str:
    texts, protocol = registry.info["text_set"], registry.info["protocol"]
    count = {0: "no row", 1: "one row"}.get(len(records), f"{len(records):,} rows")
    return (
        f"Adds {count}, protocol {code(protocol['name'])} (id `{protocol['id'][:12]}`) on the text set {code(texts['name'])} "
        f"(id `{texts['id'][:12]}`, {texts['num_texts']:,} texts)."
    )


def _beyond(count: int) -> str:
    return f"… and {count - _SHOWN:,} more." if count > _SHOWN else ""


def row_table(records: Sequence[RowRecord], num_texts: int) -> str:
    """A line a row: what was measured, how, and by whom."""
    header = ["model", "commit", "weights", "texts scored", "tokens", "scored on", "with", "by"]
    return table(header, [_row_cells(record, num_texts) for record in records], right=(4,))


def _row_cells(record: RowRecord, num_texts: int) -> list[str]:
    provenance = record.provenance
    return [
        code(record.row_id),
        _commit(record),
        code(record.identity.weight_dtype)
        + (f" {code(record.identity.quantization)}" if record.identity.quantization else ""),
        _texts(record, num_texts),
        f"{provenance['tokens']:,}",
        f"{code(provenance['device']['type'])} {code(provenance['device']['name'])}",
        " ".join(code(f"{name} {version}") for name, version in _versions(record)),
        code(provenance["contributor"] or ""),
    ]


def _commit(record: RowRecord) -> str:
    identity = record.identity
    inside = identity.file or identity.subfolder
    where = f" {code(inside)}" if inside else ""
    where += f" of {code(identity.model)}, adapter {_short(identity.adapter['revision'])}" if identity.adapter else ""
    revision = identity.revision or ""
    short = _short(revision)
    if identity.source != "hub" or revision.startswith("sha256:"):
        return f"{short} ({code(identity.source)}){where}"
    from huggingface_hub import constants

    return link(short, f"{constants.ENDPOINT}/{identity.model}/tree/{revision}") + where


def _short(revision: str) -> str:
    return code(revision[: _SHA_CHARS + (len("sha256:") if revision.startswith("sha256:") else 0)])


def _texts(record: RowRecord, num_texts: int) -> str:
    """How many texts could not be scored, and why; what is not among these reasons was not asked for."""
    reasons = {"over_context": "over the context", "non_finite": "not finite", "unscored": "too short"}
    counts = {told: int(record.provenance.get(name) or 0) for name, told in reasons.items()}
    missing = [f"{count:,} {told}" for told, count in counts.items() if count]
    if record.identity.subset:
        return "; ".join([f"a sample, `{record.identity.subset[:8]}`", *missing])
    return "; ".join([f"{num_texts - sum(counts.values()):,} of {num_texts:,}", *missing])


def _versions(record: RowRecord) -> list[tuple[str, str]]:
    told = ("llreg", "torch", "transformers")
    return [(name, version) for name, version in record.provenance["versions"].items() if name in told]


def _neighbour_table(measured: Sequence[Measured], added: set[str]) -> str:
    lines = [
        [
            code(row.row_id),
            f"{row.mean:.4f}",
            "; ".join(_neighbour(other, added) for other in row.nearest) or "no other row is here",
            _bases(row, added),
        ]
        for row in measured
    ]
    return table(["model", "bits a byte", "nearest rows, KL in bits a byte", "declared base"], lines, right=(1,))


def _neighbour(other: Neighbor, added: set[str]) -> str:
    notes = [other.relation, other.verdict if other.verdict != "different" else "", "new" * (other.row_id in added)]
    told = "; ".join(note for note in notes if note)
    return f"{code(other.row_id)} {other.kl:.6f} ± {other.kl_se:.6f}" + (f" ({told})" if told else "")


def _bases(row: Measured, added: set[str]) -> str:
    found = [f"{_neighbour(base, added)}, number {base.rank:,}" for base in row.bases]
    found += [f"{code(model)} has no row here" for model in row.missing_bases]
    return "; ".join(found) or "none declared"
