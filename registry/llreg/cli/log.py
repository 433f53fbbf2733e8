"""`llreg log`: what happened."""

from __future__ import annotations

import click

from llreg.cli.common import Context, print_json, print_lines
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable


@click.command()
@click.option("--number", "-n", type=click.IntRange(min=1), help="Show only that many.")
@json_option
@quiet_option
@in_registry
def log(context: Context, /, number: int | None, as_json: bool, quiet: bool) -> None:
    """What happened, newest first: rows added, rows retracted, versions named."""
    events = context.registry().log()[:number]
    if as_json:
        print_json(events)
    elif quiet:
        print_lines(printable(event["id"]).rstrip() for event in events)
    else:
        for event in events:
            time = event["at"][:19].replace("T", " ")
            click.echo(printable(f"{time}  {event['what']:<9}  {event['id']}  {event['detail']}").rstrip())
