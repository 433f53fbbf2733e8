"""The local Hub's faults, as the unmodified client meets them; the log; a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfFileSystem, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
)
from tests.hub.asking import BINARY, commit, head, raw
from tests.hub.client import Hub, serving

try:
    import httpx2 as httpx
except ImportError:  # huggingface_hub before 2.0
    import httpx

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]


def test_a_fault_strikes_where_it_is_told_to(hub: Hub, repo: str) -> None:
    def statuses() -> list[int]:
        paths = ["/api/whoami-v2", f"/api/datasets/{repo}/refs", "/api/whoami-v2", f"/api/datasets/{repo}/refs"]
        return [raw(hub, "alice", "GET", path)[0] for path in paths]

    hub.fault("500", method="GET", path="/refs$", at=2)
    assert (statuses(), hub.struck()) == ([200, 200, 200, 500], 1)
    hub.clear_faults()
    hub.fault("500", path="/refs$", at=2, times=2, overall=True)
    assert statuses() == [200, 500, 200, 200]
    hub.clear_faults()
    hub.fault("500", method="POST")
    assert (statuses(), hub.struck()) == ([200] * 4, 0)


def test_too_many_requests_are_tried_again(hub: Hub, repo: str) -> None:
    hub.fault("429", path="/preupload/")
    commit(hub, "alice", repo, {"a": b"a"})
    seen = [request.status for request in hub.requests() if "/preupload/" in request.path]
    assert seen == [429, 200]
    hub.fault("429", path="/refs")
    status, headers, _ = raw(hub, "alice", "GET", f"/api/datasets/{repo}/refs")
    assert (status, headers["Retry-After"], headers["RateLimit"]) == (429, "1", '"api";r=0;t=1')


@pytest.mark.parametrize(
    ("kind", "landed", "error"),
    [
        ("500", False, HfHubHTTPError),
        ("504-after", True, HfHubHTTPError),
        ("drop-upload", False, httpx.TransportError),
        ("drop-after", True, httpx.TransportError),
        ("drop", True, httpx.TransportError),
        ("truncate", True, httpx.TransportError),
    ],
)
def test_a_commit_that_goes_wrong(hub: Hub, repo: str, kind: str, landed: bool, error: type[Exception]) -> None:
    hub.fault(kind, method="POST", path="/commit/")
    with pytest.raises(error):
        commit(hub, "alice", repo, {"a": b"a"})
    assert hub.struck() == 1
    assert ("a" in hub.api(None).list_repo_files(repo, repo_type="dataset")) == landed


def test_an_upload_that_breaks_is_sent_again(hub: Hub, repo: str) -> None:
    hub.fault("drop-upload", method="PUT")
    commit(hub, "alice", repo, {"a.npy": BINARY * 1000})
    assert [request.status for request in hub.requests() if request.method == "PUT"] == [0, 200]


@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_download_that_breaks_goes_on(hub: Hub, repo: str, as_user: AsUser, kind: str) -> None:
    commit(hub, "alice", repo, {"a.npy": BINARY * 1000})
    as_user(None)
    hub.clear()
    hub.fault(kind, method="GET", path="^/repos/")
    assert Path(hf_hub_download(repo, "a.npy", repo_type="dataset")).read_bytes() == BINARY * 1000
    first, *others = [request for request in hub.requests() if request.role == "cdn"]
    assert (first.status, first.sent) == (200, len(BINARY) * 500)
    assert [request.status for request in others] in ([206], [200])


def test_a_download_that_comes_changed(hub: Hub, repo: str, as_user: AsUser) -> None:
    commit(hub, "alice", repo, {"a.npy": BINARY})
    as_user(None)
    hub.fault("corrupt", path="^/repos/")
    came = Path(hf_hub_download(repo, "a.npy", repo_type="dataset")).read_bytes()
    assert [(one ^ other).bit_count() for one, other in zip(came, BINARY, strict=True) if one != other] == [1]


def test_stale_reads_show_what_was(hub: Hub, repo: str) -> None:
    old = head(hub, repo)
    new = commit(hub, "alice", repo, {"a": b"a"}).oid
    hub.fault("stale", times=3)
    assert head(hub, repo) == old
    assert hub.api(None).list_repo_files(repo, repo_type="dataset") == [".gitattributes"]
    assert hub.api(None).list_repo_refs(repo, repo_type="dataset").branches[0].target_commit == old
    assert head(hub, repo) == new


def test_the_log_counts_bytes(hub: Hub, repo: str) -> None:
    commit(hub, "alice", repo, {"v.npy": BINARY})
    hub.clear()
    location = raw(hub, None, "GET", f"/datasets/{repo}/resolve/main/v.npy")[1]["Location"]
    raw(hub, None, "GET", location)
    raw(hub, None, "HEAD", location)
    seen = [
        (request.method, request.status, request.received, request.sent, request.role) for request in hub.requests()
    ]
    assert seen == [("GET", 302, 0, 0, "hub"), ("GET", 200, 0, len(BINARY), "cdn"), ("HEAD", 200, 0, 0, "cdn")]


@pytest.mark.usefixtures("hub")  # which sets up the client
def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path, users={"dora": "hf_dora"}, orgs={}, tree_page=1) as hub:
        hub.api("dora").create_repo("dora/x", repo_type="dataset")
        hub.api("dora").upload_file(
            path_or_fileobj=BINARY, path_in_repo="v.npy", repo_id="dora/x", repo_type="dataset", create_pr=True
        )
    with serving(tmp_path, users={"dora": "hf_dora"}, orgs={}) as hub:
        pulls = list(hub.api(None).get_repo_discussions("dora/x", repo_type="dataset"))
        assert [(pull.num, pull.author) for pull in pulls] == [(1, "dora")]
        fs = HfFileSystem(endpoint=hub.url, token=False)
        assert fs.cat("datasets/dora/x@refs/pr/1/v.npy") == BINARY
