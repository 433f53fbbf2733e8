"""`pull`: what it brings, what it leaves alone, and what becomes of one that is cut off."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Cli, MakeRow
from tests.hub.asking import commit
from tests.hub.client import Hub
from tests.hub.people import answer, ask, downloads, head, held, models, python, tree

import llreg
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.pin import read_pin
from llreg.store.rowfile import Row, row_path, to_zip
from llreg_schemas.errors import HubNotFoundError, HubUnreachableError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Clone = Callable[[str, Path], Registry]
AsUser = Callable[[str | None], None]
Fill = Callable[..., list[Row]]


@pytest.fixture
def alices(hub: Hub, small_registry: Registry, publish_rows: Callable[..., str]) -> Registry:
    """A registry of three rows that alice has published."""
    publish_rows("alice", 3)
    hub.clear()
    return small_registry


@pytest.fixture
def place(alices: Registry) -> str:
    """Its repository."""
    pin = read_pin(alices.path)
    assert pin is not None
    return pin.repo


@pytest.fixture
def copy(place: str, tmp_path: Path, hub: Hub, clone_rows: Clone) -> Registry:
    """A clone of it."""
    registry = clone_rows(place, tmp_path / "copy")
    hub.clear()
    return registry


def contents(registry: Registry) -> dict[str, str]:
    """A hash of the values of each accepted row, by digest."""
    records = registry.records()
    values = registry.values(records)
    return {
        record.digest: hashlib.sha256(row.tobytes()).hexdigest() for record, row in zip(records, values, strict=True)
    }


def assert_sound(registry: Registry) -> None:
    """What a fresh reader finds is valid, and its build is that of its rows."""
    fresh = Registry(registry.path)
    assert fresh.validate() == []
    assert fresh.check_build() == []


# What comes


def test_a_first_pull_makes_a_registry(hub: Hub, alices: Registry, place: str, tmp_path: Path, as_user: AsUser) -> None:
    as_user(None)
    done = clone(place, tmp_path / "copy")
    copy = Registry(done.path)
    assert (done.rows, len(done.added), done.retracted, done.commit) == (3, 3, (), head(hub, place))
    assert done.version == alices.version
    assert contents(copy) == contents(alices)
    assert_sound(copy)
    there, here = tree(hub, place), held(copy)
    assert {name: data for name, data in there.items() if not name.startswith("rows/")} == {
        name: data for name, data in here.items() if name != ".gitignore"
    }
    asked = hub.requests()
    # commit, listings of root, rows and store, and two or three requests a file: no file a row.
    assert len(asked) <= 6 + 3 * done.files
    assert done.files <= 8
    assert not [path for path in downloads(asked) if "rows" in path]
    assert sum(request.sent for request in asked) < 150_000


def test_a_second_pull_brings_what_is_new(hub: Hub, alices: Registry, copy: Registry, place: str, fill: Fill) -> None:
    again = pull(copy)
    assert (again.files, again.bytes, again.added) == (0, 0, ())
    assert [request.method for request in hub.requests()] == ["GET"]  # at which commit main is

    fill(alices, 1, start=7)
    push(alices)
    hub.clear()
    done = pull(copy)
    assert (done.rows, done.added) == (4, (alices.find("org/m7").row_id,))
    asked = hub.requests()
    changed = set(hub.git(place, "diff", "--name-only", "main~1", "main").split())
    assert done.files <= 5 < len(changed)
    assert len(asked) <= 6 + 3 * done.files
    assert done.bytes == sum(request.sent for request in asked if request.path in downloads(asked))
    assert sum(request.sent for request in asked) < 80_000
    assert contents(copy) == contents(alices)
    assert_sound(copy)


def test_a_merged_row_comes_before_it_is_built(hub: Hub, copy: Registry, place: str, make_row: MakeRow) -> None:
    row = make_row(copy, "org/merged", 40)
    name = row_path(row.record).as_posix()
    commit(hub, "alice", place, {name: to_zip(row)})
    done = pull(copy)
    assert done.added == (row.record.row_id,)
    assert copy.row("org/merged").log_likelihood.tolist() == row.log_likelihood.tolist()
    assert_sound(copy)
    assert push(copy).rows == ()  # only the build
    there = tree(hub, place)
    assert there["models.parquet"] == (copy.path / "models.parquet").read_bytes()


def test_rows_of_ones_own_stay_as_they_are(hub: Hub, alices: Registry, copy: Registry, fill: Fill) -> None:
    (built,) = fill(copy, 1, start=20)
    copy.build()
    (fresh,) = fill(copy, 1, start=21)
    before = {name: data for name, data in held(copy).items() if name.startswith("rows/")}
    assert len(before) == 2
    stamps = {name: (copy.path / name).stat().st_mtime_ns for name in before}
    fill(alices, 1, start=7)
    push(alices)
    done = pull(copy)
    assert done.added == (alices.find("org/m7").row_id,)
    assert {name: data for name, data in held(copy).items() if name in before} == before
    assert {name: (copy.path / name).stat().st_mtime_ns for name in before} == stamps
    assert push(copy, dry_run=True).rows == (built.record.row_id, fresh.record.row_id)
    assert len(models(copy)) == 6
    assert_sound(copy)


def test_a_registry_made_here_takes_the_rows_of_one_on_the_same_texts(
    alices: Registry, place: str, tmp_path: Path, small_texts: Path, fill: Fill, registry: Registry
) -> None:
    mine = llreg.init(tmp_path / "mine", texts=small_texts)
    fill(mine, 1, start=50)
    assert len(pull(mine, place).added) == 3
    assert models(mine) == ["org/m0", "org/m1", "org/m2", "org/m50"]
    assert_sound(mine)
    fill(registry, 1)
    before = held(registry)
    with pytest.raises(InputError, match=r"text set .* do not compare"):
        pull(registry, place)
    assert held(registry) == before
    with pytest.raises(InputError, match="say from where"):
        pull(registry)
    with pytest.raises(InputError, match="was pulled from"):
        pull(mine, "alice/other")


# Revisions


def test_a_version_is_pulled_by_its_tag(hub: Hub, alices: Registry, place: str, tmp_path: Path, fill: Fill) -> None:
    push(alices, tag="v1")
    old, version = contents(alices), alices.version
    fill(alices, 1, start=7)
    push(alices)
    done = clone(place, tmp_path / "old", revision="v1")
    registry = Registry(done.path)
    assert (done.version, done.revision, contents(registry)) == (version, "v1", old)
    assert_sound(registry)
    assert pull(registry).added == ()  # it follows the tag
    assert pull(registry, revision="main").added == (alices.find("org/m7").row_id,)
    with pytest.raises(HubNotFoundError, match="no revision v9"):
        clone(place, tmp_path / "none", revision="v9")


def test_an_older_revision_does_not_take_rows_away(hub: Hub, alices: Registry, copy: Registry, fill: Fill) -> None:
    push(alices, tag="v1")
    fill(alices, 1, start=7)
    push(alices)
    pull(copy)
    before, pin = held(copy), read_pin(copy.path)
    with pytest.raises(InputError, match=r"holds 1 published rows that v1 has not; .*directory of its own"):
        pull(copy, revision="v1")
    assert (held(copy), read_pin(copy.path)) == (before, pin)


def test_main_as_it_was_before_is_asked_for_again(
    hub: Hub, alices: Registry, copy: Registry, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(copy, 1, start=7)
    push(copy)
    hub.fault("stale", path="/revision/main")
    assert pull(copy).rows == 4
    assert hub.struck() == 1


# Without a network


def test_offline_all_but_the_pull_works(hub: Hub, copy: Registry, cli: Cli, as_user: AsUser) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    listed = cli("ls", "-r", copy.path, "-q", env=offline)
    assert (listed.code, len(listed.out.split())) == (0, 3)
    assert cli("dist", "-r", copy.path, "org/m0", "org/m1", env=offline).code == 0
    done = cli("pull", "-r", copy.path, env=offline)
    assert (done.code != 0, done.out) == (True, "")
    assert done.err.strip().splitlines() == [
        f"llreg: HF_HUB_OFFLINE is set, and this needs {read_pin(copy.path).repo} on the Hub: unset it"
    ]
    assert hub.requests() == []


# Cut off


def kept(root: Path) -> set[str]:
    """Whole files that a pull has left for the next one."""
    parts = [path.relative_to(root / ".llreg" / "pull").parts for path in (root / ".llreg" / "pull").rglob("*")]
    return {"/".join(names) for _, *names in parts if ".cache" not in names} - {""}


@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_pull_that_breaks_off_goes_on(
    hub: Hub, alices: Registry, copy: Registry, place: str, fill: Fill, kind: str
) -> None:
    (row,) = fill(alices, 1, start=7)
    push(alices)
    before, was = held(copy), contents(copy)
    oid = hashlib.sha256(to_zip(row)).hexdigest()
    hub.fault(kind, method="GET", path=f"^/repos/.*{oid}", times=1000)
    with pytest.raises(HubUnreachableError, match="run the same command again"):
        pull(copy)
    assert hub.struck() > 1
    assert (held(copy), contents(copy)) == (before, was)
    assert_sound(copy)
    there = kept(copy.path)
    hub.clear_faults()
    hub.clear()
    done = pull(copy)
    assert done.added == (row.record.row_id,)
    (asked,) = downloads(hub.requests())  # of all files, only what was cut off
    assert oid in asked
    assert {"store.zarr/zarr.json", "store.zarr/record/c/0"} <= there
    assert contents(copy) == contents(alices)
    assert_sound(copy)
    assert not list((copy.path / ".llreg" / "pull").iterdir())


@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_first_pull_that_breaks_off_in_a_shard_goes_on(
    hub: Hub, alices: Registry, place: str, tmp_path: Path, kind: str
) -> None:
    oid = hashlib.sha256(tree(hub, place)["store.zarr/log_likelihood/c.0.0"]).hexdigest()
    hub.fault(kind, method="GET", path=f"^/repos/.*{oid}", times=1000)
    with pytest.raises(HubUnreachableError, match="run the same command again"):
        clone(place, tmp_path / "copy")
    assert hub.struck() > 1
    assert not (tmp_path / "copy" / "registry.json").exists()
    hub.clear_faults()
    hub.clear()
    done = clone(place, tmp_path / "copy")
    (asked,) = downloads(hub.requests())
    assert oid in asked
    assert done.rows == 3
    assert contents(Registry(done.path)) == contents(alices)
    assert_sound(Registry(done.path))


def test_a_pull_that_broke_off_goes_on_at_a_newer_commit(
    hub: Hub, alices: Registry, place: str, fill: Fill, tmp_path: Path
) -> None:
    hub.fault("drop", method="GET", path="^/repos/.*", at=1, times=1000)
    with pytest.raises(HubUnreachableError):
        clone(place, tmp_path / "copy")
    there = kept(tmp_path / "copy")
    assert {"registry.json", "store.zarr/zarr.json"} <= there
    hub.clear_faults()
    fill(alices, 1, start=7)
    push(alices)
    hub.clear()
    done = clone(place, tmp_path / "copy")
    asked = " ".join(path.replace("%2F", "/") for path in downloads(hub.requests()))
    assert ("/registry.json" in asked, "/store.zarr/zarr.json" in asked) == (False, True)
    assert contents(Registry(done.path)) == contents(alices)
    assert_sound(Registry(done.path))
    assert not list((done.path / ".llreg" / "pull").iterdir())


@dataclass(frozen=True)
class Change:
    """A copy of a registry that has not yet pulled: a row and a retraction, their build, and a row that is not built."""

    copy: Registry
    wanted: dict[str, bytes]
    asked: list[str]  # the files that come, by the addresses that bring them


@pytest.fixture
def change(
    hub: Hub, alices: Registry, copy: Registry, place: str, fill: Fill, make_row: MakeRow, tmp_path: Path
) -> Change:
    fill(alices, 1, start=7)
    alices.retract("org/m1", why="Wrong tokenizer")
    push(alices, tag="v1")
    row = make_row(alices, "org/merged", 40)
    commit(hub, "alice", place, {row_path(row.record).as_posix(): to_zip(row)})
    hub.clear()
    fresh = Registry(shutil.copytree(copy.path, tmp_path / "fresh"))
    pull(fresh)
    # The hub answers large files with the address of another server, signed anew each time: those answers have no content
    # to change, and the addresses are told by their path.
    bringing = re.compile("^/repos/|/api/resolve-cache/")
    paths = [path.partition("?")[0] for path in downloads(hub.requests()) if bringing.search(path)]
    assert len(set(paths)) == len(paths) >= 7  # registry of two documents, a row file, four of the store
    hub.clear()
    return Change(copy, held(fresh), paths)


def corrupt(hub: Hub, paths: list[str], times: int) -> None:
    """Change what comes from these addresses, that often."""
    hub.clear_faults()
    for path in paths:
        hub.fault("corrupt", method="GET", path=rf"^{re.escape(path)}(\?|$)", times=times)


def test_what_comes_changed_is_asked_for_again(hub: Hub, change: Change, place: str, tmp_path: Path) -> None:
    corrupt(hub, change.asked, 1)
    pull(change.copy)
    assert hub.struck() == len(change.asked)
    assert held(change.copy) == change.wanted
    assert contents(change.copy) == contents(Registry(clone(place, tmp_path / "clean").path))


def test_what_comes_changed_is_not_taken(hub: Hub, change: Change) -> None:
    """First all files come changed each time, then one fewer at each pull: what came whole is kept, the others are not."""
    before = held(change.copy)
    for first, path in enumerate(change.asked):
        corrupt(hub, change.asked[first:], 1000)
        with pytest.raises(HubUnreachableError, match="other bytes than it has there"):
            pull(change.copy)
        assert hub.struck() > 1, path
        assert held(change.copy) == before
        assert Registry(change.copy.path).validate() == []
    hub.clear_faults()
    pull(change.copy)
    assert held(change.copy) == change.wanted


_KILLED = """
import json, os, signal, sys
import llreg.store.validate, llreg.hub.sync.pull
from llreg.registry import Registry

