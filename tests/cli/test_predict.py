"""llreg predict: tables, JSON, files, and one sentence for what is wrong."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.predict.predict import predict
from llreg.geometry.predict.scores import read_scores
from llreg.geometry.view.view import View
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

Cli = Callable[..., Any]
MakeRow = Callable[..., Row]

COUNT, UNSCORED = 24, 3


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, make_row: MakeRow) -> Registry:
    """24 rows of eight families, which tests must not change."""
    registry = init(tmp_path_factory.mktemp("filled") / "small", texts=small_texts)
    for k in range(COUNT):
        write_row(registry.path, make_row(registry, f"org/m{k}", k))
    return registry


@pytest.fixture(scope="module")
def table(filled: Registry) -> str:
    """Scores of all but three rows: arc follows the rows, noise does not, and a column of text is there."""
    rows = filled.rows([f"org/m{k}" for k in range(COUNT)])
    arc = 50 + 20 * rows.q[:, 0] / np.abs(rows.q[:, 0]).max()
    noise = np.random.default_rng(0).uniform(0, 100, COUNT)
    lines = ["model,family,arc,noise,licence"]
    lines += [f"org/m{k},f{k % 8},{arc[k]:.3f},{noise[k]:.3f},mit" for k in range(UNSCORED, COUNT)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def scores(table: str, tmp_path: Path) -> Path:
    """The table as a file."""
    path = tmp_path / "scores.csv"
    path.write_text(table)
    return path


def test_tables(cli: Cli, filled: Registry, scores: Path) -> None:
    result = cli("-r", filled.path, "predict", scores)
    assert result.code == 0
    agreement, predicted, *_ = result.out.split("\n\n")
    header, arc, noise = agreement.splitlines()
    assert header.split() == ["TASK", "MODELS", "FAMILIES", "PEARSON", "SPEARMAN", "LEAKY", "LIKELIHOOD"]
    number = r"-?\d\.\d{3}"
    assert re.fullmatch(rf"arc +21 +8 +({number} ± {number} +){{3}}{number}", arc)
    assert noise.startswith("noise")
    lines = predicted.splitlines()
    assert lines[0].split() == ["PREDICTED", "arc", "noise"]
    assert [line.split()[0] for line in lines[1:4]] == ["org/m0", "org/m1", "org/m2"]
    assert re.search(r" \d+\.?\d* \[\d+\.?\d*, \d+\.?\d*\]", lines[1])
    assert "families are those of the column 'family'" in result.err
    assert "columns without numbers are left out: licence" in result.err
    assert re.search(r"version [0-9a-f]{12}, view [0-9a-f]{12}", result.err)


def test_json_agrees_with_the_api_and_the_file(cli: Cli, filled: Registry, scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = cli(
        "-r", filled.path, "predict", scores, "--task", "arc", "--seeds", 2, "--level", 0.8, "--json", "-o", out
    )
    document = json.loads(result.out)
    assert result.code == 0
    assert (document["level"], document["version"], document["view"]) == (
        0.8,
        filled.version,
        replace(filled.view, estimator="text").id,  # its rows have no segments
    )
    (task,) = document["tasks"]
    assert task["task"] == "arc"
    assert task["baseline"]["pearson_sd"] is None
    predicted = {line["model"]: line for line in document["rows"] if line["predicted"] is not None}
    assert set(predicted) == {"org/m0", "org/m1", "org/m2"}
    assert all(line["low"] <= line["predicted"] <= line["high"] for line in predicted.values())
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["predicted"]) for line in lines if line["predicted"]] == [
        line["predicted"] for line in predicted.values()
    ]
    found = predict(filled.rows(), read_scores(scores, tasks=["arc"]), seeds=range(2), level=0.8)
    assert found.tasks[0].grouped.pearson == pytest.approx(task["grouped"]["pearson"])


def test_quiet_prints_predictions_and_writes_nothing(cli: Cli, filled: Registry, scores: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = cli("-r", filled.path, "predict", scores, "-q", "--task", "arc", cwd=tmp_path)
    assert result.code == 0
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [line[0].split("@")[0] for line in lines] == ["org/m0", "org/m1", "org/m2"]
    assert all(line[1] == "arc" and 0 <= float(line[2]) <= 100 for line in lines)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_view_changes_the_numbers_and_is_named(cli: Cli, filled: Registry, scores: Path) -> None:
    own = predict(filled.rows(), read_scores(scores))
    result = cli("-r", filled.path, "predict", scores, "--json", "--only", "code", "--only", "multilingual")
    other = json.loads(result.out)
    assert own.view != other["view"] == View(clip=filled.clip, only=("code", "multilingual")).id
    assert abs(own.tasks[0].grouped.pearson - other["tasks"][0]["grouped"]["pearson"]) > 1e-6


def test_a_family_column_of_choice(cli: Cli, filled: Registry, scores: Path) -> None:
    result = cli("-r", filled.path, "predict", scores, "--family", "licence", "--task", "arc")
    assert result.code == 0
    assert result.out.splitlines()[1].split()[:4] == ["arc", "21", "1", "-"]
    assert "all scored models are of one family" in result.err


def test_unknown_models_are_left_out_with_a_note_or_refused(cli: Cli, filled: Registry, scores: Path) -> None:
    scores.write_text(scores.read_text() + "org/\x1b[31mgone,f0,5,5,mit\n")
    result = cli("-r", filled.path, "predict", scores)
    assert result.code == 0
    assert r"1 scored model has no row and is left out: org/\x1b[31mgone" in result.err
    strict = cli("-r", filled.path, "predict", scores, "--strict")
    assert (strict.code, strict.out) == (1, "")
    assert "1 of 22 models have no row in this registry: org/" in strict.err
    assert len(strict.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["SCORES", "-o", "out.xlsx"], 1, "out.xlsx: expected a file name that ends in .csv, .parquet or .json"),
        (
            ["SCORES", "-o", "no/such/out.csv"],
            1,
            "cannot write no/such/out.csv: there is no directory no/such; make it first",
        ),
        (["SCORES", "--task", "mmlu"], 1, "no column 'mmlu'; it has: model, family, arc, noise, licence"),
        (["SCORES", "--task", "licence"], 1, "line 2, column 'licence': expected a number; got 'mit'"),
        (["SCORES", "--family", "kin"], 1, "no column 'kin'"),
        (["none.csv"], 1, "none.csv: no such file"),
        (["SCORES", "--level", "1"], 2, "Invalid value for '--level'"),
        (["SCORES", "--seeds", "0"], 2, "Invalid value for '--seeds'"),
        ([], 2, "Missing argument 'SCORES'"),
    ],
)
def test_what_is_wrong_is_said(args: list[str], code: int, told: str, cli: Cli, filled: Registry, scores: Path) -> None:
    result = cli("-r", filled.path, "predict", *(scores if arg == "SCORES" else arg for arg in args))
    assert (result.code, result.out) == (code, "")
    assert told in result.err
    assert "Traceback" not in result.err
    assert code == 2 or len(result.err.splitlines()) == 1


def test_too_few_scores(cli: Cli, filled: Registry, tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("model,arc\n" + "".join(f"org/m{k},{k}\n" for k in range(4)))
    result = cli("-r", filled.path, "predict", path)
    assert result.code == 1
    assert "prediction needs at least 5 scored models with a row; arc has 4; give more scores" in result.err
