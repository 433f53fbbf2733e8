"""`llreg ls`: the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, cell, print_json, print_table
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable, short_count

if TYPE_CHECKING:
    from llreg.registry import Registry


@click.command()
@click.option("--columns", metavar="A,B", help="Further columns, as `llreg annotate` joined them.")
@json_option
@quiet_option
@in_registry
def ls(context: Context, /, columns: str | None, as_json: bool, quiet: bool) -> None:
    """List the rows: id, weights, size, texts scored, and the mean log-likelihood in bits per byte.

    A row that was scored on a text subset says so; its bits per byte are an estimate (~) for all texts.
    """
    registry = context.registry()
    if quiet:
        click.echo("".join(f"{record.row_id}\n" for record in registry.records()), nl=False)
        return
    rows = registry.summary()
    joined = _joined(registry, columns)
    if as_json:
        print_json([{**row, **{name: values[k] for name, values in joined.items()}} for k, row in enumerate(rows)])
        return
    header = ["MODEL", "ROW", "WEIGHTS", "PARAMETERS", "TEXTS", "BITS/BYTE", "ADDED"]
    table = [
        [
            row["model"] + (f" (on {row['base']})" if row["base"] else ""),
            row["row_id"].rpartition("@")[2],
            row["weights"],
            short_count(row["num_parameters"]),
            ("subset " if row["subset"] else "") + f"{row['texts_scored']}/{registry.num_texts}",
            ("~" if row["subset"] else "") + f"{row['bits_per_byte']:.4f}",
            row["added_at"][:16].replace("T", " "),
            *("-" if values[k] is None else cell(values[k]) for values in joined.values()),
        ]
        for k, row in enumerate(rows)
    ]
    print_table([*header, *(printable(name).upper() for name in joined)], table, right=(3, 4, 5))


def _joined(registry: Registry, columns: str | None) -> dict[str, list[Any]]:
    from llreg.store.annotations import column_of

    names = [name.strip() for name in (columns or "").split(",") if name.strip()]
    records = registry.records() if names else []
    return {name: column_of(registry, name, records) for name in names}
