"""Command that scores rows again: verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, print_json, print_lines
from llreg.cli.options import in_registry, json_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.verify.comparison import Agreement


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "all_rows", is_flag=True, help="All rows of the registry.")
@click.option("--texts", default=32, show_default=True, type=click.IntRange(1), help="How many texts to score again.")
@click.option("--seed", type=int, help="Draw the texts as a run before did (default: by chance).")
@click.option("--model", "path", metavar="PATH", help="Where the model's files are, for the row of a local model.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code from the model's repository, for a row made so."
)
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only the ids of rows that do not match, one a line.")
@in_registry
def verify(
    context: Context,
    /,
    models: tuple[str, ...],
    all_rows: bool,
    texts: int,
    path: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Score a random sample of a row's texts again with its model, and compare with what the row has.

    MODEL is a row: a model name, a row id or the first digits of a digest. Each is a match, a mismatch (made with another
    model, tokenizer or text order, or with changed weights) or inconclusive, by what the arithmetic of its dtype explains.
    Exit code 0 if all match, 1 if not; --json has the outcome and the figures, in nats per text.
    """
    if bool(models) == all_rows:  # no rows by default: each downloads and runs a model
        raise click.UsageError("name the rows to verify, or give --all")
    if path is not None and len(models) != 1:  # the same files cannot be those of two rows
        raise click.UsageError("--model goes with one row: verify such rows one at a time")
    registry = context.registry()
    names = [record.row_id for record in registry.records()] if all_rows else list(models)
    agreements = []
    for name in names:
        if not quiet:
            note(f"scoring {texts:,} texts of {printable(name)} again")
        agreements.append(registry.verify(name, texts, path=path, **options))
        if not (as_json or quiet):  # each at once: the next one may take an hour
            _print_agreement(agreements[-1])
    mismatches = [agreement.row_id for agreement in agreements if agreement.outcome != "match"]
    if as_json:
        print_json([agreement.to_json() for agreement in agreements])
    elif quiet:
        print_lines(mismatches)
    return 1 if mismatches else 0


def _print_agreement(agreement: Agreement) -> None:
    """One block a row: outcome, what it means, the figures, and how to repeat it."""
    click.echo(f"{agreement.outcome:12}  {printable(agreement.row_id)}")
    click.echo(f"    {printable(agreement.why)}")
    if agreement.figures:
        click.echo(f"    {printable(agreement.figures)}")
        click.echo(f"    drawn by --seed {agreement.seed}")
