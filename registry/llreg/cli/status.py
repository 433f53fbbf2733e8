"""`llreg status`: what is not built, published or finished."""

from __future__ import annotations

from typing import Any

import click

from llreg.cli.common import Context, count, print_json
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable


@click.command()
@json_option
@quiet_option
@in_registry
def status(context: Context, /, as_json: bool, quiet: bool) -> None:
    """What is not in the build or not published yet, what is unfinished, and which version this is."""
    found = context.registry().status()
    if as_json:
        print_json(found)
        return
    if quiet:
        click.echo("".join(f"{row}\n" for row in found["not_built"]), nl=False)
        return
    tagged = f" ({', '.join(found['tags'])})" if found["tags"] else ""
    click.echo(f"registry {found['registry']} at {found['path']}")
    click.echo(f"version {found['version'][:12]}{tagged}: {found['rows']} rows, {found['retracted']} retracted")
    if found["build_current"]:
        click.echo("the build holds all rows")
    elif not found["has_build"]:
        click.echo("there is no build yet; run: llreg build")
    else:
        click.echo(
            f"not in the build: {len(found['not_built'])} rows; to be left out: {len(found['to_leave_out'])}; run: llreg build"
        )
        for row in found["not_built"]:
            click.echo(f"  + {printable(row)}")
        for row in found["to_leave_out"]:
            click.echo(f"  - {printable(row)}")
    if found["remote"]:
        _tell_remote(found["remote"])
    if found["unfinished"]:
        click.echo(f"unfinished runs: {found['unfinished']}; give the same llreg add again to go on")


def _tell_remote(remote: dict[str, Any]) -> None:
    at = f" at {remote['commit'][:8]}" if remote["commit"] else ", never pulled"
    rows = remote["unpublished"]
    request = f"; pull request {remote['pull_request']}" if remote["pull_request"] else ""
    click.echo(f"on the Hub: {remote['repo']} ({printable(remote['revision'])}{at}){request}")
    if rows:
        where = (
            f"not in main yet (see pull request {remote['pull_request']})"
            if remote["pull_request"]
            else "not published"
        )
        click.echo(f"{where}: {count(len(rows), 'row')}; run: llreg push")
        for row in rows:
            click.echo(f"  + {printable(row)}")
