"""A small HTTP server with byte ranges that counts what it serves: ``python _rangeserver.py DIRECTORY``.

It prints its port on one line. ``GET /-/counts`` answers ``[requests, bytes]`` of bodies since the last such call.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Counts(NamedTuple):
    """What a client has asked for."""

    requests: int
    bytes: int


class Server:
    """Client side: address and counters of the server in the other process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def counts(self) -> Counts:
        """Requests and body bytes since the last call."""
        with urllib.request.urlopen(f"{self.url}/-/counts") as answer:
            return Counts(*json.load(answer))


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Serve a directory from a process of its own."""
    command = [sys.executable, __file__, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()))
        finally:
            process.terminate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive, as the Hub's CDN has it
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one write
    root: Path
    lock = threading.Lock()
    requests = size = 0

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path == "/-/counts":
            with self.lock:
                counts = [_Handler.requests, _Handler.size]
                _Handler.requests = _Handler.size = 0
            self._send(200, json.dumps(counts).encode(), {})
        else:
            self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = (self.root / self.path.lstrip("/")).resolve()
        found = path.is_relative_to(self.root) and path.is_file()
        status, data, headers = self._read(path) if found else (404, b"", {})
        with self.lock:
            _Handler.requests += 1
            _Handler.size += len(data) if body else 0
        self._send(status, data, headers, body=body)

    def _read(self, path: Path) -> tuple[int, bytes, dict[str, str]]:
        size = path.stat().st_size
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not wanted:
            return 200, path.read_bytes(), {"Accept-Ranges": "bytes"}
        first, last = wanted.groups()
        start = int(first) if first else size - int(last)
        stop = min(int(last) + 1 if first and last else size, size)
        with path.open("rb") as file:
            file.seek(start)
            return 206, file.read(stop - start), {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve the directory named on the command line until killed."""
    _Handler.root = Path(sys.argv[1]).resolve()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
