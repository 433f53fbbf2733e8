"""Each fault at each kind of request of a push and of a pull: all stays sound, and doing it again completes it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.hub.client import Hub
from tests.hub.people import built_anew, head, held, row_names, tree

from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path
from llreg_schemas.errors import LlregError, LlregWarning

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

AsUser = Callable[[str | None], None]
Fill = Callable[..., list[Row]]

# Every fault at the requests that change something. At those that read, a lost answer is a drop, a 504 is a 500, and
# there is no upload to cut off; only what names a branch can be stale. Where the client library itself tries again,
# all faults end alike: there they take turns.
CHANGING = ("drop", "drop-upload", "429", "500", "504-after", "drop-after", "truncate")
READING = ("drop", "429", "500", "truncate")

Case = tuple[str, str, str, int]  # kind, method, path, which of these requests


def cases(kinds: Iterable[str], method: str, path: str, at: int = 1) -> list[Case]:
    """Faults at one request."""
    return [(kind, method, path, at) for kind in kinds]


PUSH = [
    *cases(("drop", "429", "stale"), "GET", "/revision/main", 1),
    *cases(("500", "truncate", "stale"), "GET", "/revision/main", 2),
    *cases(READING, "GET", "/auth-check/write"),
    *cases(("drop", "500"), "GET", r"/tree/[0-9a-f]{40}\?"),
    *cases(("429",), "GET", r"/tree/[0-9a-f]{40}/rows\?"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/rows%2F"),
    *cases(("drop", "truncate"), "GET", r"/tree/[0-9a-f]{40}/store\.zarr"),
    *cases(("drop-upload", "429", "500", "truncate"), "POST", "/api/validate-yaml"),
    *cases(("drop-upload", "500"), "POST", "/preupload/"),
    *cases(("drop-after", "truncate"), "POST", "/lfs/objects/batch"),
    *cases(("drop-upload", "429", "504-after"), "PUT", "^/repos/", 3),
    *cases(("500", "drop-after"), "POST", "/lfs/objects/verify", 2),
    *cases(CHANGING, "POST", "/commit/main"),
    *cases((*READING, "stale"), "GET", "/refs$"),
    *cases(CHANGING, "POST", "/tag/"),
]
FIRST_PUSH = [
    *cases(("drop", "500", "504-after", "drop-after"), "POST", "/api/repos/create"),
    *cases(("500", "504-after", "drop-after"), "POST", "/commit/main", 1),
    *cases(("504-after",), "POST", "/commit/main", 2),
]
REQUEST = [
    *cases(("drop", "429"), "GET", "/api/whoami-v2"),
    *cases(("500", "truncate"), "GET", r"/discussions\?"),
    *cases(CHANGING, "POST", "/commit/main"),
]
MORE = [
    *cases(("500", "truncate"), "GET", "/discussions/1"),
    *cases(("drop", "stale"), "GET", "/revision/refs%2Fpr%2F1"),
    *cases(("429", "500", "504-after", "drop-after"), "POST", "/commit/refs%2Fpr%2F1"),
    *cases(("500", "drop-after"), "POST", "/discussions/1/comment"),
]
PULL = [
    *cases((*READING, "stale"), "GET", "/revision/main"),
    *cases(("drop", "500"), "GET", r"/tree/[0-9a-f]{40}\?"),
    *cases(("429",), "GET", r"/tree/[0-9a-f]{40}/rows\?"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/rows%2F"),
    *cases(("500",), "GET", r"/tree/[0-9a-f]{40}/retractions"),
    *cases(("drop",), "GET", r"/tree/[0-9a-f]{40}/versions"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/store\.zarr"),
    *cases(("drop", "429", "500"), "HEAD", "/resolve/", 2),
    *cases(("drop", "500"), "HEAD", "/api/resolve-cache/"),
    *cases(READING, "GET", "/api/resolve-cache/", 2),
    *cases(READING, "GET", "^/repos/"),
]


@dataclass
class World:
    """A repository that can be put back to how it was, and trials on copies of a registry."""

    hub: Hub
    repo: str
    home: Path

    def __post_init__(self) -> None:
        self.bare = self.hub.root / "datasets" / f"{self.repo}.git"
        self.remember()

    def remember(self) -> None:
        """What `restore` goes back to."""
        self.refs = self._refs()
        self.objects = set(self._objects())

    def _refs(self) -> dict[str, str]:
        lines = self.hub.git(self.repo, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split() for line in lines)

    def _objects(self) -> list[Path]:
        return [path for path in self.bare.with_suffix(".lfs").rglob("*") if path.is_file()]

    def restore(self, case: Case) -> None:
        """The repository as it was; without the large files that were sent since, where the fault is at sending them."""
        self.hub.reset()
        for ref in self._refs().keys() - self.refs.keys():
            self.hub.git(self.repo, "update-ref", "-d", ref)
        self.hub.git(self.repo, "update-ref", "refs/heads/main", self.refs["refs/heads/main"])
        for path in self._objects():
            if path not in self.objects and case[2] in ("^/repos/", "/lfs/objects/batch", "/lfs/objects/verify"):
                path.unlink()

    @contextmanager
    def trial(self, registry: Registry, case: Case | None = None) -> Iterator[Registry]:
        """A copy of a registry, and the fault."""
        path = self.home / "trial"
        shutil.copytree(registry.path, path)
        self.hub.reset()
        if case is not None:
            kind, method, pattern, at = case
            self.hub.fault(kind, method=method, path=pattern, at=at)
        yield Registry(path)
        shutil.rmtree(path)

    def try_it(self, run: Callable[[], object]) -> bool:
        """Whether it came to its end under the fault, or refused with an error of llreg's; nothing else."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LlregWarning)
            try:
                run()
                done = True
            except LlregError:
                done = False
        assert self.hub.struck() == 1
        self.hub.reset()
        return done


