"""Published registries open without llreg: with datasets, pandas and xarray, and the Hub takes the card."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard
from huggingface_hub.utils import get_session
from tests.hub.client import Hub
from tests.hub.conftest import AsUser
from tests.hub.publishing import publish

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row

Fill = Callable[..., list[Row]]

MODELS = """
import datasets, json
made = datasets.load_dataset("REPO", split="train")
feature = made.features["log_likelihood"]
print(json.dumps({"kind": str(feature), "rows": made["model"][:], "values": made["log_likelihood"][:],
                  "base": made["base_model"][:], "columns": made.column_names}))
"""
TEXTS = """
import datasets, json
made = datasets.load_dataset("REPO", "texts", split="train")
print(json.dumps({"texts": made["text"][:], "subset": made["subset"][:], "configs": datasets.get_dataset_config_names("REPO")}))
"""
PANDAS = """
import json, pandas as pd
made = pd.read_parquet("hf://datasets/REPO/models.parquet")
print(json.dumps({"rows": made.model.tolist(), "values": [values.tolist() for values in made.log_likelihood]}))
"""
XARRAY = """
import json, xarray as xr
made = xr.open_zarr("hf://datasets/REPO/store.zarr", chunks=None, storage_options={"block_size": 65536})
print(json.dumps({"rows": made.model.values.tolist(), "values": made.log_likelihood.values.tolist(), "sizes": dict(made.sizes)}))
"""


def run(code: str, repo: str, env: dict[str, str]) -> Any:
    """What a process of its own prints, in which llreg cannot be imported."""
    code = code.replace("REPO", repo)
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, **env},
        cwd=os.environ["HOME"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


def taken(hub: Hub, card: str) -> None:
    """Raise if the Hub refuses a card. Not by the client, which asked huggingface.co whatever its endpoint before 2.2."""
    asked = get_session().post(f"{hub.url}/api/validate-yaml", json={"repoType": "dataset", "content": card})
    asked.raise_for_status()


@pytest.fixture(scope="module")
def _published() -> list[tuple[str, Registry]]:
    return []


@pytest.fixture
def there(
    hub: Hub, repo_name: str, small_registry: Registry, fill: Fill, _published: list[tuple[str, Registry]]
) -> tuple[str, Registry]:
    """A registry with a row that is retracted and one that is not built, on the Hub; no test changes it."""
    if not _published:
        fill(small_registry, 4)
        small_registry.retract("org/m2", why="wrong")
        small_registry.build()
        fill(small_registry, 1, start=4)
        repo = f"alice/{repo_name}"
        publish(hub.api("alice"), repo, small_registry.path)
        _published.append((repo, small_registry))
    hub.clear()
    return _published[0]


def built(registry: Registry) -> tuple[list[str], np.ndarray[Any, Any]]:
    records = registry.store.records()
    return [record.row_id for record in records], registry.values(records)


def same_values(got: list[list[float | None]], expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(np.array(got, dtype=np.float32), expected)


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the extra texts (datasets)")
class TestDatasets:
    def test_models(self, hub: Hub, there: tuple[str, Registry]) -> None:
        repo, registry = there
        found = run(MODELS, repo, hub.env(None))
        ids, values = built(registry)
        assert found["kind"] == "List(Value('float32'))"
        assert found["rows"] == ids
        same_values(found["values"], values)
        assert found["base"] == [["org/base"]] * len(ids)
        assert {"model_id", "revision", "num_parameters", "licence", "digest", "mean_log_likelihood"} <= set(
            found["columns"]
        )
        fetched = [request.path for request in hub.requests() if request.status == 200 and request.sent > 0]
        assert not any("/rows/" in path or "store.zarr/" in path for path in fetched)  # only what it is made of
        assert len(hub.requests()) <= 16

    def test_texts(self, hub: Hub, there: tuple[str, Registry]) -> None:
        repo, registry = there
        found = run(TEXTS, repo, hub.env(None))
        assert found["texts"] == list(registry.texts.texts)
        assert found["subset"] == list(registry.texts.subset)
        assert sorted(found["configs"]) == ["models", "texts"]


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="needs pandas")
def test_pandas(hub: Hub, there: tuple[str, Registry]) -> None:
    repo, registry = there
    found = run(PANDAS, repo, hub.env(None))
    ids, values = built(registry)
    assert found["rows"] == ids
    same_values(found["values"], values)
    assert len(hub.requests()) <= 10


def test_xarray(hub: Hub, there: tuple[str, Registry]) -> None:
    repo, registry = there
    found = run(XARRAY, repo, hub.env(None))
    ids, values = built(registry)
    assert found["rows"] == ids
    assert found["sizes"] == {"model": 3, "text": 6, "coordinate": 12}
    same_values(found["values"], values)


class TestCard:
    def test_the_hub_takes_it(self, hub: Hub, there: tuple[str, Registry], as_user: AsUser) -> None:
        as_user("alice")
        repo, registry = there
        card = DatasetCard.load(repo)
        taken(hub, str(card))
        assert [config["config_name"] for config in card.data.configs] == ["models", "texts"]
        assert [config.get("default", False) for config in card.data.configs] == [True, False]
        files = [part["path"] for config in card.data.configs for part in config["data_files"]]
        assert all((registry.path / name).is_file() for name in files)
        assert (card.data.license, card.data.size_categories) == ("cc0-1.0", ["n<1K"])
        assert "llreg" in card.data.tags

    @pytest.mark.parametrize("licence", ["My own: #1 \"licence\" \\ 'x'\u3042", "- a", "%TAG", "yes", "Proprietary"])
    def test_any_licence_is_valid(
        self, hub: Hub, as_user: AsUser, tmp_path: Path, small_texts: Path, licence: str
    ) -> None:
        as_user("alice")
        registry = init(tmp_path / "r", texts=small_texts, name="lab/models", licence=licence)
        registry.build()
        text = (registry.path / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---")[1])
        assert (front["license"], front["license_name"]) == ("other", licence)
        taken(hub, text)
        assert 'llreg.open("lab/models")' in text
        assert "ORG/NAME" not in text

    def test_how_to_load_works(self, hub: Hub, there: tuple[str, Registry]) -> None:
        """The code on the card is the code that is tested here."""
        card = there[1].path.joinpath("README.md").read_text(encoding="utf-8")
        assert "`ORG/NAME` stands for the id of this repository" in card
        for code in (MODELS, TEXTS, PANDAS):
            (call,) = (line.partition(" = ")[2] for line in code.splitlines() if line.startswith("made = "))
            assert call.replace("REPO", "ORG/NAME") in card
        assert '"hf://datasets/ORG/NAME/store.zarr", chunks=None, storage_options={"block_size": 65536}' in card
        for said in ("llreg pull ORG/NAME", "cd NAME", "llreg add ORG/MODEL", "llreg push", "@inproceedings{oyama"):
            assert said in card
