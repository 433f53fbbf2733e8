"""`llreg nn`: the nearest rows of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, note_view, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.printable import printable, short_names

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor


@click.command()
@click.argument("model")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(1), help="How many.")
@click.option(
    "--by",
    "where",
    metavar="FIELD=VALUE",
    multiple=True,
    help="Only rows whose metadata meet this (= != < <= > >=), as num_parameters<2e9; can be repeated.",
)
@click.option(
    "--score", is_flag=True, help="MODEL is no row: score it now (Hub id, directory, .gguf), without adding it."
)
@view_options
@json_option
@quiet_option
@in_registry
def nn(
    context: Context,
    /,
    model: str,
    count: int,
    where: tuple[str, ...],
    score: bool,
    view: ViewChoice,
    as_json: bool,
    quiet: bool,
) -> None:
    """The nearest rows of MODEL, with KL ± standard error in bits per byte.

    MODEL is a row, a .npy file with log-likelihoods on the registry's texts (nats, NaN where not scored), or with
    --score a model that is scored now. The declared base model is marked, with its rank where it is not among the nearest.
    """
    registry = context.registry()
    query: Any = model
    if score:
        from llreg.score import score_model

        query = score_model(registry, model)
    found = registry.neighbors(query, count, view=view.of(registry), where=where)
    if as_json:
        print_json({**dataclasses.asdict(found), "view": found.view.to_json()})
        return
    if quiet:
        click.echo("".join(f"{neighbor.row_id}\n" for neighbor in found.nearest), nl=False)
        return
    _print_neighbors(found.nearest)
    shown = {neighbor.row_id for neighbor in found.nearest}
    for base in found.bases:
        if base.row_id not in shown:
            note(
                f"the declared base {printable(base.model)} is number {base.rank}, at {base.kl:.6f} ± {base.kl_se:.6f} bits/byte"
            )
    note_missing(found.missing_bases)
    note_view(found.version, found.view)


def _print_neighbors(neighbors: Sequence[Neighbor]) -> None:
    labels = labels_of(neighbors)
    table = [
        [
            str(n.rank),
            label,
            f"{n.kl:.6f}",
            f"± {n.kl_se:.6f}",
            f"{n.tail_share:.2f}",
            str(n.num_texts),
            "; ".join(filter(None, [n.relation, n.verdict if n.verdict != "different" else ""])),
        ]
        for n, label in zip(neighbors, labels, strict=True)
    ]
    print_table(["RANK", "MODEL", "BITS/BYTE", "SE", "TAIL", "TEXTS", ""], table, right=(0, 2, 3, 4, 5))


def labels_of(neighbors: Sequence[Neighbor]) -> list[str]:
    return short_names([neighbor.model for neighbor in neighbors], [neighbor.row_id for neighbor in neighbors])


def note_missing(bases: Sequence[str]) -> None:
    for base in bases:
        note(f"the declared base {printable(base)} has no row here; add it with: llreg add {printable(base)}")
