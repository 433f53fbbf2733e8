"""Processes of ``llreg`` without a cold start: forked from one that has imported what they need and started no thread.

A cold start of Python with torch and transformers takes 5 to 10 s of CPU. What is forked here is a process like any other, with files,
environment, directory, limits, signals and an exit code of its own, which ends as Python ends. Only what Python reads at its start (the
encoding, PYTHONPATH, -W) is the launcher's: tests of that start a fresh Python. This file is both ends:

    python launcher.py                        the launcher: standard input is the socket on which it listens
    python -IS launcher.py SOCKET LIST ARGS   stands for ``llreg ARGS`` in shells and `subprocess`, with the imports LIST; or for
                                              Python, where ARGS are those by which `multiprocessing` starts a process

The stand-in has no part in what the process does: it passes SIGINT on, takes it along if it is killed itself, and ends as it ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# What commands import in functions: those that read, build and change registries, and those that score, too.
IMPORTS = {
    "store": [
        "llreg.cli.add",
        "llreg.cli.build",
        "llreg.cli.dist",
        "llreg.cli.init",
        "llreg.cli.ls",
        "llreg.cli.retract",
        "llreg.cli.status",
        "llreg.cli.tag",
        "llreg.cli.validate",
        "llreg.store.annotations",
        "llreg.store.build",
        "llreg.store.dataset",
        "llreg.store.listings",
        "llreg.store.validate",
        "llreg.add.add",
        "zarr",
        "xarray",
        "jsonschema",
        "pyarrow.dataset",
        "pyarrow.parquet",
        "rich.progress",
        "rich.table",
    ],
    "scoring": ["torch", "transformers.models.gpt2.modeling_gpt2", "transformers.models.auto.modeling_auto"],
    "cluster": ["distributed", "distributed.nanny", "distributed.worker", "llreg.add.worker"],
}
SPAWNED = "--multiprocessing-fork"  # last word of the command by which `multiprocessing` starts a process
SESSION, PROCESS = b"s", b"p"  # how a connection begins


@contextmanager
def use(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The socket on which the launcher is asked: one for all processes of the tests that share the folder.

    It ends, and what it has started, when none of them uses it any more.
    """
    import subprocess

    from filelock import FileLock

    path, process = folder / "launcher", None
    with socket.socket(socket.AF_UNIX) as session:
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(path))
                    listener.listen(64)
                    # One thread: a process can be forked then, and may enter another user namespace.
                    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
                    process = subprocess.Popen(
                        [sys.executable, __file__],
                        stdin=listener,
                        env={**os.environ, **threads, **environment},
                        start_new_session=True,  # a Ctrl-C is for the tests alone
                    )
            session.connect(str(path))
            session.sendall(SESSION)
        yield path
    if process is not None:
        process.wait()


@contextmanager
def spawning(path: Path, imports: str) -> Iterator[None]:
    """Have `multiprocessing` spawn processes of the launcher, in all else as it does: its pipes, its pickles, its exit codes."""
    import shlex
    import tempfile
    from multiprocessing import resource_tracker, spawn

    resource_tracker.ensure_running()  # by Python itself
    usual = spawn.get_executable()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        script = Path(folder) / "python"
        words = [sys.executable, "-IS", __file__, str(path), imports]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
        spawn.set_executable(str(script))
        try:
            yield
        finally:
            spawn.set_executable(usual)


# The stand-in


def stand_in(path: str, imports: str, words: list[str]) -> int:
    """Have the launcher start ``llreg WORDS``, and wait; the exit code, or minus the signal that ended it."""
    files = [
        int(name) for name in os.listdir("/dev/fd") if os.path.exists(f"/dev/fd/{name}")
    ]  # not that of the listing itself
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        asked = {
            "words": words,
            "files": files,
            "imports": imports.split(","),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
            "pid": os.getpid(),
        }
        socket.send_fds(connection, [PROCESS], files)
        connection.sendall(json.dumps(asked).encode() + b"\n")
        answers = connection.makefile("r")
        started = int(answers.readline())
        signal.signal(signal.SIGINT, lambda number, frame: os.kill(started, number))
        return int(answers.readline())


