"""Progress of `add` on stderr: bars with tokens per second and time left, plain lines without a terminal; a summary."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llreg.add.reporter import AddResult, Reporter
from llreg.printable import printable


class _Rate(ProgressColumn):
    """Tokens per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} tokens/s" if speed else "")


class Bars(Reporter):
    """Draws on stderr."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: Any = None
        self._lookups: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._progress.disable:  # rich before 14.3 prints an empty line even so
            self._progress.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bars off the terminal, so that others may write to it."""
        self._progress.stop()
        yield
        self._progress.start()

    def note(self, message: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            self._console.print(f"llreg: {escape(printable(message))}")

    def look_up(self, done: int, total: int) -> None:
        """Move the bar of the models that are looked up."""
        if self._lookups is None:
            self._lookups = self._progress.add_task("looking up models", total=total)
        self._progress.update(self._lookups, completed=done)
        if done == total:
            self._progress.remove_task(self._lookups)
            self._lookups = None

    def apart(self) -> Reporter:
        """One of several bars below each other."""
        bar = copy.copy(self)  # with the same rich Progress, which draws all of them
        bar._task = None
        return bar

    def begin(self, model: str) -> None:
        """Begin a model's bar, moving without an end while the model is loaded."""
        self._task = self._progress.add_task(f"{escape(printable(model))}: loading", total=None)

    def start(self, model: str, tokens: int, done: int) -> None:
        """Give the bar its length."""
        self._progress.reset(self._task, total=tokens, completed=done, description=escape(printable(model)))

    def advance(self, tokens: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, tokens)

    def finish(self, result: AddResult) -> None:
        """Replace the bar by a line that stays; failures are told even when quiet."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        # `escape`: names and messages are no markup, as in "[bold]".
        if result.status == "failed":
            self._console.print(f"llreg: {escape(printable(f'{result.model}: {result.message}'))}", style="red")
        else:
            self.note(f"{result.model}: {result.message}")


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for work that reports how much of how much (None: not known) is done; nothing without a terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_summary(results: Sequence[AddResult]) -> None:
    """Print a table of what became of several models on stderr; without a terminal lines are never broken."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:  # for logs, where a wrapped line cannot be searched
        console.width = 1 << 16
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("MODEL", "STATUS"):
        table.add_column(title, overflow="fold")
    for title in ("TEXTS", "TOKENS", "SECONDS", "TOKENS/S"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("ROW", overflow="fold")
    for result in results:
        row = result.row_id if result.row_id is not None else result.message
        figures = (result.texts, result.tokens, result.seconds, result.tokens_per_second)
        numbers = ["-" if figure is None else f"{figure:,.0f}" for figure in figures]
        cells = [printable(result.model), result.status, *numbers, printable(row)]
        table.add_row(*map(escape, cells), style="red" if result.status == "failed" else None)
    console.print(table)
