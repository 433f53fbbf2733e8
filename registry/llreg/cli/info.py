"""`llreg info`: one row's record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from llreg.cli.common import Context, cell, print_json
from llreg.cli.options import in_registry, json_option
from llreg.geometry.subset import describe_subset
from llreg.printable import printable
from llreg.store.annotations import annotations_of
from llreg.store.subsets import read_subset


@click.command()
@click.argument("model")
@json_option
@in_registry
def info(context: Context, /, model: str, as_json: bool) -> None:
    """One row's full record: identity, provenance, and what its card declares; next-token accuracy by subset.

    MODEL is a model name, a row id as `llreg ls -q` prints it, or the first digits of a digest.
    """
    registry = context.registry()
    record = registry.find(model)
    annotations = annotations_of(registry, record)
    (accuracy,) = registry.accuracy([record.row_id])
    if as_json:
        found = {"accuracy": accuracy["accuracy"], "subset_accuracy": accuracy["subsets"]}
        print_json({"row_id": record.row_id, **record.to_json(), **found, "annotations": annotations})
        return
    for part in ("identity", "provenance", "declared"):
        fields = record.to_json()[part]
        width = max(map(len, fields))
        _print_fields(part, ((key.ljust(width), value) for key, value in sorted(fields.items())))
    click.echo(f"digest\n  {record.digest}")
    if accuracy["accuracy"] is not None:
        shares = {"all texts": accuracy["accuracy"], **accuracy["subsets"]}
        width = max(map(len, shares))
        lines = ((name.ljust(width), "-" if share is None else f"{share:.1%}") for name, share in shares.items())
        _print_fields("next-token accuracy", lines)
    for name, values in annotations.items():
        _print_fields(f"annotations: {printable(name)}", values.items())
    # A row on a subset costs less and its distances are estimates, so its record names the subset.
    if record.identity.subset is not None:
        cost = describe_subset(registry, read_subset(registry, record.identity.subset))
        texts = f"{cost['texts']:,} of {registry.num_texts:,} texts"
        click.echo(f"text subset\n  {texts}, method {cost['method']}, seed {cost['seed']}")


def _print_fields(title: str, fields: Iterable[tuple[str, Any]]) -> None:
    click.echo(title)
    for key, value in fields:
        click.echo(f"  {printable(key)}  {printable(cell(value))}".rstrip())
