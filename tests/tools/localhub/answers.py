"""What a request holds, what an answer holds, and the refusals with the Hub's codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

Read = Callable[[int, int], bytes]  # the bytes from start to stop


@dataclass
class Answer:
    """A whole answer: `size` announces a length where no body is sent (to a HEAD)."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    size: int | None = None


class Refusal(Exception):
    """An answer of 4xx: a sentence, and the code by which the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers

    def answer(self) -> Answer:
        shown = re.sub(r"[^\x20-\x7e]+", " ", self.message)
        headers = {"X-Error-Message": shown, **({"X-Error-Code": self.code} if self.code else {}), **self.headers}
        return as_json({"error": self.message}, self.status, headers)


def entry_not_found(message: str, sha: str = "") -> Refusal:
    return Refusal(404, message, "EntryNotFound", **({"X-Repo-Commit": sha} if sha else {}))


def revision_not_found(rev: str) -> Refusal:
    return Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")


@dataclass
class Call:
    """A request as the endpoints see it.

    `segments` are the unquoted parts of the raw path, `user` is a name or None, `role` what the token may do
    ("read" or "write"), `stale` asks for the state before the newest commit, `linger` holds for as long as the
    fault "slow" wants.
    """

    method: str
    raw_path: str
    segments: list[str]
    raw_query: str
    headers: Mapping[str, str]
    body: bytes
    origin: str
    cdn: str
    user: str | None = None
    role: str = "write"
    stale: bool = False
    linger: Callable[[], None] = lambda: None

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.raw_query, keep_blank_values=True).items()}

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode(), keep_blank_values=True)

    def json(self) -> Any:
        """The body; an object if it is empty."""
        try:
            return json.loads(self.body or b"{}") or {}
        except ValueError as error:
            raise Refusal(400, f"Invalid JSON: {error}") from None


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Answer:
    body = json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    return Answer(status, {"Content-Type": "application/json; charset=utf-8", **headers}, body)


def date(seconds: float) -> str:
    """A date as the client parses it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(seconds % 1 * 1000):03d}Z"


def page(call: Call, items: list[Any], size: int) -> tuple[list[Any], dict[str, str]]:
    """One page of `items`, and the header that leads to the next."""
    query = call.query
    start = int(query["cursor"]) if query.get("cursor", "").isdigit() else 0
    if start + size >= len(items):
        return items[start:], {}
    following = urlencode({**query, "cursor": str(start + size)})
    return items[start : start + size], {"Link": f'<{call.origin}{call.raw_path}?{following}>; rel="next"'}


def ranged(call: Call, size: int, read: Read, headers: Mapping[str, str]) -> Answer:
    """A file, or the part of it that the Range header asks for; nothing is read for a HEAD."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    span = _span(call.headers.get("Range", ""), size)
    if span is None:
        start, stop, status = 0, size, 200
    else:
        start, stop, status = *span, 206
        if start >= stop:
            return Answer(416, {**headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if call.method == "HEAD":
        return Answer(status, headers, size=stop - start)
    return Answer(status, headers, read(start, stop))


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if not found or not any(found.groups()):
        return None  # no range, or several: the whole file
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
