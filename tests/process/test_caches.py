"""``llreg add`` with a cache of models that it may only read: a read-only file system, another user's files."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from tests.tools import model_hub
from tests.tools.commands import read_client_settings

import llreg_extract
from llreg.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.torch]

InNamespace = Callable[[str], tuple[int, str, str]]
OTHER_USER = 12345


@pytest.fixture(scope="module")
def hub(toy_model: Callable[..., Path]) -> Iterator[str]:
    """The endpoint of a Hub with one model."""
    with model_hub.serve({"org/toy": model_hub.Repo(toy_model("gpt2"))}) as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="module")
def full(hub: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the client library with all of the model."""
    home = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HF_ENDPOINT": hub, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        read_client_settings(patch)
        huggingface_hub.close_session()
        llreg_extract.fetch(llreg_extract.resolve("org/toy"))
    shutil.rmtree(home / "hub" / ".locks")
    return home


def _tree(home: Path) -> dict[str, Any]:
    return {str(path.relative_to(home)): path.is_file() and path.read_bytes() for path in home.rglob("*")}


def _script(registry: Registry, home: Path, **environment: str) -> str:
    settings = {"LLREG_REGISTRY": str(registry.path), "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **environment}
    return "set -e; unset HF_HUB_OFFLINE; " + "".join(
        f"export {key}={shlex.quote(value)}; " for key, value in settings.items()
    )


@pytest.mark.parametrize("reach", ["offline", "online"])
def test_a_full_cache_that_is_read_only(
    full: Path,
    hub: str,
    small_registry: Registry,
    toy_model: Callable[..., Path],
    scoring_in_namespace: InNamespace,
    reach: str,
) -> None:
    settings = {"HF_HUB_OFFLINE": "1"} if reach == "offline" else {"HF_ENDPOINT": hub}
    mount = f"mount --bind {full} {full}; mount -o remount,bind,ro {full}; "
    before = _tree(full)
    code, out, err = scoring_in_namespace(_script(small_registry, full, **settings) + mount + "llreg add org/toy -q")
    assert (code, err) == (0, "")
    assert _tree(full) == before
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("gpt2"))), device="cpu")
    values = llreg_extract.score(model, list(small_registry.texts.texts)).log_likelihood
    row = small_registry.row(out.strip() or small_registry.records()[0].row_id)
    np.testing.assert_allclose(row.log_likelihood, values, rtol=1e-5)


@pytest.fixture
def shared(full: Path, tmp_path: Path) -> Path:
    """A copy of the home that is another user's, who has left a lock of llreg there."""
    home = Path(shutil.copytree(full, tmp_path / "shared", symlinks=True))
    locks = home / "hub" / ".locks" / "models--org--toy"
    locks.mkdir(parents=True)
    (locks / "llreg.lock").touch(mode=0o644)
    return home


def _give_away(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        if os.geteuid() == 0:  # of no weight in the namespace, where this user is not known
            os.lchown(path, OTHER_USER, OTHER_USER)
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_full_cache_of_another_user(
    shared: Path, hub: str, small_registry: Registry, scoring_in_namespace: InNamespace
) -> None:
    _give_away(shared)
    code, _, err = scoring_in_namespace(_script(small_registry, shared, HF_ENDPOINT=hub) + "llreg add org/toy -q")
    assert (code, err) == (0, "")
    assert len(small_registry.records()) == 1


def test_a_cache_of_another_user_that_lacks_a_file(
    shared: Path, hub: str, small_registry: Registry, scoring_in_namespace: InNamespace
) -> None:
    (weights,) = shared.rglob("model.safetensors")
    weights.unlink()
    _give_away(shared)
    code, _, err = scoring_in_namespace(_script(small_registry, shared, HF_ENDPOINT=hub) + "llreg add org/toy -q")
    assert code == 1
    assert "org/toy is not all in the local cache" in err
    assert "(Permission denied): set HF_HOME to a folder of yours" in err
    assert "Traceback" not in err
    assert len(small_registry.records()) == 0


def test_a_lock_of_another_user_in_a_shared_cache(
    shared: Path, hub: str, small_registry: Registry, scoring_in_namespace: InNamespace
) -> None:
    """Folders that all may write to, and a lock that its owner alone may: the download goes on without it."""
    (weights,) = shared.rglob("model.safetensors")
    weights.resolve().unlink()
    weights.unlink()
    _give_away(shared)
    for path in (shared, *shared.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)
    code, _, err = scoring_in_namespace(_script(small_registry, shared, HF_ENDPOINT=hub) + "llreg add org/toy -q")
    assert (code, err) == (0, "")
    assert len(small_registry.records()) == 1
