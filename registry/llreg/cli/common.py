"""What commands share: finding the registry, printing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.view.view import View
    from llreg.registry import Registry

REGISTRY = "DIR[@TAG]|ORG/NAME[@REV]"


class Context:
    """State of one invocation: the registry that options name, opened when a command asks for it."""

    def __init__(self, location: str | None) -> None:
        self.location = location

    def registry(self) -> Registry:
        """Open the registry."""
        from llreg.locate import locate

        return locate(self.location, note=note)

    def registry_if_any(self) -> Registry | None:
        """Open the registry if one is named or encloses the working directory; the user's own is not made for this."""
        from llreg.locate import find

        return find(self.location)


def note(message: str) -> None:
    """Say something to the user, on stderr."""
    click.echo(f"llreg: {message}", err=True)


def count(number: int, noun: str) -> str:
    """As "1 row" or "1,018 rows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def note_view(version: str, view: View) -> None:
    """Say on stderr of which version and through which view numbers are."""
    note(f"version {version[:12]}, view {view.id[:12]} ({printable(view.describe())})")


def size(number: int) -> str:
    """Bytes as "3.2 MB", decimal as on the Hub."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"


def cell(value: Any) -> str:
    """A value of a record on one line."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return (", ".join(map(str, value)) or "-") if isinstance(value, list) else str(value)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout, as they are."""
    # One write: a line each would be slow for many thousands of texts.
    click.echo("".join(f"{line}\n" for line in lines), nl=False)


def counter(text: str) -> Callable[[int, int], None] | None:
    """A line on stderr that counts up, as "checked {done:,} of {total:,}"; None without a terminal."""
    if not sys.stderr.isatty():
        return None
    # The carriage return goes over the line before; the last one stays.
    return lambda done, total: click.echo("\r" + text.format(done=done, total=total), err=True, nl=done == total)


def print_result(
    as_json: bool, quiet: bool, data: Callable[[], Any], ids: Iterable[str], text: Callable[[], object]
) -> None:
    """Print a result as its reader asked for: JSON, ids one a line, or `text`, which prints it for people.

    What is not asked for is not computed: give functions and generators.
    """
    if as_json:
        print_json(data())
    elif quiet:
        print_lines(ids)
    else:
        text()


def print_json(value: Any) -> None:
    """Print JSON on stdout; NaN becomes null."""
    # Without `printable`: programs get strings as they are; json itself escapes characters below U+0020, as ESC.
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print aligned columns on stdout, never cut; `right` lists the columns that hold numbers."""
    # Cells come from cards and tables of strangers; titles are ours, or escaped by who gives them.
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[k]) for row in cells)]) for k, title in enumerate(header)]
    for row in [list(header), *cells]:
        padded = [
            cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(padded).rstrip())
