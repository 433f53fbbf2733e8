"""`llreg import`: figures on stdout, talk on stderr, --json, -q, --dry-run, and then the usual commands."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.locate import init
from llreg.registry import Registry

Cli = Callable[..., Any]


@pytest.fixture
def pile(tmp_path: Path) -> Registry:
    """A registry on 40 texts that are named as the paper's."""
    path = tmp_path / "pile-10k.jsonl"
    lines = [json.dumps({"text": f"{k} " + "word " * (10 + 7 * k % 90)}) for k in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return init(tmp_path / "pile", texts=path)


@pytest.fixture
def published(tmp_path: Path, pile: Registry) -> tuple[Path, Path]:
    """The two pickles, of 14 models."""
    rng = np.random.default_rng(3)
    sizes = pile.text_index.bytes_per_text
    matrix = {f"org/m{k}": -sizes * rng.uniform(0.5, 1.0) * rng.uniform(0.9, 1.1, len(sizes)) for k in range(14)}
    matrix["org/m0"][3] = -20503.7119140625
    raw, metadata = tmp_path / "raw.pkl", tmp_path / "data.pkl"
    raw.write_bytes(pickle.dumps(matrix, 4))
    entries = [
        {
            "model_name": name,
            "model_type": f"family{k % 4}",
            "model_size": 7,
            "log-likelihood-10k": np.maximum(values, -400),
            "score_v1_ARC": float(values.mean() / 10 + 60),
        }
        for k, (name, values) in enumerate(matrix.items())
    ]
    metadata.write_bytes(pickle.dumps(entries, 4))
    return raw, metadata


def test_modelmap_then_the_usual_commands(
    cli: Cli, pile: Registry, published: tuple[Path, Path], tmp_path: Path
) -> None:
    raw, metadata = published
    at = ("--registry", pile.path)
    result = cli("import", "modelmap", raw, "--metadata", metadata, *at)
    assert result.code == 0, result.err
    assert "shape          14 models x 40 texts" in result.out
    assert "minimum        -20503.7119140625 nats" in result.out
    stacked = np.stack(list(pickle.loads(raw.read_bytes()).values()))
    assert f"2 % quantile   {float(np.quantile(stacked, 0.02))!r} nats" in result.out
    assert "added          14 rows" in result.out
    assert "annotations    modelmap-scores" in result.out
    assert "llreg view --clip-quantile 0.02 --freeze" in result.err
    assert "in the file's order" in result.err
    assert cli("build", *at).code == 0
    near = cli("nn", "org/m1", "--json", *at)
    assert near.code == 0, near.err
    predicted = cli("predict", "modelmap-scores", "--seeds", "1", "--json", *at)
    assert predicted.code == 0, predicted.err
    assert "score_v1_ARC" in predicted.out
    points = tmp_path / "map.csv"
    mapped = cli("map", "-o", points, "--method", "pca", *at)
    assert mapped.code == 0, mapped.err
    assert len(points.read_text().splitlines()) == 15
    told = cli("info", "org/m1", *at).out
    assert "imported" in told
    assert "family1" in told


def test_again_json_and_quiet(cli: Cli, pile: Registry, published: tuple[Path, Path]) -> None:
    at = ("--registry", pile.path)
    would = cli("import", "modelmap", published[0], "--dry-run", *at)
    assert would.code == 0
    assert "to add         14 rows" in would.out
    assert "dry run: nothing was written" in would.err
    assert pile.records() == []
    first = cli("import", "modelmap", published[0], "-q", *at)
    assert first.out.split() == [record.row_id for record in pile.records()]
    again = cli("import", "modelmap", published[0], "--json", *at)
    document = json.loads(again.out)
    assert (document["added"], document["present"]) == ([], first.out.split())
    assert (document["shape"], document["minimum"]) == ([14, 40], -20503.7119140625)


class _Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_hostile_pickle(cli: Cli, pile: Registry, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"org/m": _Attack(marker)}))
    result = cli("import", "modelmap", path, "--registry", pile.path)
    assert result.code == 1
    assert "refused the name posix.system" in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not marker.exists()
    assert pile.records() == []


def test_names_and_metadata_only(cli: Cli, pile: Registry, published: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("org/m3\norg/m5\n")
    at = ("--registry", pile.path)
    assert cli("import", "modelmap", published[0], "--names", names, "-q", *at).out.count("\n") == 2
    result = cli("import", "modelmap", published[1], *at)
    assert result.code == 0
    assert result.out.split() == ["annotations", "modelmap-metadata", "annotations", "modelmap-scores"]
    assert "no rows: log-likelihood-10k is clipped" in result.err


def test_tables(cli: Cli, small_registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("model,0,1,2,3,4,5\norg/a,-1,-2,-3,-4,-5,-6\n")
    at = ("--registry", small_registry.path)
    done = cli("import", "csv", path, "--dtype", "float32", *at)
    assert done.code == 0, done.err
    assert "added          1 row\n" in done.out
    arrays = tmp_path / "a.npz"
    np.savez(arrays, models=["org/b"], log_likelihood=-np.arange(1.0, 7)[None], weight_dtype=["float16"])
    assert cli("import", "npz", arrays, "-q", *at).out.startswith("org/b@")
    small_registry.build()
    again = cli("import", "parquet", small_registry.path / "models.parquet", "--json", *at)
    assert len(json.loads(again.out)["present"]) == 2


def test_lm_eval(cli: Cli, small_registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "samples_six_2026.jsonl"
    samples = [
        {"arguments": {"gen_args_0": {"arg_0": text}}, "filtered_resps": [f"-{10 + k}.5"]}
        for k, text in enumerate(small_registry.texts.complete())
    ]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    options = ("--model", "org/x", "--dtype", "float16", "--registry", small_registry.path)
    refused = cli("import", "lm-eval", path, *options)
    assert refused.code == 1
    assert "say --bos" in refused.err
    results = {"config": {"model": "hf"}, "lm_eval_version": "0.4.9", "max_length": 4096}
    (tmp_path / "results_2026.json").write_text(json.dumps(results))
    assert cli("import", "lm-eval", path, "--bos", "-q", *options).out.startswith("org/x@")


def test_usage(cli: Cli) -> None:
    assert cli("import", "modelmap").code == 2
    assert cli("import", "pickle", "x").code == 2
    help_text = cli("import", "--help").out
    assert all(name in help_text for name in ("modelmap", "lm-eval", "npz", "csv", "parquet"))
