"""Several processes at one registry: readers while it is rebuilt, writers of the same and of other rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llreg import atomic
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg.store.zarr_read import StoreReader

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
Command = tuple[list[str], dict[str, str]]

READER = """
    import sys, json
    from pathlib import Path
    from llreg.registry import Registry
    from llreg_schemas import row_digest

    root, stop = Path(sys.argv[1]), Path(sys.argv[2])
    kept = Registry(root)
    seen, rounds = [], 0
    Path(sys.argv[3]).touch()
    last = False
    while not last:
        last = rounds >= 2 and stop.exists()  # asked before reading, so that the last read sees the last state
        registry = kept if rounds % 2 else Registry(root)
        records = registry.records()
        data = registry.dataset()
        values, tokens = data["log_likelihood"].values, data["num_tokens"].values
        digests = data["digest"].values.tolist()
        for k, record in enumerate(json.loads(text) for text in data["record"].values):
            assert row_digest(record["identity"], values[k], tokens[k]) == record["digest"] == digests[k], "mixed rows"
        names = [record.identity.model for record in records]
        assert len(set(names)) == len(names), names
        seen.append(len(names))
        rounds += 1
        with open(sys.argv[3], "a") as reads:  # its size is how often it has read
            reads.write(".")
    print(json.dumps(seen))
