"""Registries whose rows lie in groups, so that a map of them can be right or wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

GROUPS, SIZE = 5, 12

MakeRow = Callable[..., Row]


def group_values(registry: Registry, seed: int = 0) -> np.ndarray[Any, Any]:
    """Log-likelihoods of `GROUPS` groups of `SIZE` rows: a centre a group, and a little of its own for every row."""
    rng = np.random.default_rng(seed)
    num_bytes = registry.texts.bytes_per_text
    centres = rng.normal(0, 60, (GROUPS, len(num_bytes)))
    own = rng.normal(0, 12, (GROUPS * SIZE, len(num_bytes)))
    return np.minimum(-1.0, -0.9 * num_bytes - 200 + np.repeat(centres, SIZE, axis=0) + own)


def fill_groups(registry: Registry, make_row: MakeRow) -> Registry:
    """Write rows ``g<group>/g<group>-m<number>`` in turns, so that the first half of the rows holds all groups."""
    values = group_values(registry)
    for k in range(GROUPS * SIZE):
        group, member = k % GROUPS, k // GROUPS
        base = [f"g{group}/g{group}-m0"] if member else []
        row = make_row(
            registry,
            f"g{group}/g{group}-m{member}",
            k,
            log_likelihood=values[group * SIZE + member],
            declared={
                "base_model": base,
                "architecture": f"Arch{group}ForCausalLM",
                "num_parameters": 10 ** (6 + group) * (member + 1),
                "created": f"2025-{member + 1:02d}-01T00:00:00Z",
            },
        )
        write_row(registry.path, row)
    return registry


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Registry:
    """A registry of five groups of twelve rows, which tests must not change."""
    return fill_groups(init(tmp_path_factory.mktemp("groups") / "registry"), make_row)


@pytest.fixture
def own_groups(tmp_path: Path, groups: Registry) -> Registry:
    """The same, for a test to change."""
    return Registry(shutil.copytree(groups.path, tmp_path / "groups"))
