"""Rows unlike those of a registry: what a review says of values, distances and dates."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import llreg.hub.judge.population as populations
from llreg.geometry.kl.rows import view_rows
from llreg.hub.judge.measure import measure, robust_z
from llreg.hub.judge.population import Population
from llreg.hub.judge.rules import judge
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

MakeRow = Callable[..., Row]


@pytest.fixture
def crowd(small_registry: Registry, make_row: MakeRow) -> Registry:
    """Thirty rows of models that predict the texts about as well as each other, and differ by text."""
    rng = np.random.default_rng(1)
    sizes = small_registry.text_index.bytes_per_text
    for k in range(30):
        values = -sizes * rng.normal(0.7, 0.03) * rng.normal(1, 0.02, len(sizes))
        write_row(small_registry.path, make_row(small_registry, f"org/m{k}", k, log_likelihood=values))
    return small_registry


def _judged(registry: Registry, row: Row) -> str:
    population = Population(registry)
    write_row(registry.path, row)
    new = view_rows(registry, [row.record], population.view, population.version)
    population.join(new)
    (measured,) = measure(new, population)
    return "\n".join(f"{f.level}: {f.message}" for f in judge(measured, row.record, population))


def test_an_ordinary_row_is_not_unusual(crowd: Registry, make_row: MakeRow) -> None:
    values = -crowd.text_index.bytes_per_text * np.array([0.7, 0.71, 0.69, 0.7, 0.72, 0.7])
    assert "attention" not in _judged(crowd, make_row(crowd, "bob/model", 5, log_likelihood=values))


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (np.full(6, 0.2), "attention: an unusual mean of"),
        (np.array([0.1, 1.3, 0.1, 1.3, 0.7, 0.7]), "attention: an unusual spread"),
        (np.array([0.1, 1.3, 0.1, 1.3, 0.7, 0.7]), "attention: far from every row"),
    ],
)
def test_values_unlike_those_of_all_models(crowd: Registry, make_row: MakeRow, factor: Any, told: str) -> None:
    values = -crowd.text_index.bytes_per_text * factor
    assert told in _judged(crowd, make_row(crowd, "bob/model", 5, log_likelihood=values))


def test_a_declared_base_far_away(crowd: Registry, make_row: MakeRow) -> None:
    order = crowd.neighbors("org/m0", 29).nearest
    values = crowd.row("org/m0").log_likelihood * (1 + 1e-4 * np.arange(6))
    for base, told in (
        ("org/m0", "note: its declared base org/m0@"),
        (order[-1].model, "attention: its declared base .* is farther from it than most rows"),
        ("org/gone", "note: its declared base org/gone has no row here"),
    ):
        made = make_row(crowd, f"bob/of-{base[4:]}", 7, log_likelihood=values, declared={"base_model": [base]})
        assert re.search(told, _judged(crowd, made))


def test_another_quantisation_that_is_farther_than_other_models(crowd: Registry, make_row: MakeRow) -> None:
    far = crowd.neighbors("org/m0", 29).nearest[-1].model
    other = crowd.row("org/m0").log_likelihood * (1 + 1e-4 * np.arange(6))
    made = make_row(crowd, far, 7, log_likelihood=other, quantization="gguf:Q4_0")
    assert "farther than most rows of other models" in _judged(crowd, made)


def test_a_row_from_the_future(crowd: Registry, make_row: MakeRow) -> None:
    told = _judged(crowd, make_row(crowd, "bob/model", 5, added_at="9999-01-01T00:00:00Z"))
    assert "attention: it says that it was added at 9999-01-01" in told


def test_distances_are_those_of_the_registry_however_they_are_read(
    crowd: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = crowd.kl(["org/m3", "org/m20"])["kl_bits_per_byte"].values[0, 1]
    for limit in (1 << 30, 0):  # kept in memory, or read again
        monkeypatch.setattr(populations, "_CACHE_BYTES", limit)
        population = Population(crowd)
        new = crowd.rows(["org/m3"])
        distances = population.distances(new)
        at = [record.identity.model for record in population.records].index("org/m20")
        assert distances.bits[0, at] == pytest.approx(expected, rel=1e-9)
        nearest = measure(new, population)[0].nearest
        assert [n.row_id for n in nearest] == [n.row_id for n in crowd.neighbors("org/m3", 3).nearest]
        assert nearest[0].kl_se == pytest.approx(crowd.neighbors("org/m3", 1).nearest[0].kl_se, rel=1e-9)


def test_robust_z_is_the_ordinary_one_of_a_normal_sample() -> None:
    known = np.random.default_rng(0).normal(3, 2, 100_000)
    assert robust_z(np.array([3.0, 5.0]), known) == pytest.approx([0, 1], abs=0.03)
    assert np.isnan(robust_z(np.array([3.0]), known[:19])).all()


@pytest.mark.parametrize("revision", [None, "c" * 40])
def test_imports_that_say_no_revision_are_no_replicates(
    revision: str | None, crowd: Registry, make_row: MakeRow
) -> None:
    """Of one name and nothing more, they may be of other weights: their difference is no noise, and no fault."""
    over: dict[str, Any] = {"source": "imported", "revision": revision}
    sizes = crowd.text_index.bytes_per_text
    one, other = (
        make_row(crowd, "org/same", k, log_likelihood=-sizes * (0.7 + 0.02 * np.sin(k + np.arange(6))), **over)
        for k in range(2)
    )
    write_row(crowd.path, one)
    told = _judged(crowd, other)
    replicates = Registry(crowd.path).replicates(other.record.identity)
    if revision is None:
        assert "attention: of org/same without a revision, as org/same@" in told
        assert "refused" not in told
        assert replicates == []
    else:
        assert "refused: it claims the identity of org/same@" in told
        assert len(replicates) == 2
