"""`review`: what pull requests hold is checked, compared, told, and merged in one guarded commit."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hub.client import Hub
from tests.hub.people import built_anew, tree
from tests.hub.reviewing import Site, files_of
from tests.tools.toy_models import _save

from llreg.cli import main
from llreg.geometry.subset import make_subset
from llreg.hub.client.repo import Repo
from llreg.hub.judge.verdict import Verdict
from llreg.hub.review.diff import History, Trees
from llreg.hub.sync.pull import clone
from llreg.registry import Registry
from llreg.store import rowfile
from llreg.store.rowfile import Row, row_path, write_row
from llreg.store.subsets import dump_subset
from llreg.verify.verify import draw_texts
from llreg_schemas import pretty_json
from llreg_schemas.errors import HubAccessError, HubUnreachableError, InputError
from llreg_schemas.records import retraction

MakeRow = Callable[..., Row]


@pytest.fixture
def site(hub: Hub, as_user: Any, small_registry: Registry, publish_rows: Callable[..., str]) -> Site:
    """A published registry of four rows on six texts."""
    return Site(hub, publish_rows("lab", 4), small_registry, as_user)


@pytest.fixture
def row(site: Site, make_row: MakeRow) -> Row:
    """A new row of a stranger's model."""
    return make_row(site.registry, "bob/model", 100)


def _levels(verdict: Verdict) -> list[str]:
    return [finding.level for finding in verdict.findings]


def _told(verdict: Verdict, level: str) -> str:
    return "\n".join(f"{f.file} {f.message}" for f in verdict.findings if f.level == level)


def _with_values(row: Row, values: Any, **identity: Any) -> Row:
    """The same record with other values, and without segments."""
    arrays = {"log_likelihood": np.asarray(values, dtype=np.float32), "num_tokens": row.num_tokens}
    told = {name: value for name, value in row.record.provenance.items() if not name.startswith("segments")}
    return rowfile.make_row(replace(row.record.identity, **identity), told, row.record.declared, arrays)


def _is_built(site: Site, scratch: Path) -> None:
    """Main holds, byte for byte, the build that its rows alone give."""
    files = tree(site.hub, site.repo)
    assert files == built_anew(files, scratch / "anew")


# Merging


def test_a_good_row_is_merged_byte_by_byte(site: Site, row: Row, tmp_path: Path) -> None:
    number, before = site.propose(files_of(row)), site.head()
    (verdict,) = site.review(number, merge=True, tag="v7")
    assert (verdict.state, verdict.new_rows, verdict.closed) == ("attention", [row.record.row_id], True)
    assert verdict.merged == site.head() != before
    assert site.status(number) == "closed"
    (path, data), *_ = files_of(row).items()
    there = site.hub.api("bob").hf_hub_download(site.repo, path, repo_type="dataset", revision=site.head())
    assert Path(there).read_bytes() == data
    registry = Registry(site.registry.path)
    assert registry.validate() == []
    _is_built(site, tmp_path)
    assert row.record.digest in registry.version_manifest("v7")["rows"]
    assert "versions/v7.json" in site.files()
    assert "store.zarr/zarr.json" in site.files()
    (comment,) = site.comments(number) or _status_comments(site, number)
    assert site.head()[:10] in comment


def _status_comments(site: Site, number: int) -> list[str]:
    events = site.hub.api("alice").get_discussion_details(site.repo, number, repo_type="dataset").events
    return [event._event["data"].get("comment", "") for event in events if event.type == "status-change"]


def test_without_merge_nothing_changes(site: Site, row: Row) -> None:
    number, before = site.propose(files_of(row)), site.head()
    (verdict,) = site.review(number)
    assert (verdict.state, verdict.merged, verdict.closed) == ("attention", None, False)
    assert (site.head(), site.status(number)) == (before, "open")
    assert row.record.digest not in Registry(site.registry.path).digests()
    assert not list((site.registry.path / ".llreg" / "tmp").iterdir())


def test_a_pull_request_of_push_is_merged(site: Site, row: Row, tmp_path: Path, make_row: MakeRow) -> None:
    site.as_user("bob")
    clone(site.repo, tmp_path / "bobs")
    theirs = Registry(tmp_path / "bobs")
    write_row(theirs.path, row)
    number = theirs.push().pull_request
    assert number is not None
    (verdict,) = site.review(number, merge=True)
    assert verdict.merged == site.head()
    site.as_user("bob")
    assert theirs.pull().rows == 5
    assert theirs.push().files == {}  # it has arrived


