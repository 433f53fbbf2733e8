"""`llreg bench`: measured on this machine, and what it advises."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llreg import bench
from llreg.bench import Report
from llreg.cli.bench import _print
from llreg.cli.common import Context
from llreg.locate import init
from llreg.registry import Registry
from llreg_schemas.errors import LlregError, NotFoundError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

from llreg_extract.measure.shapes import SHAPES
from llreg_extract.measure.speed import Speed

Cli = Callable[..., Any]
EXACT = (-100.0, -200.0, -300.0, float("nan"))


def _speed(dtype: str, rate: float, batch_tokens: int = 16_384, **over: Any) -> Speed:
    values: dict[str, Any] = {
        "tokens_per_second": rate,
        "tokens_per_cpu_second": rate / 2,
        "flops_per_second": rate * 1e9,
        "peak_flops": 4e12,
        "memory_bytes": 3 << 30,
        "largest_batch": batch_tokens,
        "padding": 0.01,
        "alone": EXACT,
        "together": EXACT,
    }
    return Speed(dtype, batch_tokens, **{**values, **over})


def _report(*speeds: Speed, on_gpu: bool = True, random_weights: bool = False) -> Report:
    return Report("org/name", "Some GPU", on_gpu, random_weights, speeds)


def _advice(report: Report) -> bench.Advice:
    assert report.advice is not None
    return report.advice


@pytest.mark.usefixtures("warm_spawning")
def test_measures_each_dtype_and_tells_what_fails(cli: Cli, small_registry: Registry, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("toys", Path(__file__).parents[1] / "tools" / "toy_models.py")
    assert spec is not None
    assert spec.loader is not None
    toys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toys)
    model = toys._save(tmp_path / "toy", 0, 1e5, {})  # overflows in float16
    dtypes = ("--dtype", "float16", "--dtype", "float32")
    result = cli("-r", small_registry.path, "bench", model, *dtypes, "--seconds", "0.1", "--json", timeout=300)
    assert result.code == 1
    assert "llreg: float16, 256 tokens: toy gives NaN or inf in float16\n" in result.err
    assert "leaked" not in result.err  # what the processes left behind
    report = json.loads(result.out)
    exact, failed = report["trials"]  # float32 comes first: errors are against it
    assert failed == {"dtype": "float16", "batch_tokens": 256, "problem": "toy gives NaN or inf in float16"}
    assert (exact["dtype"], exact["problem"]) == ("float32", None)
    assert 0 < exact["share_of_peak"] < 2
    assert exact["tokens_per_second"] > 0
    assert exact["memory_bytes"] > 100 << 20
    assert exact["error"] < 1e-3
    assert report["peak_flops"]["float32"] > 1e8
    assert report["advice"]["options"] == "--dtype float32"
    assert not list(small_registry.path.glob("rows/*/*"))


def test_the_users_own_registry_is_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Context(None).registry_if_any() is None
    assert not list(Path.home().rglob("registry.json"))


def test_a_registry_that_encloses_the_directory_gives_the_texts(
    monkeypatch: pytest.MonkeyPatch, small_registry: Registry
) -> None:
    monkeypatch.chdir(small_registry.path)
    registry = Context(None).registry_if_any()
    assert registry is not None
    assert registry.path == small_registry.path


def test_the_texts_are_the_registrys_drawn_by_the_seed(tmp_path: Path) -> None:
    """Seen by how many of those that were drawn are not copied: half of the registry's are not."""
    listed = tmp_path / "many.jsonl"
    listed.write_text("".join(json.dumps({"text": f"Text {k}."}) + "\n" for k in range(400)))
    registry = init(tmp_path / "registry", texts=listed)
    columns = pq.read_table(registry.path / "texts.parquet").to_pydict()
    columns["text"][:200] = [None] * 200
    pq.write_table(pa.table(columns), registry.path / "texts.parquet")

    def told(seed: int) -> str:
        with pytest.raises(NotFoundError) as refused:
            bench.bench(shape="tiny", registry=Registry(registry.path), seed=seed)
        return str(refused.value)

    assert " of 256 texts of many are not copied" in told(0)
    assert told(0) == told(0) != told(1)


