"""What goes wrong on purpose, and the log of what was asked."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import Any

KINDS = (
    "drop",  # send half of the answer, then reset the connection (no body to send: reset it at once)
    "drop-upload",  # reset the connection while the body of the request comes
    "429",  # too many requests, Retry-After: 1
    "500",  # nothing is done
    "504-after",  # the work is done, the answer is 504
    "drop-after",  # the work is done, the connection is closed without an answer
    "stale",  # branches read as they were before their newest commit
    "slow",  # answers late, by the option `slow` in seconds; a commit holds its branch meanwhile
    "truncate",  # announce the whole length, send half, close
    "corrupt",  # flip a bit in the middle of the answer
)


@dataclass
class Fault:
    """One fault: from the `at`-th request on that fits, `times` times.

    Requests that fit `method` and `path` (a regular expression, searched in the raw path with its query) are counted
    from when the fault is set; with `overall` every request is, and the fault strikes where the count and both fit.
    """

    kind: str
    method: str = ""
    path: str = ""
    at: int = 1
    times: int = 1
    overall: bool = False
    seen: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: one of {', '.join(KINDS)}")

    def strikes(self, method: str, path: str) -> bool:
        fits = self.method in ("", method) and re.search(self.path, path) is not None
        self.seen += fits or self.overall
        strikes = fits and self.at <= self.seen < self.at + self.times
        self.struck += strikes
        return strikes


class Faults:
    """The faults that are set. One request suffers one fault, the first that strikes."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def of(self, method: str, path: str) -> str:
        """The kind of fault that this request suffers; empty for none."""
        with self._lock:
            struck = [fault.kind for fault in self._faults if fault.strikes(method, path)]
        return struck[0] if struck else ""

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]


@dataclass
class Request:
    """A request as the log holds it; sizes are bytes of the bodies, status 0 means that no answer was sent."""

    method: str
    path: str
    status: int
    received: int
    sent: int
    role: str


class Log:
    """The requests since the last clear, in the order in which they were answered."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        self._requests.append(request)

    def clear(self) -> None:
        self._requests = []

    def listed(self) -> list[dict[str, Any]]:
        return [asdict(request) for request in self._requests]