def test_many_rows_are_merged_in_one_commit_with_few_requests(site: Site, make_row: MakeRow, tmp_path: Path) -> None:
    rows = [make_row(site.registry, f"bob/m{k}", 200 + k) for k in range(6)]
    numbers = [site.propose(files_of(one)) for one in rows]
    before = site.hub.git(site.repo, "rev-list", "--count", "main")
    site.as_user("alice")
    site.registry.pull()
    site.hub.clear()
    verdicts = site.registry.review(all_open=True, comment=False)
    # A row: its pull request's commits, root, rows/ and rows/<hh>, and the file (HEAD; its bytes come from the CDN).
    assert len([request for request in site.hub.requests() if request.role == "hub"]) <= 5 * 6 + 10
    assert [_levels(verdict).count("attention") for verdict in verdicts] == [1] * 6  # too few rows to compare with
    verdicts = site.review(*numbers, merge=True)
    assert {verdict.merged for verdict in verdicts} == {site.head()}
    assert int(site.hub.git(site.repo, "rev-list", "--count", "main")) == int(before) + 1
    registry = Registry(site.registry.path)
    assert {one.record.digest for one in rows} <= registry.digests()
    _is_built(site, tmp_path)
    assert site.review(all_open=True) == []


def test_merged_by_hand_in_any_order_then_built(site: Site, make_row: MakeRow, tmp_path: Path) -> None:
    """The Hub's own merge of reviewed pull requests: none conflicts, and the next push builds."""
    rows = [make_row(site.registry, f"bob/m{k}", 300 + k) for k in range(6)]
    numbers = [site.propose(files_of(one)) for one in rows]
    assert {verdict.state for verdict in site.review(all_open=True, comment=False)} == {"attention"}
    api = site.hub.api("alice")
    for number in random.Random(4).sample(numbers, len(numbers)):
        assert not api.get_discussion_details(site.repo, number, repo_type="dataset").conflicting_files
        api.merge_pull_request(site.repo, number, repo_type="dataset")
    site.registry.pull()
    assert {one.record.digest for one in rows} <= site.registry.digests()
    before = site.head()
    assert site.review(all_open=True, merge=True) == []
    assert site.head() != before
    _is_built(site, tmp_path)
    stored = site.hub.api(None).hf_hub_download(site.repo, "store.zarr/zarr.json", repo_type="dataset")
    assert json.loads(Path(stored).read_text())["consolidated_metadata"]["metadata"]["model"]["shape"] == [10]


def test_what_changes_while_it_is_reviewed_is_left(site: Site, row: Row, make_row: MakeRow) -> None:
    number, before = site.propose(files_of(row)), site.head()
    other = make_row(site.registry, "bob/other", 5)

    def amend(verdict: Verdict) -> None:
        site.amend(verdict.number, files_of(other))

    (verdict,) = site.review(number, merge=True, progress=amend)
    assert (verdict.state, verdict.merged) == ("attention", None)
    assert "changed while it was reviewed" in _told(verdict, "attention")
    assert (site.head(), site.status(number)) == (before, "open")


def test_main_moves_on_between_pull_request_and_review(site: Site, row: Row, make_row: MakeRow) -> None:
    site.hub.options(commits_page=1)
    base = site.head()
    for k in range(2):
        site.review(site.propose(files_of(make_row(site.registry, f"bob/m{k}", 40 + k))), merge=True)
    number = site.propose(files_of(row), base=base)
    (verdict,) = site.review(number, merge=True)
    assert verdict.base == base
    assert _levels(verdict) == ["note", "attention"]
    assert verdict.merged == site.head()


def test_the_date_names_the_version(site: Site, make_row: MakeRow) -> None:
    today = datetime.now(UTC).date().isoformat()
    for k in range(3):
        site.review(site.propose(files_of(make_row(site.registry, f"bob/m{k}", 40 + k))), merge=True)
    tags = [manifest["tag"] for manifest in Registry(site.registry.path).versions()]
    assert tags == [today, f"{today}.2", f"{today}.3"]
    number = site.propose(files_of(make_row(site.registry, "bob/last", 50)))
    with pytest.raises(InputError, match=f"tag {today} names a version already"):
        site.review(number, merge=True, tag=today)


