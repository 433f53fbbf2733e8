"""`llreg nn`: the nearest rows of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note, note_view, print_result, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, quiet_option, view_options
from llreg.printable import printable, short_names
from llreg.score import score_row

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor, Neighbors


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
    query = score_row(registry, model) if score else model
    neighbors = registry.neighbors(query, count, view=view.of(registry), where=where)
    data = {**dataclasses.asdict(neighbors), "view": neighbors.view.to_json()}
    ids = [neighbor.row_id for neighbor in neighbors.nearest]
    print_result(as_json, quiet, lambda: data, ids, lambda: _print_neighbors(neighbors))


def _print_neighbors(neighbors: Neighbors) -> None:
    # TAIL: share of the value from the top 1 % of texts; TEXTS: how many both rows have; BY: the estimator. The last column has
    # no name.
    table = [
        [
            str(neighbor.rank),
            label,
            f"{neighbor.kl:.6f}",
            f"± {neighbor.kl_se:.6f}",
            f"{neighbor.tail_share:.2f}",
            str(neighbor.num_texts),
            neighbor.estimator,
            "; ".join(
                filter(
                    None, [neighbor.relation, neighbor.verdict if neighbor.verdict != "different" else neighbor.mark]
                )
            ),
        ]
        for neighbor, label in zip(neighbors.nearest, labels_of(neighbors.nearest), strict=True)
    ]
    print_table(["RANK", "MODEL", "BITS/BYTE", "SE", "TAIL", "TEXTS", "BY", ""], table, right=(0, 2, 3, 4, 5))
    # A declared base that is far away is the news: a card may be wrong.
    listed = {neighbor.row_id for neighbor in neighbors.nearest}
    for base in neighbors.bases:
        if base.row_id not in listed:
            distance = f"{base.kl:.6f} ± {base.kl_se:.6f} bits/byte"
            note(f"the declared base {printable(base.model)} is number {base.rank}, at {distance}")
    note_missing_bases(neighbors.missing_bases)
    note_view(neighbors.version, neighbors.view)


def labels_of(neighbors: Sequence[Neighbor]) -> list[str]:
    """Model names where they are unique among these rows, else row ids."""
    return short_names([neighbor.model for neighbor in neighbors], [neighbor.row_id for neighbor in neighbors])


def note_missing_bases(bases: Sequence[str]) -> None:
    """Say which declared base models have no row."""
    for base in bases:
        note(f"the declared base {printable(base)} has no row here; add it with: llreg add {printable(base)}")
