"""Options that choose a view, and the command that makes one: view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, json_option, note, print_json, registry_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.geometry.view.view import Vector, View
    from llreg.registry import Registry


@dataclass(frozen=True)
class ViewChoice:
    """What the options say; a view once the registry is known."""

    clip: float | str | None = "default"
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    file: Path | None = None
    weights: tuple[tuple[str, float], ...] = ()
    vector: Vector | None = None

    def of(self, registry: Registry) -> View:
        """The registry's own view or the file's, changed by the other options."""
        from llreg.geometry.view.view import read_view

        view = registry.view if self.file is None else read_view(self.file)
        if not isinstance(self.clip, str):
            view = replace(view, clip=self.clip)
        if self.vector:
            view = replace(view, vector=self.vector)
        if self.only:
            view = replace(view, only=self.only)
        if self.without:
            view = replace(view, without=(*view.without, *self.without))
        return replace(view, weights=self._weights(view)) if self.weights else view

    def _weights(self, view: View) -> dict[str, float]:
        if view.weights is not None and not isinstance(view.weights, dict):
            raise click.UsageError("--weight: the view has a weight for each text; start from another view")
        return {**(view.weights or {}), **dict(self.weights)}


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a view; the command gets them as one argument, `view`."""

    def collect(
        *args: Any, clip: str | None, only: Any, without: Any, view_file: Path | None, vector: Any, **rest: Any
    ) -> Any:
        choice = ViewChoice(parse_clip(clip), tuple(only), tuple(without), view_file, vector=vector)
        return command(*args, view=choice, **rest)

    collect.__doc__, collect.__name__ = command.__doc__, command.__name__
    collect.__dict__.update(command.__dict__)  # click keeps the options of decorators further down here
    for option in reversed(_OPTIONS):
        option(collect)
    return collect


_OPTIONS = (
    click.option(
        "--clip", metavar="C|none", help="Clip threshold, nats per text (default: the registry's frozen one)."
    ),
    click.option(
        "--only",
        metavar="SUBSET",
        multiple=True,
        help="Only texts of this subset, instead of the view's; can be repeated.",
    ),
    click.option(
        "--without", metavar="SUBSET", multiple=True, help="Leave out texts of this subset too; can be repeated."
    ),
    click.option(
        "--vector",
        type=click.Choice(["conditional", "pmi", "response"]),
        help="Of prompts and responses: ln p(response | prompt), that less ln p(response), or the latter alone.",
    ),
    click.option(
        "--view",
        "view_file",
        type=click.Path(path_type=Path),
        help="A view from a JSON file (llreg view -o), or a map's.",
    ),
)


def _parse_weights(given: Sequence[str]) -> tuple[tuple[str, float], ...]:
    found = []
    for item in given:
        name, _, number = item.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise click.UsageError(f"--weight: expected SUBSET=W with a number above 0; got {item!r}")
        found.append((name, weight))
    return tuple(found)


def parse_clip(given: str | None) -> float | str | None:
    """A threshold from its option: "default" if not given, None for none."""
    if given is None:
        return "default"
    if given == "none":
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not -math.inf < value <= 0:
        raise click.UsageError(f"--clip: expected a number of at most 0, or none; got {given!r}")
    return value


@click.command()
@view_options
@click.option(
    "--clip-quantile",
    metavar="Q",
    type=click.FloatRange(0, 1),
    help="Clip at this quantile over all rows; 0.02 is P1's.",
)
@click.option(
    "--weight",
    "weights",
    metavar="SUBSET=W",
    multiple=True,
    callback=lambda *args: _parse_weights(args[-1]),
    help="Let texts of this subset count W times; can be repeated.",
)
@click.option(
    "--drop-tail",
    metavar="SHARE",
    type=click.FloatRange(0, 1, max_open=True),
    help="Leave out this share of the texts: those that carry most of all distances.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the view to a JSON file.")
@click.option("--freeze", is_flag=True, help="Make it the registry's default view, in registry.json.")
@json_option
@registry_option
@click.pass_obj
def view(
    context: Context,
    /,
    view: ViewChoice,
    clip_quantile: float | None,
    weights: tuple[tuple[str, float], ...],
    drop_tail: float | None,
    output: Path | None,
    freeze: bool,
    as_json: bool,
) -> None:
    """Show, make or freeze a view: clip threshold, texts, weights.

    Rows are stored raw; every distance and map is computed through a view and names it. A registry has one default
    view, frozen, so that distances do not move when rows come. Quantile and tail are taken over the rows that are here
    now; what they give is written into the view.
    """
    from llreg.atomic import write_output
    from llreg.geometry.view.freezing import freeze_view, measured_view
    from llreg_schemas import pretty_json

    registry = context.registry()
    made = measured_view(
        registry, replace(view, weights=weights).of(registry), clip_quantile=clip_quantile, drop_tail=drop_tail
    )
    document = made.to_json()
    if output:
        write_output(output, pretty_json(document).encode())
    if freeze:
        freeze_view(registry, made)
        note(f"{registry.name}: view {made.id[:12]} is the default now; run llreg build to carry it into the build")
    if as_json:
        print_json({**document, "num_texts": len(made.texts(registry.text_index))})
    else:
        kept = len(made.texts(registry.text_index))
        click.echo(f"view {made.id[:12]}: {printable(made.describe())}; {kept:,} of {registry.num_texts:,} texts")