@pytest.mark.parametrize("kind", ["500", "504-after", "drop"])
def test_a_merge_that_gets_no_answer(site: Site, row: Row, kind: str) -> None:
    """Push finds out whether its commit was made, and tries again where it was not."""
    number = site.propose(files_of(row))
    site.hub.fault(kind, method="POST", path="/commit/main")
    (verdict,) = site.review(number, merge=True)
    assert site.hub.struck() == 1
    assert verdict.merged == site.head()
    assert site.status(number) == "closed"


def test_a_merge_that_failed_goes_on_from_there(site: Site, row: Row) -> None:
    number, before = site.propose(files_of(row)), site.head()
    site.hub.fault("500", method="POST", path="/commit/main", times=9)
    with pytest.raises(HubUnreachableError):
        site.review(number, merge=True)
    assert (site.head(), site.status(number)) == (before, "open")
    assert Registry(site.registry.path).validate() == []
    site.hub.clear_faults()
    (verdict,) = site.review(number, merge=True)
    assert verdict.merged == site.head() != before


def test_one_that_cannot_be_closed_is_closed_by_the_next_review(site: Site, row: Row) -> None:
    number = site.propose(files_of(row))
    site.hub.fault("500", path="/discussions/1/status")
    (verdict,) = site.review(number, merge=True)
    assert (verdict.merged, verdict.closed) == (site.head(), False)
    assert "it could not be closed" in _told(verdict, "note")
    (verdict,) = site.review(all_open=True, merge=True)
    assert (verdict.is_empty, verdict.closed) == (True, True)


def test_one_that_cannot_be_read_does_not_stop_the_others(site: Site, row: Row, make_row: MakeRow) -> None:
    lost = files_of(make_row(site.registry, "bob/a", 6))
    first, second = site.propose(lost), site.propose(files_of(row))
    (oid,) = (hashlib.sha256(data).hexdigest() for data in lost.values())
    (site.hub.root / "datasets" / f"{site.repo}.lfs" / oid[:2] / oid).unlink()
    unread, good = site.review(first, second, merge=True)
    assert "it could not be read" in _told(unread, "attention")
    assert (unread.merged, site.status(first)) == (None, "open")
    assert (good.number, good.merged) == (second, site.head())


# Already there, twice, replicates


def test_what_is_there_already_is_closed(site: Site, row: Row) -> None:
    first, second = site.propose(files_of(row)), site.propose(files_of(row), user="carol")
    site.review(first, merge=True)
    (verdict,) = site.review(second)
    assert (verdict.state, verdict.is_empty, site.status(second)) == ("good", True, "open")
    assert "in the registry already" in _told(verdict, "note")
    before = site.head()
    (verdict,) = site.review(all_open=True, merge=True)
    assert (verdict.closed, site.status(second), site.head()) == (True, "closed", before)


def test_the_same_row_twice_in_one_run(site: Site, row: Row, make_row: MakeRow) -> None:
    more = make_row(site.registry, "bob/more", 9)
    site.propose(files_of(row))
    site.propose(files_of(row, more), user="carol")
    site.propose(files_of(row))
    first, second, third = site.review(1, 2, 3, merge=True)
    assert first.new_rows == [row.record.row_id]
    assert second.new_rows == [more.record.row_id]
    assert third.is_empty
    assert [site.status(number) for number in (1, 2, 3)] == ["closed"] * 3
    assert {row.record.digest, more.record.digest} <= Registry(site.registry.path).digests()


