"""`llreg pull`: bring a registry to what is on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, count, note, print_json, size
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.sync.pull import PullResult


_SHOWN = 20  # rows named one by one


@click.command()
@click.argument("repo", required=False)
@click.option("--revision", help="Branch, tag or commit (default: what was pulled before, or main).")
@json_option
@quiet_option
@in_registry
def pull(context: Context, /, repo: str | None, revision: str | None, as_json: bool, quiet: bool) -> None:
    """Bring a registry here to what is on the Hub; print the version.

    REPO (org/name) is pulled into the directory given by -r, or else ./name; without REPO, the enclosing registry is
    brought up to date with where it came from. Only what is new is downloaded, an interrupted pull goes on where it
    stopped, and rows that are not published yet stay. Everything works offline afterwards.
    """
    from llreg.cli.progress import counting
    from llreg.hub.sync.pull import clone, directory_for

    with counting("downloading") as progress:
        if repo is None:
            done = context.registry().pull(revision=revision, progress=progress)
        else:
            name, _, at = repo.partition("@")
            _check_target(name, context.location)
            done = clone(
                name, directory_for(name, context.location), revision=revision or at or None, progress=progress
            )
    if as_json:
        print_json({**vars(done), "path": str(done.path)})
    elif quiet:
        click.echo("".join(f"{row}\n" for row in done.added), nl=False)
    else:
        _tell_pull(done)
        click.echo(done.version[:12])
    if done.left_out:
        note(f"{count(len(done.left_out), 'file')} on the Hub left out: tell the owner of {done.repo}")
        raise click.exceptions.Exit(1)


def _check_target(repo: str, directory: str | None) -> None:
    from llreg.hub.client.repo import is_repo_id

    if not is_repo_id(repo):
        raise click.UsageError(f"{printable(repo)!r} is no Hub id: expected ORG/NAME or ORG/NAME@REV")
    if directory is not None and is_repo_id(directory) and not Path(directory).exists():
        raise click.UsageError("-r says where to: give a directory, as ./name")


def _tell_pull(done: PullResult) -> None:
    for sign, rows in (("+", done.added), ("-", done.retracted)):
        for row in rows[:_SHOWN]:
            note(f"  {sign} {printable(row)}")
        if len(rows) > _SHOWN:
            note(f"  {sign} {len(rows) - _SHOWN:,} more")
    news = [f"{count(len(done.added), 'new row')}"] if done.added else []
    news += [f"{count(len(done.retracted), 'row')} withdrawn"] if done.retracted else []
    at = f"{done.repo} at {done.commit[:8]} ({printable(done.revision)})"
    cost = f", {size(done.bytes)} in {count(done.files, 'file')}" if done.files else ""
    note(f"{at}: {', '.join(news) or 'no new rows'}{cost}; {count(done.rows, 'row')} in {done.path}")
