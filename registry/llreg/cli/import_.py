"""`llreg import`: rows that others have computed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llreg.cli.common import Context, count, note, print_json
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.importers.formats import FORMATS, import_table
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.importers.rows import ImportResult


_FILE = click.Path(path_type=Path)


_DTYPES = click.Choice(["float64", "float32", "bfloat16", "float16"])


dry_run_option = click.option("--dry-run", is_flag=True, help="Check everything and write nothing.")


dtype_option = click.option("--dtype", type=_DTYPES, help="dtype that the weights had, where the file does not say.")


@click.group("import")
def import_() -> None:
    """Rows that others have computed, from the files they come in.

    A file is checked whole before a row is written; rows that are there already are left as they are, so the same
    import can be given again. Imported rows say so: their commit and token counts are unknown, and they cannot be
    recomputed from what they record.
    """


@import_.command()
@click.argument("file", type=_FILE)
@click.option("--metadata", type=_FILE, metavar="FILE", help="The authors' model-data-1018.pkl: metadata and scores.")
@click.option("--names", type=_FILE, metavar="FILE", help="Only the models named in it, one a line.")
@click.option("--force", is_flag=True, help="Also into a registry whose text set has another name than pile-10k.")
@dry_run_option
@json_option
@quiet_option
@in_registry
def modelmap(
    context: Context, /, file: Path, metadata: Path | None, names: Path | None, force: bool, **shown: bool
) -> None:
    """The paper's published matrices: raw_log-likelihood_1018.pkl and model-data-1018.pkl (Oyama et al. 2025).

    The pickles are read without running them. Metadata and scores become the annotations modelmap-metadata and
    modelmap-scores; clipped log-likelihoods become no rows.
    """
    from llreg.importers.modelmap import import_modelmap, read_names

    only = None if names is None else read_names(names)
    _run(
        shown,
        lambda **options: import_modelmap(
            context.registry(), file, metadata=metadata, names=only, force=force, **options
        ),
    )


@import_.command("lm-eval")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--bos", is_flag=True, help="The model's tokenizer puts BOS before a text, as Llama's does.")
@click.option("--model", metavar="NAME", help="The model's name (default: the results file's).")
@click.option("--quantization", metavar="TEXT", help="How the weights were quantised, as bnb:nf4.")
@dtype_option
@dry_run_option
@json_option
@quiet_option
@in_registry
def lm_eval(
    context: Context,
    /,
    files: tuple[Path, ...],
    bos: bool,
    model: str | None,
    quantization: str | None,
    dtype: str | None,
    **shown: bool,
) -> None:
    """One model's samples_*.jsonl of lm_eval --log_samples, a rolling log-likelihood task on these texts.

    Each sample finds its text by sha256. lm-eval scores the first token of a text, which this registry's protocol does
    only for models whose tokenizer puts BOS before it: say --bos if this model's does.
    """
    from llreg.importers.lmeval import import_lm_eval

    _run(
        shown,
        lambda **options: import_lm_eval(
            context.registry(), files, bos=bos, model=model, dtype=dtype, quantization=quantization, **options
        ),
    )


def _table_command(name: str, help_text: str) -> click.Command:
    """The command that imports a table of one format."""

    @click.command(name, help=help_text)
    @click.argument("file", type=_FILE)
    @dtype_option
    @dry_run_option
    @json_option
    @quiet_option
    @in_registry
    def command(context: Context, /, file: Path, dtype: str | None, **shown: bool) -> None:
        _run(shown, lambda **options: import_table(context.registry(), file, name, dtype=dtype, **options))

    return command


for _name, _format in FORMATS.items():
    import_.add_command(_table_command(_name, _format.help))


def _run(shown: dict[str, bool], act: Callable[..., ImportResult]) -> None:
    """Import and say what came of it."""
    as_json, quiet, dry_run = shown["as_json"], shown["quiet"], shown["dry_run"]
    live = sys.stderr.isatty() and not quiet and not as_json
    result = act(dry_run=dry_run, progress=_show if live else None)
    if as_json:
        print_json(result.to_json())
    elif quiet:
        click.echo("".join(f"{row_id}\n" for row_id in result.added), nl=False)
    else:
        _print(result)
    for text in result.notes:
        note(printable(text))
    if not quiet and not as_json:
        _hint(result)


def _print(result: ImportResult) -> None:
    lines = []
    if result.shape[0]:
        lines = [
            ("shape", f"{result.shape[0]:,} models x {result.shape[1]:,} texts"),
            ("minimum", f"{result.minimum!r} nats"),
            ("2 % quantile", f"{result.quantile!r} nats"),
            ("to add" if result.dry_run else "added", count(len(result.added), "row")),
            ("there already", count(len(result.present), "row")),
        ]
    if result.retracted:
        lines.append(("left out", f"{count(len(result.retracted), 'row')} that were retracted here"))
    lines += [("annotations", name) for name in result.annotations]
    for name, value in lines:
        click.echo(f"{name:13}  {printable(value)}")


def _hint(result: ImportResult) -> None:
    if result.dry_run:
        note("dry run: nothing was written")
    elif result.added:
        note("next: llreg build; to clip as the paper does: llreg view --clip-quantile 0.02 --freeze")


def _show(done: int, total: int) -> None:
    click.echo(f"\rwrote {done:,} of {total:,} rows" + ("\n" if done == total else ""), err=True, nl=False)
