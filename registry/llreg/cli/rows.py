"""Commands on rows: add, ls, info."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, json_option, note, print_json, print_table, quiet_option, registry_option
from llreg.printable import printable
from llreg.units import short_count

if TYPE_CHECKING:
    from llreg.registry import Registry


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
@registry_option
@click.pass_obj
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
    from llreg.add import add
    from llreg.cli.planning import check_run, make_plan, show_plan
    from llreg.cli.progress import Bars, print_summary

    entries = [*models, *_listed(from_file, options)]
    if not entries:
        raise click.UsageError("name at least one model, or give --from-file")
    if len(entries) > 1 and (options["name"] or options["revision"]):
        raise click.UsageError("--name and --revision go with one model: add such models one at a time")
    elsewhere = cluster not in (None, "local")
    if elsewhere and (dry_run or strict):
        raise click.UsageError("--dry-run and --strict check what this machine can do: give them without --cluster")
    registry = context.registry()
    if dry_run:
        return show_plan(make_plan(registry, entries, {**options, "evict": evict}), as_json=as_json, quiet=quiet)
    plan = None
    if any(not isinstance(entry, str) for entry in entries) and not elsewhere:
        plan = make_plan(registry, entries, {**options, "evict": evict})
        check_run(plan, strict=strict, quiet=quiet)
    run = {"order": order, "evict": evict, "workers": workers, "cluster": cluster, **options}
    with Bars(quiet=quiet) as bars:
        results = add.add(registry, plan.good if plan else entries, reporter=bars, **run)
    results = plan.results(results) if plan else results
    if len(results) > 1 and not quiet:
        print_summary(results)
    if as_json:
        print_json([result.to_json() for result in results])
    elif quiet:
        click.echo("".join(f"{result.row_id}\n" for result in results if result.row_id), nl=False)
    failed = [result for result in results if result.status == "failed"]
    if len(results) > 1:
        counts = [f"{sum(r.status == s for r in results)} {s}" for s in ("added", "present", "failed")]
        note(", ".join(counts) + (": " + ", ".join(result.model for result in failed) if failed else ""))
    return 1 if failed else 0


def _listed(path: Path | None, options: dict[str, Any]) -> list[Any]:
    """The models in a file; the options that were given go before a run file's defaults."""
    if path is None:
        return []
    from click.core import ParameterSource

    from llreg.add.runfile import read_models

    context = click.get_current_context()
    defaulted = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = {name: value for name, value in options.items() if context.get_parameter_source(name) not in defaulted}
    return list(read_models(path, **given))


@click.command()
@click.option("--columns", metavar="A,B", help="Further columns, as `llreg annotate` joined them.")
@json_option
@quiet_option
@registry_option
@click.pass_obj
def ls(context: Context, /, columns: str | None, as_json: bool, quiet: bool) -> None:
    """List the rows: id, weights, size, texts scored, and the mean log-likelihood in bits per byte.

    A row that was scored on a text subset says so; its bits per byte are an estimate (~) for all texts.
    """
    registry = context.registry()
    if quiet:
        click.echo("".join(f"{record.row_id}\n" for record in registry.records()), nl=False)
        return
    rows = registry.summary()
    joined = _joined(registry, columns)
    if as_json:
        print_json([{**row, **{name: values[k] for name, values in joined.items()}} for k, row in enumerate(rows)])
        return
    header = ["MODEL", "ROW", "WEIGHTS", "PARAMETERS", "TEXTS", "BITS/BYTE", "ADDED"]
    table = [
        [
            row["model"] + (f" (on {row['base']})" if row["base"] else ""),
            row["row_id"].rpartition("@")[2],
            row["weights"],
            short_count(row["num_parameters"]),
            ("subset " if row["subset"] else "") + f"{row['texts_scored']}/{registry.num_texts}",
            ("~" if row["subset"] else "") + f"{row['bits_per_byte']:.4f}",
            row["added_at"][:16].replace("T", " "),
            *("-" if values[k] is None else _value(values[k]) for values in joined.values()),
        ]
        for k, row in enumerate(rows)
    ]
    print_table([*header, *(printable(name).upper() for name in joined)], table, right=(3, 4, 5))


def _joined(registry: Registry, columns: str | None) -> dict[str, list[Any]]:
    from llreg.store.annotations import column_of

    names = [name.strip() for name in (columns or "").split(",") if name.strip()]
    records = registry.records() if names else []
    return {name: column_of(registry, name, records) for name in names}


@click.command()
@click.argument("model")
@json_option
@registry_option
@click.pass_obj
def info(context: Context, /, model: str, as_json: bool) -> None:
    """One row's full record: identity, provenance, and what its card declares.

    MODEL is a model name, a row id as `llreg ls -q` prints it, or the first digits of a digest.
    """
    from llreg.store.annotations import annotations_of

    registry = context.registry()
    record = registry.find(model)
    document = {"row_id": record.row_id, **record.to_json()}
    annotated = annotations_of(registry, record)
    if as_json:
        print_json({**document, "annotations": annotated})
        return
    for part in ("identity", "provenance", "declared"):
        click.echo(part)
        width = max(map(len, document[part]))
        for key, value in sorted(document[part].items()):
            click.echo(f"  {printable(key.ljust(width))}  {printable(_value(value))}".rstrip())
    click.echo(f"digest\n  {record.digest}")
    for name, values in annotated.items():
        click.echo(f"annotations: {printable(name)}")
        for key, value in values.items():
            click.echo(f"  {printable(key)}  {printable(_value(value))}")
    if record.identity.subset is not None:
        from llreg.geometry.subset.subset import describe_subset
        from llreg.store.subsets import read_subset

        cost = describe_subset(registry, read_subset(registry, record.identity.subset))
        click.echo(
            f"text subset\n  {cost['texts']:,} of {registry.num_texts:,} texts, method {cost['method']}, seed {cost['seed']}"
        )


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return (", ".join(map(str, value)) or "-") if isinstance(value, list) else str(value)
