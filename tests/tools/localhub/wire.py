"""The two ports: read requests, apply faults, send answers, keep the log."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import unquote

from aiohttp import web

from localhub import routes
from localhub.answers import Answer, Call, as_json
from localhub.faults import Fault, Faults, Log, Request
from localhub.repos import Hub

_LOG = logging.getLogger(__name__)
_CHUNK = 64 * 1024
_REFUSING = {
    "429": Answer(
        429,
        {
            "Retry-After": "1",
            "RateLimit": '"api";r=0;t=1',
            "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
            "Content-Type": "application/json",
        },
        b'{"error":"We had to rate limit you"}',
    ),
    "500": Answer(
        500, {"Content-Type": "application/json"}, b'{"error":"Internal Error - We\'re working hard to fix this"}'
    ),
    "504-after": Answer(504, {"Content-Type": "text/html"}, b"<html><h1>504 Gateway Time-out</h1></html>"),
}


class Lost(Exception):
    """The connection is gone, or is to go without an answer."""


@dataclass
class Port:
    """One listening port: what answers there, and under which name the log has it."""

    role: str
    answer: Callable[[Hub, Call], Answer]
    number: int = 0


class Wire:
    """A Hub on two ports of 127.0.0.1, its own and the CDN's."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.faults, self.log = hub, Faults(), Log()
        self._first_options = hub.options
        self.main = Port("hub", routes.answer)
        self.cdn = Port("cdn", routes.cdn_answer)
        self._threads = ThreadPoolExecutor(max_workers=32)
        self._servers: list[asyncio.Server] = []

    async def start(self, port: int = 0) -> None:
        """Listen; 0 takes any free port."""
        loop = asyncio.get_running_loop()
        for where, number in ((self.main, port), (self.cdn, 0)):

            async def handle(request: web.BaseRequest, where: Port = where) -> web.StreamResponse:
                return await self._handle(request, where)

            server = await loop.create_server(web.Server(handle, access_log=None), "127.0.0.1", number, backlog=512)
            where.number = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _handle(self, request: web.BaseRequest, port: Port) -> web.StreamResponse:
        path = request.raw_path
        if path.startswith("/-/"):
            return await self._administer(request)
        fault = self.faults.of(request.method, path)
        entry = Request(request.method, path, 0, 0, 0, port.role)
        try:
            body = await self._receive(request, entry, cut=fault == "drop-upload")
            answer = await self._answer(request, port, body, fault)
        except Lost:
            return self._lose(request, entry)
        return await self._send(request, answer, fault, entry)

    async def _receive(self, request: web.BaseRequest, entry: Request, cut: bool) -> bytes:
        """The whole body of the request, or `Lost` at the first of it."""
        parts = []
        try:
            async for part in request.content.iter_chunked(_CHUNK):
                entry.received += len(part)
                parts.append(part)
                if cut:
                    break
        except (ConnectionError, web.RequestPayloadError):
            raise Lost from None
        if cut:
            raise Lost
        return b"".join(parts)

    async def _answer(self, request: web.BaseRequest, port: Port, body: bytes, fault: str) -> Answer:
        if fault in ("429", "500"):
            return _REFUSING[fault]
        call, late = self._call(request, body, fault), fault == "slow"
        lingered = threading.Event()

        def linger() -> None:
            if late and not lingered.is_set():
                lingered.set()
                time.sleep(self.hub.options.slow)

        def work() -> Answer:
            answer = port.answer(self.hub, replace(call, linger=linger))
            linger()
            return answer

        working = asyncio.get_running_loop().run_in_executor(self._threads, work)
        await asyncio.wait([working])
        error = working.exception()
        if error is None:
            answer = working.result()
        else:
            _LOG.error("%s %s", request.method, request.raw_path, exc_info=error)
            answer = as_json({"error": "the local Hub has a bug, or was asked nonsense: see its standard error"}, 500)
        if fault == "drop-after":
            raise Lost
        return _REFUSING[fault] if fault == "504-after" else answer

    def _call(self, request: web.BaseRequest, body: bytes, fault: str) -> Call:
        path, _, query = request.raw_path.partition("?")
        host = request.host.rpartition(":")[0]
        return Call(
            method=request.method,
            raw_path=path,
            segments=[unquote(part) for part in path.lstrip("/").split("/")],
            raw_query=query,
            headers=request.headers,
            body=body,
            origin=f"http://{request.host}",
            cdn=f"http://{host}:{self.cdn.number}",
            stale=fault == "stale",
        )

    def _lose(self, request: web.BaseRequest, entry: Request) -> web.StreamResponse:
        self.log.add(entry)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _send(self, request: web.BaseRequest, answer: Answer, fault: str, entry: Request) -> web.StreamResponse:
        """Send an answer whole, or as much of it as the fault leaves."""
        body, silent = answer.body, request.method == "HEAD" or answer.status in (204, 304)
        if fault == "drop" and (silent or not body):
            return self._lose(request, entry)
        if fault == "corrupt" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        size = len(body) if answer.size is None else answer.size
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.headers["X-Request-Id"] = uuid.uuid4().hex
        response.content_length = size
        cut = fault in ("drop", "truncate") and not silent
        sending = b"" if silent else body[: len(body) // 2] if cut else body
        entry.status, entry.sent = answer.status, len(sending)
        self.log.add(entry)
        try:
            await response.prepare(request)
            for start in range(0, len(sending), 16 * _CHUNK):
                await response.write(sending[start : start + 16 * _CHUNK])
            if cut and request.transport is not None:
                request.transport.abort() if fault == "drop" else request.transport.close()
            elif not cut:
                await response.write_eof()
        except ConnectionError:
            pass  # the client has gone
        return response

    async def _administer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The switches of the tests, which are neither logged nor struck by faults."""
        asked = await request.json() if request.body_exists else {}
        match (request.method, request.raw_path):
            case "GET", "/-/log":
                return web.json_response(self.log.listed())
            case "POST", "/-/clear":
                self.log.clear()
            case "GET", "/-/faults":
                return web.json_response(self.faults.listed())
            case "POST", "/-/faults":
                self.faults.add(Fault(**asked))
            case "DELETE", "/-/faults":
                self.faults.clear()
            case "POST", "/-/options":
                self.hub.options = replace(self.hub.options, **asked)
            case "POST", "/-/copy":
                self.hub.copy(**asked)
            case "POST", "/-/reset":
                self.log.clear()
                self.faults.clear()
                self.hub.options = self._first_options
            case _:
                return web.Response(status=404)
        return web.json_response({})
