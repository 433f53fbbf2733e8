"""The local Hub, asked by the unmodified client: downloads, trees, history."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RevisionNotFoundError,
)
from tests.hub.asking import BINARY, commit, head, raw, status_of
from tests.hub.client import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]


def test_downloads_by_every_way(hub: Hub, repo: str, as_user: AsUser, tmp_path: Path) -> None:
    files = {"t.txt": b"text", "big/v.npy": BINARY, "odd/ü #%?.txt": b"odd"}
    oid = commit(hub, "alice", repo, files).oid
    as_user(None)
    for path, data in files.items():
        assert Path(hf_hub_download(repo, path, repo_type="dataset")).read_bytes() == data
    hub.clear()
    folder = snapshot_download(repo, repo_type="dataset", cache_dir=tmp_path)
    assert {path: Path(folder, path).read_bytes() for path in files} == files
    assert sum(request.role == "cdn" for request in hub.requests()) == 1
    found = HfFileSystem().find(f"datasets/{repo}@{oid}")
    assert sorted(found) == sorted(f"datasets/{repo}@{oid}/{path}" for path in [".gitattributes", *files])
    assert HfFileSystem().glob(f"datasets/{repo}/*/v.npy") == [f"datasets/{repo}/big/v.npy"]
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo, "none", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(repo, "t.txt", repo_type="dataset", revision="none")


def test_what_a_download_answers(hub: Hub, repo: str) -> None:
    oid = commit(hub, "alice", repo, {"t.txt": b"text", "v.npy": BINARY}).oid
    base = f"/datasets/{repo}/resolve/main"
    status, small, _ = raw(hub, None, "HEAD", f"{base}/t.txt")
    assert (status, small["X-Repo-Commit"]) == (307, oid)
    assert small["Location"] == f"/api/resolve-cache/datasets/{repo}/{oid}/t.txt"
    status, direct, body = raw(hub, None, "GET", small["Location"])
    assert (status, body, direct["ETag"]) == (200, b"text", f'"{hub.git(repo, "rev-parse", "main:t.txt").strip()}"')
    status, large, _ = raw(hub, None, "HEAD", f"{base}/v.npy")
    assert (status, large["X-Repo-Commit"], large["X-Linked-Size"]) == (302, oid, str(len(BINARY)))
    assert large["X-Linked-Etag"] == f'"{hashlib.sha256(BINARY).hexdigest()}"'
    assert large["Location"].startswith(hub.cdn)
    for headers in (small, large):
        assert not [name for name in headers if name.lower().startswith("x-xet")]
    status, missing, _ = raw(hub, None, "HEAD", f"{base}/none")
    assert (status, missing["X-Error-Code"], missing["X-Repo-Commit"]) == (404, "EntryNotFound", oid)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=10-19", 10, 20), ("bytes=5000-", 5000, 5120), ("bytes=-7", 5113, 5120), ("bytes=5100-9999", 5100, 5120)],
)
def test_ranges(hub: Hub, repo: str, asked: str, start: int, stop: int) -> None:
    commit(hub, "alice", repo, {"v.npy": BINARY})
    location = raw(hub, None, "GET", f"/datasets/{repo}/resolve/main/v.npy")[1]["Location"]
    status, headers, body = raw(hub, None, "GET", location, Range=asked)
    assert (status, body) == (206, BINARY[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(BINARY)}"
    assert raw(hub, None, "GET", location, Range="bytes=5120-")[0] == 416


def test_one_small_range_read_of_a_large_file(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"v.npy": BINARY * 100})
    hub.clear()
    with HfFileSystem(endpoint=hub.url, token=False).open(f"datasets/{repo}/v.npy", block_size=1000) as file:
        file.seek(300_000)
        assert file.read(100) == (BINARY * 100)[300_000:300_100]
    assert [(request.status, request.sent) for request in hub.requests() if request.role == "cdn"] == [(206, 1100)]


def test_the_tree_in_pages(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {f"d{k % 3}/{k:02d}.npy": b"%d" % k for k in range(20)}, "many")
    hub.options(tree_page=10, expand_page=4)
    api = hub.api(None)
    whole = list(api.list_repo_tree(repo, recursive=True, repo_type="dataset"))
    assert len(whole) == len({item.path for item in whole}) == 24
    assert {item.path: item.tree_id for item in whole if hasattr(item, "tree_id")} == {
        f"d{k}": hub.git(repo, "rev-parse", f"main:d{k}").strip() for k in range(3)
    }
    assert [request.status for request in hub.requests() if "/tree/" in request.path] == [200] * 3
    expanded = list(api.list_repo_tree(repo, recursive=True, expand=True, repo_type="dataset"))
    assert {item.last_commit.title for item in expanded} == {"initial commit", "many"}
    assert [item.path for item in api.list_repo_tree(repo, "d1", repo_type="dataset")] == [
        f"d1/{k:02d}.npy" for k in range(20) if k % 3 == 1
    ]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "d9", repo_type="dataset"))


def test_paths_info_is_silent_about_the_unknown(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"d/v.npy": BINARY})
    found = hub.api(None).get_paths_info(repo, ["d", "d/v.npy", "none"], repo_type="dataset", expand=True)
    assert [item.path for item in found] == ["d", "d/v.npy"]
    assert found[1].size == len(BINARY)


def test_history_branches_and_tags(hub: Hub, repo: str) -> None:
    shas = [commit(hub, "alice", repo, {"a": b"%d" % k}, f"number {k}").oid for k in range(5)]
    api = hub.api("alice")
    hub.options(commits_page=2)
    history = api.list_repo_commits(repo, repo_type="dataset")
    assert [item.commit_id for item in history][:5] == shas[::-1]
    assert [item.title for item in history][::5] == ["number 4", "initial commit"]
    api.create_tag(repo, tag="v1", revision=shas[1], tag_message="the first", repo_type="dataset")
    api.create_tag(repo, tag="light", repo_type="dataset")
    api.create_branch(repo, branch="side", revision=shas[0], repo_type="dataset")
    refs = api.list_repo_refs(repo, repo_type="dataset")
    assert {item.name: item.target_commit for item in refs.tags} == {"v1": shas[1], "light": shas[4]}
    assert {item.name: item.target_commit for item in refs.branches} == {"main": shas[4], "side": shas[0]}
    assert [head(hub, repo, ref) for ref in ("v1", "side", shas[2])] == [shas[1], shas[0], shas[2]]
    for again in (api.create_tag, api.create_branch):
        with pytest.raises(HfHubHTTPError) as error:
            again(repo, repo_type="dataset", **{"tag": "v1"} if again == api.create_tag else {"branch": "side"})
        assert status_of(error) == 409
    with pytest.raises(HfHubHTTPError) as error:
        hub.api("bob").create_tag(repo, tag="mine", repo_type="dataset")
    assert status_of(error) == 403
    api.delete_tag(repo, tag="v1", repo_type="dataset")
    api.delete_branch(repo, branch="side", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        head(hub, repo, "v1")
    with pytest.raises(RevisionNotFoundError):
        commit(hub, "alice", repo, {"a": b"x"}, revision=shas[0])


@pytest.mark.parametrize("rev", ["main~0", "main^", "HEAD", "refs/heads/../heads/main", ":/a commit", "main:d", "-p"])
def test_revisions_are_names_and_no_expressions(hub: Hub, repo: str, rev: str) -> None:
    commit(hub, "alice", repo, {"d/a": b"a"})
    with pytest.raises(RevisionNotFoundError):
        head(hub, repo, rev)


def test_titles_may_hold_anything(hub: Hub, repo: str) -> None:
    title = "\x01\x1b[31m\u202e<b>&\ud800 'x'"
    sha = commit(hub, "alice", repo, {"a": b"a"}, f"{title}\n\nand more").oid
    newest = hub.api(None).list_repo_commits(repo, repo_type="dataset")[0]
    assert (newest.commit_id, newest.title) == (sha, title.replace("\ud800", "?"))
    entry = hub.api(None).get_paths_info(repo, ["a"], expand=True, repo_type="dataset")[0]
    assert entry.last_commit.oid == sha


def test_a_model_repository(hub: Hub, repo_name: str, as_user: AsUser) -> None:
    as_user("bob")
    name = f"bob/{repo_name}"
    huggingface_hub.create_repo(name)
    huggingface_hub.upload_file(path_or_fileobj=b'{"a": 1}', path_in_repo="config.json", repo_id=name)
    huggingface_hub.upload_file(path_or_fileobj=BINARY, path_in_repo="model.safetensors", repo_id=name)
    as_user(None)
    assert json.loads(Path(hf_hub_download(name, "config.json")).read_text()) == {"a": 1}
    assert Path(hf_hub_download(name, "model.safetensors")).read_bytes() == BINARY
    siblings = huggingface_hub.model_info(name, files_metadata=True).siblings
    assert {item.rfilename: item.size for item in siblings}["model.safetensors"] == len(BINARY)
    assert not huggingface_hub.repo_exists(name, repo_type="dataset")


def test_upload_folder_of_many_files(hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.options(tree_page=200)
    for k in range(300):  # more than the client asks about (256) or sends (100) at once
        (tmp_path / f"{k}.{'npy' if k % 10 else 'json'}").write_bytes(b"%d" % k)
    hub.api("alice").upload_folder(repo_id=repo, folder_path=tmp_path, path_in_repo="rows", repo_type="dataset")
    assert sum("/commit/" in request.path for request in hub.requests()) == 1
    hub.clear()
    files = list(hub.api(None).list_repo_tree(repo, "rows", repo_type="dataset"))
    assert len(files) == 300
    assert sum(item.lfs is not None for item in files) == 270
    assert len(hub.requests()) == 2
