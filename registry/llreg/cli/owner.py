"""Commands of a registry's owner: init, build, tag, retract, validate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, json_option, note, print_json, quiet_option, registry_option
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg_schemas.records import Rendering


@click.command()
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--texts",
    default="mini",
    show_default=True,
    help="mini, or a JSON Lines or Parquet file with a 'text' field, or with 'prompt' and 'response'.",
)
@click.option(
    "--prompt",
    type=click.Choice(["chat-template", "raw"]),
    help="How models see prompts: through their own chat template, or as they are.",
)
@click.option("--name", help="Name of the registry (default: the directory's).")
@click.option(
    "--clip",
    type=click.FloatRange(max=0),
    help="Frozen clip threshold of the default view, nats per text (default: none).",
)
@click.option("--licence", default="CC0-1.0", show_default=True, help="Licence of the rows, as an SPDX identifier.")
def init(
    directory: Path, texts: str, prompt: Rendering | None, name: str | None, clip: float | None, licence: str
) -> None:
    """Make an empty registry in DIRECTORY (default: here).

    Texts with 'prompt' (text, or a list of messages) and 'response' make a registry of ln p(response | prompt), and
    of ln p(response) alone; --prompt then says how models see a prompt.
    """
    from llreg.locate import init as make

    registry = make(directory, texts=texts, name=name, clip=clip, licence=licence, prompt=prompt)
    header = registry.info["text_set"]
    prompts = {None: "texts", "raw": "pairs, prompts as they are", "chat-template": "pairs, prompts by chat template"}
    what = prompts[registry.rendering]
    note(
        f"made {registry.path}: {header['num_texts']:,} {what} ({header['name']}, {header['mean_bytes']:.0f} bytes on average)"
    )
    note(f"next: llreg --registry {directory} add MODEL")


@click.command()
@click.option("--check", is_flag=True, help="Only say whether the build is current; exit code 1 if not.")
@registry_option
@click.pass_obj
def build(context: Context, /, check: bool) -> int:
    """Make store.zarr, models.parquet and the card from the rows; print the version.

    The build is a pure function of the rows: equal rows give equal bytes. Readers see the old build or the new one.
    """
    registry = context.registry()
    if not check:
        version = registry.build()
        note(f"built {len(registry.records()):,} rows")
        click.echo(version[:12])
        return 0
    problems = registry.check_build()
    for problem in problems:
        note(f"{problem}; run: llreg build")
    if not problems:
        note("the build is current")
    click.echo(registry.version[:12])
    return 1 if problems else 0


@click.command()
@click.argument("name")
@json_option
@registry_option
@click.pass_obj
def tag(context: Context, /, name: str, as_json: bool) -> None:
    """Give the present version a NAME, as v1; it never moves. Read it later with --registry DIR@NAME."""
    manifest = context.registry().tag(name)
    if as_json:
        print_json(manifest)
    else:
        click.echo(f"{manifest['tag']}  {manifest['version'][:12]}  {len(manifest['rows'])} rows")


@click.command()
@click.argument("model")
@click.option("--why", required=True, help="The reason; it is kept and shown.")
@registry_option
@click.pass_obj
def retract(context: Context, /, model: str, why: str) -> None:
    """Withdraw a row. Its file stays, but lists, distances and builds leave it out.

    MODEL is a model name, a row id, or the first digits of a digest.
    """
    record = context.registry().retract(model, why=why)
    note(f"retracted; the next build leaves it out: {printable(record.row_id)}")
    click.echo(record.row_id)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@quiet_option
@registry_option
@click.pass_obj
def validate(context: Context, /, paths: tuple[Path, ...], as_json: bool, quiet: bool) -> int:
    """Check a registry's files, or the given row files: form, hashes, values, identity.

    Exit code 1 if something is wrong; every problem is named with its file.
    """
    registry = context.registry()
    problems = registry.validate(paths, progress=None if quiet or not sys.stderr.isatty() else _show)
    if as_json:
        print_json([vars(problem) for problem in problems])
    elif quiet:
        click.echo(
            "".join(f"{printable(file)}\n" for file in dict.fromkeys(problem.file for problem in problems)), nl=False
        )
    else:
        for problem in problems:
            click.echo(f"{printable(problem.file)}: {printable(problem.message)}")
        checked = (
            f"{len(paths)} files" if paths else f"{len(registry.row_files())} row files and the registry's documents"
        )
        note(f"{len(problems)} problems in {checked}" if problems else f"{checked}: all valid")
    return 1 if problems else 0


def _show(done: int, total: int) -> None:
    click.echo(f"\rchecked {done:,} of {total:,}" + ("\n" if done == total else ""), err=True, nl=False)
