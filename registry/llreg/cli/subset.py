"""The command that draws a text subset: subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llreg.atomic import write_output
from llreg.cli.common import Context, note, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.geometry.subset import describe_subset, subset_errors
from llreg.store.subsets import dump_subset


@click.command()
@click.option("--size", metavar="N", type=click.IntRange(min=1), help="Texts of the subset.")
@click.option(
    "--draws",
    metavar="N",
    type=click.IntRange(min=1),
    help="Instead of --size: draws with replacement, as Oyama et al. 2025b make them.",
)
@click.option(
    "--method",
    default="ls",
    show_default=True,
    type=click.Choice(["ls", "kl", "uniform"]),
    help="Which texts are likelier: those that tell the present models apart (ls, kl), or none.",
)
@click.option(
    "--floor",
    type=click.FloatRange(0, 1),
    help="Share of the draws that is uniform all the same (default: 0.5); 0 is the rule of Oyama et al. 2025b.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Another seed, another subset.")
@click.option("--curve", is_flag=True, help="Also the error against the size, for all methods: takes a while.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the subset to this file.")
@view_options
@json_option
@quiet_option
@in_registry
def subset(
    context: Context,
    /,
    size: int | None,
    draws: int | None,
    method: Any,
    floor: float | None,
    seed: int,
    curve: bool,
    output: Path | None,
    view: ViewChoice,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw a subset of the texts, so that new models cost a fraction: llreg add --subset FILE MODEL.

    Prints what a row on the subset costs beside one on all texts, and how far its distances will be off: the root mean
    square relative error, measured by leaving out models that are there.
    """
    if (size is None) == (draws is None):
        raise click.UsageError("give either --size or --draws")
    registry = context.registry()
    document = registry.subset(size, draws=draws, method=method, floor=floor, seed=seed, view=view.of(registry))
    if output:
        write_output(output, dump_subset(document))
    if quiet:  # before the errors, which take longest
        click.echo(document["id"])
        return
    cost, errors = describe_subset(registry, document), subset_errors(registry, document, curve=curve)
    if as_json:
        print_json({**cost, "errors": errors})
    else:
        _print(cost, errors, registry.num_texts, curve=curve)
    if not output:
        note("nothing was written; -o FILE keeps the subset for llreg add --subset FILE MODEL")


def _print(cost: dict[str, Any], errors: list[dict[str, Any]], num_texts: int, *, curve: bool) -> None:
    """What a row on the subset costs; then its errors, of the subset alone or, as a table, of all sizes and methods."""
    replacement = f"{cost['draws']:,} draws with replacement" if cost["replacement"] else "without replacement"
    click.echo(
        f"subset {cost['id'][:12]}: {cost['texts']:,} of {num_texts:,} texts ({cost['text_share']:.1%}), "
        f"{cost['byte_share']:.1%} of the bytes; method {cost['method']}, {replacement}, seed {cost['seed']}"
    )
    # WITH THE SET'S OWN: the texts themselves are a sample, whose error no subset can go below.
    shares = [[f"{line[name]:.1%}" for name in ("absolute", "relative", "relative_total")] for line in errors]
    if curve:
        table = [
            [line["method"], f"{line['draws']:,}", f"{line['texts']:,.0f}", *cells]
            for line, cells in zip(errors, shares, strict=True)
        ]
        header = ["METHOD", "DRAWS", "TEXTS", "ABSOLUTE", "RELATIVE", "WITH THE SET'S OWN"]
        print_table(header, table, right=(1, 2, 3, 4, 5))
    elif errors:
        _, relative, total = shares[0]
        click.echo(
            f"KL of a new model: off by {relative} (root mean square) from that on all texts; by {total} with the error "
            "that the text set itself has"
        )
