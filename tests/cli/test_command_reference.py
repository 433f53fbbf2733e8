"""docs/commands.md has every command and option, as the help has them now."""

from __future__ import annotations

import click
import pytest
from tests.tools.command_reference import PAGE, commands, reference

COMMANDS = dict(commands())


def test_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python tests/tools/command_reference.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_has_every_command_and_option(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"# {name}\n" in page
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and parameter.name != "registry":
            assert parameter.opts[0] in page
            assert " ".join((parameter.help or "").split()) in page
