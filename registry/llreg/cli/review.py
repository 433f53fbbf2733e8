"""Command of a registry's maintainer on the Hub: review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, print_result
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.judge.verdict import Verdict

_MOST_FINDINGS = 20  # of a pull request, the worst first; all are in --json
_ORDER = ("refused", "attention", "note")


@click.command()
@click.argument("numbers", metavar="[PR]...", nargs=-1, type=click.IntRange(1))
@click.option("--all", "all_open", is_flag=True, help="All open pull requests.")
@click.option(
    "--merge",
    is_flag=True,
    help="Merge the good ones in one commit with the new build; those to look at only where you name their number.",
)
@click.option("--tag", metavar="NAME", help="Name of the version that a merge makes (default: the date).")
@click.option(
    "--recompute",
    metavar="K",
    default=0,
    type=click.IntRange(0),
    help="Score K random texts of new rows again: downloads and runs their models (of up to 5 rows a pull request).",
)
@click.option("--comment/--no-comment", default=True, help="Whether to write each verdict under its pull request.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the numbers of those that need a person, one a line.")
@in_registry
def review(
    context: Context,
    /,
    numbers: tuple[int, ...],
    all_open: bool,
    merge: bool,
    tag: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Check pull requests: their files, each new row, and whether its values are plausible.

    Pulls first. Nothing that a pull request holds is trusted or run; what may be merged is new rows, retractions and text
    subsets, nothing else. Exit code 0 if every one is good or was merged, 1 if a person has to look at some.
    """
    from llreg.hub.review.review import list_open

    registry = context.registry()
    if not numbers and not all_open:
        requests = ", ".join(f"{number} ({printable(title)})" for number, title in list_open(registry)) or "none"
        raise click.UsageError(f"name pull requests by their numbers, or give --all; open now: {requests}")
    if tag is not None and not merge:  # nothing would be named
        raise click.UsageError("--tag names the version that a merge makes: give --merge, too")
    registry.pull()  # rows are judged beside those that are published now
    progress = None if as_json or quiet else lambda verdict: note(f"reviewed pull request {verdict.number}")
    verdicts = registry.review(numbers, all_open=all_open, merge=merge, tag=tag, progress=progress, **options)
    unsettled = [str(verdict.number) for verdict in verdicts if not verdict.is_settled]
    print_result(
        as_json, quiet, lambda: [verdict.to_json() for verdict in verdicts], unsettled, lambda: _print(verdicts)
    )
    return 1 if unsettled else 0


def _print(verdicts: Sequence[Verdict]) -> None:
    """One block a pull request, and how many there are of each outcome."""
    for verdict in verdicts:
        click.echo(
            f"#{verdict.number}  {_outcome(verdict)}  {printable(verdict.title)}  by {printable(verdict.author)}"
        )
        # New rows with what a person looks at first: the mean, and which row is nearest.
        for row in verdict.rows or ():
            nearest = row.nearest[0] if row.nearest else None
            near = f", nearest {printable(nearest.row_id)} at {nearest.kl:.6f} ± {nearest.kl_se:.6f}" if nearest else ""
            click.echo(f"    + {printable(row.row_id)}  {row.mean:.4f} bits/byte{near}")
        findings = sorted(verdict.findings, key=lambda finding: _ORDER.index(finding.level))
        for finding in findings[:_MOST_FINDINGS]:
            file = f"{printable(finding.file)}: " if finding.file else ""
            click.echo(f"    {finding.level}: {file}{printable(finding.message)}")
        if len(findings) > _MOST_FINDINGS:
            click.echo(f"    … and {len(findings) - _MOST_FINDINGS:,} more")
    outcomes = Counter(_outcome(verdict).partition(" in ")[0] for verdict in verdicts)  # "merged" without its commit
    note("; ".join(f"{number:,} {outcome}" for outcome, number in outcomes.items()) or "no pull request is open")


def _outcome(verdict: Verdict) -> str:
    if verdict.merged:
        return f"merged in {verdict.merged[:10]}"
    if verdict.is_empty:
        return "nothing new, closed" if verdict.closed else "nothing new"
    return {"good": "good", "attention": "look at it", "refused": "refused"}[verdict.state]