def test_wrong_usage(cli: Cli) -> None:
    both = cli("bench", "org/name", "--shape", "tiny")
    assert (both.code, both.out) == (2, "")
    assert "give a MODEL or a --shape, not both" in both.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "gpt-9"}, "unknown shape 'gpt-9': choose one of tiny"),
        ({"dtypes": ["int8"]}, "unknown dtype 'int8': choose among float32"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"model": "./nowhere"}, "does not exist"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LlregError, match=message):
        bench.bench(**options)


def test_the_shapes_are_those_there_are() -> None:
    assert tuple(SHAPES) == bench.SHAPES


def test_errors_are_against_float32_one_by_one() -> None:
    rounded = _speed("bfloat16", 3000, together=(-101.0, -203.0, -300.0, float("nan")))
    report = _report(_speed("float32", 1000), rounded)
    assert report.error(rounded) == pytest.approx(math.sqrt(10 / 3))
    assert report.kl_floor(rounded) == pytest.approx((10 / 3 - (4 / 3) ** 2) / 2)
    assert report.error(report.speeds[0]) == 0
    assert rounded.spread == 3


def test_errors_are_unknown_without_float32_or_a_real_model() -> None:
    rounded = _speed("bfloat16", 3000)
    assert math.isnan(_report(rounded).error(rounded))
    failed = Speed("float32", 16_384, "memory ran out")
    assert math.isnan(_report(failed, rounded).error(rounded))
    assert math.isnan(_report(_speed("float32", 1), rounded, random_weights=True).error(rounded))


def test_advises_the_smallest_budget_that_is_as_fast() -> None:
    rounded = (-102.0, -200.0, -300.0, float("nan"))
    budgets = [(4096, 2000.0), (16_384, 2990.0), (65_536, 3000.0)]
    speeds = [_speed("bfloat16", rate, budget, together=rounded) for budget, rate in budgets]
    advice = _advice(_report(_speed("float32", 1000), *speeds))
    assert (advice.dtype, advice.batch_tokens) == ("bfloat16", 16_384)
    assert advice.options == "--dtype bfloat16 --batch-tokens 16384"
    assert advice.sentence == (
        "use --dtype bfloat16 --batch-tokens 16384: it is 3.0 times as fast as float32; it puts values off by 1.2 nats a text (rms), and so "
        "about 0.44 nats between a row in it and one in float32"
    )
    # Where no budgets were compared there is nothing to advise.
    assert _advice(_report(*speeds[:1])).options == "--dtype bfloat16"


def test_little_speed_is_not_worth_the_error() -> None:
    advice = _advice(_report(_speed("float32", 1000), _speed("bfloat16", 1400)))
    assert advice.dtype == "float32"
    assert "bfloat16 is only 1.40 times as fast" in advice.sentence


def test_advises_what_runs() -> None:
    failed = Speed("float32", 16_384, "memory ran out")
    assert "float32 does not run here" in _advice(_report(failed, _speed("bfloat16", 10))).sentence
    assert _report(failed).advice is None
    assert _report(failed).to_json()["advice"] is None


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    _print(_report(_speed("float32", 1000), Speed("bfloat16", 65_536, "memory ran out")))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["org/name on Some GPU", "large matrix products reach 4,000 GFLOP/s in float32"]
    assert lines[2].split() == ["DTYPE", "BATCH", "TOKENS/S", "OF", "PEAK", "MEMORY", "PADDING", "SPREAD", "ERROR"]
    assert lines[3].split() == ["float32", "16,384", "1,000", "25%", "3.0", "GiB", "1.0%", "0", "0"]
    assert lines[4].split() == ["bfloat16", "65,536", "failed", *["-"] * 5]
    assert lines[-1].startswith("use --dtype float32 --batch-tokens 16384: ")
    _print(_report(_speed("float32", 1000), on_gpu=False))
    assert "PER CPU SECOND" in capsys.readouterr().out
