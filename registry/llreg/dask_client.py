"""Connections to Dask: workers on this machine, or a scheduler elsewhere."""

from __future__ import annotations

import inspect
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from llreg_schemas.errors import ClusterError, InputError, MissingExtraError

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 30
SLOT = "GPU"  # the resource of a worker that scores one model at a time


@contextmanager
def connect(cluster: str) -> Iterator[Client]:
    """A client of a cluster, closed afterwards.

    Parameters
    ----------
    cluster : str
        "local": one worker process a core, which ends with this one. Else the address of a scheduler.

    Raises
    ------
    MissingExtraError
        If distributed is not installed.
    InputError
        If there is no scheduler at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster") from error
    if cluster == "local":
        with (
            LocalCluster(n_workers=os.cpu_count() or 1, threads_per_worker=1, dashboard_address=None) as local,
            Client(local) as client,
        ):
            yield client
        return
    try:
        client = Client(cluster, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {cluster}; start one, or use --cluster local") from error
    with _no_logs(), client:
        yield client


@contextmanager
def _no_logs() -> Iterator[None]:
    """Keep the log of this end of the connection off the terminal: what matters of it becomes an error."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def start_workers(environments: Sequence[Mapping[str, str]], preload: str) -> Iterator[Client]:
    """Worker processes on this machine, each with one slot; one that dies is started again.

    A task whose worker dies fails with `distributed.scheduler.KilledWorker`: who asked for it knows what to go on from.

    Parameters
    ----------
    environments : sequence of mapping
        What each worker has in its environment besides this process's.
    preload : str
        Module that workers load when they start; its `dask_setup` is called.

    Raises
    ------
    MissingExtraError
        If distributed is not installed.
    ClusterError
        If they do not start.
    """
    try:
        from distributed import Client, Nanny, Scheduler, SpecCluster
    except ImportError as error:
        raise MissingExtraError("distributed", "cluster") from error
    quiet = {"host": "127.0.0.1", "dashboard": False}
    scheduler = {"cls": Scheduler, "options": {**quiet, "port": 0, "dashboard_address": None, "allowed_failures": 0}}
    # Two threads: the next model is made ready while one is scored. No limit of memory: Dask would end workers at it.
    common = {**quiet, "nthreads": 2, "resources": {SLOT: 1}, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    workers = {
        k: {"cls": Nanny, "options": {**common, "env": dict(environment), "preload": preload}}
        for k, environment in enumerate(environments)
    }
    try:
        cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)
    except (RuntimeError, OSError) as error:
        raise ClusterError(
            f"the workers could not be started ({error}): a script that starts some needs if __name__ == '__main__'"
        ) from error
    try:
        with _no_logs(), Client(cluster) as client:
            yield client
    finally:
        _kill(cluster)
        cluster.close()


def _kill(cluster: Any) -> None:
    """End worker processes at once: told to close, they would first finish what they do."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(ProcessLookupError, TypeError):  # it ended, or it has not begun
            os.kill(nanny.pid, signal.SIGKILL)


def workers_of(client: Client) -> dict[str, Mapping[str, Any]]:
    """A cluster's workers by address, as its scheduler describes them."""
    every = {"n_workers": -1} if "n_workers" in inspect.signature(client.scheduler_info).parameters else {}
    return dict(client.scheduler_info(**every)["workers"])


def slots_of(client: Client) -> dict[str, int]:
    """Models that each worker scores at once, by address; without those that score none."""
    slots = {address: int(worker["resources"].get(SLOT, 0)) for address, worker in workers_of(client).items()}
    return {address: count for address, count in slots.items() if count}
