"""The map command."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note
from llreg.cli.options import ViewChoice, in_registry, view_options
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.maps.embedding import Method
    from llreg.maps.make import MapResult
    from llreg.registry import Registry

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
@click.option("--iterations", type=click.IntRange(1), help="Of t-SNE (default: 1000; P2's largest map has 10000).")
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
    **making: object,
) -> None:
    """A map of models in the plane, near where their likelihoods are alike.

    Of the MODELs, or of all rows. A map written as .json can be made again from what it says of itself; --onto places
    new rows into it and moves nothing. Where the .json is there already, the new map is turned to it.
    """
    from llreg.maps.draw.outputs import check_outputs, write_outputs
    from llreg.store.annotations import table_file

    _check_method(making)
    check_outputs(outputs)
    registry = context.registry()
    names = list(models) or None
    given = {name: value for name, value in making.items() if value is not None}
    if onto is not None:
        result = _place(registry, onto, names, given, view)
    else:
        result = _make(registry, outputs, names, given, view)
    table = None if scores is None else table_file(registry, scores)
    write_outputs(result, outputs, color=color, labels=labels or None, scores=table)
    _tell(result, outputs)


def _check_method(making: dict[str, object]) -> None:
    """Refuse options of t-SNE with another method, which would ignore them."""
    if making["method"] in (None, "tsne"):
        return
    used = [f"--{name}" for name in ("perplexity", "iterations") if making[name] is not None]
    if used:
        raise click.UsageError(f"{' and '.join(used)} belong to t-SNE; leave out for --method {making['method']}")


def _place(
    registry: Registry, onto: Path, names: list[str] | None, given: dict[str, object], view: ViewChoice
) -> MapResult:
    from llreg.maps.make import place_onto

    if given or view != ViewChoice():
        used = [f"--{name}" for name in given] or ["--view"]
        raise click.UsageError(f"--onto keeps the map's own view, method and settings; leave out {' and '.join(used)}")
    return place_onto(registry, onto, names)


def _make(
    registry: Registry, outputs: tuple[Path, ...], names: list[str] | None, given: dict[str, object], view: ViewChoice
) -> MapResult:
    from llreg.cli.progress import counting
    from llreg.maps.draw.outputs import map_to_replace
    from llreg.maps.make import make_map

    method: Method = given.get("method", "tsne")  # type: ignore[assignment]
    if "align" not in given:
        old, message = map_to_replace(outputs, registry, method, names)
        if message:
            note(printable(message))
        if old is not None:
            given["align"] = old
    with counting("maps of resamples") if given.get("ellipses") else nullcontext() as progress:
        return make_map(registry, names, view=view.of(registry), progress=progress, **given)  # type: ignore[arg-type]


def _tell(result: MapResult, outputs: tuple[Path, ...]) -> None:
    for line in result.notes:
        note(printable(line))
    made = result.map
    settings = ", ".join(f"{name} {value:g}" for name, value in made.settings.items())
    note(
        f"{len(result.rows):,} rows of {made.registry}, {made.method}{f' ({settings})' if settings else ''}, version "
        f"{made.version[:12]}, view {made.view.id[:12]} ({printable(made.view.describe())}): "
        f"{printable(', '.join(str(path) for path in outputs))}"
    )