@pytest.mark.parametrize(
    ("change", "level", "told"),
    [
        (lambda values: values + np.float32(1e-5) * np.arange(6), "attention", "a replicate of .* that agrees"),
        (lambda values: values - np.arange(6) ** 2 * 0.02, "attention", "differs by more than its arithmetic explains"),
        (
            lambda values: values * np.linspace(0.5, 1, 6),
            "refused",
            "claims the identity of .* not those of that model",
        ),
    ],
    ids=["the same", "another kernel", "another model"],
)
def test_a_row_of_a_model_that_is_there(site: Site, change: Any, level: str, told: str) -> None:
    there = site.registry.row("org/m1")
    replicate = _with_values(there, change(there.log_likelihood))
    (verdict,) = site.review(site.propose(files_of(replicate)), merge=True)
    assert verdict.state == level
    assert re.search(told, _told(verdict, level))
    assert (verdict.merged is not None) is (level != "refused")  # by its number, attention is merged, too
    if level == "refused":
        return
    (measured,) = verdict.rows
    difference = replicate.log_likelihood.astype(float) - there.log_likelihood.astype(float)
    assert measured.replicates[0].rms_difference == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)
    assert measured.replicates[0].kl == pytest.approx(difference.var() / 2, rel=1e-4)
    assert len(Registry(site.registry.path).replicates(there.record.identity)) == 2


def test_one_row_under_two_names_needs_a_person(site: Site) -> None:
    there = site.registry.row("org/m1")
    copy = _with_values(there, there.log_likelihood, model="bob/mine")
    number, before = site.propose(files_of(copy)), site.head()
    (verdict,) = site.review(all_open=True, merge=True)
    assert verdict.state == "attention"
    assert f"its values are those of {there.record.row_id}" in _told(verdict, "attention")
    assert (site.head(), site.status(number)) == (before, "open")
    (verdict,) = site.review(number, merge=True)
    assert verdict.merged == site.head() != before


def test_a_local_model_under_the_name_of_one_on_the_hub(site: Site, make_row: MakeRow) -> None:
    local = make_row(site.registry, "org/m1", 55, source="local", revision="sha256:" + "a" * 64)
    (verdict,) = site.review(site.propose(files_of(local)))
    assert "it names org/m1 (source local); its rows here are of source hub" in _told(verdict, "attention")


# Retractions and subsets


def _retraction(row: Row) -> dict[str, bytes]:
    document = retraction(
        row.record.digest, row.record.identity.model, "a wrong tokenizer", "Bob", "2026-03-04T05:06:07Z"
    )
    return {f"retractions/{row.record.digest}.json": pretty_json(document).encode()}


def test_a_retraction_needs_a_person(site: Site) -> None:
    there = site.registry.row("org/m2")
    number, before = site.propose(_retraction(there)), site.head()
    (verdict,) = site.review(all_open=True, merge=True)
    assert "withdraws a row of org/m2: a wrong tokenizer" in _told(verdict, "attention")
    assert site.head() == before
    (verdict,) = site.review(number, merge=True)
    assert verdict.merged == site.head()
    assert there.record.digest not in Registry(site.registry.path).digests()
    assert f"retractions/{there.record.digest}.json" in site.files()


def test_a_retracted_row_again_is_nothing_new(site: Site) -> None:
    there = site.registry.row("org/m2")
    site.review(site.propose(_retraction(there)), merge=True)
    (verdict,) = site.review(site.propose({**files_of(there), "rows/00/x": b""}))
    assert verdict.state == "refused"  # for the other file: the row is where it was


def test_a_row_of_a_text_subset_brings_its_subset(site: Site, make_row: MakeRow) -> None:
    subset = make_subset(site.registry, 3, method="uniform")
    values = np.full(6, np.nan)
    values[subset["texts"]] = [-20.0, -30.0, -40.0]
    full = make_row(site.registry, "bob/sampled", 3, log_likelihood=values, provenance={"over_context": 0})
    sampled = _with_values(full, values, subset=subset["id"])
    files = {**files_of(sampled), f"subsets/{subset['id']}.json": dump_subset(subset)}
    (verdict,) = site.review(site.propose(files_of(sampled)))
    assert "expected a sound subset in this registry" in _told(verdict, "refused")
    (verdict,) = site.review(site.propose({f"subsets/{subset['id']}.json": dump_subset(subset)}))
    assert "no row here names it" in _told(verdict, "refused")
    (verdict,) = site.review(site.propose(files), merge=True)
    assert verdict.merged == site.head()
    assert f"subsets/{subset['id']}.json" in site.files()
    assert Registry(site.registry.path).validate() == []
    again = _with_values(sampled, values - 1, model="bob/other")  # the subset is there now
    assert site.review(site.propose(files_of(again)), merge=True)[0].merged == site.head()


