"""The hash of the bytes that were loaded is the identity: files that change on the way, commits that change nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tools import model_hub
from tests.tools.commands import read_client_settings

from llreg.add.reporter import Reporter
from llreg.locate import init
from llreg.registry import Registry

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ToyModel = Callable[..., Path]
OLD, NEW = "1" * 40, "2" * 40


class Trainer(Reporter):
    """Saves another checkpoint to the same place when a model has its turn, or after its first batch."""

    def __init__(self, path: Path, other: Path, moment: str) -> None:
        self._path, self._other, self._moment = path, other, moment

    def begin(self, model: str) -> None:
        self._save("turn")

    def advance(self, tokens: int) -> None:
        self._save("scoring")

    def _save(self, moment: str) -> None:
        if moment == self._moment:
            shutil.copyfile(self._other, self._path)


@pytest.mark.parametrize(
    ("moment", "file"), [("turn", "model.safetensors"), ("turn", "config.json"), ("scoring", "model.safetensors")]
)
def test_a_checkpoint_rewritten_on_the_way(
    small_registry: Registry, toy_model: ToyModel, tmp_path: Path, moment: str, file: str
) -> None:
    last = Path(shutil.copytree(toy_model(), tmp_path / "last"))
    trainer = Trainer(last / file, toy_model("later", seed=1) / file, moment)
    (result,) = small_registry.add([{"model": str(last), "name": "last-3", "batch_tokens": 16}], reporter=trainer)
    assert result.status == "failed"
    assert f"{last / file} has changed since last-3 was looked up" in result.message
    assert list((small_registry.path / ".llreg" / "runs").glob("*.journal")) == []
    (result,) = small_registry.add([{"model": str(last), "name": "last-3"}])
    assert result.status == "added"


def test_a_source_takes_its_stamps_along(toy_model: ToyModel) -> None:
    import llreg_extract

    source = pickle.loads(pickle.dumps(llreg_extract.resolve(str(toy_model()))))
    assert {Path(path).name for path in source.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    llreg_extract.check_unchanged(source.files, source.name)


def test_commits_that_differ_in_the_card_alone(
    tmp_path: Path, small_texts: Path, toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = init(tmp_path / "small", texts=small_texts)
    folders = {name: Path(shutil.copytree(toy_model(), tmp_path / name)) for name in ("old", "card", "epsilon")}
    (folders["card"] / "README.md").write_text("A better description.")
    config = json.loads((folders["epsilon"] / "config.json").read_text())
    (folders["epsilon"] / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))
    repos = {
        "org/card": model_hub.Repo(folders["card"], sha=NEW, earlier={OLD: folders["old"]}),
        "org/epsilon": model_hub.Repo(folders["epsilon"], sha=NEW, earlier={OLD: folders["old"]}),
    }
    with model_hub.serve(repos) as (endpoint, log):
        values = {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
        for name, value in {**values, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}.items():
            monkeypatch.setenv(name, value)
        read_client_settings(monkeypatch)
        names = ["org/card", "org/epsilon"]
        old = registry.add([{"model": name, "revision": OLD} for name in names], device="cpu")
        assert [result.status for result in old] == ["added", "added"]
        assert not [line for line in log if "blobs=" in line and NEW in line]
        before = len(log)
        assert [model.state for model in registry.plan(names, device="cpu").models] == ["present", "to do"]
        card, epsilon = registry.add(names, device="cpu")
        assert (card.status, card.row_id, epsilon.status) == ("present", old[0].row_id, "added")
        assert card.message == (
            f"is there already as {old[0].row_id}; nothing to do: its files at {NEW[:12]} are those at {OLD[:12]}"
        )
        assert not [line for line in log[before:] if line == f"HEAD /org/card/resolve/{NEW}/model.safetensors"]
        (again,) = registry.add(["org/card"], device="cpu", overwrite="always")
        assert again.status == "added"
        # A link of one commit that leads to the sound file of another one.
        snapshots = tmp_path / "hf" / "hub" / "models--org--epsilon" / "snapshots"
        (snapshots / NEW / "config.json").unlink()
        (snapshots / NEW / "config.json").symlink_to((snapshots / OLD / "config.json").resolve())
        (swapped,) = registry.add(["org/epsilon"], device="cpu", overwrite="always")
        assert swapped.status == "failed"
        assert f"config.json of org/epsilon in the Hub's cache is not the one of commit {NEW[:12]}" in swapped.message
