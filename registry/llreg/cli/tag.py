"""`llreg tag`: name a version."""

from __future__ import annotations

import click

from llreg.cli.common import Context, print_json
from llreg.cli.options import in_registry, json_option


@click.command()
@click.argument("name")
@json_option
@in_registry
def tag(context: Context, /, name: str, as_json: bool) -> None:
    """Give the present version a NAME, as v1; it never moves. Read it later with --registry DIR@NAME."""
    manifest = context.registry().tag(name)
    if as_json:
        print_json(manifest)
    else:
        click.echo(f"{manifest['tag']}  {manifest['version'][:12]}  {len(manifest['rows'])} rows")
