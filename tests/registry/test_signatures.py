"""`help(reg.add)` and completion suffice: every parameter has a type and stands in the docstring, every verb has examples."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import llreg
from llreg.registry import Registry
from llreg.registry.geometry import GeometryVerbs
from llreg.registry.maps import MapVerbs
from llreg.registry.rows import RowVerbs
from llreg.registry.sync import HubVerbs

VERBS: dict[str, Callable[..., Any]] = {
    name: member
    for verbs in (GeometryVerbs, MapVerbs, RowVerbs, HubVerbs)
    for name, member in vars(verbs).items()
    if not name.startswith("_") and callable(member)
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "llreg.init": llreg.init,
    "llreg.open": llreg.open,
    "llreg.pull": llreg.pull,
}


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [parameter for name, parameter in inspect.signature(function).parameters.items() if name != "self"]


def _documented(function: Callable[..., Any]) -> set[str]:
    """Names in the section Parameters of a docstring."""
    section = re.search(r"Parameters\n-+\n(.*?)(\n\n|\Z)", inspect.getdoc(function) or "", re.DOTALL)
    lines = section[1].splitlines() if section else []
    heads = (line.partition(" : ")[0] for line in lines if not line.startswith(" "))
    return {name for head in heads for name in head.split(", ")}


def test_the_verbs_are_those_of_the_registry() -> None:
    assert len(VERBS) > 25
    assert all(getattr(Registry, name) is verb for name, verb in VERBS.items())


@pytest.mark.parametrize("name", [name for name in dir(Registry) if not name.startswith("_")])
def test_nothing_takes_just_any_option(name: str) -> None:
    member = getattr(Registry, name)
    if callable(member):
        kinds = {parameter.kind for parameter in inspect.signature(member).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize("name", [*VERBS, *FUNCTIONS])
def test_every_parameter_is_typed_and_documented(name: str) -> None:
    function = VERBS.get(name) or FUNCTIONS[name]
    parameters = _parameters(function)
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters)
    assert {parameter.name for parameter in parameters} == _documented(function) - {""}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_two_examples(name: str) -> None:
    examples = doctest.DocTestParser().get_examples(VERBS[name].__doc__ or "")
    assert sum(bool(example.want) for example in examples) >= 2