def run(path, at):
    seen = []
    def step(event, args):
        if event == "os.rename" or (event == "ctypes.dlsym" and args[1] == "renameat2"):
            seen.append(event)
            if len(seen) == at:
                os.kill(os.getpid(), signal.SIGKILL)
    registry = Registry(path)
    sys.addaudithook(step)
    llreg.hub.sync.pull.pull(registry)
    return {"steps": seen}

for line in sys.stdin:
    path, at = json.loads(line)
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.write(into, json.dumps(run(path, at)).encode())
        os._exit(0)
    os.close(into)
    with open(out) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    told = json.loads(told or "{}")
    print(json.dumps({"killed": os.WIFSIGNALED(status), "steps": told.get("steps")}), flush=True)
"""


def test_a_pull_that_is_killed_leaves_the_old_registry_or_the_new(
    hub: Hub, alices: Registry, copy: Registry, place: str, fill: Fill, make_row: MakeRow, tmp_path: Path
) -> None:
    fill(copy, 1, start=20)
    copy.build()
    old = contents(copy)
    fill(alices, 1, start=7)
    alices.retract("org/m1", why="Wrong tokenizer")
    push(alices, tag="v1")
    row = make_row(alices, "org/merged", 40)
    commit(hub, "alice", place, {row_path(row.record).as_posix(): to_zip(row)})
    with python(_KILLED) as process:

        def trial(at: int) -> tuple[Registry, Mapping[str, object]]:
            path = tmp_path / f"trial{at}"
            shutil.copytree(copy.path, path)
            return Registry(path), ask(process, path, at)

        whole, told = trial(0)
        steps = told["steps"]
        assert isinstance(steps, list)
        assert not told["killed"]
        new, wanted = contents(whole), held(whole)
        assert new != old
        assert_sound(whole)
        swap = steps.index("ctypes.dlsym") + 1
        assert 10 < swap < len(steps) - 5
        states = set()
        # While files come, while the build is written (both step by step alike, beside the registry that is there), and at
        # each step of the swap and after it.
        for at in (5, swap // 2, *range(swap - 1, len(steps) + 1)):
            registry, told = trial(at)
            assert told["killed"]
            found = contents(registry)
            assert found in (old, new)
            states.add(found == new)
            assert Registry(registry.path).validate() == []
            there = kept(registry.path)
            hub.clear()
            pull(registry)
            asked = {
                request.path.partition("/resolve/")[2] for request in hub.requests() if "/resolve/" in request.path
            }
            assert not {name for name in there if any(path.endswith("/" + name) for path in asked)}
            assert held(registry) == wanted
            shutil.rmtree(registry.path)
        assert states == {False, True}  # killed before and after the swap


_READER = """
import hashlib, json, sys, threading
from llreg.registry import Registry

