"""The command line: parses, calls one function of the API, prints.

Data goes to stdout; progress, hints and warnings to stderr. Exit codes: 0 done, 1 failed or partly
failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

import click

from llreg._version import __version__
from llreg.cli.common import REGISTRY, Context, note
from llreg.printable import printable
from llreg_schemas.errors import LlregError, LlregWarning

# What `llreg --help` says of each command. A command's module has its name, and loads only when the command runs.
_COMMANDS = {
    "add": "Compute models' rows and add them.",
    "annotate": "Join your own columns to the rows: scores, families.",
    "bench": "How fast models are scored on this machine, by dtype and batch.",
    "build": "Make store.zarr, models.parquet and the card from the rows.",
    "diff": "Rows added and withdrawn between two versions.",
    "dist": "KL divergence between models, with standard errors.",
    "export": "Rows, trees and neighbour graphs in other formats: npz, csv, parquet, AnnData, Newick, GraphML.",
    "import": "Rows that others have computed: the authors' matrices, lm-eval, npz, csv, parquet.",
    "info": "One row's full record.",
    "init": "Make an empty registry.",
    "lineage": "Is a model derived from another, or the same under another name?",
    "log": "What happened to the registry, newest first.",
    "ls": "List the rows.",
    "map": "A map of models: a page, a figure, a table, or coordinates to go on from.",
    "nn": "The nearest rows of a model, with KL ± standard error.",
    "predict": "Predict benchmark scores of models from their rows.",
    "pull": "Bring a registry here to what is on the Hub.",
    "push": "Publish rows: a commit, or a pull request.",
    "retract": "Withdraw a row, saying why.",
    "review": "Check pull requests with rows, and merge the good ones.",
    "status": "What is not built, not published, or not finished.",
    "subset": "Draw a subset of the texts, on which new models cost a fraction.",
    "tag": "Name the present version.",
    "texts": "The registry's text set.",
    "traj": "The path of a training run: KL from checkpoint to checkpoint.",
    "tree": "A tree of models by their KL divergences: Newick, or a figure.",
    "validate": "Check files: form, hashes, values.",
    "verify": "Score some of a row's texts again with its model, and compare.",
    "view": "Show, make or freeze a view: clip threshold, texts, weights.",
}


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"llreg.cli.{'import_' if cmd_name == 'import' else cmd_name}")
        # `import` is a keyword of Python and `map` built in: their commands are named import_ and map_.
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command: an `LlregError` becomes one sentence and exit code 1; a traceback means a bug."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        # click is run without its own handling of errors, so that `LlregError` and ours look alike.
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            except click.ClickException as error:
                error.show()
                code = error.exit_code
            except LlregError as error:
                click.echo(f"llreg: {printable(str(error))}", err=True)
                code = 1
            except (click.Abort, KeyboardInterrupt):
                click.echo("llreg: interrupted; what was done is kept, the same command goes on from here", err=True)
                code = 1
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output (head, less) has left: not an error, and nothing to flush to.
            # Caught here, because click's own handler exits with 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llreg")
@click.option(
    "--registry", "-r", metavar=REGISTRY, help="The registry; also LLREG_REGISTRY, or the enclosing directory."
)
@click.pass_context
def cli(ctx: click.Context, registry: str | None) -> None:
    """A registry of language models as log-likelihood vectors.

    `llreg add MODEL` computes a model's row once; `llreg dist` compares rows without running a model again.
    The registry is a directory: given by --registry, LLREG_REGISTRY, the enclosing directory that holds
    registry.json, or else your own, made on first use with the embedded text set. ORG/NAME is one on the Hub, read
    without a download.
    """
    ctx.obj = Context(registry)


_python_showwarning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """llreg's own warnings are for the user: one line, no code."""
    if issubclass(category, LlregWarning):
        note(printable(str(message)))
    else:
        _python_showwarning(message, category, filename, lineno, file, line)


def main() -> None:
    """Entry point of ``llreg`` and ``python -m llreg``."""
    cli.main()
