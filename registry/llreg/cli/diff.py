"""`llreg diff`: rows that two versions do not share."""

from __future__ import annotations

import click

from llreg.cli.common import Context, note, print_json
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable


@click.command()
@click.argument("old")
@click.argument("new", required=False)
@json_option
@quiet_option
@in_registry
def diff(context: Context, /, old: str, new: str | None, as_json: bool, quiet: bool) -> None:
    """Rows added (+) and withdrawn (-) from version OLD to version NEW, or to what is there now."""
    changes = context.registry().diff(old, new)
    if as_json:
        print_json(changes)
        return
    for sign, rows in (("+", changes["added"]), ("-", changes["removed"])):
        for row in rows:
            why = f"  {row['why']}" if row["why"] else ""
            click.echo(printable(row["row_id"] if quiet else f"{sign} {row['row_id']}{why}"))
    if not quiet:  # on stderr: stdout is rows only
        ends = [f"{end['tag'] or 'now'} ({end['version'][:12]})" for end in (changes["from"], changes["to"])]
        note(f"{' to '.join(ends)}: {len(changes['added'])} added, {len(changes['removed'])} removed")