"""


@contextmanager
def reader(root: Path, tmp_path: Path, env: dict[str, str]) -> Iterator[Callable[[], list[int]]]:
    """A process that reads the registry in a loop; calling what this gives stops it and returns the rows it saw."""
    tmp_path.mkdir(exist_ok=True)
    stop, ready = tmp_path / "stop", tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(READER), str(root), str(stop), str(ready)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.02)

        def finish() -> list[int]:
            stop.touch()
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err.decode()
            seen: list[int] = json.loads(out)
            return seen

        yield finish
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_reads(folder: Path, more: int = 2) -> None:
    """Wait until the reader with that folder has read the registry so many times more."""
    reads, deadline = folder / "ready", time.monotonic() + 60
    enough = reads.stat().st_size + more
    while reads.stat().st_size < enough:
        assert time.monotonic() < deadline, "the reader has stopped"
        time.sleep(0.02)


def test_readers_see_a_whole_old_or_new_registry(
    small_registry: Registry, fill: Fill, tmp_path: Path, llreg_command: Command
) -> None:
    """Eight rebuilds, each with a row more; every read is consistent, and rows only ever come.

    One reader is at the registry itself; the other at a copy that gets each new build, as a pull would bring it, and has no
    row files. They read all the while; half way it is waited for that they have, however slow the machine.
    """
    fill(small_registry, 3)
    small_registry.build()
    copy = Path(shutil.copytree(small_registry.path, tmp_path / "copy"))
    shutil.rmtree(copy / "rows")
    env, folders = llreg_command[1], (tmp_path / "of rows and build", tmp_path / "of a build")
    with reader(small_registry.path, folders[0], env) as finish, reader(copy, folders[1], env) as finish_copy:
        for folder in folders:
            wait_for_reads(folder)
        for k in range(8):
            fill(small_registry, 1, start=3 + k)
            small_registry.build()
            with atomic.staging_directory(copy) as staging:
                shutil.copytree(small_registry.path / "store.zarr", staging / "store.zarr")
                atomic.swap_directory(copy, staging / "store.zarr", copy / "store.zarr")
            if k == 3:
                for folder in folders:
                    wait_for_reads(folder)
        for seen in (finish(), finish_copy()):
            assert seen == sorted(seen)
            assert seen[0] >= 3
            assert seen[-1] == 11
            assert len(set(seen)) > 2  # it did read in between


def test_reader_while_a_row_is_retracted_and_another_comes(
    small_registry: Registry, fill: Fill, tmp_path: Path, llreg_command: Command
) -> None:
    """The number of rows stays; only their content shows which build was read."""
    fill(small_registry, 4)
    small_registry.build()
    with reader(small_registry.path, tmp_path, llreg_command[1]) as finish:
        for k in range(6):
            fill(small_registry, 1, start=4 + k)
            small_registry.retract(f"org/m{k}", why="superseded")
            small_registry.build()
        seen = finish()
    assert set(seen) <= {4, 5}


def test_store_reader_finds_rows_after_a_swap(small_registry: Registry, make_row: MakeRow) -> None:
    """A row that sorts first moves every position; the reader notices by itself."""
    rows = [make_row(small_registry, f"org/m{k}", k) for k in (5, 3, 1)]
    path = small_registry.path / "store.zarr"
    store = StoreReader(path)
    assert store.digests() == store.records() == []
    for count in (1, 2, 3):
        write_row(small_registry.path, rows[count - 1])
        small_registry.build()
        there = rows[:count]
        assert store.digests() == [row.record.digest for row in reversed(there)]
        got = store.read("log_likelihood", [row.record.digest for row in there], slice(None))
        np.testing.assert_array_equal(got, [row.log_likelihood for row in there])
        assert store.records() == [row.record for row in reversed(there)]
    small_registry.retract("org/m1", why="x")
    small_registry.build()
    with pytest.raises(KeyError):
        store.read("num_tokens", [rows[2].record.digest], slice(None))


def test_many_writers_of_many_rows(small_registry: Registry, make_row: MakeRow) -> None:
    rows = [make_row(small_registry, f"org/m{k % 8}", k % 8) for k in range(32)]  # each row four times
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: write_row(small_registry.path, row), rows))
    assert len(small_registry.records()) == 8
    assert small_registry.validate() == []
    assert list((small_registry.path / ".llreg" / "tmp").iterdir()) == []


def test_two_builds_at_once(small_registry: Registry, fill: Fill, cli_many: Callable[..., list[int]]) -> None:
    fill(small_registry, 3)
    assert cli_many(*[["-r", str(small_registry.path), "build"]] * 2) == [0, 0]
    assert small_registry.check_build() == []
    assert list((small_registry.path / ".llreg" / "tmp").iterdir()) == []


@pytest.fixture
def cli_many(llreg_command: Command, tmp_path: Path) -> Callable[..., list[int]]:
    """Run several commands at the same time and return their exit codes."""
    argv, extra = llreg_command

    def run(*commands: list[str]) -> list[int]:
        env = {**os.environ, **extra}
        running = [
            subprocess.Popen([*argv, *command], env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
            for command in commands
        ]
        return [process.wait(timeout=120) for process in running]

    return run


class TestFiles:
    """The writing that the above rests on."""

    def test_write_is_whole_or_not_at_all(self, tmp_path: Path) -> None:
        target = tmp_path / "a" / "b.json"
        atomic.write_atomic(tmp_path, target, b"one")
        atomic.write_atomic(tmp_path, target, b"two")
        assert target.read_bytes() == b"two"
        assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()
        target.unlink()
        target.mkdir()
        with pytest.raises(OSError, match="directory"):
            atomic.write_atomic(tmp_path, target, b"three")
        assert list((tmp_path / ".llreg" / "tmp").iterdir()) == []

    def test_swap_puts_new_for_old(self, tmp_path: Path) -> None:
        for name in ("old", "new"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(name)
        atomic.swap_directory(tmp_path, tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old" / "file").read_text() == "new"
        assert not (tmp_path / "new").exists()

    def test_old_leftovers_are_swept(self, tmp_path: Path) -> None:
        temp = atomic.temp_dir(tmp_path)
        long_ago = time.time() - 2 * atomic.STALE_TEMP_SECONDS
        for name in ("old.file", "new.file"):
            (temp / name).touch()
        (temp / "old.dir").mkdir()
        (temp / "old.dir" / "x").touch()
        for name in ("old.file", "old.dir"):
            os.utime(temp / name, (long_ago, long_ago))
        atomic.sweep(tmp_path)
        assert [path.name for path in temp.iterdir()] == ["new.file"]

    def test_lock_is_let_go_by_a_killed_process(self, tmp_path: Path, llreg_command: Command) -> None:
        code = "import sys, time; from pathlib import Path; from llreg import atomic\n"
        code += "with atomic.lock(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, **llreg_command[1]},
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waited = []

        def waiting() -> None:
            waited.append(True)
            holder.kill()

        with atomic.lock(tmp_path, "x", waiting=waiting):
            assert waited == [True]
        holder.communicate()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