path, last, over = sys.argv[1], None, threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
kept, reads = Registry(path), 0
while not over.is_set():
    registry = kept if reads % 3 else Registry(path)
    records = registry.records()
    values = registry.values(records)
    seen = [[r.digest, hashlib.sha256(row.tobytes()).hexdigest()] for r, row in zip(records, values, strict=True)]
    reads += 1
    if seen != last:
        print(json.dumps(seen), flush=True)
        last = seen
print(json.dumps(reads), flush=True)
"""


def test_a_reader_sees_the_rows_of_before_or_of_after(
    hub: Hub, alices: Registry, copy: Registry, fill: Fill, capfd: pytest.CaptureFixture[str]
) -> None:
    with python(_READER, copy.path) as process:
        assert process.stdin is not None
        assert dict(answer(process)) == contents(alices)
        for turn in range(3):
            process.send_signal(signal.SIGSTOP)  # nothing is to be seen while others push
            fill(alices, 2, start=10 + 2 * turn)
            alices.retract(f"org/m{turn}", why="To see it go")
            push(alices)
            process.send_signal(signal.SIGCONT)
            pull(copy)
            # A state in between would be a line of its own before this one.
            assert dict(answer(process)) == contents(alices)
        process.stdin.close()
        reads = answer(process)
        assert reads > 5
        assert process.wait() == 0
    assert capfd.readouterr().err == ""
    assert len(models(copy)) == 6
    assert_sound(copy)