# What is said


def test_a_verdict_is_told_once_for_each_commit(site: Site, row: Row, make_row: MakeRow) -> None:
    number = site.propose(files_of(row))
    assert [site.review(number)[0].commented for _ in range(3)] == [True, False, False]
    assert len(site.comments(number)) == 1
    assert row.record.row_id in site.comments(number)[0]
    site.amend(number, {"README.md": b"mine"})
    (verdict,) = site.review(number)
    assert (verdict.commented, verdict.state) == (True, "refused")
    assert "cannot be merged" in site.comments(number)[1]
    site.review(site.propose(files_of(make_row(site.registry, "bob/other", 8))), merge=True)
    assert not site.review(number)[0].commented  # another version of the registry is no news
    assert len(site.comments(number)) == 2


def test_others_comments_do_not_silence_the_review(site: Site, row: Row) -> None:
    number = site.propose(files_of(row))
    head = site.hub.git(site.repo, "rev-parse", f"refs/pr/{number}").strip()
    forged = f"<!-- llreg-review {head} - good -->\n\nmerge me"
    site.hub.api("bob").comment_discussion(site.repo, number, forged, repo_type="dataset")
    assert site.review(number)[0].commented
    assert len(site.comments(number)) == 2


def test_no_comment(site: Site, row: Row) -> None:
    number = site.propose(files_of(row))
    assert not site.review(number, comment=False)[0].commented
    assert site.comments(number) == []


# Who may, and what is no pull request


def test_only_who_may_write_merges(site: Site, row: Row) -> None:
    number, before = site.propose(files_of(row)), site.head()
    site.as_user("bob")
    with pytest.raises(HubAccessError, match=r"only who may write to lab/.* can merge"):
        site.registry.review([number], merge=True)
    site.as_user(None)
    with pytest.raises(HubAccessError, match="--no-comment"):
        site.registry.review([number])
    assert site.registry.review([number], comment=False)[0].new_rows == [row.record.row_id]
    assert (site.head(), site.comments(number)) == (before, [])


def test_what_is_no_open_pull_request(site: Site, row: Row) -> None:
    number = site.propose(files_of(row))
    talk = site.hub.api("bob").create_discussion(site.repo, "A question", repo_type="dataset").num
    draft = site.hub.api("bob").create_pull_request(site.repo, "A draft", repo_type="dataset").num
    with pytest.raises(InputError, match=f"#{talk} of .* is a discussion"):
        site.review(talk)
    with pytest.raises(InputError, match=f"pull request {draft} of .* is draft, not open"):
        site.review(draft)
    with pytest.raises(InputError, match="has no pull request 99"):
        site.review(99)
    assert [verdict.number for verdict in site.review(all_open=True)] == [number]


def test_a_registry_that_was_never_pulled(small_registry: Registry) -> None:
    with pytest.raises(InputError, match="was not pulled from the Hub"):
        small_registry.review(all_open=True)


# What a pull request changes


def test_changes_are_those_that_git_sees(site: Site, make_row: MakeRow) -> None:
    """Against ``git diff`` on a tree with folders of rows that few and that many requests are made for."""
    rng = random.Random(2)
    for many in (3, 40):
        rows = files_of(*(make_row(site.registry, f"bob/n{many}-{k}", 1000 * many + k) for k in range(many)))
        old = rng.sample([name for name in site.files() if name.startswith(("rows/", "store.zarr/"))], 4)
        files: dict[str, bytes | None] = {
            **rows,
            old[0]: None,
            old[1]: b"other",
            "rows/ab/deep/er": b"x",
            "rows/README": b"",
        }
        number, base = site.propose(files), site.head()
        repo, head = Repo(site.repo), site.hub.git(site.repo, "rev-parse", f"refs/pr/{number}").strip()
        assert History(repo, base).base_of(head) == base
        told = {(change.kind[0].upper(), change.path) for change in Trees(repo).changes(base, head)}
        lines = site.hub.git(site.repo, "diff", "--name-status", "--no-renames", base, head).splitlines()
        expected = {tuple(line.split("\t")) for line in lines}
        closed = {("M", "store.zarr/"), ("A", "rows/ab/deep/")}  # folders that are not looked into
        assert told - closed == {
            (kind, path) for kind, path in expected if not path.startswith(("store.zarr/", "rows/ab/deep"))
        }
        assert ("A", "rows/ab/deep/") in told
        assert (("M", "store.zarr/") in told) is any(path.startswith("store.zarr/") for _, path in expected)


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``llreg ARGS`` in this process: code, stdout, stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llreg", *map(str, args)])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0), *capsys.readouterr()

    return run


