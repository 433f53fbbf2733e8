"""Each fault at each kind of request of a push and of a pull: all stays sound, and doing it again completes it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
from tests.hub.client import Hub
from tests.hub.people import built_anew, head, held, row_names, tree

from llreg.hub.sync.pull import pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path
from llreg_schemas.errors import LlregError, LlregWarning

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Clone = Callable[[str, Path], Registry]
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


def rounds(recovered: Iterable[Case]) -> list[list[Case]]:
    """Faults that a push or pull comes through, so that one suffers many: at each request one, all in some round."""
    by_request: dict[tuple[str, str], list[Case]] = {}
    for case in recovered:
        by_request.setdefault(case[1:3], []).append(case)
    return [[case for case in together if case] for together in zip_longest(*by_request.values())]


# Before anything is sent: these refuse, and leave all as it is.
PUSH_BEFORE = [
    *cases(("drop", "429"), "GET", "/revision/main", 1),
    *cases(("500", "truncate"), "GET", "/revision/main", 2),
    *cases(READING, "GET", "/auth-check/write"),
]
PUSH_RECOVERED = [
    *cases(("drop", "500"), "GET", r"/tree/[0-9a-f]{40}\?"),
    *cases(("429",), "GET", r"/tree/[0-9a-f]{40}/rows\?"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/rows%2F"),
    *cases(("drop", "truncate"), "GET", r"/tree/[0-9a-f]{40}/store\.zarr"),
    *cases(("drop-upload", "429", "500", "truncate"), "POST", "/api/validate-yaml"),
    *cases(("drop-upload", "500"), "POST", "/preupload/"),
    *cases(("drop-after", "truncate"), "POST", "/lfs/objects/batch"),
    *cases(("drop-upload", "429", "504-after"), "PUT", "^/repos/", 3),
    *cases(("500", "drop-after"), "POST", "/lfs/objects/verify", 2),
]
PUSH_COMMIT = [
    *cases(("stale",), "GET", "/revision/main", 1),
    *cases(("stale",), "GET", "/revision/main", 2),
    *cases(CHANGING, "POST", "/commit/main"),
    *cases(("stale",), "GET", "/refs$"),
]
# After the commit: rows and build are there and here, the tag is not named yet, or its answer was lost.
PUSH_AFTER = [
    *cases(READING, "GET", "/refs$"),
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
PULL_BEFORE = cases((*READING, "stale"), "GET", "/revision/main")
PULL_BROKEN_OFF = [
    *cases(("drop",), "HEAD", "/resolve/", 2),
    *cases(("drop",), "HEAD", "/api/resolve-cache/"),
    *cases(("500",), "GET", "/api/resolve-cache/", 2),
    *cases(("500",), "GET", "^/repos/"),
]
PULL_RECOVERED = [
    *cases(("drop", "500"), "GET", r"/tree/[0-9a-f]{40}\?"),
    *cases(("429",), "GET", r"/tree/[0-9a-f]{40}/rows\?"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/rows%2F"),
    *cases(("500",), "GET", r"/tree/[0-9a-f]{40}/retractions"),
    *cases(("drop",), "GET", r"/tree/[0-9a-f]{40}/versions"),
    *cases(("truncate",), "GET", r"/tree/[0-9a-f]{40}/store\.zarr"),
    *cases(("429", "500"), "HEAD", "/resolve/", 2),
    *cases(("500",), "HEAD", "/api/resolve-cache/"),
    *cases(("drop", "429", "truncate"), "GET", "/api/resolve-cache/", 2),
    *cases(("drop", "429", "truncate"), "GET", "^/repos/"),
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

    def restore(self) -> None:
        """The repository as it was, without the large files that were sent since."""
        self.hub.reset()
        for ref in self._refs().keys() - self.refs.keys():
            self.hub.git(self.repo, "update-ref", "-d", ref)
        self.hub.git(self.repo, "update-ref", "refs/heads/main", self.refs["refs/heads/main"])
        for path in self._objects():
            if path not in self.objects:
                path.unlink()

    @contextmanager
    def trial(self, registry: Registry) -> Iterator[Registry]:
        """A copy of a registry."""
        path = self.home / "trial"
        shutil.copytree(registry.path, path)
        self.hub.reset()
        yield Registry(path)
        shutil.rmtree(path)


def try_it(hub: Hub, run: Callable[[], object], *faults: Case) -> bool:
    """Whether it came to its end under the faults, or refused with an error of llreg's; nothing else."""
    hub.reset()
    for kind, method, pattern, at in faults:
        hub.fault(kind, method=method, path=pattern, at=at)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlregWarning)
        try:
            run()
            done = True
        except LlregError:
            done = False
    assert hub.struck() == len(faults), faults
    hub.reset()
    return done


