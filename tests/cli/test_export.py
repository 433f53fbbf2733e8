"""llreg export: what it says, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Cli

from llreg.registry import Registry
from llreg.store.rowfile import Row


@pytest.fixture
def filled(small_registry: Registry, fill: Callable[..., list[Row]]) -> Registry:
    """Three rows."""
    fill(small_registry, 3)
    return small_registry


def test_raw_and_through_a_view(cli: Cli, filled: Registry, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    done = cli("-r", filled.path, "export", "-o", path)
    version = filled.version[:12]
    assert (done.code, done.out) == (0, "")
    assert done.err == f"llreg: wrote {path}: 3 models, 6 texts; version {version}, raw values\n"
    done = cli("-r", filled.path, "export", "org/m1", "-o", path, "--clip", "-40", "--without", "code")
    assert done.err.startswith(f"llreg: wrote {path}: 1 model, 4 texts; version {version}, view ")
    assert done.err.endswith(" (segments, whole texts: clipped at -40 nats, without code)\n")
    with np.load(path, allow_pickle=False) as data:
        expected = np.maximum(filled.row("org/m1").log_likelihood[[0, 2, 3, 5]], -40)
        np.testing.assert_array_equal(data["log_likelihood"], expected[None])


def test_registrys_own_view_and_other_files(cli: Cli, filled: Registry, tmp_path: Path) -> None:
    seen = cli("-r", filled.path, "export", "-o", tmp_path / "rows.csv", "--long", "--seen")
    assert f"view {filled.view.id[:12]}" in seen.err
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 3 * 6
    graph = cli("-r", filled.path, "export", "-o", tmp_path / "g.graphml", "-k", "1")
    assert (graph.code, (tmp_path / "g.graphml").read_text().count("<edge ")) == (0, 3)
    assert f"view {filled.view.id[:12]}" in graph.err


def test_refusals(cli: Cli, filled: Registry, tmp_path: Path) -> None:
    done = cli("-r", filled.path, "export", "-o", tmp_path / "rows.xlsx")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert ".npz, .csv, .parquet, .h5ad, .nwk, .newick, .tree or .graphml" in done.err
    done = cli("-r", filled.path, "export", "-o", "rows.npz", "--raw", "--clip", "none")
    assert done.code == 2
    assert "--raw is of rows, and goes without a view" in done.err
    assert not list(tmp_path.glob("rows*"))
