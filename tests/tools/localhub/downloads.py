"""Endpoints that send files: small ones from git, large ones from the CDN's port."""

from __future__ import annotations

import time
from urllib.parse import quote, urlencode

from localhub.answers import Answer, Call, Refusal, entry_not_found, ranged
from localhub.git import Entry
from localhub.lfs import signature
from localhub.repos import Hub, Repo

_GOOD_FOR = 3600  # seconds that a signed address lives


def _entry(repo: Repo, sha: str, rev: str, path: str) -> Entry:
    entry = repo.git.tree(sha).entries.get(path)
    if entry is None or entry.kind != "file":
        raise entry_not_found(f'"{path}" does not exist on "{rev}"', sha)
    return entry


def signed(hub: Hub, call: Call, repo: Repo, action: str, oid: str, part: int = 0) -> str:
    """An address on the CDN's port that is good for one action on one object, without a token."""
    expires = str(int(time.time()) + _GOOD_FOR)
    folder = f"{repo.kind}s/{repo.id}"
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Expires": expires,
        "X-Amz-Signature": signature(hub.secret, action, folder, oid, str(part), expires),
        "x-id": action,
        **({"partNumber": str(part)} if part else {}),
    }
    return f"{call.cdn}/repos/{folder}/{oid}?{urlencode(query)}"


def check_signature(hub: Hub, call: Call, folder: str, oid: str) -> str:
    """The action that the address is signed for; 403 where it is not, or no longer."""
    query = call.query
    action, expires, part = query.get("x-id", ""), query.get("X-Amz-Expires", ""), query.get("partNumber", "0")
    expected = signature(hub.secret, action, folder, oid, part, expires)
    if query.get("X-Amz-Signature") != expected or int(expires) < time.time():
        raise Refusal(403, "SignatureDoesNotMatch")
    return action


def resolve(hub: Hub, call: Call, repo: Repo, rev: str, path: str) -> Answer:
    """Where a file is: in the cache of small files on this port, or on the CDN's."""
    hub.need_gate_key(call, repo)
    sha = repo.resolve(rev, call.stale)
    entry = _entry(repo, sha, rev, path)
    name = quote(path.rpartition("/")[2])
    headers = {
        "X-Repo-Commit": sha,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
        "Cache-Control": "no-store",
    }
    if entry.lfs is None:
        where = f"/api/resolve-cache/{repo.kind}s/{repo.id}/{sha}/{quote(path, safe='')}"
        etag = f'"{entry.oid}"'
        query = f"?{call.raw_query}" if call.raw_query else ""
        return Answer(307, {**headers, "Location": where + query, "ETag": etag}, b"Temporary Redirect")
    linked = {"X-Linked-Etag": f'"{entry.lfs.oid}"', "X-Linked-Size": str(entry.lfs.size), "ETag": f'"{entry.oid}"'}
    return Answer(302, {**headers, **linked, "Location": signed(hub, call, repo, "GetObject", entry.lfs.oid)})


def resolve_cache(hub: Hub, call: Call, repo: Repo, sha: str, path: str) -> Answer:
    """A file out of git, by commit."""
    hub.need_gate_key(call, repo)
    sha = repo.resolve(sha)
    entry = _entry(repo, sha, sha, path)
    headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"', "Content-Type": "text/plain; charset=utf-8"}
    return ranged(call, entry.size, lambda start, stop: repo.git.blob(entry.oid)[start:stop], headers)


def cdn(hub: Hub, call: Call, repo: Repo, oid: str) -> Answer:
    """A large object, whole or in part."""
    size = repo.lfs.size(oid)
    if size is None:
        raise Refusal(404, "NoSuchKey")

    def read(start: int, stop: int) -> bytes:
        with repo.lfs.file(oid).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    return ranged(call, size, read, {"ETag": f'"{oid}"'})
