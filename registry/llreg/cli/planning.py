"""What `llreg add --dry-run` prints, and what a run file's check says before the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import count, note, print_json, print_table
from llreg.printable import printable
from llreg.units import duration, short_count, shown_bytes

if TYPE_CHECKING:
    from llreg.add.plan import Plan, PlannedModel
    from llreg.add.request import Entry
    from llreg.registry import Registry

_HEADER = ["MODEL", "REVISION", "DTYPE", "PARAMETERS", "DOWNLOAD", "MEMORY", "TIME", "STATE"]


def make_plan(registry: Registry, entries: Sequence[Entry], options: Mapping[str, Any]) -> Plan:
    """Check models, with a bar."""
    from llreg.add.plan import plan
    from llreg.cli.progress import counting

    with counting("checking models") as progress:
        return plan(registry, entries, progress=progress, **options)


def show_plan(plan: Plan, *, as_json: bool, quiet: bool) -> int:
    """Print a plan on stdout and its problems on stderr; return the exit code.

    Quiet, the models that are to be scored, one a line.
    """
    if as_json:
        print_json(plan.to_json())
    elif quiet:
        click.echo("".join(f"{printable(model.model)}\n" for model in plan.models if model.is_left), nl=False)
    else:
        print_table(_HEADER, [_line(model) for model in plan.models], right=(3, 4, 5, 6))
        click.echo("\n" + "\n".join(_totals(plan)))
    _tell_problems(plan)
    return 1 if plan.problems else 0


def check_run(plan: Plan, *, strict: bool, quiet: bool) -> None:
    """Tell all problems of a run before it begins; with `strict`, end it there."""
    _tell_problems(plan)
    if strict and plan.problems:
        raise click.ClickException("nothing was added (--strict)")
    if not quiet:
        note("; ".join(_totals(plan)))


def _tell_problems(plan: Plan) -> None:
    for model in plan.problems:
        note(printable(f"{model.model}: {model.problem}"))


def _line(model: PlannedModel) -> list[str]:
    return [
        model.model,
        (model.revision or "-").removeprefix("sha256:")[:8],
        (model.dtype or "-") + (f" ({model.quantization})" if model.quantization else ""),
        _or_unknown(model, model.num_parameters, short_count),
        _or_unknown(model, model.download_bytes, shown_bytes),
        _or_unknown(model, model.memory_bytes, shown_bytes),
        _or_unknown(model, model.seconds, duration),
        _state(model),
    ]


def _or_unknown(model: PlannedModel, value: Any, shown: Any) -> str:
    if value is None:
        return "?" if model.is_left else "-"
    return str(shown(value))


def _state(model: PlannedModel) -> str:
    if model.state == "present":
        return f"present as {model.row_id}"
    if model.state in ("unfinished", "incomplete"):
        return f"{model.state}, {count(model.texts, 'text')} left"
    return model.state


def _totals(plan: Plan) -> list[str]:
    """One line each: models, download, memory, time."""
    import llreg_extract

    states = Counter("to do" if model.is_left else model.state for model in plan.models)
    told = f"{states['to do']} to do, {states['present']} present, {count(states['problem'], 'problem')}"
    lines = [f"{count(len(plan.models), 'model')}: {told}"]
    if not states["to do"]:
        return lines
    at_once = f", at most {shown_bytes(plan.disk_bytes)} at once" if plan.evict else ""
    lines.append(
        f"download: {shown_bytes(plan.download_bytes)}{at_once}, {shown_bytes(plan.disk_free)} free in "
        f"{llreg_extract.cache_folder()}"
    )
    for device in plan.devices.values():
        has = "has" if device.type == "cuda" else "has left"
        lines.append(
            f"memory: 1.2 x the weights + 512 MiB; {printable(device.name)} {has} {shown_bytes(device.num_bytes)}"
        )
    return [*lines, f"time: {_time(plan)}"]


def _time(plan: Plan) -> str:
    left = [model for model in plan.models if model.is_left]
    tokens = f"about {sum(model.tokens for model in left):,} tokens"
    if plan.seconds is not None:
        return f"{duration(plan.seconds)} to score {tokens}, by the rows made on this device; downloads not counted"
    if any(model.seconds is not None or model.num_parameters is None for model in left):
        return f"unknown ({tokens}): the parameters of some models are not known"
    return f"unknown ({tokens}): no row was made on this device yet"
