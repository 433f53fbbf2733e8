"""`llreg pull`: bring a registry to what is on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, count, note, print_result, size
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.cli.progress import counting
from llreg.hub.client.repo import is_repo_id
from llreg.hub.sync.pull import clone, directory_for
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.sync.pull import PullResult

_ROWS_NAMED = 20  # one by one


@click.command()
@click.argument("repo", required=False)
@click.option("--revision", help="Branch, tag or commit (default: what was pulled before, or main).")
@json_option
@quiet_option
@in_registry
def pull(context: Context, /, repo: str | None, revision: str | None, as_json: bool, quiet: bool) -> int:
    """Bring a registry here to what is on the Hub; print the version.

    REPO (org/name) is pulled into the directory given by -r, or else ./name; without REPO, the enclosing registry is
    brought up to date with where it came from. Only what is new is downloaded, an interrupted pull goes on where it
    stopped, and rows that are not published yet stay. Everything works offline afterwards.
    """
    with counting("downloading") as progress:
        if repo is None:
            result = context.registry().pull(revision=revision, progress=progress)
        else:
            name, _, tag = repo.partition("@")
            path = _directory(name, context.location)
            result = clone(name, path, revision=revision or tag or None, progress=progress)
    data = {**vars(result), "path": str(result.path)}
    print_result(as_json, quiet, lambda: data, result.added, lambda: _print_pull(result))
    # Files that no registry has, or of no sound form: the owner can mend that, not who pulls.
    if result.left_out:
        note(f"{count(len(result.left_out), 'file')} on the Hub left out: tell the owner of {result.repo}")
    return 1 if result.left_out else 0


def _directory(repo: str, location: str | None) -> Path:
    """Where a repository is pulled into; ``-r`` names it here, and no registry on the Hub."""
    if not is_repo_id(repo):
        raise click.UsageError(f"{printable(repo)!r} is no Hub id: expected ORG/NAME or ORG/NAME@REV")
    if location is not None and is_repo_id(location) and not Path(location).exists():
        raise click.UsageError("-r says where to: give a directory, as ./name")
    return directory_for(repo, location)


def _print_pull(result: PullResult) -> None:
    for sign, rows in (("+", result.added), ("-", result.retracted)):
        for row in rows[:_ROWS_NAMED]:
            note(f"  {sign} {printable(row)}")
        if len(rows) > _ROWS_NAMED:
            note(f"  {sign} {len(rows) - _ROWS_NAMED:,} more")
    news = [f"{count(len(result.added), 'new row')}"] if result.added else []
    news += [f"{count(len(result.retracted), 'row')} withdrawn"] if result.retracted else []
    source = f"{result.repo} at {result.commit[:8]} ({printable(result.revision)})"
    cost = f", {size(result.bytes)} in {count(result.files, 'file')}" if result.files else ""
    note(f"{source}: {', '.join(news) or 'no new rows'}{cost}; {count(result.rows, 'row')} in {result.path}")
    click.echo(result.version[:12])
