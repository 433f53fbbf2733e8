"""What macOS and editors leave beside a registry's files is no part of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Cli

from llreg.registry import Registry
from llreg.store.build import check_build
from llreg.store.rowfile import Row
from llreg.store.subsets import list_subsets, store_subset

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "  # how such files begin


def _litter(root: Path) -> list[Path]:
    """A ._NAME beside every file, and a .DS_Store in every directory, as a Mac leaves them on a foreign disk."""
    litter = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != ".llreg"]
        litter += [Path(folder) / f"._{name}" for name in files] + [Path(folder) / ".DS_Store"]
    (root / ".llreg" / "runs").mkdir(parents=True, exist_ok=True)
    litter.append(root / ".llreg" / "runs" / "._run.journal")
    for path in litter:
        path.write_bytes(APPLE_DOUBLE)
    return litter


@pytest.fixture
def whole(small_registry: Registry, fill: Callable[..., list[Row]], tmp_path: Path) -> Registry:
    """A registry with a file of every kind."""
    fill(small_registry, 3)
    small_registry.tag("v1")
    small_registry.retract("org/m2", why="a test")
    store_subset(small_registry.path, small_registry.subset(3, method="uniform"))
    table = tmp_path / "scores.csv"
    table.write_text("model,arc\norg/m0,1\n")
    small_registry.annotate(table)
    small_registry.build()
    return small_registry


def test_files_beside(whole: Registry, cli: Cli) -> None:
    commands = (["ls"], ["nn", "org/m0"], ["log"], ["status"], ["annotate"], ["diff", "v1"], ["ls", "--columns", "arc"])
    before = [cli("-r", whole.path, *command) for command in commands]
    digests, subsets = whole.digests(), list_subsets(whole)
    litter = _litter(whole.path)
    assert {path.parent.name for path in litter} >= {"versions", "retractions", "annotations", "rows"}
    after = [cli("-r", whole.path, *command) for command in commands]
    assert [(result.code, result.out, result.err) for result in after] == [
        (result.code, result.out, result.err) for result in before
    ]
    assert all(result.code == 0 for result in before)
    again = Registry(whole.path)
    assert (again.digests(), list_subsets(again)) == (digests, subsets)
    assert again.validate() == []
    assert check_build(again) == []
    assert again.build() == again.version
