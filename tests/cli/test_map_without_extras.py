"""Maps that need no extra: PCA and MDS, as coordinates and as a table."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llreg.registry import Registry
from llreg.store.rowfile import Row

Fill = Callable[..., list[Row]]


@pytest.fixture
def filled(registry: Registry, fill: Fill) -> Registry:
    fill(registry, 6)
    return registry


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_coordinates_and_table(filled: Registry, tmp_path: Path, cli: Any, method: str) -> None:
    files = [tmp_path / name for name in ("map.json", "map.csv", "map.parquet")]
    outputs = [option for file in files for option in ("-o", file)]
    result = cli("-r", filled.path, "map", "--method", method, *outputs)
    assert (result.code, result.out) == (0, "")
    models = json.loads(files[0].read_text())["models"]
    assert [model["row_id"] for model in models] == [record.row_id for record in filled.records()]
    with files[1].open(newline="") as file:
        assert [row["row_id"] for row in csv.DictReader(file)] == [model["row_id"] for model in models]
    assert files[2].read_bytes()[:4] == b"PAR1"


@pytest.mark.skipif(importlib.util.find_spec("openTSNE") is not None, reason="openTSNE is installed")
def test_tsne_names_the_extra(filled: Registry, tmp_path: Path, cli: Any) -> None:
    result = cli("-r", filled.path, "map", "-o", tmp_path / "map.json")
    assert (result.code, list(tmp_path.glob("map.*"))) == (1, [])
    assert 'pip install "llreg[map]"' in result.err
