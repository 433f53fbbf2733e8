"""`llreg traj`: the path of a training run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, note, print_json, print_table
from llreg.cli.options import ViewChoice, in_registry, json_option, view_options
from llreg.geometry.trajectory import find_family
from llreg.printable import printable, short_names

if TYPE_CHECKING:
    from xarray import Dataset


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[float] | None:
    try:
        return None if value is None else [float(part) for part in value.split(",")]
    except ValueError:
        raise click.UsageError(f"--order: expected numbers with commas between them; got {value!r}") from None


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--family", metavar="STEM", help="The checkpoints of this name, and the final model.")
@click.option(
    "--order", metavar="N,N,...", callback=_numbers, help="Training step of each MODEL, where names do not tell."
)
@click.option(
    "--by",
    type=click.Choice(["step", "size"]),
    default="step",
    show_default=True,
    help="Sort by training step or tokens in the names, or by declared parameters.",
)
@click.option(
    "--since", type=float, default=0.0, metavar="STEP", help="Fit exponents from this step on (Kishino et al.: 1000)."
)
@view_options
@json_option
@in_registry
def traj(
    context: Context,
    /,
    models: tuple[str, ...],
    family: str | None,
    order: list[float] | None,
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
    if bool(models) == bool(family):
        raise click.UsageError("name the MODELs, or one --family")
    if family and order:  # two clocks
        raise click.UsageError("--order goes with MODELs: a family has its steps in the names")
    if not math.isfinite(since):  # click's float takes nan and inf
        raise click.UsageError(f"--since: expected a training step; got {since}")
    registry = context.registry()
    names = find_family(registry.records(), family) if family else list(models)
    path = registry.trajectory(names, view=view.of(registry), order=order, by=by, since=since)
    if as_json:
        print_json(_plain(path))
    else:
        _print_path(path, by)


def _plain(path: Dataset) -> dict[str, Any]:
    columns = {name: path[name].values.tolist() for name in path.variables if path[name].dims == ("checkpoint",)}
    checkpoints = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    scalars = {str(name): path[name].item() for name in path.data_vars if not path[name].dims}
    return {**path.attrs, **scalars, "checkpoints": checkpoints}


def _print_path(path: Dataset, by: str) -> None:
    columns = [path[f"kl_{kind}_bits_per_byte{end}"].values for kind in ("step", "first") for end in ("", "_se")]
    names = short_names(
        [str(name) for name in path["model_id"].values], [str(row) for row in path["checkpoint"].values]
    )
    table = [
        [
            "final" if math.isnan(step) else f"{step:,.15g}",
            names[k],
            # The first checkpoint has no distances; every second column is a standard error.
            *(("± " if j % 2 else "") + f"{column[k]:.6f}" if k else "" for j, column in enumerate(columns)),
            "" if math.isnan(slope) else f"{slope:.3f}",
        ]
        for k, (step, slope) in enumerate(zip(path["order"].values, path["exponent"].values, strict=True))
    ]
    # PREVIOUS and FIRST: distances from the checkpoint before and from the first one; EXPONENT: of the path from here on.
    header = [by.upper(), "MODEL", "PREVIOUS", "SE", "FIRST", "SE", "EXPONENT"]
    print_table(header, table, right=(0, 2, 3, 4, 5, 6))
    total, direct, ratio = (path[name].item() for name in ("total", "direct", "ratio"))
    click.echo(f"steps {total:.6f} in all, first to last {direct:.6f}; ratio {ratio:.3f}")
    click.echo(_exponent(path))
    version, view = (path.attrs[name][:12] for name in ("version", "view"))
    note(f"bits/byte; version {version}, view {view} ({printable(path.attrs['view_description'])})")


def _exponent(path: Dataset) -> str:
    """The diffusion exponent with its spread over the checkpoints that start one, or why there is none."""
    starts = int((~path["exponent"].isnull()).sum())
    if not starts:
        return f"no diffusion exponent: {path.attrs['exponent_note']}"
    spread = path["exponent_sd"].item()
    sd = "" if math.isnan(spread) else f", SD {spread:.3f}"
    return f"diffusion exponent {path['exponent_mean'].item():.3f}{sd}, over {count(starts, 'start')}"
