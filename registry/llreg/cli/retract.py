"""`llreg retract`: withdraw a row."""

from __future__ import annotations

import click

from llreg.cli.common import Context, note
from llreg.cli.options import in_registry
from llreg.printable import printable


@click.command()
@click.argument("model")
@click.option("--why", required=True, help="The reason; it is kept and shown.")
@in_registry
def retract(context: Context, /, model: str, why: str) -> None:
    """Withdraw a row. Its file stays, but lists, distances and builds leave it out.

    MODEL is a model name, a row id, or the first digits of a digest.
    """
    record = context.registry().retract(model, why=why)
    note(f"retracted; the next build leaves it out: {printable(record.row_id)}")
    click.echo(record.row_id)
