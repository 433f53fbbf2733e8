"""Real refusals of the disk: full, read-only, file size limit. Nothing is harmed, and one sentence says why."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

Cli = Callable[..., Any]
Command = tuple[list[str], dict[str, str]]
InNamespace = Callable[[str], tuple[int, str, str]]


def _tree(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and ".llreg" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def three_rows(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, make_row: Callable[..., Row]) -> Path:
    """Three rows, two of them in the build."""
    registry = init(tmp_path_factory.mktemp("three") / "small", texts=small_texts)
    for k in range(3):
        write_row(registry.path, make_row(registry, f"org/m{k}", k))
        if k == 1:
            registry.build()
    return registry.path


@pytest.fixture
def filled(three_rows: Path, tmp_path: Path) -> Registry:
    """A copy of its own."""
    return Registry(Path(shutil.copytree(three_rows, tmp_path / "small")))


@pytest.mark.root
class TestReadOnly:
    """A registry on a read-only file system."""

    @pytest.fixture
    def mounted(self, filled: Registry) -> str:
        """Script that lays a read-only view over the registry's own place."""
        path = shlex.quote(str(filled.path))
        return f"set -e; mount --bind {path} {path}; mount -o remount,bind,ro {path}; export LLREG_REGISTRY={path}\n"

    def test_reading_works(self, filled: Registry, mounted: str, in_namespace: InNamespace) -> None:
        ids = [record.row_id for record in filled.records()]
        code, out, err = in_namespace(mounted + "llreg ls -q; llreg ls; llreg dist; llreg status; llreg validate")
        assert (code, out.splitlines()[:3]) == (0, ids)
        assert "Traceback" not in err
        assert "all valid" in err

    @pytest.mark.parametrize(
        ("command", "state"),
        [
            *((c, "with .llreg") for c in ("build", "build --check", "tag v1", "retract org/m0 --why x", "add a/b")),
            *((c, "without .llreg") for c in ("build", "tag v1", "add a/b")),
        ],
    )
    def test_changing_is_refused(
        self, filled: Registry, mounted: str, in_namespace: InNamespace, command: str, state: str
    ) -> None:
        if state == "without .llreg":
            shutil.rmtree(filled.path / ".llreg")
        before = _tree(filled.path)
        code, out, err = in_namespace(f"{mounted} llreg {command}")
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("llreg: cannot write ")
        assert "the file system is read-only; use a registry you may write to (--registry DIR)" in err
        assert _tree(filled.path) == before

    def test_init_is_refused(self, filled: Registry, mounted: str, in_namespace: InNamespace) -> None:
        code, out, err = in_namespace(f"{mounted} llreg init {shlex.quote(str(filled.path))}/inner")
        assert (code, out) == (1, "")
        assert "the file system is read-only" in err
        assert len(err.splitlines()) == 1


@pytest.mark.root
class TestFullDisk:
    """A registry on a file system of a few pages, which `dd` fills."""

    @pytest.fixture
    def mounted(self, filled: Registry) -> str:
        """Script that copies the registry to a small file system and defines `fill`, which leaves 8 KiB."""
        path = shlex.quote(str(filled.path))
        return (
            f'set -e; d=$(mktemp -d); mount -t tmpfs -o size=1m none "$d"; cp -a {path} "$d/r"; cd "$d/r"\n'
            'fill() { dd if=/dev/zero of="$d/ballast" bs=4k status=none 2>/dev/null || true;'
            ' truncate -s -"${1:-8192}" "$d/ballast"; }\n'
            "tree() { find . -path ./.llreg -prune -o -type f -print0 | sort -z | xargs -0 sha256sum; }\n"
        )

    def test_build_is_refused_and_the_old_one_stays(self, mounted: str, in_namespace: InNamespace) -> None:
        code, out, err = in_namespace(
            mounted + "tree > /dev/shm/before.$$; fill; set +e; llreg build; echo code $?; set -e;"
            "tree | cmp - /dev/shm/before.$$; rm /dev/shm/before.$$; ls -A .llreg/tmp; llreg ls -q | wc -l;"
            "rm ../ballast; llreg build; llreg validate -q"
        )
        lines = out.splitlines()
        assert (code, lines[:2]) == (0, ["code 1", "3"]), (out, err)
        assert "the disk is full; free some space and run the same command again" in err.splitlines()[0]
        assert "Traceback" not in err

    @pytest.mark.parametrize("command", ["tag v1", "retract org/m0 --why x"])
    def test_small_files_are_refused(self, mounted: str, in_namespace: InNamespace, command: str) -> None:
        code, out, err = in_namespace(
            mounted + f"fill 0; set +e; llreg {command}; echo code $?; find versions retractions -type f; "
            "ls -A .llreg/tmp; llreg ls -q | wc -l"
        )
        assert (code, out.splitlines()) == (0, ["code 1", "3"]), (out, err)
        assert "the disk is full" in err.splitlines()[0]
        assert "Traceback" not in err

    def test_init_leaves_no_registry(self, mounted: str, in_namespace: InNamespace) -> None:
        code, out, err = in_namespace(
            mounted + 'fill; set +e; llreg init "$d/new"; echo code $?; test -e "$d/new/registry.json" && echo there;'
            'rm "$d/ballast"; llreg init "$d/new"; echo code $?'
        )
        assert (code, out.splitlines()) == (0, ["code 1", "code 0"]), (out, err)
        assert "the disk is full" in err.splitlines()[0]
        assert "Traceback" not in err


class TestFileSizeLimit:
    """RLIMIT_FSIZE needs no rights: a write beyond it fails with EFBIG."""

    def _limited(self, warm_command: Command, limit: int, *args: str) -> subprocess.CompletedProcess[str]:
        argv, extra = warm_command
        return subprocess.run(
            [*argv, *args],
            env={**os.environ, **extra},
            capture_output=True,
            check=False,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    @pytest.mark.parametrize(
        ("limit", "command"),
        [(2000, "build"), (2000, "build --check"), (100, "tag v1"), (100, "retract org/m0 --why x")],
    )
    def test_refused_and_nothing_changed(
        self, filled: Registry, warm_command: Command, limit: int, command: str
    ) -> None:
        before = _tree(filled.path)
        done = self._limited(warm_command, limit, "-r", str(filled.path), *command.split())
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "the file size limit of this process is reached" in done.stderr
        assert _tree(filled.path) == before
        assert list((filled.path / ".llreg" / "tmp").iterdir()) == []
        assert Registry(filled.path).validate() == []

    def test_init(self, tmp_path: Path, warm_command: Command) -> None:
        done = self._limited(warm_command, 1000, "init", str(tmp_path / "new"))
        assert done.returncode == 1
        assert "the file size limit of this process is reached" in done.stderr
        assert not (tmp_path / "new" / "registry.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(filled: Registry, cli: Cli) -> None:
    filled.path.chmod(0o555)
    try:
        result = cli("-r", filled.path, "tag", "v1")
    finally:
        filled.path.chmod(0o755)
    assert (result.code, result.out) == (1, "")
    assert "permission denied" in result.err
