"""Processes in a namespace of their own, where file systems can be mounted that refuse what they are asked."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

Command = tuple[list[str], dict[str, str]]
InNamespace = Callable[[str], tuple[int, str, str]]


@cache
def _may_mount() -> bool:
    script = 'd=$(mktemp -d) && mount -t tmpfs -o size=64k none "$d" && umount "$d" && rmdir "$d"'
    try:
        return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def in_namespace(warm_command: Command) -> InNamespace:
    """Run a script where mounting is permitted and ``llreg`` is the command; return code, stdout, stderr."""
    return _in_namespace(warm_command)


@pytest.fixture
def scoring_in_namespace(warm_scoring_command: Command) -> InNamespace:
    """As `in_namespace`, with torch and transformers."""
    return _in_namespace(warm_scoring_command)


def _in_namespace(command: Command) -> InNamespace:
    if not _may_mount():
        pytest.skip("mounting in a user namespace (unshare -rm) is not permitted here")
    argv, extra = command

    def run(script: str) -> tuple[int, str, str]:
        function = f'llreg() {{ {shlex.join(argv)} "$@"; }}\n'
        done = subprocess.run(
            ["unshare", "-rm", "bash", "-c", function + script],
            env={**os.environ, **extra},
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr

    return run
