"""The local Hub, asked by the unmodified client: pull requests and discussions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.hub.asking import BINARY, commit, head, status_of
from tests.hub.client import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]


def test_a_stranger_proposes_and_a_maintainer_merges(hub: Hub, repo: str) -> None:
    bob, alice = hub.api("bob"), hub.api("alice")
    with pytest.raises(HfHubHTTPError, match="create_pr=1") as error:
        commit(hub, "bob", repo, {"b.npy": BINARY})
    assert status_of(error) == 403
    pull = commit(hub, "bob", repo, {"b.npy": BINARY}, "Add b", create_pr=True, commit_description="A row.")
    assert (pull.pr_num, pull.pr_revision) == (1, "refs/pr/1")
    commit(hub, "bob", repo, {"c.txt": b"c"}, "Add c", revision="refs/pr/1", parent_commit=pull.oid)
    with pytest.raises(HfHubHTTPError, match="403"):
        commit(hub, "carol", repo, {"d.txt": b"d"}, revision="refs/pr/1")
    assert HfFileSystem(endpoint=hub.url, token=False).cat(f"datasets/{repo}@refs/pr/1/b.npy") == BINARY
    details = alice.get_discussion_details(repo, 1, repo_type="dataset")
    assert (details.status, details.title, details.author) == ("open", "Add b", "bob")
    assert (details.conflicting_files, details.target_branch) == ([], "refs/heads/main")
    assert [event.type for event in details.events] == ["comment", "commit", "commit"]
    assert details.events[0].content == "A row."
    assert "+++ b/b.npy" in details.diff
    assert "+++ b/c.txt" in details.diff
    commit(hub, "alice", repo, {"a.txt": b"meanwhile"})
    with pytest.raises(HfHubHTTPError) as error:
        bob.merge_pull_request(repo, 1, repo_type="dataset")
    assert status_of(error) == 403
    alice.merge_pull_request(repo, 1, repo_type="dataset", comment="thanks")
    merged = alice.get_discussion_details(repo, 1, repo_type="dataset")
    assert (merged.status, merged.merge_commit_oid) == ("merged", head(hub, repo))
    newest = alice.list_repo_commits(repo, repo_type="dataset")[0]
    assert newest.title == "Add b (#1)"
    assert f"- Add b ({pull.oid})" in newest.message
    assert alice.list_repo_files(repo, repo_type="dataset") == [".gitattributes", "a.txt", "b.npy", "c.txt"]
    refs = alice.list_repo_refs(repo, repo_type="dataset", include_pull_requests=True)
    assert [item.ref for item in refs.pull_requests] == ["refs/pr/1"]


def test_conflicting_pull_requests(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"a.txt": b"old"})
    for text in (b"one", b"two"):
        commit(hub, "bob", repo, {"a.txt": text}, "Change a", create_pr=True)
    alice = hub.api("alice")
    alice.merge_pull_request(repo, 1, repo_type="dataset")
    assert alice.get_discussion_details(repo, 2, repo_type="dataset").conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError, match=r"conflicts in a\.txt") as error:
        alice.merge_pull_request(repo, 2, repo_type="dataset")
    assert status_of(error) == 409
    assert hub.git(repo, "show", "main:a.txt") == "one"
    assert alice.get_discussion_details(repo, 2, repo_type="dataset").status == "open"


def test_a_pull_request_from_an_old_commit(hub: Hub, repo: str) -> None:
    base = head(hub, repo)
    commit(hub, "alice", repo, {"a": b"a"})
    pull = commit(hub, "bob", repo, {"b": b"b"}, create_pr=True, parent_commit=base)
    assert hub.git(repo, "rev-parse", f"{pull.oid}^").strip() == base
    hub.api("alice").merge_pull_request(repo, 1, repo_type="dataset")
    assert hub.git(repo, "ls-tree", "--name-only", "main").split() == [".gitattributes", "a", "b"]
    with pytest.raises(RevisionNotFoundError):
        commit(hub, "bob", repo, {"b": b"c"}, create_pr=True, revision=base)
    with pytest.raises(RepositoryNotFoundError, match="Invalid username or password"):
        commit(hub, None, repo, {"c": b"c"}, create_pr=True)


def test_a_draft_is_opened_before_it_is_merged(hub: Hub, repo: str) -> None:
    alice, bob = hub.api("alice"), hub.api("bob")
    draft = bob.create_pull_request(repo, "A draft", description="soon", repo_type="dataset")
    assert (draft.status, head(hub, repo, "refs/pr/1")) == ("draft", head(hub, repo))
    commit(hub, "bob", repo, {"a": b"a"}, revision="refs/pr/1")
    with pytest.raises(BadRequestError, match="draft"):
        alice.merge_pull_request(repo, 1, repo_type="dataset")
    bob.change_discussion_status(repo, 1, "open", repo_type="dataset")
    alice.merge_pull_request(repo, 1, repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="is merged"):
        commit(hub, "bob", repo, {"b": b"b"}, revision="refs/pr/1")


def test_discussions(hub: Hub, repo: str) -> None:
    alice, bob, carol = hub.api("alice"), hub.api("bob"), hub.api("carol")
    talk = bob.create_discussion(repo, "A question", description="Why?", repo_type="dataset")
    comment = alice.comment_discussion(repo, talk.num, comment="Because.", repo_type="dataset")
    assert (comment.content, comment.author) == ("Because.", "alice")
    alice.edit_discussion_comment(repo, talk.num, comment.id, new_content="Therefore.", repo_type="dataset")
    bob.rename_discussion(repo, talk.num, new_title="Answered", repo_type="dataset")
    bob.change_discussion_status(repo, talk.num, "closed", comment="Thanks.", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="403"):
        carol.change_discussion_status(repo, talk.num, "open", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="403"), pytest.warns(UserWarning, match="irreversible"):
        bob.hide_discussion_comment(repo, talk.num, comment.id, repo_type="dataset")
    with pytest.warns(UserWarning, match="irreversible"):
        alice.hide_discussion_comment(repo, talk.num, comment.id, repo_type="dataset")
    details = hub.api(None).get_discussion_details(repo, talk.num, repo_type="dataset")
    assert (details.title, details.status, details.is_pull_request) == ("Answered", "closed", False)
    said = [(event.content, event.edited, event.hidden) for event in details.events if event.type == "comment"]
    assert said == [("Why?", False, False), ("", True, True), ("Thanks.", False, False)]


def test_the_list_of_discussions(hub: Hub, repo: str) -> None:
    hub.options(discussions_page=3)
    for k in range(4):
        commit(hub, "bob", repo, {f"{k}": b""}, f"pull {k}", create_pr=True)
        hub.api("carol").create_discussion(repo, f"talk {k}", repo_type="dataset")
    hub.api("alice").merge_pull_request(repo, 1, repo_type="dataset")

    def listed(**filters: str) -> list[int]:
        found = hub.api(None).get_repo_discussions(repo, repo_type="dataset", **filters)
        return [item.num for item in found]

    assert listed() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert listed(discussion_type="pull_request", discussion_status="open") == [7, 5, 3]
    assert listed(author="carol") == [8, 6, 4, 2]
    assert listed(discussion_status="closed") == [1]
