"""Commands that sync a registry with the Hub: pull, push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, json_option, note, print_json, print_table, quiet_option, registry_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.sync.pull import PullResult
    from llreg.hub.sync.sending import PushResult

_SHOWN = 20  # rows named one by one


@click.command()
@click.argument("repo", required=False)
@click.option("--revision", help="Branch, tag or commit (default: what was pulled before, or main).")
@json_option
@quiet_option
@registry_option
@click.pass_obj
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
            _check_target(name, context.given)
            done = clone(name, directory_for(name, context.given), revision=revision or at or None, progress=progress)
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
    cost = f", {_size(done.bytes)} in {count(done.files, 'file')}" if done.files else ""
    note(f"{at}: {', '.join(news) or 'no new rows'}{cost}; {count(done.rows, 'row')} in {done.path}")


@click.command()
@click.argument("repo", required=False)
@click.option("--create-pr", is_flag=True, help="Make a pull request even where you may write.")
@click.option("--dry-run", is_flag=True, help="Send nothing; list the files and their bytes.")
@click.option("--message", "-m", help="Title of the commit or pull request (default: which rows it adds).")
@click.option("--private", is_flag=True, help="If the repository is made, make it private.")
@json_option
@quiet_option
@registry_option
@click.pass_obj
def push(context: Context, /, repo: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Publish what the Hub does not have yet; print the address of the commit or pull request.

    With write rights, rows and the new build go into one commit, and named versions become tags. Without, or with
    --create-pr, the rows become a pull request; while it is open, the next push adds to it. REPO (org/name) is needed
    once; it is made if it is missing.
    """
    from llreg.cli.progress import counting

    with counting("downloading what others published") as progress:
        done = context.registry().push(repo, progress=progress, **options)
    if as_json:
        print_json(vars(done))
    elif quiet:
        click.echo("".join(f"{row}\n" for row in done.rows), nl=False)
    else:
        _tell_push(done)


def _tell_push(done: PushResult) -> None:
    what = f"{count(len(done.files), 'file')}, {_size(sum(done.files.values()))}, with {count(len(done.rows), 'row')}"
    if done.dry_run:
        print_table(["BYTES", "FILE"], [[f"{n:,}", name] for name, n in done.files.items()], right=(0,))
        for name in done.deleted:
            note(f"would delete {printable(name)}")
        note(f"would send {what}, to {done.repo}")
        return
    where = done.repo if done.pull_request is None else f"pull request {done.pull_request} of {done.repo}"
    note(f"{where} has everything already" if done.commit is None else f"sent {what}, to {where}")
    for tag in done.tags:
        note(f"tagged {printable(tag)}")
    click.echo(done.url)


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"
