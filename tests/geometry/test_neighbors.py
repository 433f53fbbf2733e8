"""Nearest rows, verdicts, and where two models differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.kl.contrast import by_subset, widest_texts
from llreg.geometry.kl.noise import noise_floor, noise_variances, verdicts
from llreg.geometry.view.view import View
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError, NotFoundError

MakeRow = Callable[..., Row]
ALONE: dict[str, Any] = {"base_model": [], "architecture": "GPT2LMHeadModel"}


@pytest.fixture
def family(registry: Registry, make_row: MakeRow) -> Registry:
    """A base, a copy, a close child that declares it, a far child, a stranger without some texts, a replicate."""
    rng = np.random.default_rng(0)
    base = -rng.gamma(3.0, 200.0, registry.num_texts)
    stranger = -rng.gamma(3.0, 200.0, registry.num_texts)
    stranger[:20] = np.nan
    child = {"declared": {"base_model": ["org/base"], "architecture": "LlamaForCausalLM", "num_parameters": 1_000}}
    rows = [
        make_row(registry, "org/base", 0, log_likelihood=base, declared={"num_parameters": 1_000, **ALONE}),
        make_row(registry, "other/copy", 1, log_likelihood=base, declared={"num_parameters": None, **ALONE}),
        make_row(registry, "org/child", 2, log_likelihood=base + rng.normal(0, 3, len(base)), **child),
        make_row(registry, "org/far", 3, log_likelihood=base + rng.normal(0, 30, len(base)), **child),
        make_row(registry, "org/stranger", 4, log_likelihood=stranger, declared={"num_parameters": 9_000, **ALONE}),
        make_row(
            registry,
            "org/base",
            5,
            log_likelihood=base + rng.normal(0, 1e-5, len(base)),
            declared={"num_parameters": 1_000, **ALONE},
        ),
    ]
    for row in rows:
        write_row(registry.path, row)
    return registry


def test_order_ranks_and_numbers(family: Registry) -> None:
    found = family.neighbors("org/child", 10)
    ids = [neighbor.row_id for neighbor in found.nearest]
    result = family.kl(["org/child"], ids)
    kl = result["kl_bits_per_byte"].values[0]
    assert (np.diff(kl) >= 0).all()
    assert [neighbor.kl for neighbor in found.nearest] == pytest.approx(kl.tolist(), rel=1e-12)
    assert [neighbor.kl_se for neighbor in found.nearest] == pytest.approx(
        result["kl_bits_per_byte_se"].values[0].tolist(), rel=1e-9
    )
    assert [neighbor.rank for neighbor in found.nearest] == [1, 2, 3, 4, 5]
    assert found.nearest[-1].model == "org/stranger"
    assert found.nearest[-1].num_texts == family.num_texts - 20
    assert (found.version, found.view.id) == (family.version, family.view.id)


def test_relations_and_bases(family: Registry) -> None:
    found = family.neighbors("org/far", 1)
    assert found.nearest[0].relation == {"org/child": "same declared base", "org/base": "declared base"}.get(
        found.nearest[0].model, ""
    )
    assert {base.model for base in found.bases} == {"org/base"}
    assert len(found.bases) == 2  # both its rows, wherever they rank
    of_base = family.neighbors(family.records()[0].row_id, 5)
    assert {n.model: n.relation for n in of_base.nearest} == {
        "other/copy": "",
        "org/base": "same model",
        "org/child": "declares it as its base",
        "org/far": "declares it as its base",
        "org/stranger": "",
    }
    assert of_base.nearest[0].verdict == "identical"
    assert of_base.nearest[1].verdict == "same within noise"
    assert of_base.nearest[2].verdict == "different"


def test_a_base_that_is_not_here(family: Registry, make_row: MakeRow) -> None:
    write_row(family.path, make_row(family, "org/orphan", 9, declared={"base_model": ["org/nowhere"]}))
    assert family.neighbors("org/orphan").missing_bases == ["org/nowhere"]


def test_plain_values(family: Registry) -> None:
    found = family.neighbors("org/far", 5)
    document = json.loads(json.dumps(found.to_json()))
    assert document["view"] == family.view.to_json()
    assert [entry["row_id"] for entry in document["nearest"]] == [neighbor.row_id for neighbor in found.nearest]
    relatives = family.lineage("org/far", candidates=5)
    assert relatives.to_json()["relatives"][0]["neighbor"]["row_id"] == found.nearest[0].row_id


def test_conditions(family: Registry) -> None:
    def names(*where: str) -> list[str]:
        return sorted(n.model for n in family.neighbors("other/copy", 10, where=where).nearest)

    assert names("num_parameters<=1000") == ["org/base", "org/base", "org/child", "org/far"]
    assert names("num_parameters > 1e3") == ["org/stranger"]
    assert names("architecture=LlamaForCausalLM", "model_id!=org/far") == ["org/child"]
    for condition, message in [
        ("colour=red", "expected FIELD=VALUE"),
        ("num_parameters<small", "expected a number after <"),
        ("licence", "expected FIELD=VALUE"),
        ("model_id=nobody", "that meets the conditions"),
    ]:
        with pytest.raises(InputError, match=message):
            names(condition)


def test_a_vector_from_outside(family: Registry, tmp_path: Path) -> None:
    values = family.row("org/child").log_likelihood
    np.save(tmp_path / "v.npy", values)
    for query in (values, tmp_path / "v.npy", str(tmp_path / "v.npy")):
        found = family.neighbors(query, 2)
        assert (found.nearest[0].model, found.nearest[0].kl) == ("org/child", 0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), r"expected 128 numbers, one log-likelihood a text in nats; got float64 of shape \(3,\)"),
        (np.full(128, 1.0), "a log-likelihood is a finite number of at most 0"),
        (np.full(128, -np.inf), "a log-likelihood is a finite number of at most 0"),
        (np.array(["a"] * 128), "expected 128 numbers"),
        (b"no numpy file", "expected a .npy file"),
        (np.array([{}] * 128, dtype=object), "expected a .npy file"),
    ],
)
def test_vectors_that_are_none(family: Registry, tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "v.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        family.neighbors(file)


def test_one_row_only(registry: Registry, make_row: MakeRow) -> None:
    write_row(registry.path, make_row(registry))
    with pytest.raises(InputError, match="a neighbour needs another row"):
        registry.neighbors("a/b")
    with pytest.raises(NotFoundError, match="no row of a/c"):
        registry.neighbors("a/c")


def test_noise_floor_follows_the_dtype(registry: Registry, make_row: MakeRow) -> None:
    rows = [make_row(registry, f"m/{dtype}", k, weight_dtype=dtype) for k, dtype in enumerate(("float32", "bfloat16"))]
    variances = noise_variances([row.record for row in rows], np.full(2, registry.num_texts))
    floor = noise_floor(variances, variances)
    assert (floor == floor.T).all()
    assert floor[0, 0] < 1e-6 < floor[0, 1] < floor[1, 1]
    assert floor[1, 1] == pytest.approx(2 * floor[0, 1], rel=1e-3)


def test_noise_floor_does_not_depend_on_the_view(family: Registry) -> None:
    names = [record.row_id for record in family.records()[:3]]
    subset = next(iter(family.text_index.info.subsets))
    whole, part = (family.kl(names, view=view)["noise_floor"].values for view in (View(), View(only=(subset,))))
    np.testing.assert_array_equal(whole, part)
    vector = family.row("org/child").log_likelihood.astype(np.float64)
    vector[0] -= 1e-5
    assert family.neighbors(vector, 1).nearest[0].verdict == "same within noise"


@pytest.mark.parametrize(
    ("kl", "floor", "num_texts", "expected"),
    [
        (0.0, 0.0, 100, "identical"),
        (1.02, 1.0, 10_000, "same within noise"),
        (1.1, 1.0, 10_000, "different"),
        (1.1, 1.0, 100, "same within noise"),
        (float("nan"), 0.5, 100, "unknown"),
    ],
)
def test_verdicts(kl: float, floor: float, num_texts: int, expected: str) -> None:
    row = np.full((1, 4), -100.0)
    other = row + np.sqrt(2 * np.nan_to_num(kl)) * np.array([1, -1, 1, -1])
    pair = verdicts(np.array([[kl]]), np.array([[floor]]), np.array([[num_texts]]), row, other, np.zeros((1, 1)))
    assert pair.tolist() == [[expected]]


def test_noise_is_taken_for_noise() -> None:
    """Two runs with independent errors: nearly never told apart; with twice the error, nearly always."""
    errors = np.random.default_rng(0).normal(0, 0.9, (2, 400, 300))
    for scale, expected in ((1, "same within noise"), (2, "different")):
        first, second = scale * errors[0], scale * errors[1]
        kl = np.var(first - second, axis=1)[:, None] / 2
        pairs = [
            verdicts(kl[[k]], np.array([[0.81]]), np.array([[300]]), first[[k]], second[[k]], np.zeros((1, 1))).item()
            for k in range(400)
        ]
        assert np.mean([pair == expected for pair in pairs]) > 0.99


class TestContrast:
    """Which texts carry a distance."""

    def test_subsets(self, family: Registry) -> None:
        rows = family.rows(["org/child", "org/far"], view=View(clip=-1500.0))
        found = by_subset(rows)
        assert float(found["share"].sum()) == pytest.approx(1.0)
        assert int(found["num_texts"].sum()) == family.num_texts
        name = str(found["subset"].values[1])
        alone = family.kl(["org/child", "org/far"], view=View(clip=-1500.0, only=(name,)))
        one = found.sel(subset=name)
        assert float(one["kl_bits_per_byte"]) == pytest.approx(float(alone["kl_bits_per_byte"][0, 1]), rel=1e-9)
        assert float(one["kl_bits_per_byte_se"]) == pytest.approx(float(alone["kl_bits_per_byte_se"][0, 1]), rel=1e-9)

    def test_texts(self, family: Registry) -> None:
        rows = family.rows(["org/child", "org/far"])
        found = widest_texts(rows, 128)
        d = rows.values[0] - rows.values[1]
        deviation = d - d.mean()
        np.testing.assert_allclose(found["share"].values, np.sort(deviation**2)[::-1] / (deviation**2).sum(), rtol=1e-9)
        assert found["text"].values[0] == np.argmax(np.abs(deviation))
        assert len(widest_texts(rows, 3)["text"]) == 3

    def test_needs_two_rows_with_common_texts(self, family: Registry) -> None:
        with pytest.raises(InputError, match="takes two models; got 3"):
            by_subset(family.rows(["org/child", "org/far", "other/copy"]))


class TestCommands:
    """`llreg nn`, `llreg dist --by`, `--texts`, `-o`."""

    def test_nn(self, family: Registry, cli: Any) -> None:
        result = cli("-r", family.path, "nn", "org/far", "-k", "1")
        assert result.code == 0
        assert "org/base" in result.err
        assert "is number" in result.err
        quiet = cli("-r", family.path, "nn", "org/far", "-q").out.split()
        document = json.loads(cli("-r", family.path, "nn", "org/far", "--json").out)
        assert [entry["row_id"] for entry in document["nearest"]] == quiet

    def test_ambiguous_name_lists_the_rows(self, family: Registry, cli: Any) -> None:
        result = cli("-r", family.path, "nn", "org/base")
        assert (result.code, result.out) == (1, "")
        assert "org/base has 2 rows; name one by its id: org/base@" in result.err

    def test_contrast(self, family: Registry, cli: Any) -> None:
        result = cli("-r", family.path, "dist", "org/far", "org/child", "--by", "subset", "--texts", "2")
        assert (result.code, "SUBSET" in result.out, "TEXT" in result.out) == (0, True, True)
        document = json.loads(
            cli("-r", family.path, "dist", "org/far", "org/child", "--by", "subset", "--texts", "2", "--json").out
        )
        assert len(document["texts"]) == 2
        assert sum(entry["share"] for entry in document["subsets"]) == pytest.approx(1.0)
        assert cli("-r", family.path, "dist", "org/far", "--texts", "2").code == 2

    def test_verdict_is_shown(self, family: Registry, cli: Any) -> None:
        base = family.records()[0].row_id
        out = cli("-r", family.path, "dist", "--to", base).out
        assert [line.split()[-1] for line in out.splitlines()[1:3]] == ["identical", "noise"]
