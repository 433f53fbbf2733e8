"""Short ways to ask the local Hub, through the real client and past it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError
from tests.hub.client import Hub

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

BINARY = bytes(range(256)) * 20  # goes to LFS whatever its name


def commit(
    hub: Hub, user: str | None, repo: str, files: dict[str, bytes | None], message: str = "a commit", **more: Any
) -> CommitInfo:
    """One commit of the real client; None deletes."""
    operations = [
        CommitOperationDelete(path) if data is None else CommitOperationAdd(path, data) for path, data in files.items()
    ]
    return hub.api(user).create_commit(repo, operations, commit_message=message, repo_type="dataset", **more)


def head(hub: Hub, repo: str, ref: str = "main") -> str:
    """The commit that `ref` names now, as alice sees it."""
    return hub.api("alice").repo_info(repo, revision=ref, repo_type="dataset").sha


def raw(
    hub: Hub, user: str | None, method: str, url: str, body: Any = None, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """One request without the client: status, headers, body."""
    where = urlsplit(url if url.startswith("http") else hub.url + url)
    if user:
        headers["Authorization"] = f"Bearer {hub.tokens[user]}"
    data = json.dumps(body) if isinstance(body, dict) else body
    connection = http.client.HTTPConnection(where.netloc, timeout=30)
    try:
        connection.request(method, f"{where.path}?{where.query}" if where.query else where.path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def ndjson(*operations: tuple[str, dict[str, object]]) -> str:
    """The body of a commit."""
    rows = [("header", {"summary": "raw", "description": ""}), *operations]
    return "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in rows)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    """The status of the answer behind an error."""
    return error.value.response.status_code