@pytest.fixture
def world(hub: Hub, as_user: AsUser, repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path) -> World:
    """A repository of alice's with two rows, which she has in `small_registry`."""
    as_user("alice")
    fill(small_registry, 2)
    push(small_registry, f"alice/{repo_name}")
    return World(hub, f"alice/{repo_name}", tmp_path)


def assert_sound(registry: Registry) -> None:
    assert registry.validate() == []
    assert registry.check_build() == []


def test_a_push(world: World, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    hub, repo = world.hub, world.repo
    fill(small_registry, 1, start=5)
    small_registry.tag("v1")
    here, there = held(small_registry), tree(hub, repo)
    with world.trial(small_registry) as registry:
        push(registry)
        wanted_here, wanted_there = held(registry), tree(hub, repo)
        assert_sound(registry)
    assert wanted_there == built_anew(wanted_there, tmp_path / "anew")
    assert there == built_anew(there, tmp_path / "before")
    ends = set()
    for case in PUSH:
        world.restore(case)
        with world.trial(small_registry, case) as registry:
            done = world.try_it(lambda registry=registry: push(registry))
            assert tree(hub, repo) in ([wanted_there] if done else [there, wanted_there]), case
            assert held(registry) in (here, wanted_here), case  # both valid: `here` lacks only the build of the row
            push(registry)
            assert (tree(hub, repo), held(registry)) == (wanted_there, wanted_here), case
            assert hub.git(repo, "rev-list", "--count", "main").strip() == "4", case
            assert head(hub, repo, "v1") == head(hub, repo), case
            ends.add(done)
    assert ends == {False, True}


def test_a_first_push(
    hub: Hub, as_user: AsUser, repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    as_user("alice")
    fill(small_registry, 1)
    for number, case in enumerate(FIRST_PUSH):
        repo = f"alice/{repo_name}-{number}"
        path = tmp_path / "trial"
        shutil.copytree(small_registry.path, path)
        hub.reset()
        hub.fault(case[0], method=case[1], path=case[2], at=case[3])
        try:
            push(Registry(path), repo)
        except LlregError:
            assert Registry(path).validate() == []
        assert hub.struck() == 1, case
        hub.reset()
        push(Registry(path), repo)
        there = tree(hub, repo)
        assert len(row_names(there)) == 1, case
        assert hub.git(repo, "rev-list", "--count", "main").strip() == "3", case
        assert_sound(Registry(path))
        shutil.rmtree(path)
    assert there == built_anew(there, tmp_path / "anew")


@pytest.mark.parametrize("open_already", [False, True])
def test_a_pull_request(world: World, fill: Fill, as_user: AsUser, tmp_path: Path, open_already: bool) -> None:
    hub, repo = world.hub, world.repo
    as_user("bob")
    mine = Registry(clone(repo, tmp_path / "mine").path)
    main = tree(hub, repo)
    if open_already:
        fill(mine, 1, start=30)
        push(mine)
    (row,) = fill(mine, 1, start=31)
    name = row_path(row.record).as_posix()
    here = held(mine)
    number, count = 1, 2 if open_already else 1
    for case in MORE if open_already else REQUEST:
        if open_already:
            hub.git(repo, "update-ref", "refs/pr/1", world.refs.setdefault("refs/pr/1", head(hub, repo, "refs/pr/1")))
        with world.trial(mine, case) as registry:
            world.try_it(lambda registry=registry: push(registry))
            assert held(registry) == here, case
            made = push(registry)
            assert made.pull_request == number, case
            changed = hub.git(repo, "diff", "--name-status", f"main...refs/pr/{number}").splitlines()
            assert (f"A\t{name}" in changed, len(changed)) == (True, count), case
            assert tree(hub, repo) == main
        requests = list(hub.api("bob").get_repo_discussions(repo, repo_type="dataset"))
        assert len(requests) == number, case
        if not open_already:
            hub.api("alice").change_discussion_status(repo, number, "closed", repo_type="dataset")
            number += 1


def test_a_pull(world: World, small_registry: Registry, fill: Fill, tmp_path: Path) -> None:
    copy = Registry(clone(world.repo, tmp_path / "copy").path)
    fill(copy, 1, start=20)
    fill(small_registry, 1, start=5)
    small_registry.retract("org/m1", why="Wrong tokenizer")
    push(small_registry, tag="v1")
    before = held(copy)
    assert copy.validate() == []
    with world.trial(copy) as registry:
        assert len(pull(registry).added) == 1
        wanted = held(registry)
        assert_sound(registry)
    ends = set()
    for case in PULL:
        with world.trial(copy, case) as registry:
            done = world.try_it(lambda registry=registry: pull(registry))
            came = done and case[0] != "stale"  # else main was read as the copy is already at
            assert held(registry) == (wanted if came else before), case
            pull(registry)
            assert held(registry) == wanted, case
            ends.add(done)
    assert ends == {False, True}
