"""`llreg tree`: a tree of models."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, print_json
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.cli.progress import counting
from llreg.maps.draw.dendrogram import check_endings, save_tree
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.tree.tree import Tree


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tree: .nwk, .newick, .tree as Newick; .png, .svg, .pdf as a figure. Can be repeated.",
)
@click.option(
    "--method",
    type=click.Choice(["average", "ward", "nj"]),
    default="average",
    show_default=True,
    help="Average linkage on KL, Ward linkage on coordinates, or neighbour joining on KL.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Measure the support of each group over N resamples of the texts.",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Of the resamples.")
@click.option("--color", metavar="FIELD", help="Mark leaves in a figure by metadata, such as architecture or licence.")
@view_options
@json_option
@in_registry
def tree(
    context: Context,
    /,
    models: tuple[str, ...],
    outputs: tuple[Path, ...],
    bootstrap: int,
    view: ViewChoice,
    as_json: bool,
    **options: Any,
) -> None:
    """A tree of models by their KL divergences: Newick, or a figure.

    Of the MODELs, or of all rows. Branch lengths of average linkage and neighbour joining are bits per byte, those of
    Ward linkage their root. Without -o the Newick goes to stdout.
    """
    check_endings(outputs)  # before a registry is opened, or made
    registry = context.registry()
    with counting("resamples") if bootstrap else nullcontext() as progress:
        names, through = list(models) or None, view.of(registry)
        tree = save_tree(registry, outputs, names, view=through, bootstrap=bootstrap, progress=progress, **options)
    for path in outputs:
        note(f"wrote {path}")
    if as_json:
        print_json(tree.to_json())
    elif not outputs:  # files were asked for instead
        click.echo(tree.newick(), nl=False)
    note_tree(tree)


def note_tree(tree: Tree) -> None:
    """Say how well a tree fits, and what it was made from."""
    attrs = tree.attrs
    fit = attrs["cophenetic_correlation"]
    note(
        f"{len(tree)} models{'' if math.isnan(fit) else f', cophenetic correlation {fit:.3f}'}; "
        f"version {attrs['version'][:12]}, view {attrs['view'][:12]} ({printable(attrs['view_description'])})"
    )
