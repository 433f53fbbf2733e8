"""Connections to Dask: workers on this machine, or a scheduler elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llreg_schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 30


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
    with client:
        yield client
