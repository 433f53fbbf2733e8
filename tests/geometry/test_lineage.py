"""Lineage: calibrated p values, multiple testing, declared against measured bases, duplicates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.families import related_groups
from llreg.geometry.lineage import benjamini_hochberg
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

MakeRow = Callable[..., Row]
LLAMA = {"architecture": "LlamaForCausalLM", "num_parameters": 1_000_000, "base_model": []}
ALONE: dict[str, Any] = {"base_model": []}


def _families(
    registry: Registry, make_row: MakeRow, *, count: int, children: int, declare: bool = True, seed: int = 0
) -> None:
    """Bases without anything in common, and children a fine-tune away from theirs."""
    rng = np.random.default_rng(seed)
    number = 0
    for k in range(count):
        base = -rng.gamma(3.0, 200.0, registry.num_texts)
        write_row(registry.path, make_row(registry, f"f{k}/base", number, log_likelihood=base, declared=LLAMA))
        number += 1
        for c in range(children):
            values = np.minimum(base + rng.normal(0, 20, len(base)), 0)
            declared = {**LLAMA, "base_model": [f"f{k}/base"] if declare else []}
            name = f"f{k}/child{c}"
            write_row(registry.path, make_row(registry, name, number, log_likelihood=values, declared=declared))
            number += 1


def test_children_are_found_and_strangers_are_not(registry: Registry, make_row: MakeRow) -> None:
    _families(registry, make_row, count=8, children=2)
    found = registry.lineage("f3/child0", candidates=6)
    verdicts = {relative.neighbor.model: relative.finding for relative in found.relatives}
    assert verdicts["f3/base"] == "related"
    assert verdicts["f3/child1"] == "related"
    assert set(verdicts.values()) == {"related", ""}
    assert sum(finding == "related" for finding in verdicts.values()) == 2
    assert [base.neighbor.model for base in found.declared_bases] == ["f3/base"]
    assert found.declared_bases[0].finding == "related"
    assert found.num_tests == 23


def test_undeclared_relatives_are_found(registry: Registry, make_row: MakeRow) -> None:
    """Among many unrelated rows, a few pairs that nobody declared stand out all the same."""
    _families(registry, make_row, count=50, children=0)
    base = registry.row("f4/base").log_likelihood
    noise = np.random.default_rng(9).normal(0, 5, len(base))
    hidden = make_row(registry, "sly/model", 99, log_likelihood=np.minimum(base + noise, 0), declared=LLAMA)
    write_row(registry.path, hidden)
    found = registry.lineage("sly/model", candidates=3)
    assert next((r.neighbor.model, r.finding) for r in found.relatives) == ("f4/base", "related")
    assert {r.finding for r in found.relatives[1:]} == {""}
    assert found.relatives[0].q < 0.05 < found.relatives[1].q


def test_a_wrong_card_is_not_confirmed(registry: Registry, make_row: MakeRow) -> None:
    _families(registry, make_row, count=10, children=1)
    values = -np.random.default_rng(77).gamma(3.0, 200.0, registry.num_texts)
    wrong = {**LLAMA, "base_model": ["f1/base", "gone/model"]}
    write_row(registry.path, make_row(registry, "liar/model", 500, log_likelihood=values, declared=wrong))
    found = registry.lineage("liar/model", candidates=2)
    assert [base.finding for base in found.declared_bases] == [""]
    assert list(found.missing_bases) == ["gone/model"]


def test_p_values_of_unrelated_models_are_uniform(registry: Registry, make_row: MakeRow) -> None:
    """Not more small ones than their size says, over models of very different spread."""
    rng = np.random.default_rng(5)
    for k in range(60):
        values = -rng.gamma(3.0, 200.0, registry.num_texts) * rng.lognormal(0, 0.5)
        write_row(registry.path, make_row(registry, f"m{k}/model", k, log_likelihood=values, declared=LLAMA))
    registry.build()  # else every question reads 60 row files
    p = []
    for k in range(0, 60, 6):
        p += [relative.p for relative in registry.lineage(f"m{k}/model", candidates=59).relatives]
    p = np.array(p)
    for level in (0.05, 0.2, 0.5):  # the pairs share models, so the shares scatter
        assert level / 3 <= np.mean(p <= level) <= 1.6 * level


def test_few_rows_give_no_p(small_registry: Registry, make_row: MakeRow) -> None:
    for k in range(3):
        write_row(small_registry.path, make_row(small_registry, f"a/{k}", k, declared=ALONE))
    found = small_registry.lineage("a/0")
    assert [(str(relative.p), relative.finding) for relative in found.relatives] == [("nan", "")] * 2
    assert {relative.null for relative in found.relatives} == {"too few unrelated rows"}


def test_given_families_count_as_declared(registry: Registry, make_row: MakeRow) -> None:
    _families(registry, make_row, count=6, children=3, declare=False)
    given = {f"f{k}/{name}": str(k) for k in range(6) for name in ("base", "child0", "child1", "child2")}
    with_them = registry.lineage("f2/child1", candidates=3, families=given)
    without = registry.lineage("f2/child1", candidates=3)
    assert [r.finding for r in with_them.relatives] == ["related"] * 3
    # All pairs but the query's and those within a family: 6 families of 4, the query's of 3 without it.
    assert with_them.relatives[0].null_pairs == 23 * 22 // 2 - 5 * 6 - 3
    assert with_them.relatives[0].null_families == 15
    assert without.relatives[0].p >= with_them.relatives[0].p


def test_groups_follow_declarations(registry: Registry, make_row: MakeRow) -> None:
    rows = [
        make_row(registry, "a/base", 0, declared=ALONE),
        make_row(registry, "a/mid", 1, declared={"base_model": ["a/base"]}),
        make_row(registry, "b/leaf", 2, declared={"base_model": ["a/mid"]}),
        make_row(registry, "c/merge", 3, declared={"base_model": ["x/gone", "y/gone"]}),
        make_row(registry, "d/other", 4, declared={"base_model": ["y/gone"]}),
        make_row(registry, "e/alone", 5, declared=ALONE),
        make_row(registry, "e/alone", 6, declared=ALONE),
    ]
    groups = related_groups([row.record for row in rows], {})
    assert groups == [0, 0, 0, 1, 1, 2, 2]
    joined = related_groups([row.record for row in rows], {"b/leaf": "one", "e/alone": "one"})
    assert joined == [0, 0, 0, 1, 1, 0, 0]


def test_benjamini_hochberg_against_the_definition() -> None:
    p = [0.04, 0.001, 0.02, float("nan"), 0.5]
    q = benjamini_hochberg(p, 10)
    assert q[1] == pytest.approx(0.01)
    assert q[2] == pytest.approx(0.1)
    assert q[0] == pytest.approx(0.04 * 10 / 3)
    assert np.isnan(q[3])
    assert q[4] == 1.0
    from scipy.stats import false_discovery_control

    some = np.random.default_rng(0).uniform(size=30) ** 3
    np.testing.assert_allclose(benjamini_hochberg(list(some), 30), false_discovery_control(some))


def test_findings_do_not_depend_on_how_many_are_shown(registry: Registry, make_row: MakeRow) -> None:
    _families(registry, make_row, count=9, children=2)
    few, many = (registry.lineage("f3/child0", candidates=k).relatives for k in (1, 9))
    assert (few[0].p, few[0].q, few[0].finding) == (many[0].p, many[0].q, many[0].finding)


def test_clones_of_unrelated_models_do_not_make_findings(registry: Registry, make_row: MakeRow) -> None:
    """Two families that are nearer to each other than the rest, with many members, stay unrelated."""
    _families(registry, make_row, count=12, children=6)
    registry.build()  # else every question reads 84 row files
    findings = [
        relative.finding == "related" and relative.neighbor.model.split("/")[0] != f"f{k}"
        for k in range(0, 12, 3)
        for relative in registry.lineage(f"f{k}/base", candidates=80).relatives
    ]
    assert sum(findings) <= 0.01 * len(findings)


def test_duplicates_under_other_names(registry: Registry, make_row: MakeRow) -> None:
    _families(registry, make_row, count=4, children=0)
    values = registry.row("f2/base").log_likelihood
    write_row(registry.path, make_row(registry, "copy/cat", 50, log_likelihood=values))
    write_row(registry.path, make_row(registry, "copy/again", 51, log_likelihood=values))
    write_row(
        registry.path, make_row(registry, "f1/base", 52, log_likelihood=registry.row("f1/base").log_likelihood - 1e-4)
    )
    groups = registry.duplicates()
    assert [[row_id.split("@")[0] for row_id in group.row_ids] for group in groups] == [
        ["f2/base", "copy/cat", "copy/again"]
    ]
    assert groups[0].verdict == "identical"


class TestCommand:
    """`llreg lineage`."""

    def test_table_json_and_families(self, registry: Registry, make_row: MakeRow, tmp_path: Path, cli: Any) -> None:
        _families(registry, make_row, count=24, children=1)
        result = cli("-r", registry.path, "lineage", "f0/child0", "-k", "3")
        assert result.code == 0
        assert result.out.splitlines()[1].split()[1] == "f0/base"
        assert "related; declared base" in result.out
        assert "the distance agrees" in result.err
        document = json.loads(cli("-r", registry.path, "lineage", "f0/child0", "--json").out)
        assert document["relatives"][0]["finding"] == "related"
        table = tmp_path / "families.csv"
        table.write_text("model,family\nf1/base,one\nf2/base,one\n")
        assert cli("-r", registry.path, "lineage", "f0/child0", "--families", table).code == 0
        table.write_text("name,group\nf1/base,one\n")
        wrong = cli("-r", registry.path, "lineage", "f0/child0", "--families", table)
        assert (wrong.code, "expected CSV with columns model and family" in wrong.err) == (1, True)

    def test_without_a_model_lists_duplicates(self, registry: Registry, make_row: MakeRow, cli: Any) -> None:
        row = make_row(registry, "a/one")
        write_row(registry.path, row)
        write_row(registry.path, make_row(registry, "b/two", 1, log_likelihood=row.log_likelihood))
        assert "identical" in cli("-r", registry.path, "lineage").out
