"""A local Hub and fresh processes that talk to it: what each asks, sends, receives and takes."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "hub"))

from client import Hub, serving

LIBRARIES = (
    "llreg.hub.sync.push",
    "llreg.hub.sync.pull",
    "llreg.hub.remote.contents",
    "huggingface_hub.hf_api",
    "xarray",
    "zarr",
    "pyarrow",
)
_ALWAYS = 10**9  # requests that a fault strikes


class Cost(NamedTuple):
    """What one action cost.

    Attributes
    ----------
    requests : int
        As the server's log has them, every redirect and hop to the CDN counted.
    calls : int
        Those among them to the Hub's API, which has the smaller quota.
    received, sent : int
        Bytes of the bodies.
    seconds : float
    """

    requests: int
    calls: int
    received: int
    sent: int
    seconds: float


class Step(NamedTuple):
    """What an action returned, and what it cost."""

    value: Any
    cost: Cost


@dataclass
class Lab:
    """The server, and where its clients keep what is theirs."""

    hub: Hub
    root: Path

    def run(self, user: str | None, action: Callable[..., Any], *args: Any, home: Path | None = None) -> list[Step]:
        """Run an action as a user in a process of its own, with an empty cache unless a `home` is named.

        The libraries are imported before the clock starts. An action that is a generator is measured from one value to
        the next.
        """
        if home is None:
            home = Path(tempfile.mkdtemp(dir=self.root, prefix="home-"))
        with _environment({**self.hub.env(user), "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}):
            fresh = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                return pool.submit(_measured, self.hub, action, args).result()

    def cost(self, user: str | None, action: Callable[..., Any], *args: Any, home: Path | None = None) -> Cost:
        """The cost of an action of one step, as `run` finds it."""
        (step,) = self.run(user, action, *args, home=home)
        return step.cost


@contextmanager
def laboratory(root: Path, latency: float) -> Iterator[Lab]:
    """A lab on a server that begins each answer `latency` seconds late."""
    with serving(root / "server") as hub:
        if latency:
            hub.options(slow=latency)
            hub.fault("slow", times=_ALWAYS)
        yield Lab(hub, root)


@contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measured(hub: Hub, action: Callable[..., Any], args: tuple[Any, ...]) -> list[Step]:
    for name in LIBRARIES:
        import_module(name)
    steps = []
    values = action(*args) if inspect.isgeneratorfunction(action) else _once(action, args)
    while True:
        hub.clear()
        start = time.perf_counter()
        try:
            value = next(values)
        except StopIteration:
            return steps
        steps.append(Step(value, _cost(hub, time.perf_counter() - start)))


def _once(action: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[Any]:
    yield action(*args)


def _cost(hub: Hub, seconds: float) -> Cost:
    log = hub.requests()
    calls = sum(one.path.startswith("/api/") and "/resolve-cache/" not in one.path for one in log)
    return Cost(len(log), calls, sum(one.sent for one in log), sum(one.received for one in log), seconds)


# What a store that keeps equal chunks once would be sent

_LEAST, _MOST, _BITS = 8 << 10, 128 << 10, 16  # chunks of 8 to 128 KiB, 64 KiB on average, as Xet's are
_GEAR = np.random.default_rng(0).integers(0, 2**64, 256, dtype=np.uint64)


def chunks(paths: Iterable[Path]) -> dict[bytes, int]:
    """Content-defined chunks of files: hash and bytes of each different one."""
    found: dict[bytes, int] = {}
    for path in paths:
        data = path.read_bytes()
        start = 0
        for end in _ends(data):
            found[sha256(data[start:end]).digest()] = end - start
            start = end
    return found


def _ends(data: bytes) -> Iterator[int]:
    rolling = _GEAR[np.frombuffer(data, np.uint8)]
    for width in (1, 2, 4, 8, 16, 32):  # sum over the last 64 bytes, each older byte shifted one further
        rolling[width:] = rolling[width:] + (rolling[:-width] << np.uint64(width))
    cuts = np.flatnonzero(rolling >> np.uint64(64 - _BITS) == 0) + 1
    start = 0
    while len(data) - start > _LEAST:
        later = cuts[np.searchsorted(cuts, start + _LEAST) :][:1]
        start = min([start + _MOST, len(data), *later.tolist()])
        yield start
    if start < len(data):
        yield len(data)
