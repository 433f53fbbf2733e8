"""`llreg info`: one row's record."""

from __future__ import annotations

import click

from llreg.cli.common import Context, cell, print_json
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable


@click.command()
@click.argument("model")
@json_option
@in_registry
def info(context: Context, /, model: str, as_json: bool) -> None:
    """One row's full record: identity, provenance, and what its card declares.

    MODEL is a model name, a row id as `llreg ls -q` prints it, or the first digits of a digest.
    """
    from llreg.store.annotations import annotations_of

    registry = context.registry()
    record = registry.find(model)
    document = {"row_id": record.row_id, **record.to_json()}
    annotated = annotations_of(registry, record)
    if as_json:
        print_json({**document, "annotations": annotated})
        return
    for part in ("identity", "provenance", "declared"):
        click.echo(part)
        width = max(map(len, document[part]))
        for key, value in sorted(document[part].items()):
            click.echo(f"  {printable(key.ljust(width))}  {printable(cell(value))}".rstrip())
    click.echo(f"digest\n  {record.digest}")
    for name, values in annotated.items():
        click.echo(f"annotations: {printable(name)}")
        for key, value in values.items():
            click.echo(f"  {printable(key)}  {printable(cell(value))}")
    if record.identity.subset is not None:
        from llreg.geometry.subset import describe_subset
        from llreg.store.subsets import read_subset

        cost = describe_subset(registry, read_subset(registry, record.identity.subset))
        click.echo(
            f"text subset\n  {cost['texts']:,} of {registry.num_texts:,} texts, method {cost['method']}, seed {cost['seed']}"
        )
