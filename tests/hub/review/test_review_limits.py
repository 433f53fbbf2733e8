"""What a review leaves to a person, and what it does not say: on a registry that is large enough to judge by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.hub.client import Hub
from tests.hub.reviewing import Site, files_of

from llreg.geometry.view.freeze import freeze_view
from llreg.geometry.view.view import View
from llreg.hub.judge.verdict import Verdict
from llreg.hub.review import diff
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas import row_digest
from llreg_schemas.errors import LlregWarning

MakeRow = Callable[..., Row]


@pytest.fixture
def site(hub: Hub, as_user: Any, small_registry: Registry, make_row: MakeRow, publish_rows: Callable[..., str]) -> Site:
    """A published registry of twenty-four rows of much the same level."""

    def write() -> None:
        rng = np.random.default_rng(1)
        sizes = small_registry.text_index.bytes_per_text
        for k in range(24):
            values = -sizes * rng.normal(0.7, 0.03) * rng.normal(1, 0.02, len(sizes))
            write_row(small_registry.path, make_row(small_registry, f"org/m{k}", k, log_likelihood=values))

    return Site(hub, publish_rows("lab", "much the same", write), small_registry, as_user)


def _ordinary(site: Site) -> Any:
    return -site.registry.text_index.bytes_per_text * np.array([0.7, 0.71, 0.69, 0.7, 0.72, 0.7])


def _claiming(there: Row, values: Any) -> Row:
    """A row with the identity of another."""
    values = np.asarray(values, dtype=np.float32)
    tokens = np.where(np.isnan(values), 0, there.num_tokens).astype(np.int32)
    provenance = {
        **there.record.provenance,
        "tokens": int(tokens.sum()),
        "over_context": int(np.isnan(values).sum()),
    }
    digest = row_digest(there.record.identity.to_json(), values, tokens)
    return Row(replace(there.record, digest=digest, provenance=provenance), values, tokens)


def _told(verdict: Verdict, level: str) -> str:
    return "\n".join(f.message for f in verdict.findings if f.level == level)


def _is_left(site: Site, *rows: Row) -> Verdict:
    """The verdict of a pull request that `--all --merge` leaves to a person."""
    number, before = site.propose(files_of(*rows)), site.head()
    (verdict,) = site.review(all_open=True, merge=True)
    assert (verdict.number, verdict.merged, site.head()) == (number, None, before)
    assert verdict.state != "good"
    return verdict


def test_an_ordinary_new_row_is_merged_unseen(site: Site, make_row: MakeRow) -> None:
    number = site.propose(files_of(make_row(site.registry, "bob/model", 50, log_likelihood=_ordinary(site))))
    (verdict,) = site.review(all_open=True, merge=True)
    assert (verdict.number, verdict.state, verdict.merged) == (number, "good", site.head())
    assert verdict.rows[0].shared == 6


@pytest.mark.parametrize("scored", [1, 2])
@pytest.mark.parametrize("model", ["bob/model", "org/m1"])
def test_too_few_texts_to_compare(site: Site, make_row: MakeRow, model: str, scored: int) -> None:
    values = np.where(np.arange(6) < scored, _ordinary(site), np.nan)
    verdict = _is_left(site, make_row(site.registry, model, 50, log_likelihood=values))
    shared = scored if scored > 1 else 0
    assert f"shares at most {shared} scored texts of this view" in _told(verdict, "attention")
    assert len(verdict.rows[0].replicates) == (model == "org/m1")


@pytest.mark.parametrize("model", ["bob/model", "org/m1"])
def test_values_outside_the_view_alone(site: Site, make_row: MakeRow, model: str) -> None:
    freeze_view(site.registry, View(only=("code", "multilingual")))
    site.registry.push()
    inside = np.isin(np.asarray(site.registry.text_index.subset, dtype=object), ["code", "multilingual"])
    values = np.where(inside, np.nan, _ordinary(site))
    verdict = _is_left(site, make_row(site.registry, model, 50, log_likelihood=values))
    assert "shares at most 0 scored texts" in _told(verdict, "attention")
    assert ("cannot be compared with it in this view" in _told(verdict, "attention")) is (model == "org/m1")
    assert np.isnan(verdict.rows[0].mean)


def test_a_replicate_that_agrees_is_left_to_a_person(site: Site) -> None:
    there = site.registry.row("org/m1")
    verdict = _is_left(site, _claiming(there, there.log_likelihood + np.float32(1e-5) * np.arange(6)))
    assert "that agrees with it, after which that name means two rows" in _told(verdict, "attention")


@pytest.mark.parametrize(("shift", "level"), [(0.05, "attention"), (40.0, "refused")])
def test_a_replicate_that_is_shifted_does_not_agree(site: Site, shift: float, level: str) -> None:
    there = site.registry.row("org/m1")
    verdict = _is_left(site, _claiming(there, there.log_likelihood - shift))
    assert verdict.state == level
    (replicate,) = verdict.rows[0].replicates
    assert replicate.kl < replicate.bound < replicate.distance == pytest.approx(shift**2 / 2, rel=1e-3)
    assert not replicate.agrees


@pytest.mark.parametrize("when", ["1970-01-01T00:00:00Z", "2019-12-31T23:59:59Z", "9999-01-01T00:00:00Z"])
def test_dates_that_cannot_be(site: Site, make_row: MakeRow, when: str) -> None:
    row = make_row(site.registry, "bob/model", 50, log_likelihood=_ordinary(site), added_at=when)
    assert f"it says that it was added at {when}" in _told(_is_left(site, row), "attention")


def test_a_registry_too_small_to_judge_by_merges_nothing_unseen(
    hub: Hub, as_user: Any, repo_name: str, registry: Registry, make_row: MakeRow
) -> None:
    as_user("alice")
    write_row(registry.path, make_row(registry, "org/m0", 0))
    registry.push(f"lab/{repo_name}")
    site = Site(hub, f"lab/{repo_name}", registry, as_user)
    verdict = _is_left(site, make_row(registry, "bob/model", 1))
    assert "too few rows here to say what is usual (1; 20 are needed)" in _told(verdict, "attention")
    assert site.review(verdict.number, merge=True)[0].merged == site.head()


def test_who_may_not_write_does_not_comment(site: Site, make_row: MakeRow) -> None:
    number = site.propose(files_of(make_row(site.registry, "bob/model", 50, log_likelihood=_ordinary(site))))
    site.as_user("bob")
    with pytest.warns(LlregWarning, match=r"no comments are written: you may not write to lab/"):
        (verdict,) = site.registry.review([number])
    assert (verdict.commented, site.comments(number)) == (False, [])


def test_rows_that_are_not_published_do_not_count(site: Site, make_row: MakeRow) -> None:
    row = make_row(site.registry, "bob/model", 50, log_likelihood=_ordinary(site))
    version = site.registry.version
    write_row(site.registry.path, make_row(site.registry, "alice/secret", 51, log_likelihood=_ordinary(site)))
    (verdict,) = site.review(site.propose(files_of(row)))
    assert (verdict.state, verdict.num_rows, verdict.version) == ("good", 24, version)
    assert "alice/secret" not in site.comments(verdict.number)[0]


def test_more_files_than_any_review_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_MOST_ENTRIES", 40)
    number = site.propose({"rows/xx": b""})
    entries = [("100644", f"rows/{k % 16:02x}/x{k}", b"x") for k in range(100)]
    site.rewrite(number, entries)
    (verdict,) = site.review(all_open=True, merge=True)
    assert verdict.state == "refused"
    assert "expected at most 64 files and folders in rows; there are more" in _told(verdict, "refused")


def test_one_row_without_texts_in_the_view_does_not_stop_a_map(site: Site, make_row: MakeRow) -> None:
    values = np.where(np.arange(6) < 1, _ordinary(site), np.nan)
    lost = make_row(site.registry, "bob/lost", 50, log_likelihood=values)
    write_row(site.registry.path, lost)
    with pytest.warns(LlregWarning, match="left out, with fewer than two scored texts in this view: bob/lost@"):
        made = site.registry.map(method="pca")
    assert len(made.map.row_ids) == 24
    assert lost.record.row_id not in made.map.row_ids
