"""A model Hub on 127.0.0.1: what huggingface_hub asks while it finds, describes and fetches models.

Repositories are directories. The answers follow the Hub's: see huggingface_hub's own client for what
it reads of them. Nothing is ever written.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Repo:
    """A model repository: its files, its newest commit, and who may see it."""

    folder: Path
    sha: str = "0123456789abcdef0123456789abcdef01234567"
    branches: tuple[str, ...] = ("main",)
    gated: bool = False
    refuse: int = 0  # answer everything with this status
    card: dict[str, Any] = field(default_factory=dict)
    moved_to: str | None = None  # the id it has now
    tags: tuple[str, ...] = ()
    downloads: int = 0
    parameters: dict[str, int] | None = None  # as the Hub counted them, by safetensors dtype
    sizes: dict[str, int] = field(default_factory=dict)  # bytes it claims files to have
    earlier: dict[str, Path] = field(default_factory=dict)  # folders of earlier commits

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def size(self, file: str) -> int:
        return self.sizes.get(file, (self.folder / file).stat().st_size)

    def at(self, revision: str) -> Repo:
        """Its state at a commit or branch."""
        if revision in self.earlier:
            return replace(self, folder=self.earlier[revision], sha=revision)
        if revision not in (*self.branches, self.sha):
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self

    def described(self, file: str, *, sizes: bool) -> dict[str, Any]:
        """A file as the answer about its repository has it."""
        if not sizes:
            return {"rfilename": file}
        data = (self.folder / file).read_bytes()
        lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": self.size(file), "pointerSize": 130}
        return {
            "rfilename": file,
            "size": self.size(file),
            "blobId": git_oid(data),
            **({"lfs": lfs} if is_large(file) else {}),
        }


def git_oid(data: bytes) -> str:
    """What git calls a file of that content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(file: str) -> bool:
    """Whether git-lfs keeps a file."""
    return file.endswith((".safetensors", ".gguf", ".bin"))


class _Refusal(Exception):
    def __init__(self, status: int, code: str | None = None, message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, Repo]
    log: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.log.append(f"{self.command} {self.path}")
        try:
            self._route([unquote(part) for part in url.path.strip("/").split("/")], parse_qs(url.query))
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            if refusal.message:
                headers["X-Error-Message"] = refusal.message
            self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    def _route(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repo, rest = self._repo("/".join(parts[2:4])), parts[4:]
            if not rest or rest[0] == "revision":
                repo = repo.at(rest[1] if rest else "main")
                return self._json(self._info("/".join(parts[2:4]), repo, sizes="blobs" in query))
            if rest[0] == "tree":
                return self._json(
                    self._tree(repo.at(rest[1]), "/".join(rest[2:]), "true" in query.get("recursive", []))
                )
        if len(parts) >= 5 and parts[2] == "resolve":
            repo = self._repo("/".join(parts[:2]))
            return self._file(repo.at(parts[3]), "/".join(parts[4:]))
        raise _Refusal(404)

    def _repo(self, name: str) -> Repo:
        repo = self.repos.get(name)
        if repo is None:
            raise _Refusal(401, "RepoNotFound", "Repository not found")
        if repo.refuse:
            raise _Refusal(repo.refuse, None, "refused")
        return repo

    def _info(self, name: str, repo: Repo, *, sizes: bool) -> dict[str, Any]:
        counted = repo.parameters
        return {
            "id": repo.moved_to or name,
            "sha": repo.sha,
            "private": False,
            "gated": "auto" if repo.gated else False,
            "createdAt": "2024-05-06T07:08:09.000Z",
            "cardData": repo.card,
            "siblings": [repo.described(file, sizes=sizes) for file in repo.files()],
            "tags": list(repo.tags),
            "downloads": repo.downloads,
            **({"safetensors": {"parameters": counted, "total": sum(counted.values())}} if counted else {}),
        }

    def _tree(self, repo: Repo, prefix: str, recursive: bool) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        start = f"{prefix}/" if prefix else ""
        for file in repo.files():
            inner = file.removeprefix(start)
            if not file.startswith(start) or ("/" in inner and not recursive):
                continue
            data = (repo.folder / file).read_bytes()
            entries.append({"type": "file", "path": file, "oid": git_oid(data), "size": len(data)})
        for path in sorted(repo.folder.rglob("*")):
            name = str(path.relative_to(repo.folder))
            if path.is_dir() and name.startswith(start) and (recursive or "/" not in name.removeprefix(start)):
                entries.append({"type": "directory", "path": name, "oid": "0" * 40, "size": 0})
        return entries

    def _file(self, repo: Repo, name: str) -> None:
        if repo.gated and name != "README.md":
            raise _Refusal(401, "GatedRepo", "Access to this model is restricted")
        if name not in repo.files():
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data = (repo.folder / name).read_bytes()
        tag = hashlib.sha256(data).hexdigest() if is_large(name) else git_oid(data)
        headers = {"X-Repo-Commit": repo.sha, "ETag": f'"{tag}"'}
        span = self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            end = min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
            return self._send(206, data[int(first) : end + 1], headers)
        self._send(200, data, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(repos: dict[str, Repo]) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories until the block ends; yields the endpoint and the growing list of requests."""
    log: list[str] = []
    handler = type("Handler", (_Handler,), {"repos": repos, "log": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
