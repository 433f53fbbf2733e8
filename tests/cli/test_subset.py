"""`llreg subset`, and text subsets in `ls`, `info` and `add`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from llreg.cli.common import Context
from llreg.cli.info import info
from llreg.cli.ls import ls
from llreg.cli.subset import subset
from llreg.geometry.subset import make_subset
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg.store.subsets import load_subset, store_subset
from llreg_schemas import RowRecord, row_digest
from llreg_schemas.errors import InputError

Fill = Callable[..., list[Row]]
Run = Callable[..., Result]


@pytest.fixture
def filled(registry: Registry, fill: Fill) -> Registry:
    """Six rows on 128 texts."""
    fill(registry, 6)
    return registry


@pytest.fixture
def run(filled: Registry) -> Run:
    """Run a command on the registry."""

    def invoke(command: Any, *args: str | Path) -> Result:
        return CliRunner().invoke(command, [str(arg) for arg in args], obj=Context(str(filled.path)))

    return invoke


def test_writes_a_file_and_tells_what_it_costs(run: Run, filled: Registry, tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    done = run(subset, "--size", "32", "-o", path)
    assert done.exit_code == 0
    document = load_subset(filled, path)
    assert len(document["texts"]) == 32
    first, second = done.stdout.splitlines()
    assert first.startswith(f"subset {document['id'][:12]}: 32 of 128 texts (25.0%), ")
    assert first.endswith("% of the bytes; method ls, without replacement, seed 0")
    assert second.startswith("KL of a new model: off by ")
    assert done.stderr == ""
    assert run(subset, "--size", "32", "-q").stdout == f"{document['id']}\n"


def test_json(run: Run) -> None:
    done = run(subset, "--draws", "60", "--method", "kl", "--floor", "0", "--seed", "3", "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert (told["draws"], told["method"], told["floor"], told["seed"], told["replacement"]) == (60, "kl", 0, 3, True)
    assert told["texts"] <= 60
    (line,) = told["errors"]
    assert 0 < line["relative"] < line["relative_total"]
    assert "nothing was written; -o FILE" in done.stderr


def test_curve(run: Run) -> None:
    done = run(subset, "--size", "32", "--curve")
    assert done.exit_code == 0
    table = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in table] == ["uniform"] * 8 + ["ls"] * 8 + ["kl"] * 8
    assert [row[1] for row in table[:8]] == [row[2] for row in table[:8]]
    for last in table[7::8]:
        assert last[2:5] == ["128", "0.0%", "0.0%"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "give either --size or --draws"),
        (["--size", "3", "--draws", "3"], "give either --size or --draws"),
        (["--size", "0"], "0 is not in the range"),
        (["--size", "3", "--floor", "2"], "2.0 is not in the range"),
        (["--size", "3", "--method", "best"], "'best' is not one of"),
    ],
)
def test_wrong_usage(run: Run, args: list[str], told: str) -> None:
    done = run(subset, *args)
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ["--size", "8", "--seed", "99999999999999999"],
            "seed: expected at least 0, and at most 9007199254740991; got",
        ),
        (["--draws", "12801"], "draws: expected at most 12,800, 100 a text of the set; got 12,801"),
        (["--draws", "99999999999999999"], "draws: expected at most 12,800"),
        (["--size", "129"], "expected at most 128 texts"),
    ],
)
def test_nothing_is_written_that_add_refuses(run: Run, tmp_path: Path, args: list[str], told: str) -> None:
    done = run(subset, *args, "-o", tmp_path / "subset.json")
    assert done.exit_code == 1
    assert isinstance(done.exception, InputError)
    assert told in str(done.exception)
    assert not (tmp_path / "subset.json").exists()


def test_the_largest_seed_and_draws_make_a_subset_that_add_takes(run: Run, filled: Registry, tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    assert run(subset, "--draws", "12800", "--seed", "9007199254740991", "-o", path, "-q").exit_code == 0
    assert load_subset(filled, path)["draws"] == 12_800


@pytest.mark.filterwarnings("error")
def test_a_part_of_the_texts_that_no_row_has(registry: Registry, make_row: Callable[..., Row]) -> None:
    label = next(iter(registry.text_index.info.subsets))
    inside = np.array([name == label for name in registry.text_index.subset])
    for k in range(3):
        values = np.where(inside, np.nan, make_row(registry, "org/m", k).log_likelihood)
        write_row(registry.path, make_row(registry, f"org/m{k}", k, log_likelihood=values))
    for args, told in (
        ((), "method ls needs two rows scored on all texts, to know which texts of the view tell models apart"),
        (("--method", "uniform", "--curve"), "errors are measured between rows that differ, on all texts"),
    ):
        done = CliRunner().invoke(subset, ["--size", "4", "--only", label, *args], obj=Context(str(registry.path)))
        assert isinstance(done.exception, InputError)
        assert told in str(done.exception)
        assert (done.stdout, done.stderr) == ("", "")


def test_a_view_chooses_the_texts(run: Run, filled: Registry, tmp_path: Path) -> None:
    label = next(iter(filled.text_index.info.subsets))
    path = tmp_path / "subset.json"
    assert run(subset, "--size", "8", "--only", label, "-o", path).exit_code == 0
    document = load_subset(filled, path)
    assert {filled.text_index.subset[text] for text in document["texts"]} == {label}
    assert document["view"]["only"] == [label]
    again = tmp_path / "again.json"
    assert run(subset, "--size", "8", "--view", path, "-o", again).exit_code == 0
    assert load_subset(filled, again) == document


def test_rows_of_a_subset_are_shown_as_such(run: Run, filled: Registry) -> None:
    document = make_subset(filled, 40)
    store_subset(filled.path, document)
    full = filled.row("org/m0")
    values, tokens = np.full_like(full.log_likelihood, np.nan), np.zeros_like(full.num_tokens)
    values[document["texts"]] = full.log_likelihood[document["texts"]]
    tokens[document["texts"]] = full.num_tokens[document["texts"]]
    identity = replace(full.record.identity, subset=document["id"])
    provenance = {**full.record.provenance, "tokens": int(tokens.sum()), "over_context": 0}
    digest = row_digest(identity.to_json(), values, tokens)
    record = RowRecord(identity, provenance, full.record.declared, digest)
    write_row(filled.path, Row(record, values, tokens))
    listed = run(ls)
    assert listed.exit_code == 0
    (line,) = [line for line in listed.stdout.splitlines() if digest[:8] in line]
    assert " subset 40/128 " in line
    assert " ~" in line
    shown = run(info, record.row_id)
    assert shown.stdout.endswith("text subset\n  40 of 128 texts, method ls, seed 0\n")
    assert document["id"] in shown.stdout
    assert "text subset" not in run(info, full.record.row_id).stdout
