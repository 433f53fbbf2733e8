"""`llreg view`: show, make or freeze a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from llreg.atomic import write_output
from llreg.cli.common import Context, note, print_json
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.geometry.view.freeze import freeze_view, measured_view
from llreg.printable import printable
from llreg_schemas import pretty_json


def _weights(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[tuple[str, float], ...]:
    weights = []
    for value in values:
        name, _equals, number = value.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise click.UsageError(f"--weight: expected SUBSET=W with a number above 0; got {value!r}")
        weights.append((name, weight))
    return tuple(weights)


@click.command()
@view_options
@click.option(
    "--clip-quantile",
    metavar="Q",
    type=click.FloatRange(0, 1),
    help="Clip at this quantile over all rows; 0.02 as Oyama et al. 2025.",
)
@click.option(
    "--weight",
    "weights",
    metavar="SUBSET=W",
    multiple=True,
    callback=_weights,
    help="Let texts of this subset count W times; can be repeated.",
)
@click.option(
    "--drop-tail",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    help="Leave out this share of the texts: those that carry most of all distances.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the view to a JSON file.")
@click.option("--freeze", is_flag=True, help="Make it the registry's default view, in registry.json.")
@json_option
@in_registry
def view(
    context: Context,
    /,
    view: ViewChoice,
    clip_quantile: float | None,
    weights: tuple[tuple[str, float], ...],
    drop_tail: float | None,
    output: Path | None,
    freeze: bool,
    as_json: bool,
) -> None:
    """Show, make or freeze a view: clip threshold, texts, weights.

    Rows are stored raw; every distance and map is computed through a view and names it. A registry has one default
    view, frozen, so that distances do not move when rows come. Quantile and tail are taken over the rows that are here
    now; what they give is written into the view.
    """
    registry = context.registry()
    start = replace(view, weights=weights).of(registry)
    # Quantile and tail are taken over the texts that the other options leave.
    result = measured_view(registry, start, clip_quantile=clip_quantile, drop_tail=drop_tail)
    texts = len(result.texts(registry.text_index))
    if output:
        write_output(output, pretty_json(result.to_json()).encode())
    if freeze:
        freeze_view(registry, result)
        note(f"{registry.name}: view {result.id[:12]} is the default now; run llreg build to carry it into the build")
    if as_json:
        print_json({**result.to_json(), "num_texts": texts})
    else:
        description = printable(result.describe())
        click.echo(f"view {result.id[:12]}: {description}; {texts:,} of {registry.num_texts:,} texts")
