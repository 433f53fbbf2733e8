"""`llreg import`: rows that others have computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llreg.cli.common import Context, count, counter, note, print_lines, print_result
from llreg.cli.options import in_registry, json_option, quiet_option
from llreg.importers.formats import FORMATS, import_table
from llreg.importers.lmeval import import_lm_eval
from llreg.importers.modelmap import import_modelmap, read_names
from llreg.printable import printable

if TYPE_CHECKING:
    from llreg.importers.rows import ImportResult

_FILE = click.Path(path_type=Path)
_DTYPES = click.Choice(["float64", "float32", "bfloat16", "float16"])

dtype_option = click.option("--dtype", type=_DTYPES, help="dtype that the weights had, where the file does not say.")


def import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every import takes: ``--dry-run``, ``--json``, ``--quiet`` and ``-r``."""
    dry_run = click.option("--dry-run", is_flag=True, help="Check everything and write nothing.")
    return dry_run(json_option(quiet_option(in_registry(command))))


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
@import_options
def modelmap(
    context: Context,
    /,
    file: Path,
    names: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """The paper's published matrices: raw_log-likelihood_1018.pkl and model-data-1018.pkl (Oyama et al. 2025).

    The pickles are read without running them. Metadata and scores become the annotations modelmap-metadata and
    modelmap-scores; clipped log-likelihoods become no rows.
    """
    models = None if names is None else read_names(names)
    progress = _progress(as_json or quiet)
    result = import_modelmap(context.registry(), file, names=models, progress=progress, **options)
    _print_result(result, as_json=as_json, quiet=quiet)


@import_.command("lm-eval")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@click.option("--bos", is_flag=True, help="The model's tokenizer puts BOS before a text, as Llama's does.")
@click.option("--model", metavar="NAME", help="The model's name (default: the results file's).")
@click.option("--quantization", metavar="TEXT", help="How the weights were quantised, as bnb:nf4.")
@dtype_option
@import_options
def lm_eval(
    context: Context,
    /,
    files: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """One model's samples_*.jsonl of lm_eval --log_samples, a rolling log-likelihood task on these texts.

    Each sample finds its text by sha256. lm-eval scores the first token of a text, which this registry's protocol does
    only for models whose tokenizer puts BOS before it: say --bos if this model's does. The run's results_*.json, named or
    beside the samples, says what its version of lm-eval put there, and how long its window was: longer texts are left out.
    """
    result = import_lm_eval(context.registry(), files, progress=_progress(as_json or quiet), **options)
    _print_result(result, as_json=as_json, quiet=quiet)


def _add_table_command(kind: str, text: str) -> None:
    """Make the command that imports one format of tables."""

    @import_.command(kind, help=text)
    @click.argument("file", type=_FILE)
    @dtype_option
    @import_options
    def import_file(
        context: Context, /, file: Path, dtype: str | None, dry_run: bool, as_json: bool, quiet: bool
    ) -> None:
        progress = _progress(as_json or quiet)
        result = import_table(context.registry(), file, kind, dtype=dtype, dry_run=dry_run, progress=progress)
        _print_result(result, as_json=as_json, quiet=quiet)


for _kind, _format in FORMATS.items():
    _add_table_command(_kind, _format.help)


def _progress(silent: bool) -> Callable[[int, int], None] | None:
    return None if silent else counter("wrote {done:,} of {total:,} rows")


def _print_result(result: ImportResult, *, as_json: bool, quiet: bool) -> None:
    num_models, num_texts = result.shape
    fields = []
    if num_models:  # else the values were clipped and made no rows
        fields = [
            ("shape", f"{num_models:,} models x {num_texts:,} texts"),
            ("minimum", f"{result.minimum!r} nats"),
            ("2 % quantile", f"{result.quantile!r} nats"),  # where the paper clips
            ("to add" if result.dry_run else "added", count(len(result.added), "row")),
            ("there already", count(len(result.present), "row")),
        ]
    if result.retracted:
        fields.append(("left out", f"{count(len(result.retracted), 'row')} that were retracted here"))
    fields += [("annotations", name) for name in result.annotations]
    lines = [f"{name:13}  {printable(value)}" for name, value in fields]
    print_result(as_json, quiet, result.to_json, result.added, lambda: print_lines(lines))
    for text in result.notes:
        note(printable(text))
    if result.dry_run and not quiet and not as_json:
        note("dry run: nothing was written")
    elif result.added and not quiet and not as_json:
        note("next: llreg build; to clip as the paper does: llreg view --clip-quantile 0.02 --freeze")