# The launcher


def launch() -> dict[str, Any]:
    """Serve while there are sessions; returns in each process that is forked, with what it was asked for."""
    import gc
    import selectors
    from importlib import import_module

    for name in ("tests.tools.commands", "huggingface_hub.hf_api", "huggingface_hub.hf_file_system"):
        import_module(name)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a session without a terminal may ignore it
    selector, sessions = selectors.DefaultSelector(), set[socket.socket]()
    processes: dict[socket.socket, int] = {}  # by who waits for them
    listener = socket.socket(fileno=os.dup(0))
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            source: Any = key.fileobj
            if source is listener:
                connection = listener.accept()[0]
                what, files, _, _ = socket.recv_fds(connection, 1, 64)
                if what == SESSION:
                    selector.register(connection, selectors.EVENT_READ)
                    sessions.add(connection)
                    continue
                line = connection.makefile("r").readline()
                if not line.endswith("\n"):  # who asked was killed meanwhile
                    connection.close()
                    continue
                asked: dict[str, Any] = json.loads(line)
                for name in (name for kind in asked["imports"] for name in IMPORTS[kind]):
                    import_module(name)
                gc.freeze()  # what the collector never looks at stays shared
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    for other in (listener, *sessions, *processes, connection):
                        other.close()
                    return {**asked, "received": files}
                for file in files:
                    os.close(file)
                processes[connection] = pid
                selector.register(connection, selectors.EVENT_READ)
                with suppress(BrokenPipeError):
                    connection.sendall(f"{pid}\n".encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, connection)
            elif isinstance(source, int):  # a process has ended
                selector.unregister(source)
                os.close(source)
                code = os.waitstatus_to_exitcode(os.waitpid(processes.pop(key.data), 0)[1])
                if key.data in selector.get_map():
                    selector.unregister(key.data)
                    with suppress(BrokenPipeError):
                        key.data.sendall(f"{code}\n".encode())
                key.data.close()
            else:  # who waited for a process has ended, or a session
                selector.unregister(source)
                if source in processes:
                    os.kill(processes[source], signal.SIGKILL)
                sessions.discard(source)
                if not sessions:
                    for pid in processes.values():
                        os.kill(pid, signal.SIGKILL)
                    sys.exit()


def become(asked: dict[str, Any]) -> None:
    """Run what was asked for in this process, which was just forked."""
    import fcntl
    import runpy

    import pytest
    from tests.tools.commands import read_client_settings

    received = [fcntl.fcntl(file, fcntl.F_DUPFD, 100) for file in asked["received"]]  # above the numbers that they get
    for file in asked["received"]:
        os.close(file)
    for number, file in zip(asked["files"], received, strict=True):
        os.dup2(file, number)
        os.close(file)
    here, there = (os.readlink(f"/proc/{pid}/ns/mnt") for pid in ("self", asked["pid"]))
    if here != there:
        _enter_namespaces(asked["pid"])
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(asked["file_size"]))
    read_client_settings(pytest.MonkeyPatch())
    sys.path[0] = asked["folder"]
    sys.argv = ["llreg", *asked["words"]]
    if asked["words"][-1:] == [SPAWNED]:
        program = asked["words"][asked["words"].index("-c") + 1]
        sys.argv = ["-c", SPAWNED]
        exec(program, {"__name__": "__main__"})  # noqa: S102
    else:
        runpy.run_module("llreg", run_name="__main__", alter_sys=True)


def _enter_namespaces(pid: int) -> None:
    """The user and mount namespaces of a process."""
    import ctypes  # os.setns is there from Python 3.12 on

    user_and_mounts = 0x10000000 | 0x00020000
    if ctypes.CDLL(None, use_errno=True).setns(os.pidfd_open(pid), user_and_mounts) != 0:
        raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    if sys.argv[1:]:
        code = stand_in(sys.argv[1], sys.argv[2], sys.argv[3:])
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)
    sys.path[0] = str(ROOT)
    become(launch())
