"""`llreg lineage`: relatives of a model, and duplicates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note, note_view, print_json, print_table
from llreg.cli.nn import labels_of, note_missing_bases
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.geometry.families import read_families
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.lineage import Lineage


@click.command()
@click.argument("model", required=False)
@click.option(
    "-k", "count", default=10, show_default=True, type=click.IntRange(1), help="How many of the nearest rows."
)
@click.option(
    "--level", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="False discovery rate for 'related'."
)
@click.option(
    "--families",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV with columns model and family: models known to be related, besides what they declare.",
)
@view_options
@json_option
@in_registry
def lineage(
    context: Context,
    /,
    model: str | None,
    count: int,
    level: float,
    families: Path | None,
    view: ViewChoice,
    as_json: bool,
) -> None:
    """Is MODEL derived from another model, or the same under another name?

    The nearest rows with P, the share of unrelated pairs of the same kind that are as close, and Q, the same corrected for
    the number of rows tested. Unrelated are models that no declared base connects. Without MODEL: all duplicates under
    other names.
    """
    registry = context.registry()
    through = view.of(registry)
    if model is None:
        groups = registry.duplicates(view=through)
        if as_json:
            print_json([dataclasses.asdict(group) for group in groups])
        else:
            print_table(["VERDICT", "ROWS"], [[group.verdict, ", ".join(group.row_ids)] for group in groups])
            note_view(registry.version, through)
        return
    relations = read_families(families) if families else None
    result = registry.lineage(model, candidates=count, level=level, view=through, families=relations)
    if as_json:
        print_json({**dataclasses.asdict(result), "view": through.to_json()})
    else:
        _print_lineage(result)


def _print_lineage(lineage: Lineage) -> None:
    neighbors = [relative.neighbor for relative in lineage.relatives]
    table = [
        [
            str(neighbor.rank),
            label,
            f"{neighbor.kl:.6f}",
            f"± {neighbor.kl_se:.6f}",
            neighbor.estimator,
            f"{relative.p:.2g}",
            f"{relative.q:.2g}",
            "; ".join(filter(None, [relative.finding or neighbor.mark, neighbor.relation])),
        ]
        for relative, neighbor, label in zip(lineage.relatives, neighbors, labels_of(neighbors), strict=True)
    ]
    print_table(["RANK", "MODEL", "BITS/BYTE", "SE", "BY", "P", "Q", "FINDING"], table, right=(0, 2, 3, 5, 6))
    # What P is measured against depends on the kinds of the two rows, so it can differ from line to line.
    nulls = {
        f"{relative.null_pairs:,} unrelated pairs of {relative.null_families:,} pairs of families ({relative.null})"
        for relative in lineage.relatives
        if relative.null_pairs
    }
    compared = ", ".join(sorted(nulls)) or "nothing: too few unrelated rows"
    note(f"compared with {compared}; Q is over {lineage.num_tests:,} rows")
    # Declared against measured: a card is only a claim.
    for base in lineage.declared_bases:
        distance = f"rank {base.neighbor.rank}, {base.neighbor.kl:.6f} ± {base.neighbor.kl_se:.6f} bits/byte"
        agreement = f"the distance agrees ({distance})"
        if not base.finding:
            why = "a long training, a wrong card, or too few rows to tell"
            agreement = f"the distance does not show it ({distance}, P {base.p:.2g}): {why}"
        note(f"declared base {printable(base.neighbor.model)}: {agreement}")
    note_missing_bases(lineage.missing_bases)
    note_view(lineage.version, lineage.view)
