"""`llreg ls`: the rows."""

from __future__ import annotations

from typing import Any

import click

from llreg.cli.common import Context, cell, print_json, print_lines, print_table
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable, short_count


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
    names = [name.strip() for name in (columns or "").split(",") if name.strip()]
    if quiet:  # without a summary, which reads all values
        print_lines(record.row_id for record in registry.records())
    elif as_json:
        print_json(registry.summary(names))
    else:
        _print_rows(registry.summary(names), registry.num_texts, names)


def _print_rows(rows: list[dict[str, Any]], num_texts: int, columns: list[str]) -> None:
    # A registry's column may hold anything: `print_table` escapes the cells, and the headings are escaped here.
    # ROW is the part of the row id that tells two rows of one model apart.
    lines = [
        [
            row["model"] + (f" (on {row['base']})" if row["base"] else ""),
            row["row_id"].rpartition("@")[2],
            row["weights"],
            short_count(row["num_parameters"]),
            ("subset " if row["subset"] else "") + f"{row['texts_scored']}/{num_texts}",
            ("~" if row["subset"] else "") + f"{row['bits_per_byte']:.4f}",
            row["added_at"][:16].replace("T", " "),
            *(cell(row[name]) for name in columns),
        ]
        for row in rows
    ]
    header = ["MODEL", "ROW", "WEIGHTS", "PARAMETERS", "TEXTS", "BITS/BYTE", "ADDED"]
    print_table([*header, *(printable(name).upper() for name in columns)], lines, right=(3, 4, 5))
