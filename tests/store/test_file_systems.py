"""Registries on file systems that lack what others have: rights that can be changed, and locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llreg import atomic
from llreg.locate import init
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import LlregWarning

Cli = Callable[..., Any]
MakeRow = Callable[..., Row]
Command = tuple[list[str], dict[str, str]]

NO_LOCKS = [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK]


def test_rights_that_cannot_be_changed(
    tmp_path: Path, small_texts: Path, make_row: MakeRow, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT, SMB or 9p."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    registry = init(tmp_path / "small", texts=small_texts)
    write_row(registry.path, make_row(registry, "org/m0", 0))
    write_row(registry.path, make_row(registry, "org/m1", 1))
    for words in ("build", "tag v1", "build", "retract org/m0 --why x", "build --check", "export -o rows.csv"):
        result = cli("-r", registry.path, *words.split())
        assert (result.code, "Traceback" in result.err) == (0 if words != "build --check" else 1, False), result.err
    assert registry.validate() == []


def test_a_group_that_shares_a_registry(tmp_path: Path, small_texts: Path, make_row: MakeRow) -> None:
    """What the umask lets a group write, it may write: the next build is another user's, who has to replace all."""
    before = os.umask(0o002)
    try:
        registry = init(tmp_path / "small", texts=small_texts)
        write_row(registry.path, make_row(registry))
        registry.build()
    finally:
        os.umask(before)
    rights = {str(path.relative_to(registry.path)): path.stat().st_mode & 0o777 for path in registry.path.rglob("*")}
    assert {path: oct(mode) for path, mode in rights.items() if mode not in (0o664, 0o775)} == {}


@pytest.fixture(params=NO_LOCKS, ids=lambda code: errno.errorcode[code])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Files cannot be locked, as on Lustre without the mount option, or NFS without its service."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return int(request.param)


def test_one_waits_for_the_other_all_the_same(tmp_path: Path, no_locks: int) -> None:
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with atomic.lock(tmp_path, "x"):
            inside.set()
            assert go_on.wait(60)
            order.append("first")

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(60)
    with (
        pytest.warns(LlregWarning, match=r"x\.held says that it is at work; remove that file if no llreg is at this"),
        atomic.lock(tmp_path, "x", waiting=go_on.set),
    ):
        order.append("second")
    holder.join()
    assert order == ["first", "second"]
    assert list((tmp_path / ".llreg").iterdir()) == []


@pytest.mark.parametrize("no_locks", NO_LOCKS[:1], indirect=True)
def test_a_killed_holder_holds_nothing(tmp_path: Path, no_locks: int, llreg_command: Command) -> None:
    code = (
        "import fcntl, os, signal, sys\nfrom pathlib import Path\nfrom llreg import atomic\n"
        f"def refuse(*_): raise OSError({no_locks}, 'refused')\n"
        "fcntl.flock = refuse\n"
        "with atomic.lock(Path(sys.argv[1]), 'x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, **llreg_command[1]}, check=False)
    assert [path.name for path in (tmp_path / ".llreg").iterdir()] == ["x.held"]
    with atomic.lock(tmp_path, "x"):
        pass


@pytest.mark.parametrize("no_locks", NO_LOCKS[1:2], indirect=True)
@pytest.mark.filterwarnings("ignore:waiting for another llreg")
def test_builds_at_once(tmp_path: Path, small_texts: Path, make_row: MakeRow, no_locks: int) -> None:
    registry = init(tmp_path / "small", texts=small_texts)
    for k in range(3):
        write_row(registry.path, make_row(registry, f"org/m{k}", k))
    errors: list[Exception] = []

    def build() -> None:
        try:
            registry.build()
        except Exception as error:  # noqa: BLE001 - of a thread, for the test to see
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert registry.check_build() == []
    assert list((registry.path / ".llreg" / "tmp").iterdir()) == []
