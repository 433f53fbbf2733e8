"""Registries on built text sets: what is published, what stays here, and how texts come back."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.layout import COPY, RECIPE, TEXTS
from llreg.store.restore_texts import is_complete, restore
from llreg.texts.build import build_file
from llreg.texts.recipe import Pieces, Recipe, Sample, Source
from llreg.texts.textset import load_texts, to_parquet
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError


def write_documents(path: Path, count: int = 60, seed: int = 0) -> Path:
    rng = random.Random(seed)
    items = [{"text": "".join(rng.choices("abc déf", k=700)), "kind": "xy"[k % 2]} for k in range(count)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """Documents on this machine."""
    return write_documents(tmp_path / "origin.jsonl")


def recipe_of(origin: Path, **over: Any) -> Recipe:
    source = Source("text", files=(str(origin),), subset="kind")
    settings: dict[str, Any] = {"pieces": Pieces(256, 65), "sample": Sample(1, 20, 10), "description": "Twelve words."}
    return Recipe("closed", "all rights reserved", (source,), **{**settings, **over})


@pytest.fixture
def closed(tmp_path: Path, origin: Path) -> Registry:
    """A registry whose texts must not be copied."""
    build_file(recipe_of(origin), tmp_path / "closed.parquet")
    return init(tmp_path / "closed", texts=tmp_path / "closed.parquet")


@pytest.fixture
def pulled(tmp_path: Path, closed: Registry) -> Registry:
    """What somebody else gets of it."""
    shutil.copytree(closed.path, tmp_path / "pulled", ignore=shutil.ignore_patterns(".llreg"))
    return Registry(tmp_path / "pulled")


class TestClosed:
    """A recipe that forbids copies."""

    def test_only_hashes_are_published(self, tmp_path: Path, closed: Registry) -> None:
        texts = load_texts(tmp_path / "closed.parquet")
        table = pq.read_table(closed.path / TEXTS)
        assert table["text"].to_pylist() == [None] * 10
        assert table["sha256"].to_pylist() == list(texts.sha256)
        assert table["subset"].to_pylist() == list(texts.subset)
        assert table["source"].to_pylist() == list(texts.source)
        secret = [text.encode() for text in texts.complete()]
        for path in closed.path.rglob("*"):
            if path.is_file() and ".llreg" not in path.parts:
                assert not any(text[:40] in path.read_bytes() for text in secret), path

    def test_names_licence_and_description(self, closed: Registry) -> None:
        header = closed.info["text_set"]
        assert (header["name"], header["licence"], header["description"]) == (
            "closed", "all rights reserved", "Twelve words.",
        )  # fmt: skip

    def test_the_owner_has_the_texts(self, tmp_path: Path, closed: Registry) -> None:
        assert closed.texts.complete() == load_texts(tmp_path / "closed.parquet").complete()
        assert closed.validate() == []

    def test_the_recipe_is_kept(self, tmp_path: Path, closed: Registry) -> None:
        recipe = closed.recipe
        assert recipe is not None
        assert recipe.to_json() == load_texts(tmp_path / "closed.parquet").recipe
        assert recipe.expect.text_set == closed.info["text_set"]["id"]
        assert json.loads((closed.path / RECIPE).read_text())["sources"][0]["files"] == ["origin.jsonl"]

    def test_somebody_else_has_not(self, pulled: Registry) -> None:
        assert not is_complete(pulled)
        assert pulled.validate() == []
        with pytest.raises(NotFoundError, match=r"10 of 10 texts of closed are not copied .* llreg texts build"):
            pulled.texts.complete()

    def test_a_damaged_copy_is_not_used(self, closed: Registry) -> None:
        damaged = replace(closed.texts, texts=[*closed.texts.complete()[:9], "another"])
        (closed.path / COPY).write_bytes(to_parquet(damaged))
        with pytest.warns(LlregWarning, match=r"text 9 was changed.*rebuild it with: llreg texts build"):
            texts = Registry(closed.path).texts
        assert texts.texts == [None] * 10


class TestOpen:
    """A recipe that allows copies, and files without one."""

    def test_texts_and_recipe_are_published(self, tmp_path: Path, origin: Path) -> None:
        build_file(recipe_of(origin, copy=True), tmp_path / "open.parquet")
        registry = init(tmp_path / "open", texts=tmp_path / "open.parquet")
        assert pq.read_table(registry.path / TEXTS)["text"].to_pylist() == registry.texts.complete()
        assert registry.recipe is not None
        assert not (registry.path / COPY).exists()

    def test_no_recipe(self, small_registry: Registry) -> None:
        assert small_registry.recipe is None
        assert not (small_registry.path / RECIPE).exists()

    def test_one_recipe_one_text_set(self, tmp_path: Path, origin: Path) -> None:
        made = [build_file(replace(recipe_of(origin), name=name), tmp_path / f"{name}.parquet") for name in ("a", "b")]
        ids = [init(tmp_path / name, texts=tmp_path / f"{name}.parquet").info["text_set"]["id"] for name in ("a", "b")]
        assert ids == [made[0].texts.info.id] * 2

    def test_a_recipe_of_the_users_is_not_overwritten(self, tmp_path: Path, origin: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / RECIPE).write_text("mine")
        with pytest.raises(InputError, match=r"holds recipe\.json already"):
            init(tmp_path / "new")
        assert (tmp_path / "new" / RECIPE).read_text() == "mine"

    def test_a_damaged_recipe(self, closed: Registry) -> None:
        (closed.path / RECIPE).write_text("{}")
        with pytest.raises(InvalidFileError, match=r"recipe\.json: "):
            assert closed.recipe


class TestRestoring:
    """Texts come back to a registry that lacks them."""

    def test_from_the_files_that_the_recipe_names(self, pulled: Registry, closed: Registry, origin: Path) -> None:
        assert restore(pulled, [str(origin)]).complete() == closed.texts.complete()
        assert is_complete(Registry(pulled.path))
        assert pulled.texts.source == closed.texts.source
        assert not list((pulled.path / ".llreg").glob("*.partial*"))

    def test_from_the_set_itself(self, tmp_path: Path, pulled: Registry, closed: Registry) -> None:
        assert restore(pulled, [str(tmp_path / "closed.parquet")]).complete() == closed.texts.complete()

    def test_texts_stay_unpublished(self, pulled: Registry, origin: Path) -> None:
        before = (pulled.path / TEXTS).read_bytes()
        restore(pulled, [str(origin)])
        assert (pulled.path / TEXTS).read_bytes() == before

    def test_a_recipe_opens_no_file_by_itself(self, pulled: Registry, origin: Path) -> None:
        """It came from a stranger: not even where the name fits a file that is here."""
        document = json.loads((pulled.path / RECIPE).read_text())
        document["sources"][0]["files"] = [str(origin)]
        (pulled.path / RECIPE).write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"closed was made from .*origin\.jsonl on its owner's machine: give them"):
            restore(pulled)
        document["sources"][0] = {"dataset": str(origin.parent), "text": "text"}
        (pulled.path / RECIPE).write_text(json.dumps(document))
        with pytest.raises(InputError, match="on its owner's machine: give them"):
            restore(pulled)

    def test_other_texts_are_refused(self, tmp_path: Path, pulled: Registry) -> None:
        other = write_documents(tmp_path / "other.jsonl", seed=5)
        with pytest.raises(InputError, match="text set"):
            restore(pulled, [str(other)])
        assert not is_complete(Registry(pulled.path))

    def test_a_recipe_of_another_set_is_refused(self, pulled: Registry, origin: Path) -> None:
        document = json.loads((pulled.path / RECIPE).read_text())
        document["sample"]["seed"], document["expect"] = 2, {}
        (pulled.path / RECIPE).write_text(json.dumps(document))
        with pytest.raises(InputError, match=f"expected the text set {pulled.info['text_set']['id'][:12]}"):
            restore(pulled, [str(origin)])

    def test_no_recipe(self, pulled: Registry) -> None:
        (pulled.path / RECIPE).unlink()
        with pytest.raises(NotFoundError, match=r"has no recipe\.json"):
            restore(pulled)

    def test_nothing_to_do(self, closed: Registry) -> None:
        assert restore(closed) is closed.texts

    @pytest.mark.torch
    def test_scoring_waits_for_the_texts(self, pulled: Registry, origin: Path, toy_model: Any) -> None:
        model = toy_model("toy")
        with pytest.raises(NotFoundError, match="llreg texts build"):
            pulled.add([str(model)])
        restore(pulled, [str(origin)])
        (result,) = pulled.add([str(model)])
        assert result.status == "added"
        assert pulled.validate() == []
