"""The examples in the docstrings of pull, push and review give what they say, of a local Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import MakeRow
from tests.hub.client import Hub
from tests.hub.conftest import AsUser
from tests.registry.examples import examples_of, run
from tests.registry.toys import make_toys

from llreg.registry import Registry
from llreg.registry.sync import HubVerbs

EXAMPLES = examples_of(HubVerbs)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Path:
    """The registry that the examples speak of, built."""
    registry = make_toys(tmp_path_factory.mktemp("examples") / "toys", make_row)
    registry.build()
    return registry.path


@pytest.mark.parametrize("verb", EXAMPLES)
def test_examples(
    verb: str, toys: Path, hub: Hub, as_user: AsUser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(toys, tmp_path / "toys")
    monkeypatch.chdir(tmp_path)
    as_user("alice")
    registry = Registry("toys")
    registry.push("alice/toys")
    try:
        run(EXAMPLES[verb], reg=registry)
    finally:
        hub.api("alice").delete_repo("alice/toys", repo_type="dataset")
