"""Options that several commands take, and the argument that they become."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import REGISTRY

if TYPE_CHECKING:
    from llreg.geometry.view.view import Estimator, Vector, View
    from llreg.registry import Registry

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print ids only, one a line.")


def _set_registry(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:  # else what stands before the command holds
        context.obj.location = value


registry_option = click.option(
    "--registry",
    "-r",
    metavar=REGISTRY,
    expose_value=False,
    callback=_set_registry,
    help="The registry to use: a directory, or one on the Hub.",
)


def in_registry(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-r``; the command gets the invocation's `Context` as its first argument."""
    return registry_option(click.pass_obj(command))


@dataclass(frozen=True)
class ViewChoice:
    """What the options say; a view once the registry is known."""

    clip: float | str | None = "default"
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    file: Path | None = None
    weights: tuple[tuple[str, float], ...] = ()
    vector: Vector | None = None
    estimator: Estimator | None = None

    def of(self, registry: Registry) -> View:
        """The registry's own view or the file's, changed by the other options."""
        from llreg.geometry.view.view import read_view

        view = registry.view if self.file is None else read_view(self.file)
        # Only what was given: with `replace`, None would change the view.
        changes: dict[str, Any] = {}
        if not isinstance(self.clip, str):
            changes["clip"] = self.clip
        if self.vector:
            changes["vector"] = self.vector
        if self.estimator:
            changes["estimator"] = self.estimator
        if self.only:  # instead of the view's, while `without` adds to them
            changes["only"] = self.only
        if self.without:
            changes["without"] = (*view.without, *self.without)
        if self.weights:
            if view.weights is not None and not isinstance(view.weights, dict):
                raise click.UsageError("--weight: the view has a weight for each text; start from another view")
            changes["weights"] = {**(view.weights or {}), **dict(self.weights)}
        return replace(view, **changes)


def _parse_clip(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """A threshold from its option: "default" if not given, None for none."""
    if value is None:
        return "default"
    if value == "none":
        return None
    try:
        clip = float(value)
    except ValueError:
        clip = math.nan
    if not -math.inf < clip <= 0:
        raise click.UsageError(f"--clip: expected a number of at most 0, or none; got {value!r}")
    return clip


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a view; the command gets them as one argument, `view`."""

    @wraps(command)  # with it go the options of decorators further down, which click keeps in __dict__
    def collect(
        *args: Any,
        clip: float | str | None,
        only: Any,
        without: Any,
        view_file: Path | None,
        vector: Any,
        estimator: Any,
        **rest: Any,
    ) -> Any:
        choice = ViewChoice(clip, tuple(only), tuple(without), view_file, vector=vector, estimator=estimator)
        return command(*args, view=choice, **rest)

    for option in reversed(_OPTIONS):  # the last one applied stands first in the help
        option(collect)
    return collect


_OPTIONS = (
    click.option(
        "--clip",
        metavar="C|none",
        callback=_parse_clip,
        help="Clip threshold, nats per text (default: the registry's frozen one).",
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
        "--estimator",
        type=click.Choice(["fine", "text"]),
        help="KL from segments of the texts, where both rows have them (fine), or from whole texts.",
    ),
    click.option(
        "--view",
        "view_file",
        type=click.Path(path_type=Path),
        help="A view from a JSON file (llreg view -o), or a map's.",
    ),
)
