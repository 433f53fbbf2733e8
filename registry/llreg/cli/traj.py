"""`llreg traj`: the path of a training run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, note, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.printable import printable

if TYPE_CHECKING:
    from xarray import Dataset


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--family", metavar="STEM", help="The checkpoints of this name, and the final model.")
@click.option("--order", metavar="N,N,...", help="Training step of each MODEL, where names do not tell.")
@click.option(
    "--by",
    type=click.Choice(["step", "size"]),
    default="step",
    show_default=True,
    help="Sort by training step or tokens in the names, or by declared parameters.",
)
@click.option("--since", type=float, default=0.0, metavar="STEP", help="Fit exponents from this step on (P3: 1000).")
@view_options
@json_option
@in_registry
def traj(
    context: Context,
    /,
    models: tuple[str, ...],
    family: str | None,
    order: str | None,
    by: Any,
    since: float,
    view: ViewChoice,
    as_json: bool,
) -> None:
    """The path of a training run: KL from checkpoint to checkpoint.

    Name the MODELs, or a --family of checkpoints whose names differ in the step only. PREVIOUS and FIRST are KL
    divergences in bits per byte, with standard errors; EXPONENT is the slope of ln KL on ln time from that checkpoint
    on (1: diffusion, 2: a straight line).
    """
    from llreg.geometry.trajectory import find_family

    if bool(models) == bool(family):
        raise click.UsageError("name the MODELs, or one --family")
    if family and order:
        raise click.UsageError("--order goes with MODELs: a family has its steps in the names")
    if not math.isfinite(since):
        raise click.UsageError(f"--since: expected a training step; got {since}")
    places = _numbers(order)
    registry = context.registry()
    names = find_family(registry.records(), family) if family else list(models)
    path = registry.trajectory(names, view=view.of(registry), order=places, by=by, since=since)
    if as_json:
        print_json(_plain(path))
    else:
        _print(path, by)


def _numbers(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise click.UsageError(f"--order: expected numbers with commas between them; got {given!r}") from None


def _plain(path: Dataset) -> dict[str, Any]:
    along = {name: path[name].values.tolist() for name in path.variables if path[name].dims == ("checkpoint",)}
    checkpoints = [dict(zip(along, values, strict=True)) for values in zip(*along.values(), strict=True)]
    return {
        **path.attrs,
        **{str(name): path[name].item() for name in path.data_vars if not path[name].dims},
        "checkpoints": checkpoints,
    }


def _print(path: Dataset, by: str) -> None:
    columns = [path[f"kl_{kind}_bits_per_byte{end}"].values for kind in ("step", "first") for end in ("", "_se")]
    names = [str(name) for name in path["model_id"].values]
    table = [
        [
            "final" if math.isnan(at) else f"{at:,.15g}",
            names[k] if names.count(names[k]) == 1 else str(path["checkpoint"].values[k]),
            *(("± " if j % 2 else "") + f"{column[k]:.6f}" if k else "" for j, column in enumerate(columns)),
            "" if math.isnan(slope) else f"{slope:.3f}",
        ]
        for k, (at, slope) in enumerate(zip(path["order"].values, path["exponent"].values, strict=True))
    ]
    header = [by.upper(), "MODEL", "PREVIOUS", "SE", "FIRST", "SE", "EXPONENT"]
    print_table(header, table, right=(0, 2, 3, 4, 5, 6))
    total, direct, ratio = (path[name].item() for name in ("total", "direct", "ratio"))
    click.echo(f"steps {total:.6f} in all, first to last {direct:.6f}; ratio {ratio:.3f}")
    click.echo(_exponent(path))
    version, view = (path.attrs[name][:12] for name in ("version", "view"))
    note(f"bits/byte; version {version}, view {view} ({printable(path.attrs['view_description'])})")


def _exponent(path: Dataset) -> str:
    count = int((~path["exponent"].isnull()).sum())
    if not count:
        return f"no diffusion exponent: {path.attrs['exponent_note']}"
    spread = path["exponent_sd"].item()
    told = "" if math.isnan(spread) else f", SD {spread:.3f}"
    return f"diffusion exponent {path['exponent_mean'].item():.3f}{told}, over {count} start{'s' if count > 1 else ''}"
