"""`llreg push`: publish rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, note, print_result, print_table, size
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.cli.progress import counting
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.hub.sync.upload import PushResult


@click.command()
@click.argument("repo", required=False)
@click.option("--create-pr", is_flag=True, help="Make a pull request even where you may write.")
@click.option("--dry-run", is_flag=True, help="Send nothing; list the files and their bytes.")
@click.option("--message", "-m", help="Title of the commit or pull request (default: which rows it adds).")
@click.option("--private", is_flag=True, help="If the repository is made, make it private.")
@json_option
@quiet_option
@in_registry
def push(
    context: Context,
    /,
    repo: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Publish what the Hub does not have yet; print the address of the commit or pull request.

    With write rights, rows and the new build go into one commit, and named versions become tags. Without, or with
    --create-pr, the rows become a pull request; while it is open, the next push adds to it. REPO (org/name) is needed
    once; it is made if it is missing.
    """
    with counting("downloading what others published") as progress:
        result = context.registry().push(repo, progress=progress, **options)
    print_result(as_json, quiet, lambda: vars(result), result.rows, lambda: _print_push(result))


def _print_push(result: PushResult) -> None:
    content = f"{count(len(result.files), 'file')}, {size(sum(result.files.values()))}"
    content += f", with {count(len(result.rows), 'row')}"
    if result.dry_run:
        files = [[f"{num_bytes:,}", name] for name, num_bytes in result.files.items()]
        print_table(["BYTES", "FILE"], files, right=(0,))
        for name in result.deleted:
            note(f"would delete {printable(name)}")
        note(f"would send {content}, to {result.repo}")
        return
    # The address alone goes to stdout, for a script that opens it.
    request = result.pull_request
    target = result.repo if request is None else f"pull request {request} of {result.repo}"
    note(f"{target} has everything already" if result.commit is None else f"sent {content}, to {target}")
    for tag in result.tags:
        note(f"tagged {printable(tag)}")
    click.echo(result.url)
