"""What tests of pull and push need of a repository: its files as bytes, a build from scratch, the kinds of requests."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.hub.client import Hub, Request

from llreg.registry import Registry
from llreg.store.layout import BUILD

_POINTER = re.compile(rb"version https://git-lfs\S+\noid sha256:([0-9a-f]{64})\nsize \d+\n")


def tree(hub: Hub, repo: str, ref: str = "main") -> dict[str, bytes]:
    """Files of a commit, read past the client: from git, and from the folder of large files."""
    bare = hub.root / "datasets" / f"{repo}.git"
    packed = subprocess.run(["git", f"--git-dir={bare}", "archive", ref], check=True, capture_output=True).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive.getmembers():
            if (file := archive.extractfile(member)) is not None:
                data = file.read()
                pointer = _POINTER.fullmatch(data)
                oid = pointer[1].decode() if pointer else ""
                found[member.name] = bare.with_suffix(".lfs").joinpath(oid[:2], oid).read_bytes() if pointer else data
    return found


def head(hub: Hub, repo: str, ref: str = "main") -> str:
    """The commit that a branch, tag or pull request is at."""
    return hub.git(repo, "rev-parse", f"{ref}^{{commit}}").strip()


def written(files: dict[str, bytes], directory: Path) -> Registry:
    """The registry that some files are, all in a fresh directory."""
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return Registry(directory)


def built_anew(files: dict[str, bytes], directory: Path) -> dict[str, bytes]:
    """Files of a registry with the build made from scratch out of its rows: what the repository must hold."""
    rows = {name: data for name, data in files.items() if name.partition("/")[0] not in BUILD}
    registry = written(rows, directory)
    registry.build()
    shutil.rmtree(directory / ".llreg")
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def row_names(files: Iterable[str]) -> set[str]:
    """The row files among some names."""
    return {name for name in files if name.startswith("rows/")}


def models(registry: Registry) -> list[str]:
    """Models of the accepted rows, sorted."""
    return sorted(record.identity.model for record in registry.records())


def commits(requests: Iterable[Request]) -> list[Request]:
    """The requests that make commits."""
    return [request for request in requests if request.method == "POST" and "/commit/" in request.path]


def changing(requests: Iterable[Request]) -> list[str]:
    """Paths of the requests that could change something: all but reading, and asking what would be sent."""
    asking = ("/preupload/", "/paths-info/", "/api/validate-yaml")
    return [r.path for r in requests if r.method not in ("GET", "HEAD") and not any(part in r.path for part in asking)]


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let neither the client library nor a push or pull wait between its tries."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    restless = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", restless)
    monkeypatch.setattr("llreg.hub.sync.push._WAIT_SECONDS", 0.0)
    monkeypatch.setattr("llreg.hub.sync.pull._STALE_SECONDS", 0.0)


def downloads(requests: Iterable[Request]) -> list[str]:
    """Paths of the requests that bring files, without those that only ask about them or send elsewhere."""
    return [r.path for r in requests if r.method == "GET" and r.status in (200, 206) and _is_file(r.path)]


def _is_file(path: str) -> bool:
    return "/resolve/" in path or path.startswith(("/repos/", "/api/resolve-cache/"))


@contextmanager
def python(script: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A process with this one's packages that runs a script; it ends when its standard input does, or is killed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-c", script, *map(str, args)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> Any:
    """The next line of JSON that a process writes."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended without an answer"
    return json.loads(line)


def ask(process: subprocess.Popen[str], *words: object) -> Any:
    """Send a process a line, and read one."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(words, default=str) + "\n")
    process.stdin.flush()
    return answer(process)


def held(registry: Registry) -> dict[str, bytes]:
    """Files of a registry on this machine, without its state."""
    return {
        path.relative_to(registry.path).as_posix(): path.read_bytes()
        for path in registry.path.rglob("*")
        if path.is_file() and ".llreg" not in path.relative_to(registry.path).parts
    }
