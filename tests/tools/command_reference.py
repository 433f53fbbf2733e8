"""docs/commands.md, made from the commands' own help: ``python tests/tools/command_reference.py`` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from llreg.cli import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
INTRODUCTION = """# Commands

All commands and options, as `llreg COMMAND --help` prints them. This page is made by `python tests/tools/command_reference.py`.

Data goes to stdout; progress, hints and warnings to stderr. Exit codes: 0 done, 1 failed or partly failed, 2 wrong usage.
Most commands take `--registry` (`-r`), before or after the command's name: a directory, or `org/name` on the Hub; `DIR@TAG`
or `org/name@REV` for a version of it. Else it is what `LLREG_REGISTRY` names, the enclosing directory, or your own.
"""


def commands(group: click.Group = cli, name: str = "llreg") -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand with its whole name, after the group that it belongs to."""
    context = click.Context(group)
    for part in group.list_commands(context):
        command = group.get_command(context, part)
        assert command is not None
        yield f"{name} {part}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {part}")


def section(name: str, command: click.Command) -> str:
    """Heading, usage, description and options of one command."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    options = [
        f"- `{names}`: {' '.join(text.split())}"
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and not {"--help", "--registry"} & set(parameter.opts)
        for names, text in [parameter.get_help_record(context) or ("", "")]
    ]
    parts = [f"{'#' * (name.count(' ') + 1)} {name}", f"    {usage}", inspect.cleandoc(command.help or "")]
    return "\n\n".join([*parts, "\n".join(options)] if options else parts)


def reference() -> str:
    """The page."""
    names = dict(commands())
    contents = ", ".join(f"[{name.split()[1]}](#{name.replace(' ', '-')})" for name in names if name.count(" ") == 1)
    sections = [section(name, command) for name, command in names.items()]
    return "\n\n".join([INTRODUCTION.strip(), contents, *sections]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
