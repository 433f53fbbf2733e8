"""Rows pushed as pull requests: by who may not write; and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub.client import Hub
from tests.hub.people import changing, head, row_names

from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Clone = Callable[[str, Path], Registry]
AsUser = Callable[[str | None], None]
Fill = Callable[..., list[Row]]


@pytest.fixture
def place(publish_rows: Callable[..., str]) -> str:
    """A repository of one row, its owner logged in."""
    return publish_rows("alice", 1)


def test_without_the_right_to_write_a_push_is_a_pull_request(
    hub: Hub, place: str, fill: Fill, as_user: AsUser, tmp_path: Path, clone_rows: Clone
) -> None:
    main = head(hub, place)
    as_user("bob")
    second = clone_rows(place, tmp_path / "b")
    (row,) = fill(second, 1, start=1)
    made = push(second)
    assert (made.pull_request, made.rows) == (1, (row.record.row_id,))
    assert head(hub, place) == main
    assert list(made.files) == [row_path(row.record).as_posix()]
    changed = hub.git(place, "diff", "--name-status", "main", "refs/pr/1").split()
    assert changed == ["A", row_path(row.record).as_posix()]
    (request,) = hub.api("alice").get_repo_discussions(place, repo_type="dataset")
    details = hub.api("alice").get_discussion_details(place, request.num, repo_type="dataset")
    assert (details.status, details.title, details.is_pull_request) == ("open", "Add 1 row: org/m1", True)
    said = details.events[0].content
    assert row.record.row_id in said
    assert row.record.identity.revision[:10] in said
    assert "org/m0" in said  # its neighbour


def test_an_open_pull_request_is_added_to(
    hub: Hub, place: str, small_registry: Registry, fill: Fill, as_user: AsUser, tmp_path: Path, clone_rows: Clone
) -> None:
    as_user("bob")
    second = clone_rows(place, tmp_path / "b")
    fill(second, 1, start=1)
    push(second)
    hub.clear()
    again = push(second)
    assert (again.commit, again.pull_request, changing(hub.requests())) == (None, 1, [])
    (row,) = fill(second, 1, start=2)
    wish = push(second, dry_run=True)
    assert (wish.pull_request, wish.commit) == (1, None)
    more = push(second)
    assert (more.pull_request, more.rows, list(more.files)) == (1, (row.record.row_id,), list(wish.files))
    assert len(row_names(hub.git(place, "diff", "--name-only", "main", "refs/pr/1").split())) == 2
    comments = [
        event.content
        for event in hub.api("bob").get_discussion_details(place, 1, repo_type="dataset").events
        if event.type == "comment"
    ]
    assert [row.record.row_id in text for text in comments] == [False, True]

    # Somebody who lost the memory of it finds it again.
    (second.path / ".llreg" / "remote.json").unlink()
    fill(second, 1, start=3)
    assert push(second, place).pull_request == 1

    # Main has moved on meanwhile; the request still adds only its rows.
    as_user("alice")
    fill(small_registry, 1, start=9)
    push(small_registry)
    as_user("bob")
    fill(second, 1, start=4)
    assert push(second).pull_request == 1
    assert len(row_names(hub.git(place, "diff", "--name-only", "main...refs/pr/1").split())) == 4
    assert hub.api("alice").get_discussion_details(place, 1, repo_type="dataset").conflicting_files in ([], None)


@pytest.mark.parametrize("end", ["merged", "closed"])
def test_after_its_end_a_new_pull_request_is_opened(
    hub: Hub, place: str, fill: Fill, as_user: AsUser, tmp_path: Path, end: str, clone_rows: Clone
) -> None:
    as_user("bob")
    second = clone_rows(place, tmp_path / "b")
    fill(second, 1, start=1)
    push(second)
    if end == "merged":
        hub.api("alice").merge_pull_request(place, 1, repo_type="dataset")
    else:
        hub.api("alice").change_discussion_status(place, 1, "closed", repo_type="dataset")
    fill(second, 1, start=2)
    made = push(second)
    assert made.pull_request == 2
    assert len(made.rows) == (1 if end == "merged" else 2)
    assert [r.status for r in hub.api("bob").get_repo_discussions(place, repo_type="dataset")] == ["open", end]


@pytest.mark.parametrize("fault", ["504-after", "drop-after"])
def test_a_pull_request_whose_answer_was_lost_is_not_made_twice(
    hub: Hub, place: str, fill: Fill, as_user: AsUser, tmp_path: Path, fault: str, clone_rows: Clone
) -> None:
    as_user("bob")
    second = clone_rows(place, tmp_path / "b")
    for start in (1, 2):  # the one that opens it, and one that adds to it
        (row,) = fill(second, 1, start=start)
        hub.clear_faults()
        hub.fault(fault, method="POST", path="/commit/")
        made = push(second)
        assert hub.struck() == 1
        assert (made.pull_request, made.rows) == (1, (row.record.row_id,))
        assert made.commit == head(hub, place, "refs/pr/1")
        assert list(made.files) == [row_path(row.record).as_posix()]
    assert hub.git(place, "rev-list", "--count", "main..refs/pr/1").strip() == "2"
    assert len(list(hub.api("bob").get_repo_discussions(place, repo_type="dataset"))) == 1
    said = [
        e.content
        for e in hub.api("bob").get_discussion_details(place, 1, repo_type="dataset").events
        if e.type == "comment"
    ]
    assert len(said) == 2
    assert row.record.row_id in said[1]
