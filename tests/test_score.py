"""A model scored for a question, without being added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llreg.registry import Registry


@pytest.mark.torch
def test_nearest_rows_of_a_model_scored_now(small_registry: Registry, toy_model: Callable[..., Path], cli: Any) -> None:
    registry = small_registry
    one, other = toy_model("one", seed=1), toy_model("two", seed=2)
    registry.add([str(one)])
    result = cli("-r", registry.path, "nn", str(other), "--score", "--json")
    assert json.loads(result.out)["nearest"][0]["model"] == "one"
    assert json.loads(result.out)["query"] == "two"
    assert json.loads(result.out)["nearest"][0]["estimator"] == "fine"  # by segments, as between rows that are kept
    assert json.loads(result.out)["nearest"][0]["kl"] > 0
    same = cli("-r", registry.path, "nn", str(one), "--score", "--json")
    assert json.loads(same.out)["nearest"][0]["kl"] == pytest.approx(0, abs=1e-9)
    assert len(registry.records()) == 1
    found = registry.neighbors("one", 1).nearest if registry.add([str(other)])[0].status == "added" else []
    assert found[0].kl == pytest.approx(json.loads(result.out)["nearest"][0]["kl"])
