"""`llreg build`: the derived files."""

from __future__ import annotations

import click

from llreg.cli.common import Context, note
from llreg.cli.options import in_registry


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the build is current; exit code 1 if not.")
@in_registry
def build(context: Context, /, check: bool) -> int:
    """Make store.zarr, models.parquet and the card from the rows; print the version.

    The build is a pure function of the rows: equal rows give equal bytes. Readers see the old build or the new one.
    """
    registry = context.registry()
    problems = registry.check_build() if check else []
    if not check:
        registry.build()
    # On stderr: stdout is the version, for scripts.
    for problem in problems:
        note(f"{problem}; run: llreg build")
    if not problems:
        note("the build is current" if check else f"built {len(registry.records()):,} rows")
    click.echo(registry.version[:12])
    return 1 if problems else 0
