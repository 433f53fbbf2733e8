"""The map command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note
from llreg.cli.options import ViewChoice, in_registry, view_options
from llreg.cli.progress import counting
from llreg.maps.draw.outputs import check_outputs, save_map
from llreg.printable import printable

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
    **settings: Any,
) -> None:
    """A map of models in the plane, near where their likelihoods are alike.

    Of the MODELs, or of all rows. A map written as .json can be made again from what it says of itself; --onto places
    new rows into it and moves nothing. Where the .json is there already, the new map is turned to it.
    """
    chosen = [f"--{name}" for name, value in settings.items() if value is not None]
    # Checked here, too, so that the exit code is that of wrong usage.
    tsne = [option for option in chosen if option in ("--perplexity", "--iterations")]
    if tsne and settings["method"] not in (None, "tsne"):  # which would ignore them
        raise click.UsageError(f"{' and '.join(tsne)} belong to t-SNE; leave out for --method {settings['method']}")
    has_view = view != ViewChoice()
    if onto is not None and (chosen or has_view):
        unused = " and ".join(chosen) or "--view"
        raise click.UsageError(f"--onto keeps the map's own view, method and settings; leave out {unused}")
    check_outputs(outputs)  # before a registry is opened, or made
    registry = context.registry()
    with counting("maps of resamples") if settings["ellipses"] else nullcontext() as progress:
        result = save_map(
            registry,
            outputs,
            list(models) or None,
            view=view.of(registry) if has_view else None,
            onto=onto,
            color=color,
            labels=labels or None,
            scores=scores,
            progress=progress,
            **settings,
        )
    _note_map(result, outputs)


def _note_map(result: MapResult, outputs: Sequence[Path]) -> None:
    """Say what the map was aligned to, and enough to make it again."""
    for line in result.notes:
        note(printable(line))
    map = result.map
    values = ", ".join(f"{name} {value:g}" for name, value in map.settings.items())
    note(
        f"{len(result.rows):,} rows of {map.registry}, {map.method}{f' ({values})' if values else ''}, version "
        f"{map.version[:12]}, view {map.view.id[:12]} ({printable(map.view.describe())}): "
        f"{printable(', '.join(str(path) for path in outputs))}"
    )
