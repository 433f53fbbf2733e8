"""Commands on a registry's state and past: status, log."""

from __future__ import annotations

import click

from llreg.cli.common import Context, json_option, print_json, quiet_option, registry_option
from llreg.printable import printable


@click.command()
@json_option
@quiet_option
@registry_option
@click.pass_obj
def status(context: Context, /, as_json: bool, quiet: bool) -> None:
    """What is not in the build yet, what is unfinished, and which version this is."""
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
    if found["unfinished"]:
        click.echo(f"unfinished runs: {found['unfinished']}; give the same llreg add again to go on")


@click.command()
@click.option("--number", "-n", type=click.IntRange(min=1), help="Show only that many.")
@json_option
@quiet_option
@registry_option
@click.pass_obj
def log(context: Context, /, number: int | None, as_json: bool, quiet: bool) -> None:
    """What happened, newest first: rows added, rows retracted, versions named."""
    found = context.registry().log()[:number]
    if as_json:
        print_json(found)
        return
    for event in found:
        line = (
            event["id"]
            if quiet
            else f"{event['at'][:19].replace('T', ' ')}  {event['what']:<9}  {event['id']}  {event['detail']}"
        )
        click.echo(printable(line).rstrip())
