"""The examples in the docstrings of `Registry` give what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import MakeRow
from tests.registry.examples import examples_of, run
from tests.registry.toys import make_fine, make_scores, make_toys
from tests.tools.toy_models import ToyModel

from llreg.locate import init, open_registry
from llreg.registry import Registry
from llreg.registry.geometry import GeometryVerbs
from llreg.registry.maps import MapVerbs
from llreg.registry.rows import RowVerbs

EXAMPLES = {
    **examples_of(GeometryVerbs),
    **examples_of(MapVerbs),
    **examples_of(RowVerbs),
    **examples_of(init),
    **examples_of(open_registry),
}
OF_MODELS = {"add", "plan", "verify"}


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Path:
    """A directory with the registries that the examples speak of, and a table of scores."""
    folder = tmp_path_factory.mktemp("examples")
    make_toys(folder / "toys", make_row).build()
    make_fine(folder / "fine", make_row)
    make_scores(folder / "scores.csv")
    return folder


@pytest.fixture
def workplace(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working directory."""
    shutil.copytree(toys, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("verb", sorted(EXAMPLES.keys() - OF_MODELS))
def test_examples(verb: str, workplace: Path) -> None:
    run(EXAMPLES[verb], reg=Registry("toys"))


@pytest.mark.torch
@pytest.mark.parametrize("verb", sorted(OF_MODELS))
def test_examples_of_models(verb: str, workplace: Path, toy_model: ToyModel) -> None:
    shutil.copytree(toy_model("tiny", n_positions=512), workplace / "tiny")
    run(EXAMPLES[verb], reg=Registry("toys"))
