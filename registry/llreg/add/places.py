"""Where an `add` has its rows computed: worker processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import llreg_extract
from llreg import settings
from llreg.add.reporter import Reporter
from llreg.add.request import Request
from llreg.add.worker import versions
from llreg.dask_client import SLOT, connect, slots_of, start_workers, workers_of
from llreg_schemas.errors import ClusterError, InputError

if TYPE_CHECKING:
    from distributed import Client

_PATIENCE_SECONDS = 10.0  # for a worker that scores, where there are others

Workers = int | Literal["auto"]


@dataclass(frozen=True)
class Place:
    """Where rows are computed.

    Attributes
    ----------
    gpus : int
        GPUs of a worker, or of this machine where it has one each.
    remote : bool
        Whether the workers are somebody else's, and may be on other machines.
    open : callable
        Gives the context in which there is a client.
    """

    gpus: int
    remote: bool
    open: Callable[[], AbstractContextManager[Client]]


@contextmanager
def find_place(
    cluster: str | None, workers: Workers | None, requests: Sequence[Request], report: Reporter
) -> Iterator[Place]:
    """Find out where rows are to be computed; workers of this machine are not started yet.

    Parameters
    ----------
    cluster, workers
        As for `llreg.add.add.add`.
    requests : sequence of Request
    report : Reporter

    Raises
    ------
    InputError, MissingExtraError, ClusterError
        As `llreg.add.add.add`.
    """
    numbered = [request.options.device for request in requests if ":" in request.options.device]
    if numbered:
        raise InputError(f"device {numbered[0]}: a worker has one GPU, and it is llreg that deals them out: give cuda")
    if cluster is None or cluster == "local":
        yield _here("auto" if workers is None else workers, requests)
        return
    if workers is not None:
        raise InputError(f"workers are processes of this machine, and {cluster} has its own: give one of the two")
    with connect(cluster) as client:
        yield Place(_gpus_of(client, cluster, report), True, lambda: nullcontext(client))


def _here(workers: Workers, requests: Sequence[Request]) -> Place:
    on_gpu = any(request.options.device != "cpu" for request in requests)
    gpus = llreg_extract.count_gpus() if on_gpu else 0
    count = max(1, gpus) if workers == "auto" else workers
    if not isinstance(count, int) or count < 1:
        raise InputError(f"workers: expected a number of at least 1, or auto; got {workers!r}")
    if gpus and count > gpus:
        raise InputError(f"{count} workers were asked for and torch sees {gpus} GPUs here: one worker each, at most")
    return Place(gpus, False, partial(start_workers, _environments(count, gpus), "llreg.add.worker"))


def _environments(count: int, gpus: int) -> list[dict[str, str]]:
    """A GPU for each worker, or its share of the cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    threads = str(max(1, len(cores) // count))
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        names = [name.strip() for name in visible.split(",")]
        return [{"CUDA_VISIBLE_DEVICES": names[k], "OMP_NUM_THREADS": threads} for k in range(count)]
    shares = [cores[k::count] or [cores[k % len(cores)]] for k in range(count)]
    return [{settings.WORKER_CPUS: ",".join(map(str, share)), "OMP_NUM_THREADS": str(len(share))} for share in shares]


def _gpus_of(client: Client, cluster: str, report: Reporter) -> int:
    """GPUs of the workers that score, once there is one; all must agree, since a row's dtype depends on it."""
    able = list(_wait_for_slots(client, cluster, report))
    found = client.run(_probe(), workers=able)
    for address, worker in found.items():
        _check(address, worker)
    counts = {min(1, worker["gpus"]) for worker in found.values()}
    if len(counts) > 1:
        raise ClusterError(
            f"some workers of {cluster} have a GPU and others have none: offer the resource {SLOT} on workers of one kind"
        )
    return int(counts.pop())


def _wait_for_slots(client: Client, cluster: str, report: Reporter) -> dict[str, int]:
    others_since, told = None, False
    while not (slots := slots_of(client)):
        if workers_of(client):
            others_since = others_since or time.monotonic()
            if time.monotonic() - others_since > _PATIENCE_SECONDS:
                raise ClusterError(
                    f'no worker of {cluster} offers the resource {SLOT}: start them with dask worker --resources "{SLOT}=1"'
                )
        elif not told:
            report.note(f"{cluster} has no worker yet; waiting for one")
            told = True
        time.sleep(0.2)
    return slots


def _probe() -> Callable[[], dict[str, Any]]:
    """A function that travels as its code, so that it runs also where llreg is not installed."""

    def probe() -> dict[str, Any]:
        try:
            import llreg_extract
            from llreg.add.worker import versions

            return {"versions": versions(), "gpus": llreg_extract.count_gpus()}
        except ImportError as error:  # llreg, or what its extras bring
            return {"lacks": str(getattr(error, "name", None) or error).partition(".")[0], "gpus": 0}

    return probe


def _check(address: str, worker: Mapping[str, Any]) -> None:
    if "lacks" in worker:
        raise ClusterError(
            f'worker {address} has no {worker["lacks"]}: install there what is here, pip install "llreg[extract,cluster]"'
        )
    for name, version in versions().items():
        there = worker["versions"].get(name)
        if there != version:
            raise ClusterError(
                f"worker {address} has {name} {there}, and {version} is here: install the same version on both"
            )
