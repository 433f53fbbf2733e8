"""`llreg add`: compute rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from llreg.add.runfile import read_models
from llreg.cli.common import Context, count, note, print_json, print_lines, print_table
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.cli.progress import Bars, counting, print_summary
from llreg.printable import duration, printable, short_count, shown_bytes

if TYPE_CHECKING:
    from llreg.add.plan import Plan, PlannedModel
    from llreg.add.reporter import AddResult
    from llreg.add.request import Entry
    from llreg.registry import Registry


_HEADER = ["MODEL", "REVISION", "DTYPE", "PARAMETERS", "DOWNLOAD", "MEMORY", "TIME", "STATE"]  # of a dry run


def _device(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N; got {value!r}")
    return value


def _workers(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not re.fullmatch(r"[1-9]\d{0,3}", value):
        raise click.BadParameter(f"expected a number of at least 1, or auto; got {value!r}")
    return int(value)


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--from-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A run file (.yaml: see docs/format.md), or a model a line, where # begins a comment.",
)
@click.option("--dry-run", is_flag=True, help="Only say what it would take: sizes, memory, time, and what is wrong.")
@click.option("--strict", is_flag=True, help="Add nothing if the check of a run file finds a problem.")
@click.option("--revision", help="Branch, tag or commit on the Hub (default: main).")
@click.option("--name", help="Name of a local model (default: its directory's or file's name).")
@click.option("--subfolder", metavar="FOLDER", help="Folder inside the repository or directory that has the model.")
@click.option("--base", metavar="MODEL", help="Base model of a PEFT adapter (default: as the adapter says).")
@click.option(
    "--quantize",
    type=click.Choice(["int8", "int4"]),
    help="Pack the weights with bitsandbytes when they are loaded: int8, or int4 (nf4).",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="dtype of the weights; auto: float32 on a CPU, the checkpoint's own on a GPU.",
)
@click.option("--device", default="auto", show_default=True, callback=_device, help="auto, cpu, cuda, or cuda:N.")
@click.option(
    "--overwrite",
    default="only-missing",
    show_default=True,
    type=click.Choice(["never", "only-missing", "always"]),
    help="A row that is there: leave it; score only the texts it lacks; score all again, as a replicate.",
)
@click.option(
    "--subset",
    metavar="FILE|ID",
    help="Score only these texts: a file from llreg subset, or the id of a subset that is in the registry.",
)
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens in a batch (default: by device).")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code from the model's repository.")
@click.option(
    "--order",
    default="size",
    show_default=True,
    type=click.Choice(["size", "given"]),
    help="Which models go first: those with the fewest parameters, or those given first.",
)
@click.option("--evict", is_flag=True, help="Delete a Hub model from the cache when it is done, if it was not there.")
@click.option(
    "--workers",
    metavar="N|auto",
    callback=_workers,
    help="Score in N processes, each on a GPU, or with its share of the cores; auto: one a GPU.",
)
@click.option(
    "--cluster",
    metavar="local|ADDRESS",
    help="Score on the workers of a Dask cluster that offer the resource GPU; local: as --workers auto.",
)
@json_option
@quiet_option
@in_registry
def add(
    context: Context,
    /,
    models: tuple[str, ...],
    from_file: Path | None,
    dry_run: bool,
    strict: bool,
    order: Any,
    evict: bool,
    workers: Any,
    cluster: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Compute models' rows and add them.

    A MODEL is a Hub id (org/name), a directory, or a .gguf file, local or in a Hub repo (org/name/file.gguf); or a
    PEFT adapter, a directory or on the Hub, which is laid over its base model.
    Models that are there already are skipped. An interrupted run goes on where it stopped when the same command
    is given again. One failing model does not stop the others and makes the exit code 1. A run file is checked
    before anything is downloaded; what it says of a model goes before these options, and they before its defaults.
    """
    entries = [*models, *_listed(from_file, options)]
    if not entries:
        raise click.UsageError("name at least one model, or give --from-file")
    # Either would be the same of all models, and a name or commit belongs to one.
    if len(entries) > 1 and (options["name"] or options["revision"]):
        raise click.UsageError("--name and --revision go with one model: add such models one at a time")
    # The workers of a cluster have memory and disk of their own, which cannot be asked from here.
    elsewhere = cluster not in (None, "local")
    if elsewhere and (dry_run or strict):
        raise click.UsageError("--dry-run and --strict check what this machine can do: give them without --cluster")
    registry = context.registry()
    if dry_run:
        return _dry_run(registry, entries, as_json=as_json, quiet=quiet, evict=evict, **options)
    # A run file is checked as a whole first; for models named one by one the bars say the same.
    is_run_file = any(not isinstance(entry, str) for entry in entries)
    with Bars(quiet=quiet) as bars:
        results = registry.add(
            entries,
            order=order,
            evict=evict,
            workers=workers,
            cluster=cluster,
            reporter=bars,
            on_plan=partial(_check_run, bars, strict=strict, quiet=quiet) if is_run_file and not elsewhere else None,
            **options,
        )
    return _print_results(results, as_json=as_json, quiet=quiet)