def test_the_command(site: Site, row: Row, command: Callable[..., tuple[int, str, str]]) -> None:
    number = site.propose(files_of(row), title="Add \x1b[31mred\u202e rows")
    bad = site.propose({"registry.json": b"{}"})
    site.as_user("alice")
    at = ("-r", site.registry.path, "review")
    code, out, err = command(*at)
    assert (code, out) == (2, "")
    assert f"open now: {number} (Add \\x1b[31mred\\u202e rows), {bad} (" in err
    code, out, err = command(*at, "--all", "--no-comment")
    assert code == 1
    assert f"#{number}  look at it  Add \\x1b[31mred\\u202e rows  by bob\n    + {row.record.row_id}" in out
    assert f"#{bad}  refused" in out
    assert "1 look at it; 1 refused" in err
    assert command(*at, "--all", "-q", "--no-comment")[:2] == (1, f"{number}\n{bad}\n")
    assert command(*at, "--all", "--tag", "v1")[0] == 2
    code, out, _ = command(*at, number, "--merge", "--json")
    assert code == 0
    (document,) = json.loads(out)
    assert (document["merged"], document["new_rows"]) == (site.head(), [row.record.row_id])
    assert document["rows"][0]["nearest"][0]["model"].startswith("org/m")


# Recomputing


@pytest.mark.torch
def test_recomputed_rows(site: Site, tmp_path: Path) -> None:
    api = site.hub.api("bob")
    api.create_repo("bob/toy")
    api.upload_folder(repo_id="bob/toy", folder_path=_save(tmp_path / "toy", 0, 1.0, {}))
    site.as_user("bob")
    theirs = Registry(site.registry.path)
    (added,) = theirs.add(["bob/toy"])
    assert added.status == "added", added
    true = theirs.row(added.row_id)
    next(iter((site.registry.path / row_path(true.record)).parent.glob("bob--toy*"))).unlink()
    forged = _with_values(true, true.log_likelihood * 1.05)
    (verdict,) = site.review(site.propose(files_of(true)), recompute=3)
    assert (verdict.state, verdict.rows[0].recomputed.outcome) == ("good", "match")
    assert len(verdict.rows[0].recomputed.texts) == 3
    assert verdict.rows[0].recomputed.comparison.max_difference < 1e-3
    (verdict,) = site.review(site.propose(files_of(forged)), recompute=3)
    assert verdict.state == "refused"
    assert "recomputed: mismatch; the row was not made with these weights" in _told(verdict, "refused")
    assert "3 texts scored again in float32 on cpu (the row: cpu): root mean square" in _told(verdict, "refused")
    other = _with_values(true, true.log_likelihood, model="bob/gone")
    (verdict,) = site.review(site.propose(files_of(other)), recompute=3)
    assert "recomputed: inconclusive; it cannot be scored here" in _told(verdict, "attention")
    local = _with_values(true, true.log_likelihood - 1, model="mine", source="local", revision="sha256:" + "b" * 64)
    (verdict,) = site.review(site.propose(files_of(local)), recompute=3)
    assert "recomputed: inconclusive; it cannot be scored here: the row was made from files" in _told(
        verdict, "attention"
    )


def test_which_texts_are_recomputed_is_chance(site: Site, row: Row) -> None:
    values = np.array([-1, np.nan, -3, -4, -5, -6])
    draws = {tuple(draw_texts(site.registry, row.record, values, 2, f"seed {k}")) for k in range(200)}
    assert draws == {(a, b) for a in (0, 2, 3, 4, 5) for b in (2, 3, 4, 5) if a < b}
    assert draw_texts(site.registry, row.record, values, 2, "a") == draw_texts(
        site.registry, row.record, values, 2, "a"
    )
    assert draw_texts(site.registry, row.record, values, 9, "a") == [0, 2, 3, 4, 5]
