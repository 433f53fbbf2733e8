"""`llreg push`: publish rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, note, print_json, print_table, size
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.sync.upload import PushResult


_SHOWN = 20  # rows named one by one


@click.command()
@click.argument("repo", required=False)
@click.option("--create-pr", is_flag=True, help="Make a pull request even where you may write.")
@click.option("--dry-run", is_flag=True, help="Send nothing; list the files and their bytes.")
@click.option("--message", "-m", help="Title of the commit or pull request (default: which rows it adds).")
@click.option("--private", is_flag=True, help="If the repository is made, make it private.")
@json_option
@quiet_option
@in_registry
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
    what = f"{count(len(done.files), 'file')}, {size(sum(done.files.values()))}, with {count(len(done.rows), 'row')}"
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