def _listed(path: Path | None, options: dict[str, Any]) -> list[Any]:
    """The models in a file; the options that were given go before a run file's defaults."""
    if path is None:
        return []
    # click tells an option that was typed from one that has its default.
    context = click.get_current_context()
    defaults = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    explicit = {name: value for name, value in options.items() if context.get_parameter_source(name) not in defaults}
    return list(read_models(path, **explicit))


def _print_results(results: Sequence[AddResult], *, as_json: bool, quiet: bool) -> int:
    """Print what became of the models; return the exit code. Of one model, the bars have said it."""
    several = len(results) > 1
    if several and not quiet:
        print_summary(results)
    if as_json:
        print_json([result.to_json() for result in results])
    elif quiet:
        print_lines(result.row_id for result in results if result.row_id)
    failures = [result.model for result in results if result.status == "failed"]
    if several:
        counts = [f"{sum(r.status == s for r in results)} {s}" for s in ("added", "present", "failed")]
        note(", ".join(counts) + (": " + ", ".join(failures) if failures else ""))
    return 1 if failures else 0


def _dry_run(registry: Registry, entries: Sequence[Entry], *, as_json: bool, quiet: bool, **options: Any) -> int:
    """Print a plan on stdout and its problems on stderr; return the exit code.

    Quiet, the models that are to be scored, one a line.
    """
    with counting("checking models") as progress:
        plan = registry.plan(entries, progress=progress, **options)
    if as_json:
        print_json(plan.to_json())
    elif quiet:
        print_lines(printable(model.model) for model in plan.models if model.is_left)
    else:
        print_table(_HEADER, [_line(model) for model in plan.models], right=(3, 4, 5, 6))
        print_lines(["", *_totals(plan)])
    _note_problems(plan)
    return 1 if plan.problems else 0


def _check_run(bars: Bars, plan: Plan, *, strict: bool, quiet: bool) -> None:
    """Tell all problems of a run before it begins; with `strict`, end it there."""
    with bars.paused():
        _note_problems(plan)
        if not quiet and not (strict and plan.problems):
            note("; ".join(_totals(plan)))
    if strict and plan.problems:
        raise click.ClickException("nothing was added (--strict)")


def _note_problems(plan: Plan) -> None:
    for model in plan.problems:
        note(printable(f"{model.model}: {model.problem}"))


def _line(model: PlannedModel) -> list[str]:
    """Cells of a model under `_HEADER`."""
    state: str = model.state
    if model.state == "present":
        state = f"present as {model.row_id}"
    elif model.state in ("unfinished", "incomplete"):
        state = f"{model.state}, {count(model.texts, 'text')} left"
    return [
        model.model,
        (model.revision or "-").removeprefix("sha256:")[:8],
        (model.dtype or "-") + (f" ({model.quantization})" if model.quantization else ""),
        _or_unknown(model, model.num_parameters, short_count),
        _or_unknown(model, model.download_bytes, shown_bytes),
        _or_unknown(model, model.memory_bytes, shown_bytes),
        _or_unknown(model, model.seconds, duration),
        state,
    ]


def _or_unknown(model: PlannedModel, value: Any, text: Callable[[Any], str]) -> str:
    if value is None:  # of a model that needs no scoring, nothing is to be known
        return "?" if model.is_left else "-"
    return text(value)


def _totals(plan: Plan) -> list[str]:
    """One line each: models, download, memory, time."""
    import llreg_extract

    states = Counter("to do" if model.is_left else model.state for model in plan.models)
    kinds = f"{states['to do']} to do, {states['present']} present, {count(states['problem'], 'problem')}"
    lines = [f"{count(len(plan.models), 'model')}: {kinds}"]
    if not states["to do"]:
        return lines
    most = f", at most {shown_bytes(plan.disk_bytes)} at once" if plan.evict else ""
    free = f"{shown_bytes(plan.disk_free)} free in {llreg_extract.cache_folder()}"
    lines.append(f"download: {shown_bytes(plan.download_bytes)}{most}, {free}")
    for device in plan.devices.values():
        memory = f"{'has' if device.type == 'cuda' else 'has left'} {shown_bytes(device.num_bytes)}"
        lines.append(f"memory: 1.2 x the weights + 512 MiB; {printable(device.name)} {memory}")
    return [*lines, f"time: {_time(plan)}"]


def _time(plan: Plan) -> str:
    todo = [model for model in plan.models if model.is_left]
    tokens = f"about {sum(model.tokens for model in todo):,} tokens"
    if plan.seconds is not None:
        return f"{duration(plan.seconds)} to score {tokens}, by the rows made on this device; downloads not counted"
    if any(model.seconds is not None or model.num_parameters is None for model in todo):
        return f"unknown ({tokens}): the parameters of some models are not known"
    return f"unknown ({tokens}): no row was made on this device yet"
