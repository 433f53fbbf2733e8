"""What commands share: finding the registry, options, printing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
REGISTRY = "DIR[@TAG]|ORG/NAME[@REV]"


class Context:
    """State of one invocation: the registry that options name, opened when a command asks for it."""

    def __init__(self, given: str | None) -> None:
        self.given = given

    def registry(self) -> Registry:
        """Open the registry."""
        from llreg.locate import locate

        return locate(self.given, note=note)


def _set_registry(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.obj.given = value


registry_option = click.option(
    "--registry",
    "-r",
    metavar=REGISTRY,
    expose_value=False,
    callback=_set_registry,
    help="The registry to use: a directory, or one on the Hub.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print ids only, one a line.")


def note(message: str) -> None:
    """Say something to the user, on stderr."""
    click.echo(f"llreg: {message}", err=True)


def count(number: int, noun: str) -> str:
    """As "1 row" or "1,018 rows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def print_json(value: Any) -> None:
    """Print JSON on stdout; NaN becomes null."""
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
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max([len(title), *(len(row[k]) for row in cells)]) for k, title in enumerate(header)]
    for row in [list(header), *cells]:
        padded = [
            cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(padded).rstrip())