@pytest.fixture
def world(hub: Hub, publish_rows: Callable[..., str], tmp_path: Path) -> World:
    """A repository of alice's with two rows, which she has in `small_registry`."""
    return World(hub, publish_rows("alice", 2), tmp_path)


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

    def assert_complete(registry: Registry, *faults: Case) -> None:
        assert (tree(hub, repo), held(registry)) == (wanted_there, wanted_here), faults
        assert hub.git(repo, "rev-list", "--count", "main").strip() == "4", faults
        assert head(hub, repo, "v1") == head(hub, repo), faults

    def assert_pushes_complete(registry: Registry, *faults: Case) -> None:
        push(registry)
        assert_complete(registry, *faults)

    world.restore()
    with world.trial(small_registry) as registry:
        for case in PUSH_BEFORE:  # one after the other: each finds what the one before left
            assert not try_it(hub, lambda registry=registry: push(registry), case), case
            assert (tree(hub, repo), held(registry)) == (there, here), case
        assert_pushes_complete(registry)
    for faults in (*rounds(PUSH_RECOVERED), *([case] for case in PUSH_COMMIT)):
        world.restore()
        with world.trial(small_registry) as registry:
            assert try_it(hub, lambda registry=registry: push(registry), *faults), faults
            assert_complete(registry, *faults)
            assert_pushes_complete(registry, *faults)
    world.restore()
    with world.trial(small_registry) as registry:
        for case in PUSH_AFTER:
            assert not try_it(hub, lambda registry=registry: push(registry), case), case
            assert (tree(hub, repo), held(registry)) == (wanted_there, wanted_here), case
            if hub.git(repo, "tag"):  # its answer was lost
                assert_pushes_complete(registry, case)
                hub.git(repo, "tag", "-d", "v1")
        assert_pushes_complete(registry)


def test_a_first_push(
    hub: Hub, as_user: AsUser, repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    as_user("alice")
    fill(small_registry, 1)
    small_registry.build()
    assert_sound(small_registry)
    here = held(small_registry)
    for number, case in enumerate(FIRST_PUSH):
        repo = f"alice/{repo_name}-{number}"
        path = tmp_path / "trial"
        shutil.copytree(small_registry.path, path)
        if not try_it(hub, lambda path=path, repo=repo: push(Registry(path), repo), case):
            assert Registry(path).validate() == []
        push(Registry(path), repo)
        there = tree(hub, repo)
        assert len(row_names(there)) == 1, case
        assert hub.git(repo, "rev-list", "--count", "main").strip() == "3", case
        assert held(Registry(path)) == here, case
        shutil.rmtree(path)
    assert there == built_anew(there, tmp_path / "anew")


@pytest.mark.parametrize("open_already", [False, True])
def test_a_pull_request(
    world: World, fill: Fill, as_user: AsUser, tmp_path: Path, open_already: bool, clone_rows: Clone
) -> None:
    hub, repo = world.hub, world.repo
    as_user("bob")
    mine = clone_rows(repo, tmp_path / "mine")
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
        with world.trial(mine) as registry:
            try_it(hub, lambda registry=registry: push(registry), case)
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


def test_a_pull(world: World, small_registry: Registry, fill: Fill, tmp_path: Path, clone_rows: Clone) -> None:
    hub = world.hub
    copy = clone_rows(world.repo, tmp_path / "copy")
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
    with world.trial(copy) as registry:
        for case in PULL_BEFORE:  # one after the other: each finds what the one before left
            done = try_it(hub, lambda registry=registry: pull(registry), case)
            assert done == (case[0] == "stale"), case  # there main was read as the copy is already at
            assert held(registry) == before, case
        pull(registry)
        assert held(registry) == wanted
    for faults in (*([case] for case in PULL_BROKEN_OFF), *rounds(PULL_RECOVERED)):
        with world.trial(copy) as registry:
            done = try_it(hub, lambda registry=registry: pull(registry), *faults)
            assert done == (faults[0] not in PULL_BROKEN_OFF), faults
            assert held(registry) == (wanted if done else before), faults
            pull(registry)
            assert held(registry) == wanted, faults
