"""Commands on rows: add, ls, info."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, json_option, note, print_json, print_table, quiet_option, registry_option
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.registry import Registry


def _device(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N; got {value!r}")
    return value


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--from-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A model a line; # begins a comment.",
)
@click.option("--revision", help="Branch, tag or commit on the Hub (default: main).")
@click.option("--name", help="Name of a local model (default: its directory's or file's name).")
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
@json_option
@quiet_option
@registry_option
@click.pass_obj
def add(
    context: Context, /, models: tuple[str, ...], from_file: Path | None, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Compute models' rows and add them.

    A MODEL is a Hub id (org/name), a directory, or a .gguf file, local or in a Hub repo (org/name/file.gguf).
    Models that are there already are skipped. An interrupted run goes on where it stopped when the same command
    is given again. One failing model does not stop the others and makes the exit code 1.
    """
    from llreg.cli.progress import Bars

    names = [*models, *(_names_in(from_file) if from_file else [])]
    if not names:
        raise click.UsageError("name at least one model, or give --from-file")
    if len(names) > 1 and (options["name"] or options["revision"]):
        raise click.UsageError("--name and --revision go with one model: add such models one at a time")
    registry = context.registry()
    with Bars(quiet=quiet) as bars:
        results = registry.add(names, reporter=bars, **options)
    if as_json:
        print_json([vars(result) for result in results])
    elif quiet:
        click.echo("".join(f"{result.row_id}\n" for result in results if result.row_id), nl=False)
    failed = [result for result in results if result.status == "failed"]
    if len(results) > 1:
        counts = [f"{sum(r.status == s for r in results)} {s}" for s in ("added", "present", "failed")]
        note(", ".join(counts) + (": " + ", ".join(result.model for result in failed) if failed else ""))
    return 1 if failed else 0


def _names_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, a model a line") from error
    names = [re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in lines]
    return [name for name in names if name]


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
            row["model"],
            row["row_id"].rpartition("@")[2],
            row["weights"],
            _size(row["num_parameters"]),
            ("subset " if row["subset"] else "") + f"{row['texts_scored']}/{registry.num_texts}",
            ("~" if row["subset"] else "") + f"{row['bits_per_byte']:.4f}",
            row["added_at"][:16].replace("T", " "),
            *("-" if values[k] is None else _value(values[k]) for values in joined.values()),
        ]
        for k, row in enumerate(rows)
    ]
    print_table([*header, *(printable(name).upper() for name in joined)], table, right=(3, 4, 5))


def _joined(registry: Registry, columns: str | None) -> dict[str, list[Any]]:
    from llreg.annotations import column_of

    names = [name.strip() for name in (columns or "").split(",") if name.strip()]
    records = registry.records() if names else []
    return {name: column_of(registry, name, records) for name in names}


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return str(count)


@click.command()
@click.argument("model")
@json_option
@registry_option
@click.pass_obj
def info(context: Context, /, model: str, as_json: bool) -> None:
    """One row's full record: identity, provenance, and what its card declares.

    MODEL is a model name, a row id as `llreg ls -q` prints it, or the first digits of a digest.
    """
    from llreg.annotations import annotations_of

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
        from llreg.subsets import describe_subset, read_subset

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
