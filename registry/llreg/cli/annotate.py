"""`llreg annotate`: a user's own columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, note, print_json, print_table
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable
from llreg.store.annotations import read_annotations

if TYPE_CHECKING:
    from llreg.store.annotations import Annotations

_MODELS_NAMED = 5  # of those without a row


@click.command()
@click.argument("table", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the table (default: the file's); a table of that name is replaced.")
@json_option
@in_registry
def annotate(context: Context, /, table: Path | None, name: str | None, as_json: bool) -> None:
    """Join your own columns to the rows: scores, families, anything by model. Rows are not touched.

    TABLE is a CSV or Parquet file with a column `model` (names, row ids or digests; a name of rows of different weights is
    refused). `llreg info` shows what it says of a row, `llreg ls --columns` lists it, and `llreg predict NAME` and
    `llreg map --scores NAME` take it by its name. Without TABLE, the tables that are there are listed.
    """
    registry = context.registry()
    if table is None:
        tables = read_annotations(registry)
        if as_json:
            print_json([_summary(entry) for entry in tables])
        else:
            lines = [[entry.name, f"{len(entry.models):,}", ", ".join(entry.columns)] for entry in tables]
            print_table(["NAME", "LINES", "COLUMNS"], lines, right=(1,))
        return
    annotations = registry.annotate(table, name=name)
    unknown = annotations.unknown(registry.records())
    content = count(len(annotations.models), "line")
    note(f"{annotations.name}: {content}, columns {printable(', '.join(annotations.columns))}")
    if unknown:  # no error: a table of scores is often larger than the registry
        models = ", ".join(unknown[:_MODELS_NAMED]) + (", …" if len(unknown) > _MODELS_NAMED else "")
        note(f"{count(len(unknown), 'model')} without a row (kept for later): {printable(models)}")
    if as_json:
        print_json({**_summary(annotations), "unknown": unknown})
    else:
        click.echo(annotations.name)


def _summary(table: Annotations) -> dict[str, Any]:
    return {"name": table.name, "lines": len(table.models), "columns": list(table.columns)}
