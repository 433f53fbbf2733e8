"""`llreg validate`: check files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llreg.cli.common import Context, note, print_json
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.printable import printable


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@quiet_option
@in_registry
def validate(context: Context, /, paths: tuple[Path, ...], as_json: bool, quiet: bool) -> int:
    """Check a registry's files, or the given row files: form, hashes, values, identity.

    Exit code 1 if something is wrong; every problem is named with its file.
    """
    registry = context.registry()
    problems = registry.validate(paths, progress=None if quiet or not sys.stderr.isatty() else _show)
    if as_json:
        print_json([vars(problem) for problem in problems])
    elif quiet:
        click.echo(
            "".join(f"{printable(file)}\n" for file in dict.fromkeys(problem.file for problem in problems)), nl=False
        )
    else:
        for problem in problems:
            click.echo(f"{printable(problem.file)}: {printable(problem.message)}")
        checked = (
            f"{len(paths)} files" if paths else f"{len(registry.row_files())} row files and the registry's documents"
        )
        note(f"{len(problems)} problems in {checked}" if problems else f"{checked}: all valid")
    return 1 if problems else 0


def _show(done: int, total: int) -> None:
    click.echo(f"\rchecked {done:,} of {total:,}" + ("\n" if done == total else ""), err=True, nl=False)
