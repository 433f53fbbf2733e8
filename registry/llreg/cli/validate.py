"""`llreg validate`: check files."""

from __future__ import annotations

from pathlib import Path

import click

from llreg.cli.common import Context, counter, note, print_lines, print_result
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
    problems = registry.validate(paths, progress=None if quiet else counter("checked {done:,} of {total:,}"))
    files = dict.fromkeys(printable(problem.file) for problem in problems)  # each once, in order
    lines = [f"{printable(problem.file)}: {printable(problem.message)}" for problem in problems]
    print_result(as_json, quiet, lambda: [vars(problem) for problem in problems], files, lambda: print_lines(lines))
    if not (as_json or quiet):
        rows = f"{len(paths)} files" if paths else f"{len(registry.row_files())} row files and the registry's documents"
        note(f"{len(problems)} problems in {rows}" if problems else f"{rows}: all valid")
    return 1 if problems else 0
