"""Command on a user's own columns: annotate."""

from __future__ import annotations

from pathlib import Path

import click

from llreg.cli.common import Context, count, note, print_json, print_table
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable

_SHOWN = 5


@click.command()
@click.argument("table", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the table (default: the file's); a table of that name is replaced.")
@json_option
@in_registry
def annotate(context: Context, /, table: Path | None, name: str | None, as_json: bool) -> None:
    """Join your own columns to the rows: scores, families, anything by model. Rows are not touched.

    TABLE is a CSV or Parquet file with a column `model` (names, row ids or digests). `llreg info` shows what it says of a
    row, `llreg ls --columns` lists it, and `llreg predict NAME` and `llreg map --scores NAME` take it by its name. Without
    TABLE, the tables that are there are listed.
    """
    from llreg.store.annotations import read_annotations

    registry = context.registry()
    if table is None:
        tables = read_annotations(registry)
        if as_json:
            print_json([{"name": t.name, "lines": len(t.models), "columns": list(t.columns)} for t in tables])
        else:
            lines = [[t.name, f"{len(t.models):,}", ", ".join(t.columns)] for t in tables]
            print_table(["NAME", "LINES", "COLUMNS"], lines, right=(1,))
        return
    made = registry.annotate(table, name=name)
    unknown = made.unknown(registry.records())
    note(f"{made.name}: {count(len(made.models), 'line')}, columns {printable(', '.join(made.columns))}")
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        note(f"{count(len(unknown), 'model')} without a row (kept for later): {printable(shown)}")
    if as_json:
        print_json({"name": made.name, "lines": len(made.models), "columns": list(made.columns), "unknown": unknown})
    else:
        click.echo(made.name)
