"""The description of a pull request that adds rows: what they are, how they were measured, and what they are near to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llreg.hub.client.markdown import code, link, table
from llreg.store.rowcheck import REASONS

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor
    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

_MAX_ROWS = 30  # rows that are described one by one: a comment of some 20,000 characters
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
    from llreg.hub.judge.measure import measure
    from llreg.hub.judge.population import Population

    if not records:
        return _heading(registry, records) + "\n"
    described = list(records)[:_MAX_ROWS]
    # Measured as a review will measure them, against all rows here.
    population = Population(registry)
    digests = {record.digest for record in records}
    measured = measure(view_rows(registry, described, population.view, population.version), population)
    added = {record.row_id for record in population.records if record.digest in digests}
    more = f"… and {len(records) - _MAX_ROWS:,} more." if len(records) > _MAX_ROWS else ""
    neighbors = [
        [
            code(row.row_id),
            f"{row.mean:.4f}",
            "; ".join(_neighbor(neighbor, added) for neighbor in row.nearest) or "no other row is here",
            "; ".join(
                [f"{_neighbor(base, added)}, number {base.rank:,}" for base in row.bases]
                + [f"{code(model)} has no row here" for model in row.missing_bases]
            )
            or "none declared",
        ]
        for row in measured
    ]
    parts = [
        _heading(registry, records),
        row_table(described, registry.num_texts),
        more,
        "### Neighbours",
        table(["model", "bits a byte", "nearest rows, KL in bits a byte", "declared base"], neighbors, right=(1,)),
        more,
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


def row_table(records: Sequence[RowRecord], num_texts: int) -> str:
    """A line a row: what was measured, how, and by whom."""
    header = ["model", "commit", "weights", "texts scored", "tokens", "scored on", "with", "by"]
    lines = []
    for record in records:
        identity, provenance = record.identity, record.provenance
        quantization = f" {code(identity.quantization)}" if identity.quantization else ""
        versions = [
            code(f"{name} {version}")
            for name, version in provenance["versions"].items()
            if name in ("llreg", "torch", "transformers")
        ]
        lines.append(
            [
                code(record.row_id),
                _commit(record),
                code(identity.weight_dtype) + quantization,
                _scored_texts(record, num_texts),
                f"{provenance['tokens']:,}",
                f"{code(provenance['device']['type'])} {code(provenance['device']['name'])}",
                " ".join(versions),
                code(provenance["contributor"] or ""),
            ]
        )
    return table(header, lines, right=(4,))


def _commit(record: RowRecord) -> str:
    """The commit of the weights, with a link where it is one of the Hub's; the file, folder or adapter that is meant."""
    identity, revision = record.identity, record.identity.revision or ""
    part = identity.file or identity.subfolder
    suffix = f" {code(part)}" if part else ""
    if identity.adapter:
        suffix += f" of {code(identity.model)}, adapter {_short(identity.adapter['revision'])}"
    if identity.source != "hub" or revision.startswith("sha256:"):
        return f"{_short(revision)} ({code(identity.source)}){suffix}"
    from huggingface_hub import constants

    return link(_short(revision), f"{constants.ENDPOINT}/{identity.model}/tree/{revision}") + suffix


def _short(revision: str) -> str:
    return code(revision[: _SHA_CHARS + (len("sha256:") if revision.startswith("sha256:") else 0)])


def _scored_texts(record: RowRecord, num_texts: int) -> str:
    """How many texts could not be scored, and why; what is not among these reasons was not asked for."""
    counts = {word: int(record.provenance.get(name) or 0) for name, word in REASONS.items()}
    reasons = [f"{count:,} {word}" for word, count in counts.items() if count]
    if record.identity.subset:
        return "; ".join([f"a sample, `{record.identity.subset[:8]}`", *reasons])
    return "; ".join([f"{num_texts - sum(counts.values()):,} of {num_texts:,}", *reasons])


def _neighbor(neighbor: Neighbor, added: set[str]) -> str:
    """A row with its distance, its relation, and whether it is among those added."""
    verdict = neighbor.verdict if neighbor.verdict != "different" else ""
    notes = [note for note in (neighbor.relation, verdict, "new" * (neighbor.row_id in added)) if note]
    text = f"{code(neighbor.row_id)} {neighbor.kl:.6f} ± {neighbor.kl_se:.6f}"
    return f"{text} ({'; '.join(notes)})" if notes else text
