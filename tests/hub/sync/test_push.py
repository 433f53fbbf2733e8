"""`push`: what it sends, and what it refuses to send."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Cli, MakeRow
from tests.hub.asking import commit
from tests.hub.client import Hub
from tests.hub.people import built_anew, changing, commits, head, models, row_names, tree

from llreg.geometry.view.freeze import freeze_view
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path, write_row
from llreg.store.subsets import store_subset
from llreg_schemas import row_digest
from llreg_schemas.errors import (
    HubAccessError,
    HubNotFoundError,
    HubUnreachableError,
    InputError,
    InvalidFileError,
    LlregWarning,
)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]
Clone = Callable[[str, Path], Registry]
Publish = Callable[..., str]
Fill = Callable[..., list[Row]]


@pytest.fixture
def place(hub: Hub, as_user: AsUser, repo_name: str) -> str:
    """A repository that is not there yet, and its future owner logged in."""
    as_user("alice")
    return f"alice/{repo_name}"


# The first push


def test_the_first_push_makes_a_registry(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    rows = fill(small_registry, 2)
    made = push(small_registry, place)
    there = tree(hub, place)
    assert {".gitattributes", "README.md", "registry.json", "texts.parquet", "models.parquet"} <= set(there)
    assert row_names(there) == {row_path(row.record).as_posix() for row in rows}
    assert there == built_anew(there, tmp_path / "anew")
    assert (made.commit, made.rows) == (head(hub, place), tuple(row.record.row_id for row in rows))
    assert [request.status for request in commits(hub.requests())] == [200, 200]
    assert hub.git(place, "log", "--format=%s").splitlines()[:2] == ["Add 2 rows: org/m0, org/m1", "Make a registry"]
    hub.clear()
    assert (push(small_registry).commit, changing(hub.requests())) == (None, [])


def test_one_commit_holds_rows_and_build(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, publish_rows: Publish
) -> None:
    publish_rows("alice", 2)
    before = head(hub, place)
    (row,) = fill(small_registry, 1, start=5)
    made = push(small_registry)
    assert hub.git(place, "rev-parse", "main~1").strip() == before
    changed = set(hub.git(place, "diff", "--name-only", "main~1", "main").split())
    assert changed == set(made.files) | set(made.deleted)
    assert {row_path(row.record).as_posix(), "models.parquet", "README.md", "store.zarr/zarr.json"} <= changed
    assert not {"registry.json", "texts.parquet", ".gitattributes"} & changed


def test_a_push_on_an_older_head_is_made_again_on_the_new_one(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path, publish_rows: Publish, clone_rows: Clone
) -> None:
    publish_rows("alice", 1)
    second = clone_rows(place, tmp_path / "b")
    fill(small_registry, 1, start=1)
    push(small_registry)
    fill(second, 1, start=2)
    hub.fault("stale", path="/revision/main", times=2)  # main is read as it was: the commit's parent is not its head
    hub.clear()
    made = push(second)
    assert made.tries > 1
    assert 412 in [request.status for request in commits(hub.requests())]
    assert models(second) == ["org/m0", "org/m1", "org/m2"]
    there = tree(hub, place)
    assert len(row_names(there)) == 3
    assert there == built_anew(there, tmp_path / "anew")


def test_a_dry_run_sends_nothing(hub: Hub, place: str, small_registry: Registry, fill: Fill) -> None:
    (row,) = fill(small_registry, 1)
    small_registry.build()
    wish = push(small_registry, place, dry_run=True)
    assert (wish.commit, wish.dry_run, changing(hub.requests())) == (None, True, [])
    assert not hub.api("alice").repo_exists(place, repo_type="dataset")
    name = row_path(row.record).as_posix()
    assert wish.files[name] == (small_registry.path / name).stat().st_size
    assert {"registry.json", "texts.parquet", ".gitattributes", "models.parquet"} <= set(wish.files)
    push(small_registry, place)

    (second,) = fill(small_registry, 1, start=1)
    hub.clear()
    wish = push(small_registry, dry_run=True)
    assert (changing(hub.requests()), wish.rows) == ([], (second.record.row_id,))
    assert not small_registry.status()["build_current"]  # a dry run changes nothing here either
    done = push(small_registry)
    assert dict(done.files) == dict(wish.files)
    assert done.deleted == wish.deleted
    assert sum(done.files.values()) == sum(len(tree(hub, place)[name]) for name in done.files)


def test_an_empty_repository_of_the_same_name_is_taken(
    hub: Hub, place: str, small_registry: Registry, fill: Fill
) -> None:
    hub.api("alice").create_repo(place, repo_type="dataset")
    fill(small_registry, 1)
    assert push(small_registry, place).commit == head(hub, place)


def test_a_repository_of_something_else_is_refused(
    hub: Hub, repo: str, as_user: AsUser, small_registry: Registry, fill: Fill
) -> None:
    commit(hub, "alice", repo, {"data.csv": b"a,b\n"})
    as_user("alice")
    fill(small_registry, 1)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"data\.csv.*no registry"):
            push(small_registry, repo, dry_run=dry_run)
    assert set(tree(hub, repo)) == {".gitattributes", "data.csv"}
    as_user("bob")
    with pytest.raises(HubNotFoundError, match="is not a registry"):
        push(small_registry, repo)


def test_a_registry_of_other_texts_is_refused(
    hub: Hub,
    place: str,
    small_registry: Registry,
    registry: Registry,
    fill: Fill,
    as_user: AsUser,
    publish_rows: Publish,
) -> None:
    publish_rows("alice", 1)
    fill(registry, 1)
    before = tree(hub, place)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"text set .* do not compare"):
            push(registry, place, dry_run=dry_run)
    as_user("bob")
    with pytest.raises(InputError, match=r"text set .* do not compare"):
        push(registry, place)
    assert tree(hub, place) == before
    assert registry.validate() == []


# What others may do


def test_nobody_is_told_to_log_in(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, as_user: AsUser, cli: Cli
) -> None:
    fill(small_registry, 1)
    as_user(None)
    for new in (place, place.replace("alice/", "bob/")):
        with pytest.raises(HubAccessError, match="log in with: hf auth login"):
            push(small_registry, new)
    as_user("alice")
    push(small_registry, place)
    fill(small_registry, 1, start=1)
    as_user(None)
    hub.clear()
    with pytest.raises(HubAccessError, match="you are not logged in"):
        push(small_registry)
    assert changing(hub.requests()) == []
    done = cli("push", "-r", small_registry.path)
    assert (done.code != 0, done.out) == (True, "")
    assert "not logged in" in done.err
    assert "Traceback" not in done.err


def test_a_token_that_may_only_read_is_told(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, as_user: AsUser, publish_rows: Publish
) -> None:
    publish_rows("alice", 1)
    fill(small_registry, 1, start=1)
    as_user("alice:read")
    hub.clear()
    with pytest.raises(HubAccessError, match=r"403.*this token may only read"):
        push(small_registry)
    assert changing(hub.requests()) == []


@pytest.mark.parametrize("fault", ["504-after", "drop-after"])
def test_a_commit_whose_answer_was_lost_is_recognised(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, fault: str, publish_rows: Publish
) -> None:
    publish_rows("alice", 1)
    (row,) = fill(small_registry, 1, start=1)
    hub.clear()
    hub.fault(fault, method="POST", path="/commit/")
    made = push(small_registry, tag="v1")
    assert hub.struck() == 1
    assert len(commits(hub.requests())) == 1
    assert (made.commit, made.rows, made.tags) == (head(hub, place), (row.record.row_id,), ("v1",))
    assert head(hub, place, "v1") == made.commit
    assert made.tries == 2


def test_uploads_that_fail_for_good_are_told(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, publish_rows: Publish
) -> None:
    publish_rows("alice", 1)
    before = head(hub, place)
    fill(small_registry, 1, start=1)
    hub.fault("500", method="PUT", times=1000)
    with pytest.raises(HubUnreachableError, match="run the same command again"):
        push(small_registry)
    assert head(hub, place) == before
    hub.clear_faults()
    assert push(small_registry).rows == (small_registry.find("org/m1").row_id,)


# What is sent


def test_registry_json_goes_both_ways(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path, publish_rows: Publish, clone_rows: Clone
) -> None:
    publish_rows("alice", 2)
    second = clone_rows(place, tmp_path / "b")

    freeze_view(small_registry, replace(small_registry.view, clip=-50.0))
    made = push(small_registry)
    assert "registry.json" in made.files
    there = tree(hub, place)
    assert there["registry.json"] == (small_registry.path / "registry.json").read_bytes()
    assert there == built_anew(there, tmp_path / "anew")
    assert push(small_registry).commit is None

    with warnings.catch_warnings():
        warnings.simplefilter("error", LlregWarning)
        pull(second)
    assert (second.view.clip, Registry(second.path).view.clip) == (-50.0, -50.0)
    assert second.check_build() == []

    # Changed on both sides: ours is kept, with a warning, and the next push sends it.
    freeze_view(small_registry, replace(small_registry.view, clip=-60.0))
    push(small_registry)
    freeze_view(second, replace(second.view, clip=-70.0))
    fill(second, 1, start=3)
    with pytest.warns(LlregWarning, match="changed here and on the Hub"):
        pull(second)
    assert second.view.clip == -70.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", LlregWarning)
        made = push(second)
    assert "registry.json" in made.files
    there = tree(hub, place)
    assert there["registry.json"] == (second.path / "registry.json").read_bytes()
    assert there == built_anew(there, tmp_path / "anew2")


def test_a_damaged_row_is_refused_before_anything_is_sent(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, as_user: AsUser, tmp_path: Path
) -> None:
    _, bad = fill(small_registry, 2)
    path = small_registry.path / row_path(bad.record)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for dry_run in (True, False):
        with pytest.raises(InvalidFileError, match=f"{path.name}.*nothing was published"):
            push(small_registry, place, dry_run=dry_run)
    assert not hub.api("alice").repo_exists(place, repo_type="dataset")
    path.write_bytes(whole)
    push(small_registry, place)

    (worse,) = fill(small_registry, 1, start=2)
    path = small_registry.path / row_path(worse.record)
    path.write_bytes(path.read_bytes().replace(b'"units": "nat"', b'"units": "bit"')[:-1])
    hub.clear()
    before = tree(hub, place)
    with pytest.raises(InvalidFileError, match=f"{path.name}.*nothing was published"):
        push(small_registry)
    assert tree(hub, place) == before
    as_user("bob")
    with pytest.raises(InvalidFileError, match=f"{path.name}.*nothing was published"):
        push(small_registry)
    assert changing(hub.requests()) == []
    # What is not to be sent need not be sound.
    as_user("alice")
    (good,) = fill(small_registry, 1, start=3)
    with pytest.warns(LlregWarning, match="left out"):
        made = push(small_registry, only=[row_path(good.record).as_posix()])
    assert made.rows == (good.record.row_id,)


def test_only_some_rows_are_sent(hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    first, second = fill(small_registry, 2)
    small_registry.build()
    push(small_registry, place, only=[row_path(first.record).as_posix()])
    there = tree(hub, place)
    assert row_names(there) == {row_path(first.record).as_posix()}
    assert there == built_anew(there, tmp_path / "anew")
    assert models(small_registry) == ["org/m0", "org/m1"]
    # Also where somebody's row was merged and is not in the build yet.
    theirs = Registry(clone(place, tmp_path / "b").path)
    (third,) = fill(theirs, 1, start=2)
    name = row_path(third.record).as_posix()
    commit(hub, "alice", place, {name: (theirs.path / name).read_bytes()})
    (fourth,) = fill(small_registry, 1, start=3)
    made = push(small_registry, only=[row_path(fourth.record).as_posix()])
    assert made.rows == (fourth.record.row_id,)
    there = tree(hub, place)
    assert len(row_names(there)) == 3
    assert there == built_anew(there, tmp_path / "anew2")
    assert push(small_registry).rows == (second.record.row_id,)


def test_a_retraction_travels(hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    fill(small_registry, 3)
    small_registry.tag("v1")
    push(small_registry, place)
    second = Registry(clone(place, tmp_path / "b").path)
    assert models(second) == ["org/m0", "org/m1", "org/m2"]
    gone = small_registry.retract("org/m1", why="Wrong tokenizer")
    made = push(small_registry)
    assert f"retractions/{gone.digest}.json" in made.files
    there = tree(hub, place)
    assert there == built_anew(there, tmp_path / "anew")
    done = pull(second)
    assert (done.retracted, done.added, models(second)) == ((gone.row_id,), (), ["org/m0", "org/m2"])
    assert second.validate() == []
    assert second.check_build() == []
    # A version that was named before still shows it, there and in a new clone.
    third = clone(place, tmp_path / "c").path
    for path in (second.path, third):
        version = Registry(path, revision="v1")
        assert models(version) == ["org/m0", "org/m1", "org/m2"]
        assert version.row("org/m1").record.digest == gone.digest
        assert Registry(path).validate() == []
    assert models(Registry(third)) == ["org/m0", "org/m2"]


def test_versions_become_tags(hub: Hub, place: str, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    fill(small_registry, 1)
    small_registry.tag("v1")
    made = push(small_registry, place)
    assert (made.tags, head(hub, place, "v1")) == (("v1",), made.commit)
    fill(small_registry, 1, start=1)
    second = push(small_registry, tag="v2")
    assert (second.tags, head(hub, place, "v2"), head(hub, place, "v1")) == (("v2",), second.commit, made.commit)
    assert b'"tag": "v2"' in tree(hub, place)["versions/v2.json"]
    assert models(Registry(small_registry.path, revision="v2")) == ["org/m0", "org/m1"]
    assert push(small_registry, tag="v2").commit is None  # which it is already
    with pytest.raises(InputError, match=r"version v1 .* names other rows; tags never move"):
        push(small_registry, tag="v1")
    other = Registry(clone(place, tmp_path / "b").path)
    fill(other, 1, start=2)
    other.tag("v3")
    fill(small_registry, 1, start=3)
    small_registry.tag("v3")
    push(small_registry)
    hub.clear()
    with pytest.raises(InputError, match="v3 names other rows on the Hub"):
        push(other)
    assert changing(hub.requests()) == []


def test_a_version_is_named_though_a_row_of_it_was_retracted_since(
    hub: Hub, place: str, small_registry: Registry, tmp_path: Path, publish_rows: Publish
) -> None:
    publish_rows("alice", 2)
    small_registry.tag("v1")
    small_registry.retract("org/m1", why="Wrong tokenizer")
    made = push(small_registry)
    assert made.tags == ("v1",)
    assert "versions/v1.json" in tree(hub, place, "v1")


def test_a_version_of_rows_that_are_not_sent_is_not_named(
    hub: Hub, place: str, small_registry: Registry, fill: Fill
) -> None:
    first, _ = fill(small_registry, 2)
    small_registry.tag("v1")
    made = push(small_registry, place, only=[row_path(first.record).as_posix()])
    assert (made.tags, hub.git(place, "tag")) == ((), "")
    assert push(small_registry).tags == ("v1",)


def test_a_text_subset_goes_with_the_rows_that_were_scored_on_it(
    hub: Hub, place: str, registry: Registry, fill: Fill, make_row: MakeRow, as_user: AsUser, tmp_path: Path
) -> None:
    fill(registry, 3)
    push(registry, place)
    as_user("bob")
    mine = Registry(clone(place, tmp_path / "b").path)
    used, unused = mine.subset(40), mine.subset(40, seed=1)
    values = make_row(mine, "org/m9", 9).log_likelihood
    values[np.setdiff1d(np.arange(len(values)), used["texts"])] = np.nan
    for document in (used, unused):
        store_subset(mine.path, document)
    row = on_subset(make_row(mine, "org/m9", 9, log_likelihood=values), used["id"])
    write_row(mine.path, row)
    assert mine.validate() == []
    made = push(mine)
    name = f"subsets/{used['id']}.json"
    assert set(made.files) == {row_path(row.record).as_posix(), name}
    hub.api("alice").merge_pull_request(place, 1, repo_type="dataset")
    as_user("alice")
    pull(registry)
    assert registry.find("org/m9").identity.subset == used["id"]
    assert registry.validate() == []
    push(registry)
    there = tree(hub, place)
    assert there == built_anew(there, tmp_path / "anew")
    assert there[name] == (mine.path / name).read_bytes()


def on_subset(row: Row, subset: str) -> Row:
    """A row, as one scored on a text subset."""
    identity = replace(row.record.identity, subset=subset)
    provenance = {**row.record.provenance, "over_context": 0}
    digest = row_digest(identity.to_json(), row.log_likelihood, row.num_tokens)
    record = replace(row.record, identity=identity, provenance=provenance, digest=digest)
    return replace(row, record=record)


# Two people, one model


def test_the_same_values_of_two_people_are_one_row(
    hub: Hub,
    place: str,
    small_registry: Registry,
    make_row: MakeRow,
    tmp_path: Path,
    publish_rows: Publish,
    clone_rows: Clone,
) -> None:
    publish_rows("alice", 1)
    second = clone_rows(place, tmp_path / "b")
    published = make_row(small_registry, "org/m5", 5, provenance={"contributor": "Ada"})
    again = make_row(second, "org/m5", 5, provenance={"contributor": "Bob"}, added_at="2026-03-03T03:03:03.000000Z")
    assert published.record.digest == again.record.digest
    write_row(small_registry.path, published)
    write_row(second.path, again)
    second.build()
    push(small_registry)
    made = push(second)
    assert (made.commit, made.rows) == (None, ())
    there = tree(hub, place)
    assert len(row_names(there)) == 2
    for registry in (small_registry, second, Registry(clone(place, tmp_path / "c").path)):
        assert registry.find("org/m5").provenance["contributor"] == "Ada"
        for path in registry.row_files().values():
            assert registry.read_file(path).record.provenance["contributor"] == "Ada"
        assert (registry.validate(), registry.check_build()) == ([], [])
        assert (registry.path / "models.parquet").read_bytes() == there["models.parquet"]


def test_other_values_of_the_same_model_are_a_second_row(
    hub: Hub, place: str, small_registry: Registry, make_row: MakeRow, tmp_path: Path
) -> None:
    write_row(small_registry.path, make_row(small_registry, "org/same", 1))
    push(small_registry, place)
    second = Registry(clone(place, tmp_path / "b").path)
    write_row(second.path, make_row(second, "org/same", 2))
    write_row(small_registry.path, make_row(small_registry, "org/same", 3))
    push(small_registry)
    push(second)
    assert models(second) == ["org/same"] * 3
    there = tree(hub, place)
    assert len(row_names(there)) == 3
    assert there == built_anew(there, tmp_path / "anew")
