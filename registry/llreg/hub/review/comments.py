"""What a review writes under a pull request, in Markdown that nobody else's words can break out of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llreg.hub.client.markdown import NOTHING, code, link, prose, table

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor
    from llreg.hub.client.repo import Repo
    from llreg.hub.judge.verdict import Finding, Measured, Verdict

_HEADLINES = {
    "good": "this can be merged",
    "attention": "valid, but a maintainer should look at it",
    "refused": "this cannot be merged as it is",
}
_SIGNS = {"refused": "**refused**", "attention": "**look**", "note": "note"}
_FINDINGS, _ROWS = 40, 30  # that are told one by one


def marker(verdict: Verdict) -> str:
    """What the next review knows this comment by, also after others have written: nothing that is read or shown."""
    return f"<!-- llreg-review {verdict.head} {verdict.version[:12] or '-'} {verdict.state} -->"


def says_the_same(comment: str, verdict: Verdict) -> bool:
    """Whether a comment of a review is of the same commit with the same result; another version of the registry is no news."""
    parts = comment.strip().partition("\n")[0].split()
    return parts[:3] == ["<!--", "llreg-review", verdict.head] and parts[4:] == [verdict.state, "-->"]


def is_review(comment: str) -> bool:
    """Whether a comment was written by a review."""
    return comment.lstrip().startswith("<!-- llreg-review ")


def verdict_comment(verdict: Verdict) -> str:
    """The comment that says what a review found."""
    headline = "everything in it is in the registry already" if verdict.is_empty else _HEADLINES[verdict.state]
    rows = len(verdict.new_rows)
    registry = f"version `{verdict.version[:12]}` with {verdict.num_rows:,} rows"
    parts = [
        marker(verdict),
        f"**llreg review: {headline}.** {_count(rows)} at commit `{verdict.head[:10]}`, against {registry}.",
        _finding_table(verdict.findings),
        _row_table(verdict.rows),
    ]
    if verdict.state == "refused":
        parts.append("Push a new commit to this pull request, and it will be reviewed again.")
    return "\n\n".join(part for part in parts if part) + "\n"


def merged_comment(verdict: Verdict, repo: Repo, commit: str, tag: str | None) -> str:
    """The comment that closes a pull request whose files were taken over."""
    named = f", version {code(tag)}" if tag else ""
    return (
        f"{verdict_comment(verdict)}\nMerged: these files are in {link(f'`{commit[:10]}`', repo.url('commit', commit))}"
        f"{named}. The commit holds the very bytes that were checked, and the new build; that is why this pull request is "
        "closed and not shown as merged. Thank you.\n"
    )


def there_comment(verdict: Verdict) -> str:
    """The comment that closes a pull request with nothing new in it."""
    return f"{verdict_comment(verdict)}\nNothing is left to merge, so this is closed.\n"


def _count(rows: int) -> str:
    return "No new row" if not rows else "One new row" if rows == 1 else f"{rows:,} new rows"


def _finding_table(findings: Sequence[Finding]) -> str:
    order = list(_SIGNS)
    shown = sorted(findings, key=lambda finding: order.index(finding.level))  # stable: by file within a level
    if not shown:
        return ""
    lines = [[_SIGNS[f.level], code(f.file) if f.file else "", prose(f.message)] for f in shown[:_FINDINGS]]
    more = f"\n\n… and {len(shown) - _FINDINGS:,} more." if len(shown) > _FINDINGS else ""
    return table(["", "file", "finding"], lines) + more


def _row_table(rows: Sequence[Measured]) -> str:
    if not rows:
        return ""
    header = ["new row", "bits a byte", "spread", "nearest rows, KL in bits a byte", "replicates", "scored again"]
    lines = [
        [
            code(row.row_id),
            NOTHING if math.isnan(row.mean) else f"{row.mean:.4f}{_z(row.mean_z)}",
            NOTHING if math.isnan(row.spread) else f"{row.spread:.4f}{_z(row.spread_z)}",
            "; ".join(map(_neighbor, row.nearest)) or "no other row is here",
            str(len(row.replicates)),
            row.recomputed.outcome if row.recomputed else NOTHING,
        ]
        for row in rows[:_ROWS]
    ]
    more = f"\n\n… and {len(rows) - _ROWS:,} more." if len(rows) > _ROWS else ""
    return table(header, lines, right=(1, 2, 4)) + more


def _z(z: float) -> str:
    return "" if math.isnan(z) else f" (z {z:+.1f})"


def _neighbor(other: Neighbor) -> str:
    return f"{code(other.row_id)} {other.kl:.6f} ± {other.kl_se:.6f}"
