"""``llreg ARGS`` in processes of their own that have the libraries already: forks of one that imported them once.

A fresh Python imports for one to five seconds of CPU before a command starts; a fork needs a hundredth of that. It runs
`llreg.__main__` as ``python -m llreg`` does, with its own environment, directory, streams and exit code.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

# In the order in which a command imports them; of llreg itself only what every command begins with, so that each module
# still finds what it imports.
_LIBRARIES = (
    "llreg.cli",
    "llreg.registry",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "xarray",
    "zarr",
    "jsonschema",
    "rich.progress",
    "rich.table",
    "yaml",
    "scipy.spatial",
    "sklearn.model_selection",
    "dask.array",
    "huggingface_hub.hf_file_system",
)
_MODELS = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
)
_MORE = {  # by the words of a command
    "add": _MODELS,
    "--score": _MODELS,
    "bench": _MODELS,
    "verify": _MODELS,
    "map": ("bokeh.plotting", "matplotlib.pyplot", "openTSNE"),
}
# Read when a library is imported, before a fork can say otherwise.
_EARLY = ("PYTHON", "LC_", "LANG", "OMP_", "ZARR_", "DASK_")
# Their clients take the time limits of the local Hub as defaults of arguments.
_SETTINGS = {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}


class WarmCommands:
    """Runs commands, each in a fork.

    Parameters
    ----------
    directory : Path
        For what commands write to their streams.
    extra : mapping of str to str
        What the packages need in the environment.
    """

    def __init__(self, directory: Path, extra: Mapping[str, str]) -> None:
        self._directory, self._numbers = directory, itertools.count()
        self._env = {**os.environ, **_SETTINGS, **extra}
        self._server: subprocess.Popen[str] | None = None

    def can_run(self, env: Mapping[str, str]) -> bool:
        """Whether a fork can be as a fresh Python in this environment is."""
        early = {name for name in {**env, **self._env} if name.startswith(_EARLY)}
        return sys.platform == "linux" and all(env.get(name) == self._env.get(name) for name in early)

    def start(self, args: Iterable[str], cwd: Path, env: Mapping[str, str]) -> Started:
        """Start ``llreg ARGS``; `env` is the whole environment."""
        number = next(self._numbers)
        out, err = (self._directory / f"{number}.{name}" for name in ("out", "err"))
        asked = {"args": list(args), "cwd": str(cwd), "env": dict(env), "out": str(out), "err": str(err)}
        return Started(self, self.ask(None, "start", asked), out, err)

    def ask(self, timeout: float | None, *words: object) -> Any:
        """What the process that forks answers; TimeoutExpired, and its end with all its forks, if it takes too long."""
        server = self._running()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(words) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            self.close()
            raise subprocess.TimeoutExpired([sys.executable, __file__], timeout or 0.0)
        return json.loads(server.stdout.readline())

    def _running(self) -> subprocess.Popen[str]:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._env,
                text=True,
                start_new_session=True,
            )
        return self._server

    def close(self) -> None:
        """End the process that forks."""
        if self._server is not None:
            with self._server as server:
                assert server.stdin is not None
                server.stdin.close()
            self._server = None


class Started:
    """A command that was started; a `subprocess.Popen` as far as tests need one."""

    def __init__(self, commands: WarmCommands, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._commands, self._streams = commands, (out, err)

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.returncode is None:
            self.returncode = self._commands.ask(None, "poll", self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and stderr."""
        if self.returncode is None:
            self.returncode = self._commands.ask(timeout, "wait", self.pid)
        out, err = (path.read_bytes().decode("utf-8") for path in self._streams)
        return out, err


def _load(names: Iterable[str]) -> None:
    before = len(sys.modules)
    for name in names:
        with suppress(ImportError):  # of an extra that is not installed; the command says so
            importlib.import_module(name)
    if len(sys.modules) > before:
        gc.collect()
        gc.freeze()  # or a collection in a fork copied every page


def _become(cwd: str, env: Mapping[str, str], args: list[str], out: str, err: str) -> None:
    """Make this process what a shell would have started."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path, mode in ((0, os.devnull, "rb"), (1, out, "wb"), (2, err, "wb")):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["llreg", *args]
    sys.path.insert(0, cwd)
    gc.enable()
    if "huggingface_hub.constants" in sys.modules:
        _read_client_settings()


def _read_client_settings() -> None:
    """Let huggingface_hub read the environment again, which it does when it is imported."""
    name = "huggingface_hub.constants"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    before = dict(vars(sys.modules[name]))
    changed = {key: value for key, value in vars(fresh).items() if key[:2] != "__" and before.get(key) != value}
    for module in [module for name, module in sys.modules.items() if name.startswith("huggingface_hub")]:
        for key in changed.keys() & vars(module).keys():
            setattr(module, key, changed[key])
    hub: Any = sys.modules["huggingface_hub.hf_api"]
    hub.api.endpoint = fresh.ENDPOINT


def _command() -> int:
    """Run the command that this process became; its exit code."""
    try:
        runpy.run_module("llreg", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _end(code: int) -> NoReturn:
    """What Python does at its end, but for taking everything apart, which would copy every page."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start(asked: Mapping[str, Any]) -> int:
    _load(name for arg in asked["args"] for name in _MORE.get(arg, ()))
    pid = os.fork()
    if pid == 0:
        _become(**asked)
        _end(_command())
    return pid


def _wait(pid: int, options: int = 0) -> int | None:
    ended, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    """Answer each line on standard input: start a command (its process id), or ask for the exit code of one."""
    del sys.path[0]  # the folder of the tests
    gc.disable()
    os.fsync = lambda handle: None  # as in the tests' own process
    _load(_LIBRARIES)
    answers = {"start": _start, "wait": _wait, "poll": lambda pid: _wait(pid, os.WNOHANG)}
    for line in sys.stdin:
        word, about = json.loads(line)
        print(json.dumps(answers[word](about)), flush=True)


if __name__ == "__main__":
    main()
