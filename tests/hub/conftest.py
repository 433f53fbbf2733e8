"""Fixtures: a local Hub that all tests share, and the real client as one of its users.

Needs git and aiohttp (a dev dependency); without them nothing in this folder is collected.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hub.client import Hub, serving
from tests.hub.people import hasten
from tests.tools.commands import read_client_settings

from llreg.hub.sync.pull import clone
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.pin import Pin, read_pin, write_pin

if shutil.which("git") is None or importlib.util.find_spec("aiohttp") is None:
    collect_ignore_glob = ["*"]

AsUser = Callable[[str | None], None]
Clone = Callable[[str, Path], Registry]

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One Hub for all tests: give the repositories names of their own (the fixture `repo_name`)."""
    with serving(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
def hub(shared_hub: Hub, as_user: AsUser) -> Iterator[Hub]:
    """The Hub without faults, with an empty log and its first options; the client here is anonymous until `as_user`."""
    shared_hub.reset()
    as_user(None)
    yield shared_hub
    shared_hub.reset()


@pytest.fixture
def as_user(shared_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsUser:
    """Factory: ``as_user("alice")`` lets huggingface_hub, here and in subprocesses, talk to the Hub as alice.

    None is nobody. Each call forgets what clients have in memory; the cache folder stays the test's own.
    """

    def become(user: str | None) -> None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", raising=False)
        for name, value in shared_hub.env(user).items():
            monkeypatch.setenv(name, value)
        read_client_settings(monkeypatch)

    return become


@pytest.fixture
def repo_name(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test uses."""
    plain = re.sub("[^A-Za-z0-9]+", "-", request.node.name)[:60].strip("-")
    return f"{plain}-{next(_NUMBERS)}"


@pytest.fixture
def repo(hub: Hub, repo_name: str) -> str:
    """A new public dataset repository of alice's, by its id; nothing is in the log."""
    name = f"alice/{repo_name}"
    hub.api("alice").create_repo(name, repo_type="dataset")
    hub.clear()
    return name


@pytest.fixture(scope="session")
def _published() -> dict[tuple[str, int | str], Path]:
    """Registries that `publish_rows` has pushed, by whose repository and which rows: a copy of each."""
    return {}


@pytest.fixture(scope="session")
def _cloned() -> dict[str, Path]:
    """Clones of them, by the repository that was pushed."""
    return {}


@pytest.fixture
def _originals() -> dict[str, str]:
    """Of which repository a test's own ones are copies."""
    return {}


@pytest.fixture
def publish_rows(
    hub: Hub,
    as_user: AsUser,
    repo_name: str,
    small_registry: Registry,
    fill: Callable[[Registry, int], object],
    tmp_path_factory: pytest.TempPathFactory,
    _published: dict[tuple[str, int | str], Path],
    _originals: dict[str, str],
) -> Callable[..., str]:
    """Factory: ``publish_rows("lab", 4)`` fills `small_registry` with four rows and pushes it as alice; its repository.

    Or ``publish_rows("lab", "kind", write)``, where `write` writes the rows. Each kind of registry is pushed once a
    session; later tests get copies of the repository and of the registry.
    """

    def publish(owner: str, rows: int | str, write: Callable[[], object] | None = None) -> str:
        as_user("alice")
        repo, root, kind = f"{owner}/{repo_name}", small_registry.path, (owner, rows)
        if kind not in _published:
            write() if write else fill(small_registry, int(rows))
            push(small_registry, repo)
            kept = Path(shutil.copytree(root, tmp_path_factory.mktemp("published") / "registry"))
            write_pin(kept, _at(kept, f"{owner}/published-{next(_NUMBERS)}"))
            hub.copy(repo, _at(kept).repo)
            _published[kind] = kept
        else:
            kept = _published[kind]
            hub.copy(_at(kept).repo, repo)
            shutil.copytree(kept, root, dirs_exist_ok=True)
            write_pin(root, _at(root, repo))
            small_registry.reload()
        _originals[repo] = _at(_published[kind]).repo
        return repo

    return publish


@pytest.fixture
def clone_rows(_cloned: dict[str, Path], _originals: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Factory: ``clone_rows(repo, path)`` is a clone of what `publish_rows` has published, and nobody has changed since."""

    def copy(repo: str, path: Path) -> Registry:
        original = _originals[repo]
        if original not in _cloned:
            _cloned[original] = clone(original, tmp_path_factory.mktemp("cloned") / "registry").path
        shutil.copytree(_cloned[original], path)
        write_pin(path, _at(path, repo))
        return Registry(path)

    return copy


def _at(root: Path, repo: str | None = None) -> Pin:
    """The pin of a registry; with another repository, if one is named."""
    pin = read_pin(root)
    assert pin is not None
    return pin if repo is None else replace(pin, repo=repo)
