"""The map command."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note
from llreg.cli.options import ViewChoice, in_registry, view_options
from llreg.cli.progress import counting
from llreg.maps.draw.outputs import check_outputs, map_to_replace, write_outputs
from llreg.printable import printable
from llreg.store.annotations import table_file

if TYPE_CHECKING:
    from llreg.maps.make import MapResult

_METHODS = ("tsne", "pca", "mds", "umap")


@click.command("map")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--output",
    "-o",
    "outputs",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="Where to; can be repeated. .json is the map itself, .html a page, .png .svg .pdf a figure, .parquet .csv a table.",
)
@click.option("--method", type=click.Choice(_METHODS), help="How (default: tsne, as in the papers).")
@click.option("--perplexity", type=float, help="Of t-SNE (default: 30, or what the number of rows allows).")
@click.option(
    "--iterations",
    type=click.IntRange(1),
    help="Of t-SNE (default: 1000; the largest map of Oyama et al. 2025b has 10000).",
)
@click.option("--seed", type=click.IntRange(0), help="Of t-SNE, UMAP and ellipses (default: 42).")
@click.option("--onto", type=click.Path(path_type=Path), metavar="MAP.json", help="Place new rows into this map.")
@click.option("--align", type=click.Path(path_type=Path), metavar="MAP.json", help="Turn the map to this one.")
@click.option(
    "--ellipses", type=click.IntRange(0), metavar="R", help="Uncertainty ellipses from R resamples of the texts."
)
@click.option("--color", metavar="COLUMN", help="Colour by this column, as architecture, num_parameters or created.")
@click.option("--label", "labels", multiple=True, metavar="MODEL", help="Name this model in figures; can be repeated.")
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Scores, as more columns: a file, or the name of an annotation.",
)
@view_options
@in_registry
def map_(
    context: Context,
    /,
    models: tuple[str, ...],
    outputs: tuple[Path, ...],
    color: str | None,
    labels: tuple[str, ...],
    scores: Path | None,
    onto: Path | None,
    view: ViewChoice,
    **options: Any,
) -> None:
    """A map of models in the plane, near where their likelihoods are alike.

    Of the MODELs, or of all rows. A map written as .json can be made again from what it says of itself; --onto places
    new rows into it and moves nothing. Where the .json is there already, the new map is turned to it.
    """
    # Options that were not given take the defaults of `Registry.map`.
    settings: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    tsne = [f"--{name}" for name in ("perplexity", "iterations") if name in settings]
    if tsne and settings.get("method", "tsne") != "tsne":  # which would ignore them
        raise click.UsageError(f"{' and '.join(tsne)} belong to t-SNE; leave out for --method {settings['method']}")
    check_outputs(outputs)
    registry = context.registry()
    names = list(models) or None
    if onto is not None:
        if settings or view != ViewChoice():
            used = " and ".join(f"--{name}" for name in settings) or "--view"
            raise click.UsageError(f"--onto keeps the map's own view, method and settings; leave out {used}")
        result = registry.place(onto, names)
    else:
        if "align" not in settings:
            settings["align"], message = map_to_replace(outputs, registry, settings.get("method", "tsne"), names)
            if message:
                note(printable(message))
        with counting("maps of resamples") if settings.get("ellipses") else nullcontext() as progress:
            result = registry.map(names, view=view.of(registry), progress=progress, **settings)
    table = None if scores is None else table_file(registry, scores)
    write_outputs(result, outputs, color=color, labels=labels or None, scores=table)
    _note_map(result, outputs)


def _note_map(result: MapResult, outputs: tuple[Path, ...]) -> None:
    for line in result.notes:
        note(printable(line))
    map = result.map
    settings = ", ".join(f"{name} {value:g}" for name, value in map.settings.items())
    note(
        f"{len(result.rows):,} rows of {map.registry}, {map.method}{f' ({settings})' if settings else ''}, version "
        f"{map.version[:12]}, view {map.view.id[:12]} ({printable(map.view.describe())}): "
        f"{printable(', '.join(str(path) for path in outputs))}"
    )
