"""Command that writes for other tools: export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llreg.cli.common import Context, count, note
from llreg.cli.options import ViewChoice, in_registry, view_options
from llreg.cli.progress import counting
from llreg.printable import printable


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Rows: .npz, .csv, .parquet, .h5ad. Their tree: .nwk, .newick, .tree. Nearest neighbours: .graphml.",
)
@click.option("--long", is_flag=True, help="CSV: a line a value instead of a line a model.")
@click.option(
    "--raw/--seen",
    default=None,
    help="Rows: values as they were measured (the default), or as the registry's view shows them.",
)
@click.option("-k", "--k", metavar="N", type=click.IntRange(1), help="GraphML: neighbours of each model (default: 10).")
@click.option(
    "--method",
    type=click.Choice(["average", "ward", "nj"]),
    help="Newick: average linkage (the default), Ward linkage, or neighbour joining.",
)
@view_options
@in_registry
def export(
    context: Context,
    /,
    models: tuple[str, ...],
    output: Path,
    long: bool,
    raw: bool | None,
    k: int | None,
    method: Any,
    view: ViewChoice,
) -> None:
    """Write rows, trees and neighbour graphs for other tools.

    Of the MODELs, or of all rows, with metadata and your annotations. The ending of the file says the format. Rows are
    written raw unless a view is asked for; trees and graphs are of distances through the view. Every file says of which
    version, text set and protocol it is and through which view.
    """
    from llreg.exporters.export import check_path

    form = check_path(output)
    has_view = view != ViewChoice()
    # Raw values are those of the row files, which no view touches; a distance always has a view.
    if raw and (has_view or form.of_distances):
        raise click.UsageError("--raw is of rows, and goes without a view; distances of raw values: --clip none")
    registry = context.registry()
    through = view.of(registry) if has_view or raw is False else None
    with counting("rows") as progress:
        selection = registry.export(
            output, list(models) or None, view=through, long=long, k=k, method=method, progress=progress
        )
    values = "raw values" if selection.raw else f"view {selection.view.id[:12]} ({selection.view.describe()})"
    size = f"{count(len(selection), 'model')}, {count(len(selection.texts), 'text')}"
    note(f"wrote {printable(str(output))}: {size}; version {selection.version[:12]}, {printable(values)}")
