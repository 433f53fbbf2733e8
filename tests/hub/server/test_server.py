"""The local Hub, asked by the unmodified client: users, repositories, commits, large objects."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationCopy as Copy
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)
from tests.hub.asking import BINARY, commit, head, ndjson, raw, status_of
from tests.hub.client import Hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]


def test_a_user_is_who_the_token_says(hub: Hub) -> None:
    said = hub.api("carol").whoami()
    assert said["name"] == "carol"
    assert [(org["name"], org["roleInOrg"]) for org in said["orgs"]] == [("lab", "write")]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        huggingface_hub.HfApi(endpoint=hub.url, token="hf_nobody").whoami()


def test_create_repo_again_is_409_with_the_address(hub: Hub, repo: str) -> None:
    api = hub.api("alice")
    with pytest.raises(HfHubHTTPError, match="already created") as error:
        api.create_repo(repo, repo_type="dataset")
    assert status_of(error) == 409
    assert api.create_repo(repo, repo_type="dataset", exist_ok=True).url == f"{hub.url}/datasets/{repo}"
    assert api.list_repo_files(repo, repo_type="dataset") == [".gitattributes"]


def test_repositories_are_made_where_one_may_write(hub: Hub, repo_name: str) -> None:
    hub.api("carol").create_repo(f"lab/{repo_name}")
    assert hub.api("bob").model_info(f"lab/{repo_name}").id == f"lab/{repo_name}"
    with pytest.raises(HfHubHTTPError, match="under the namespace") as error:
        hub.api("bob").create_repo(f"lab/{repo_name}2")
    assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError, match="may only read"):
        hub.api("alice:read").create_repo(f"alice/{repo_name}")
    hub.api("alice").delete_repo(f"lab/{repo_name}")
    assert not hub.api("bob").repo_exists(f"lab/{repo_name}")


def test_a_private_repository_looks_missing(hub: Hub, repo_name: str) -> None:
    name = f"lab/{repo_name}"
    hub.api("alice").create_repo(name, repo_type="dataset", private=True)
    assert hub.api("carol").dataset_info(name).private
    seen = []
    for user, path in [("bob", name), ("bob", "lab/none"), (None, name), (None, "lab/none")]:
        with pytest.raises(RepositoryNotFoundError) as error:
            hub.api(user).dataset_info(path)
        seen.append((status_of(error), error.value.server_message))
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert [status for status, _ in seen] == [404, 404, 401, 401]
    hub.api("alice").update_repo_settings(name, private=False, repo_type="dataset")
    assert not hub.api(None).dataset_info(name).private


def test_a_gated_repository_shows_its_tree_but_no_file(hub: Hub, repo: str) -> None:
    hub.api("alice").update_repo_settings(repo, gated="manual", repo_type="dataset")
    bob = hub.api("bob")
    assert bob.dataset_info(repo).gated == "manual"
    assert bob.list_repo_files(repo, repo_type="dataset") == [".gitattributes"]
    for user, status in [("bob", 403), (None, 401)]:
        with pytest.raises(GatedRepoError) as error:
            hub.api(user).hf_hub_download(repo, ".gitattributes", repo_type="dataset")
        assert status_of(error) == status
    hub.api("alice").grant_access(repo, "bob", repo_type="dataset")
    bob.auth_check(repo, repo_type="dataset")
    assert Path(bob.hf_hub_download(repo, ".gitattributes", repo_type="dataset")).stat().st_size > 1000


def test_a_card_must_parse(hub: Hub, repo: str) -> None:
    with pytest.raises(ValueError, match="Invalid YAML"):
        commit(hub, "alice", repo, {"README.md": b"---\ntags: [a\n---\n"})
    commit(hub, "alice", repo, {"README.md": b"---\ntags: [a]\nlicense: mit\n---\ntext"})
    info = hub.api(None).dataset_info(repo)
    assert info.tags == ["a", "license:mit"]
    assert info.card_data["license"] == "mit"


def test_the_server_decides_what_goes_to_lfs(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"a b/x.dat": BINARY, "v.npy": b"text", "t.json": b"{}", "empty.npy": b""})
    entries = {item.path: item for item in hub.api(None).list_repo_tree(repo, recursive=True, repo_type="dataset")}
    assert {path for path, item in entries.items() if getattr(item, "lfs", None)} == {"a b/x.dat", "v.npy"}
    large = entries["a b/x.dat"].lfs
    assert (large.sha256, large.size) == (hashlib.sha256(BINARY).hexdigest(), len(BINARY))
    pointer = hub.git(repo, "show", "main:a b/x.dat")
    assert pointer.splitlines() == [
        "version https://git-lfs.github.com/spec/v1", f"oid sha256:{large.sha256}", f"size {len(BINARY)}"
    ]  # fmt: skip
    assert large.pointer_size == len(pointer)
    lines = hub.git(repo, "show", "main:.gitattributes").splitlines()
    assert lines[-1] == "a[[:space:]]b/x.dat filter=lfs diff=lfs merge=lfs -text"
    assert sum("x.dat" in line or "v.npy" in line for line in lines) == 1
    hub.git(repo, "fsck", "--strict")


def test_nothing_changed_is_no_commit(hub: Hub, repo: str) -> None:
    files = {"v.npy": BINARY, "t.json": b"{}"}
    first = commit(hub, "alice", repo, files).oid
    hub.clear()
    assert commit(hub, "alice", repo, files).oid == first
    assert not [request for request in hub.requests() if "/commit/" in request.path or request.role == "cdn"]


def test_a_commit_on_an_old_parent_is_412(hub: Hub, repo: str) -> None:
    old = head(hub, repo)
    new = commit(hub, "alice", repo, {"a.txt": b"1"}, parent_commit=old).oid
    with pytest.raises(HfHubHTTPError, match="The branch was updated since you opened this page") as error:
        commit(hub, "alice", repo, {"a.txt": b"2"}, parent_commit=old)
    assert status_of(error) == 412
    assert head(hub, repo) == new


def test_a_commit_to_a_busy_branch_is_409_or_waits(hub: Hub, repo: str) -> None:
    def both() -> list[int]:
        """Two commits, the second while the first is under way: their statuses."""
        hub.clear_faults()
        hub.fault("slow", path="/commit/", times=2)
        seen = []

        def one(name: str) -> None:
            body = ndjson(("file", {"path": name, "content": name}))
            seen.append(raw(hub, "alice", "POST", f"/api/datasets/{repo}/commit/main", body)[0])

        first = threading.Thread(target=one, args=("a",))
        first.start()
        while hub.struck() == 0:
            time.sleep(0.01)
        one("b")
        first.join()
        return sorted(seen)

    hub.options(slow=1.5)
    assert both() == [200, 409]
    hub.options(slow=0.1, wait=True)
    assert both() == [200, 200]
    assert hub.git(repo, "show", "main:a", "main:b") == "ab"


def test_eight_writers_lose_nothing(hub: Hub, repo: str) -> None:
    def write(number: int) -> None:
        while True:
            parent = head(hub, repo)
            try:
                commit(hub, "alice", repo, {f"{number}.npy": b"%d" % number}, parent_commit=parent)
                return
            except HfHubHTTPError as error:
                if error.response.status_code not in (409, 412):
                    raise

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = hub.api(None).list_repo_files(repo, repo_type="dataset")
    assert files == [".gitattributes", *(f"{number}.npy" for number in range(8))]
    assert hub.git(repo, "rev-list", "--count", "--first-parent", "main").strip() == "9"


def test_delete_copy_and_replace(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"d/a.npy": BINARY, "d/b.txt": b"b", "keep": b"k"})
    api = hub.api("alice")
    copies = [Copy("d/a.npy", "e/a.npy"), Copy("d/b.txt", "e/b.txt"), Delete("d/", is_folder=True)]
    api.create_commit(repo, copies, commit_message="move", repo_type="dataset")
    assert api.list_repo_files(repo, repo_type="dataset") == [".gitattributes", "e/a.npy", "e/b.txt", "keep"]
    fs = HfFileSystem(endpoint=hub.url, token=False)
    assert fs.cat(f"datasets/{repo}/e/a.npy") == BINARY
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        commit(hub, "alice", repo, {"none": None})


@pytest.mark.parametrize(
    "path", ["../x", "a/../x", "a\\x", "/x", "a//x", ".git/config", "a/.GIT/x", "", "a\nb", "a\ud800"]
)
def test_bad_paths_are_422(hub: Hub, repo: str, path: str) -> None:
    body = ndjson(("file", {"path": path, "content": "", "encoding": "base64"}))
    assert raw(hub, "alice", "POST", f"/api/datasets/{repo}/commit/main", body)[0] == 422


def test_what_plain_git_must_not_hold(hub: Hub, repo: str) -> None:
    url, before = f"/api/datasets/{repo}/commit/main", head(hub, repo)
    cases = {
        "contains binary files": ("file", {"path": "x", "content": "AAECAw==", "encoding": "base64"}),
        "files larger than 10 MiB": ("file", {"path": "x", "content": "a" * 10_485_761, "encoding": "utf-8"}),
        "file that does not exist": ("lfsFile", {"path": "x", "algo": "sha256", "oid": "0" * 64, "size": 5}),
        "Invalid metadata": ("file", {"path": "README.md", "content": "---\n- a\n---\n", "encoding": "utf-8"}),
        "Unknown operation": ("what", {"path": "x"}),
    }
    for text, operation in cases.items():
        status, _, body = raw(hub, "alice", "POST", url, ndjson(operation))
        assert (status, text in json.loads(body)["error"]) == (400, True), text
    assert head(hub, repo) == before


def test_a_full_folder_is_refused(hub: Hub, repo: str) -> None:
    hub.options(folder_limit=3)
    commit(hub, "alice", repo, {f"rows/{k}": b"" for k in range(3)})
    with pytest.raises(BadRequestError, match=r"too many files per directory.*Offending directories: /rows/"):
        commit(hub, "alice", repo, {"rows/a/deep": b""})
    commit(hub, "alice", repo, {"rows/0": None, "rows/a/deep": b""})


def test_an_object_is_sent_once(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"a.npy": BINARY})
    commit(hub, "alice", repo, {"b.npy": BINARY})
    assert sum(request.method == "PUT" for request in hub.requests()) == 1


def test_multipart_upload(hub: Hub, repo: str) -> None:
    hub.options(multipart=2000)
    commit(hub, "alice", repo, {"a.npy": BINARY})
    puts = [request for request in hub.requests() if request.method == "PUT"]
    assert [request.received for request in puts] == [2000, 2000, 1120]
    assert HfFileSystem(endpoint=hub.url, token=False).cat(f"datasets/{repo}/a.npy") == BINARY


def test_the_store_believes_neither_names_nor_addresses(hub: Hub, repo: str) -> None:
    oid = hashlib.sha256(BINARY).hexdigest()
    asked = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": len(BINARY)}]}
    batch = f"/datasets/{repo}.git/info/lfs/objects/batch"
    said = json.loads(raw(hub, "bob", "POST", batch, asked)[2])["objects"][0]["actions"]
    href = said["upload"]["href"]
    assert raw(hub, None, "PUT", href, b"something else")[0] == 400
    assert raw(hub, None, "PUT", href.replace(oid, "0" * 64), BINARY)[0] == 403
    assert raw(hub, None, "GET", href)[0] == 403
    assert raw(hub, "bob", "POST", said["verify"]["href"], {"oid": oid, "size": len(BINARY)})[0] == 404
    assert raw(hub, None, "PUT", href, iter([BINARY[:100], BINARY[100:]]))[0] == 200  # chunked
    assert raw(hub, "bob", "POST", said["verify"]["href"], {"oid": oid, "size": len(BINARY)})[0] == 200
    assert raw(hub, None, "POST", batch, asked)[0] == 401
