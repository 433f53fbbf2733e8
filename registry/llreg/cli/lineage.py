"""`llreg lineage`: relatives of a model, and duplicates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, note, note_view, print_json, print_table
from llreg.cli.nn import labels_of, note_missing
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.geometry.lineage import Lineage, Relative


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
    seen = view.of(registry)
    if model is None:
        groups = registry.duplicates(view=seen)
        if as_json:
            print_json([dataclasses.asdict(group) for group in groups])
            return
        print_table(["VERDICT", "ROWS"], [[group.verdict, ", ".join(group.row_ids)] for group in groups])
        note_view(registry.version, seen)
        return
    found = registry.lineage(model, candidates=count, level=level, view=seen, families=_read_families(families))
    if as_json:
        print_json({**dataclasses.asdict(found), "view": seen.to_json()})
        return
    _print_lineage(found)
    _note_bases(found)
    note_view(found.version, seen)


def _read_families(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected CSV in UTF-8 with columns model and family") from error
    if not lines or not {"model", "family"} <= set(lines[0]):
        raise InputError(f"{path}: expected CSV with columns model and family")
    return {line["model"]: line["family"] for line in lines if line["family"]}


def _print_lineage(found: Lineage) -> None:
    labels = labels_of([relative.neighbor for relative in found.relatives])
    table = [
        [
            str(r.neighbor.rank),
            label,
            f"{r.neighbor.kl:.6f}",
            f"± {r.neighbor.kl_se:.6f}",
            f"{r.p:.2g}",
            f"{r.q:.2g}",
            "; ".join(filter(None, [r.finding, r.neighbor.relation])),
        ]
        for r, label in zip(found.relatives, labels, strict=True)
    ]
    print_table(["RANK", "MODEL", "BITS/BYTE", "SE", "P", "Q", "FINDING"], table, right=(0, 2, 3, 4, 5))
    nulls = {
        f"{r.null_pairs:,} unrelated pairs of {r.null_families:,} pairs of families ({r.null})"
        for r in found.relatives
        if r.null_pairs
    }
    note(
        f"compared with {', '.join(sorted(nulls)) or 'nothing: too few unrelated rows'}; Q is over {found.num_tests:,} rows"
    )


def _note_bases(found: Lineage) -> None:
    """Declared against measured base."""
    for base in found.declared_bases:
        note(f"declared base {printable(base.neighbor.model)}: {_agreement(base)}")
    note_missing(found.missing_bases)


def _agreement(base: Relative) -> str:
    place = f"rank {base.neighbor.rank}, {base.neighbor.kl:.6f} ± {base.neighbor.kl_se:.6f} bits/byte"
    if base.finding:
        return f"the distance agrees ({place})"
    return f"the distance does not show it ({place}, P {base.p:.2g}): a long training, a wrong card, or too few rows to tell"
