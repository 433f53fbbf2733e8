"""Pull requests as the Hub's discussions: which are open, and the comments that a review writes under them.

The comments are Markdown that nobody else's words can break out of (`llreg.hub.client.markdown`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llreg.hub.client.markdown import NOTHING, code, link, prose, table
from llreg_schemas.errors import HubAccessError, HubError, InputError

if TYPE_CHECKING:
    from llreg.hub.client.repo import Repo
    from llreg.hub.judge.measure import Measured
    from llreg.hub.judge.verdict import Finding, Verdict

_MARKER = "<!-- llreg-review "  # then commit, version and state of the verdict
_HEADLINES = {
    "good": "this can be merged",
    "attention": "valid, but a maintainer should look at it",
    "refused": "this cannot be merged as it is",
}
_SIGNS = {"refused": "**refused**", "attention": "**look**", "note": "note"}
_MAX_FINDINGS, _MAX_ROWS = 40, 30  # that a comment lists one by one


def open_requests(repo: Repo) -> list[Any]:
    """Open pull requests, oldest first: drafts are not, their authors are still at work."""
    with repo.errors():
        discussions = repo.api.get_repo_discussions(
            repo.id, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
        )
        requests = [discussion for discussion in discussions if discussion.status == "open"]
    return sorted(requests, key=lambda request: request.num)


def named_requests(repo: Repo, numbers: Sequence[int]) -> list[Any]:
    """Pull requests by their numbers, in that order.

    Raises
    ------
    InputError
        If one is no pull request, or not open.
    """
    requests = []
    for number in dict.fromkeys(numbers):
        try:
            details = _details(repo, number)
        except HubError as error:
            # A number that nothing has; any other failure is the Hub's.
            if getattr(getattr(error.__cause__, "response", None), "status_code", None) != 404:
                raise
            raise InputError(f"{repo.id} has no pull request {number}; see: llreg review") from error
        if not details.is_pull_request:
            raise InputError(f"#{number} of {repo.id} is a discussion, not a pull request")
        if details.status != "open":
            raise InputError(f"pull request {number} of {repo.id} is {details.status}, not open")
        requests.append(details)
    return requests


def _details(repo: Repo, number: int) -> Any:
    """One discussion with what was written in it."""
    with repo.errors():
        return repo.api.get_discussion_details(repo.id, number, repo_type="dataset")


def reviewer(repo: Repo) -> str:
    """Name of the user who comments.

    Raises
    ------
    HubAccessError
        If nobody is logged in.
    """
    try:
        return repo.user()
    except HubAccessError as error:
        raise HubAccessError(f"{error}; or only look, and write no comments: --no-comment") from error


def comment_verdict(repo: Repo, verdict: Verdict, user: str) -> bool:
    """Write the verdict under its pull request, unless the user's last review there said the same; whether it was written.

    Where the Hub refuses, that is a finding: one pull request must not keep the others from being reviewed.
    """
    try:
        events = _details(repo, verdict.number).events
        comments = [event for event in events if event.type == "comment" and event.author == user and not event.hidden]
        reviews = [event.content for event in comments if event.content.lstrip().startswith(_MARKER)]
        if reviews:
            # Of the same commit with the same result; another version of the registry is no news.
            words = reviews[-1].strip().partition("\n")[0].split()
            if words[:3] == ["<!--", "llreg-review", verdict.head] and words[4:] == [verdict.state, "-->"]:
                return False
        with repo.errors():
            repo.api.comment_discussion(repo.id, verdict.number, verdict_comment(verdict), repo_type="dataset")
    except HubError as error:
        verdict.find("attention", "", f"this verdict could not be written there: {error}")
        return False
    return True


def close_discussion(repo: Repo, verdict: Verdict, text: str) -> None:
    """Close a pull request with a comment; where the Hub refuses, that is a finding: what was merged stays merged."""
    try:
        with repo.errors():
            repo.api.change_discussion_status(
                repo.id, verdict.number, new_status="closed", comment=text, repo_type="dataset"
            )
    except HubError as error:
        verdict.find("note", "", f"it could not be closed ({error}): close it by hand, or run the review again")
    else:
        verdict.closed = True


def verdict_comment(verdict: Verdict) -> str:
    """The comment that says what a review found."""
    headline = "everything in it is in the registry already" if verdict.is_empty else _HEADLINES[verdict.state]
    count = len(verdict.new_rows)
    rows = "No new row" if not count else "One new row" if count == 1 else f"{count:,} new rows"
    registry = f"version `{verdict.version[:12]}` with {verdict.num_rows:,} rows"
    # By the marker the next review knows this comment, also after others have written: nothing of it is shown.
    parts = [
        f"{_MARKER}{verdict.head} {verdict.version[:12] or '-'} {verdict.state} -->",
        f"**llreg review: {headline}.** {rows} at commit `{verdict.head[:10]}`, against {registry}.",
        _finding_table(verdict.findings),
        _row_table(verdict.rows),
    ]
    if verdict.state == "refused":
        parts.append("Push a new commit to this pull request, and it will be reviewed again.")
    return "\n\n".join(part for part in parts if part) + "\n"


def merged_comment(verdict: Verdict, repo: Repo, commit: str, tag: str | None) -> str:
    """The comment that closes a pull request whose files were taken over."""
    version = f", version {code(tag)}" if tag else ""
    return (
        f"{verdict_comment(verdict)}\nMerged: these files are in {link(f'`{commit[:10]}`', repo.url('commit', commit))}"
        f"{version}. The commit holds the very bytes that were checked, and the new build; that is why this pull request is "
        "closed and not shown as merged. Thank you.\n"
    )


def closing_comment(verdict: Verdict) -> str:
    """The comment that closes a pull request with nothing new in it."""
    return f"{verdict_comment(verdict)}\nNothing is left to merge, so this is closed.\n"


def _finding_table(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    order = list(_SIGNS)
    ordered = sorted(findings, key=lambda finding: order.index(finding.level))  # stable: by file within a level
    lines = [[_SIGNS[f.level], code(f.file) if f.file else "", prose(f.message)] for f in ordered[:_MAX_FINDINGS]]
    more = f"\n\n… and {len(ordered) - _MAX_FINDINGS:,} more." if len(ordered) > _MAX_FINDINGS else ""
    return table(["", "file", "finding"], lines) + more


def _row_table(rows: Sequence[Measured]) -> str:
    if not rows:
        return ""

    def level(value: float, z: float) -> str:
        unusual = "" if math.isnan(z) else f" (z {z:+.1f})"
        return NOTHING if math.isnan(value) else f"{value:.4f}{unusual}"

    header = ["new row", "bits a byte", "spread", "nearest rows, KL in bits a byte", "replicates", "scored again"]
    lines = [
        [
            code(row.row_id),
            level(row.mean, row.mean_z),
            level(row.spread, row.spread_z),
            "; ".join(f"{code(near.row_id)} {near.kl:.6f} ± {near.kl_se:.6f}" for near in row.nearest)
            or "no other row is here",
            str(len(row.replicates)),
            row.recomputed.outcome if row.recomputed else NOTHING,
        ]
        for row in rows[:_MAX_ROWS]
    ]
    more = f"\n\n… and {len(rows) - _MAX_ROWS:,} more." if len(rows) > _MAX_ROWS else ""
    return table(header, lines, right=(1, 2, 4)) + more
