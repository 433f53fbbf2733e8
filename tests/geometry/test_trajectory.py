"""Trajectories: steps found in names, the path and its exponent beside plain formulas, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.kl.distance import kl_rows
from llreg.geometry.kl.rows import Rows
from llreg.geometry.trajectory import (
    find_family,
    find_trajectories,
    record_step,
    sizes_of,
    step_in,
    steps_of,
    trajectory,
)
from llreg.geometry.view.view import View
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas import Identity, RowRecord
from llreg_schemas.errors import InputError, NotFoundError

Array = np.ndarray[Any, Any]
Cli = Callable[..., Any]
MakeRow = Callable[..., Row]


def record(name: str, *, size: int | None = None, **identity: Any) -> RowRecord:
    asked = {"requested_revision": identity.pop("asked")} if "asked" in identity else {}
    fields = {"source": "hub", "revision": "0" * 40, "weight_dtype": "float32", "text_set": "t", "protocol": "p"}
    whole = Identity(**{**fields, **identity, "model": name})
    return RowRecord(whole, asked, {"num_parameters": size}, whole.id)


def rows_of(values: Array, records: list[RowRecord]) -> Rows:
    count = values.shape[1]
    return Rows(
        records, values, np.full(count, 1000.0), np.arange(count), np.full(count, "all", dtype=object), None,
        [None] * len(records), View(), "test", "0" * 64,
    )  # fmt: skip


def run_of(values: Array, steps: list[int]) -> Rows:
    return rows_of(values, [record(f"org/run-step{step}") for step in steps])


def walk(count: int, texts: int, seed: int = 0) -> Array:
    """Independent moves of one size: Brownian motion."""
    return np.random.default_rng(seed).normal(0, 5, (count, texts)).cumsum(axis=0) - 600


# Steps in names


@pytest.mark.parametrize(
    ("text", "stem", "kind", "value"),
    [
        ("gpt2-mix-s1-step0300", "gpt2-mix-s1", "step", 300),
        ("step1000", "", "step", 1000),
        ("EleutherAI/pythia-410m-seed1-step143000", "EleutherAI/pythia-410m-seed1", "step", 143000),
        ("run_global_step_64", "run", "step", 64),
        ("run-ckpt-2000", "run", "step", 2000),
        ("run/checkpoint-500", "run/", "step", 500),
        ("run.iter_0000100", "run", "step", 100),
        ("Run-STEP-1.5k", "Run", "step", 1500),
        ("TinyLlama-1.1B-intermediate-step-50K-105b", "TinyLlama-1.1B-intermediate", "step", 50_000),
        ("OLMo-7B-step1000-tokens4B", "OLMo-7B", "step", 1000),
        ("run-100B-tokens", "run", "tokens", 1e11),
        ("run-7b-tokens_2.1T-base", "run-7b-base", "tokens", 2.1e12),
    ],
)
def test_step_in_a_name(text: str, stem: str, kind: str, value: float) -> None:
    found = step_in(text)
    assert found is not None
    assert (found.stem, found.kind, found.value) == (stem, kind, pytest.approx(value))


@pytest.mark.parametrize(
    "text", ["org/model-7b", "org/run_100B", "footstep-12", "stepfun", "run-step", "run-stepwise-3", "main", "v2.0", ""]
)
def test_no_step_in_a_name(text: str) -> None:
    assert step_in(text) is None


def test_step_of_a_record_is_also_in_what_it_was_loaded_from() -> None:
    for made in (record("org/run", asked="step1000"), record("org/run", subfolder="checkpoint-1000")):
        assert record_step(made) == ("org/run", "step", 1000)
    assert record_step(record("org/run")) is None


def test_steps_of_a_run() -> None:
    run = [record("run-step30"), record("run"), record("run-step4")]
    np.testing.assert_array_equal(steps_of(run), [30, math.nan, 4])
    with pytest.raises(InputError, match="no training step in the name of b/x; give every model's place with --order"):
        steps_of([record("run-step30"), record("b/x")])
    with pytest.raises(InputError, match="no training step in the name of other"):
        steps_of([record("run-step30"), record("run-step4"), record("other")])
    with pytest.raises(InputError, match="no training step in the name of a/b"):
        steps_of([record("a/b"), record("c/d")])
    with pytest.raises(InputError, match="some names count steps and others tokens"):
        steps_of([record("run-step30"), record("run-4B-tokens")])


def test_sizes() -> None:
    np.testing.assert_array_equal(sizes_of([record("a", size=70), record("b", size=160)]), [70, 160])
    with pytest.raises(InputError, match="b declares no number of parameters"):
        sizes_of([record("a", size=70), record("b")])


# Families


def test_families_among_rows() -> None:
    records = [
        record("org/run-step300"),
        record("lone-step5"),
        record("org/run"),
        record("org/run-step20"),
        record("org/run-step20", weight_dtype="bfloat16"),
        record("org/run-step20"),
        record("org/step-3"),
        record("org/step-4"),
        record("org/pythia", asked="step8"),
        record("org/pythia", asked="step2"),
        record("other"),
    ]
    assert find_trajectories(records) == [("org/pythia", [9, 8]), ("org/run", [3, 0, 2])]
    assert find_family(records, "run") == [records[k].row_id for k in (3, 0, 2)]
    assert find_family(records, "org/pythia") == [records[k].row_id for k in (9, 8)]
    with pytest.raises(NotFoundError, match="no family of checkpoints 'lone'; families here: org/pythia, org/run"):
        find_family(records, "lone")
    with pytest.raises(NotFoundError, match="families here: none"):
        find_family(records[1:2], "lone")
    twice = [*records, record("us/run-step1"), record("us/run-step2")]
    with pytest.raises(InputError, match=r"'run' means 2 families, which begin with org/run-step20@\w+, us/run-step1@"):
        find_family(twice, "run")


# The path


def test_path_is_the_kl_of_consecutive_checkpoints_and_from_the_first() -> None:
    steps = [300, 100, 200, 400, 500]
    rows = run_of(walk(5, 50), steps)
    path = trajectory(rows)
    order = [1, 2, 0, 3, 4]
    assert list(path["order"].values) == [100, 200, 300, 400, 500]
    assert list(path["checkpoint"].values) == [rows.row_ids[k] for k in order]
    kl = kl_rows(rows)
    for suffix in ("", "_se", "_bits_per_byte", "_bits_per_byte_se"):
        matrix = kl[f"kl{suffix}"].values[np.ix_(order, order)]
        np.testing.assert_allclose(path[f"kl_step{suffix}"].values[1:], matrix[range(4), range(1, 5)], rtol=1e-10)
        np.testing.assert_allclose(path[f"kl_first{suffix}"].values[1:], matrix[0, 1:], rtol=1e-10)
        assert np.isnan(path[f"kl_step{suffix}"].values[0])
    assert path["total"].item() == pytest.approx(path["kl_step_bits_per_byte"].values[1:].sum())
    assert path["direct"].item() == path["kl_first_bits_per_byte"].values[-1]
    assert path["ratio"].item() == pytest.approx(path["direct"].item() / path["total"].item())
    assert path["kl_step"].attrs["units"] == "nat/text"
    assert path.attrs["view"] == View().id


def _exponent(values: Array, steps: list[int], start: int, window: int = 10) -> float:
    """The slope for one start, from its formula."""
    later = range(start + 1, min(start + 1 + window, len(steps)))
    x = np.array([math.log(steps[k] - steps[start]) for k in later])
    y = np.array([math.log(np.var(values[k] - values[start]) / 2) for k in later])
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def test_exponent_is_over_the_next_ten_checkpoints() -> None:
    steps, values = list(range(1000, 16000, 1000)), walk(15, 200)
    path = trajectory(run_of(values, steps))
    expected = [_exponent(values, steps, start) for start in range(5)]  # those with ten checkpoints after them
    np.testing.assert_allclose(path["exponent"].values[:5], expected, rtol=1e-8)
    assert np.isnan(path["exponent"].values[5:]).all()
    assert path["exponent_mean"].item() == pytest.approx(np.mean(expected))
    assert path["exponent_sd"].item() == pytest.approx(np.std(expected, ddof=1))
    assert path.attrs["exponent_note"] == ""
    since = trajectory(run_of(values, steps), since=3000)
    np.testing.assert_allclose(since["exponent"].values[2:5], expected[2:], rtol=1e-8)
    assert np.isnan(since["exponent"].values[:2]).all()


def test_exponent_of_fewer_checkpoints() -> None:
    steps, values = [1, 2, 5, 9, 20], walk(5, 100)
    path = trajectory(run_of(values, steps))
    expected = [_exponent(values, steps, start) for start in range(2)]
    np.testing.assert_allclose(path["exponent"].values[:2], expected, rtol=1e-8)
    assert np.isnan(path["exponent"].values[2:]).all()


def test_diffusion_and_a_straight_line() -> None:
    steps = list(range(1, 21))
    diffusing = trajectory(run_of(walk(20, 20_000), steps))
    assert diffusing["exponent_mean"].item() == pytest.approx(1, abs=0.05)
    assert diffusing["ratio"].item() == pytest.approx(1, abs=0.1)
    line = np.outer(steps, np.random.default_rng(2).normal(0, 5, 40)) - 600
    straight = trajectory(run_of(line, steps))
    assert straight["exponent_mean"].item() == pytest.approx(2)
    assert straight["ratio"].item() == pytest.approx(19)
    back = trajectory(run_of(line[[0, 9, 0]], [1, 2, 3]))
    assert back["ratio"].item() == 0


def test_short_paths_have_no_exponent_and_say_why() -> None:
    three = trajectory(run_of(walk(3, 30), [1, 2, 3]))
    assert math.isnan(three["exponent_mean"].item())
    assert "a start needs 3 later checkpoints" in three.attrs["exponent_note"]
    four = trajectory(run_of(walk(4, 30), [1, 2, 3, 4]))
    assert not math.isnan(four["exponent_mean"].item())
    assert math.isnan(four["exponent_sd"].item())
    copies = trajectory(run_of(np.repeat(walk(1, 30), 5, axis=0), [1, 2, 3, 4, 5]))
    assert (copies["total"].item(), math.isnan(copies["ratio"].item())) == (0, True)
    assert math.isnan(copies["exponent_mean"].item())


def test_the_final_model_comes_last_and_has_no_time() -> None:
    values = walk(5, 40)
    records = [record("run"), *(record(f"run-step{k}") for k in (1, 2, 3, 4))]
    path = trajectory(rows_of(values, records))
    assert list(path["model_id"].values) == ["run-step1", "run-step2", "run-step3", "run-step4", "run"]
    assert math.isnan(path["order"].values[-1])
    assert path["kl_step"].values[-1] == pytest.approx(np.var(values[0] - values[4]) / 2)
    assert path["exponent_mean"].item() == pytest.approx(_exponent(values[1:], [1, 2, 3, 4], 0))


def test_sizes_make_a_path_without_exponent() -> None:
    records = [record(f"m{size}", size=size) for size in (400, 70, 160, 1000, 2800)]
    path = trajectory(rows_of(walk(5, 40), records), by="size")
    assert list(path["order"].values) == [70, 160, 400, 1000, 2800]
    assert np.isnan(path["exponent"].values).all()
    assert path.attrs["exponent_note"] == "sizes are not times"


def test_a_given_order_goes_before_names() -> None:
    rows = run_of(walk(3, 40), [1, 2, 3])
    path = trajectory(rows, order=[30, 10, 20])
    assert list(path["checkpoint"].values) == [rows.row_ids[k] for k in (1, 2, 0)]


def test_bad_input_is_told() -> None:
    rows = run_of(walk(3, 40), [1, 2, 3])
    with pytest.raises(InputError, match="a trajectory needs two rows; got 1"):
        trajectory(rows.take([0]))
    with pytest.raises(InputError, match="order: expected 3 numbers, one a model; got 2"):
        trajectory(rows, order=[1, 2])
    with pytest.raises(InputError, match="order: expected finite numbers"):
        trajectory(rows, order=[1, 2, math.nan])
    with pytest.raises(InputError, match=r"org/run-step1@\w+ and org/run-step3@\w+ are both at 5"):
        trajectory(rows, order=[5, 2, 5])
    with pytest.raises(InputError, match="by: expected step or size; got 'age'"):
        trajectory(rows, by="age")  # type: ignore[arg-type]
    values = rows.values.copy()
    values[1] = np.nan
    with pytest.raises(InputError, match="no distance from org/run-step1 to org/run-step2"):
        trajectory(run_of(values, [1, 2, 3]))


# The command


@pytest.fixture
def run(small_registry: Registry, make_row: MakeRow) -> Registry:
    """Five checkpoints and the final model of one run, and a row apart."""
    values = np.minimum(walk(6, 6, seed=4), 0) / 4
    names = [*(f"org/run-step{10**k}" for k in range(5)), "org/run"]
    for k, name in enumerate(names):
        size = {"num_parameters": 1000 - k}
        write_row(small_registry.path, make_row(small_registry, name, k, log_likelihood=values[k], declared=size))
    write_row(small_registry.path, make_row(small_registry, "apart", 9))
    return small_registry


def test_traj_command(cli: Cli, run: Registry) -> None:
    result = cli("-r", run.path, "traj", "--family", "run")
    path = trajectory(run.rows(find_family(run.records(), "org/run")))
    lines = result.out.splitlines()
    assert (result.code, lines[0].split()) == (0, ["STEP", "MODEL", "PREVIOUS", "SE", "FIRST", "SE", "EXPONENT"])
    assert [line.split()[:2] for line in lines[1:7]] == [
        ["1", "org/run-step1"], ["10", "org/run-step10"], ["100", "org/run-step100"], ["1,000", "org/run-step1000"],
        ["10,000", "org/run-step10000"], ["final", "org/run"],
    ]  # fmt: skip
    assert lines[2].split()[2] == f"{path['kl_step_bits_per_byte'].values[1]:.6f}"
    assert lines[7].startswith(f"steps {path['total'].item():.6f} in all, first to last {path['direct'].item():.6f}")
    assert lines[8].startswith(f"diffusion exponent {path['exponent_mean'].item():.3f}, SD ")
    assert lines[8].endswith("over 2 starts")
    document = json.loads(cli("-r", run.path, "traj", "--family", "org/run", "--json").out)
    assert document["total"] == path["total"].item()
    assert [point["order"] for point in document["checkpoints"]] == [1, 10, 100, 1000, 10000, None]
    assert document["checkpoints"][3]["kl_step_se"] == path["kl_step_se"].values[3]
    assert document["checkpoints"][0]["kl_step"] is None


def test_traj_command_takes_an_order_and_sizes(cli: Cli, run: Registry) -> None:
    given = cli("-r", run.path, "traj", "org/run", "apart", "--order", "7,2.5")
    assert [line.split()[:2] for line in given.out.splitlines()[1:3]] == [["2.5", "apart"], ["7", "org/run"]]
    assert "no diffusion exponent: a start needs 3 later checkpoints" in given.out
    sizes = cli("-r", run.path, "traj", "org/run", "org/run-step1", "--by", "size")
    assert [line.split()[:2] for line in sizes.out.splitlines()[:3]] == [
        ["SIZE", "MODEL"], ["995", "org/run"], ["1,000", "org/run-step1"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "name the MODELs, or one --family"),
        (["--family", "run", "--order", "1,2"], 2, "--order goes with MODELs"),
        (
            ["apart", "org/run", "--order", "1,two"],
            2,
            "--order: expected numbers with commas between them; got '1,two'",
        ),
        (["--family", "run", "--since", "nan"], 2, "--since: expected a training step; got nan"),
        (["--family", "run", "--since", "inf"], 2, "--since: expected a training step; got inf"),
        (["--family", "walk"], 1, "no family of checkpoints 'walk'; families here: org/run"),
    ],
)
def test_traj_command_refuses(args: list[str], code: int, told: str, cli: Cli, run: Registry, tmp_path: Path) -> None:
    result = cli("-r", run.path, "traj", *args)
    assert (result.code, result.out) == (code, "")
    assert told in result.err
    assert "Traceback" not in result.err
