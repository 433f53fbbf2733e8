"""Text sets and the Hub: a data set streamed from there, and registries that publish hashes in place of texts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import Cli
from tests.hub.client import Hub
from tests.hub.conftest import AsUser
from tests.hub.people import head, tree
from tests.hub.publishing import publish

from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.locate import init, open_registry
from llreg.registry import Registry
from llreg.store.restore_texts import restore
from llreg.store.rowfile import Row
from llreg.texts.build import build_file
from llreg.texts.recipe import Recipe, Sample, Source, recipe_for
from llreg.texts.textset import load_texts
from llreg_schemas.errors import NotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Fill = Callable[..., list[Row]]
TEXTS = [f"Text number {k} stays with its owner." for k in range(40)]


@pytest.fixture
def closed(tmp_path: Path) -> Registry:
    """A registry on texts that must not be copied."""
    (tmp_path / "own.txt").write_text("\n".join(TEXTS))
    build_file(recipe_for([str(tmp_path / "own.txt")], unit="line", no_copy=True), tmp_path / "own.parquet")
    return init(tmp_path / "closed", texts=tmp_path / "own.parquet")


def test_texts_stay_and_the_recipe_goes(
    hub: Hub, as_user: AsUser, repo_name: str, tmp_path: Path, closed: Registry, fill: Fill
) -> None:
    as_user("alice")
    fill(closed, 2)
    push(closed, f"alice/{repo_name}")
    files = tree(hub, f"alice/{repo_name}")
    assert files["recipe.json"] == (closed.path / "recipe.json").read_bytes()
    assert not any(text.encode() in data for text in TEXTS[:3] for data in files.values())

    as_user(None)
    there = open_registry(f"alice/{repo_name}")
    assert there.recipe == closed.recipe
    assert there.texts.texts == [None] * 40

    copy = Registry(clone(f"alice/{repo_name}", tmp_path / "copy").path)
    assert (copy.path / "recipe.json").read_bytes() == files["recipe.json"]
    with pytest.raises(NotFoundError, match="llreg texts build"):
        copy.texts.complete()
    assert restore(copy, [str(tmp_path / "own.txt")]).complete() == TEXTS
    assert copy.validate() == []

    as_user("alice")
    fill(closed, 1, start=2)
    push(closed)
    as_user(None)
    assert pull(copy).added == ("org/m2@" + closed.find("org/m2").digest[:8],)
    assert Registry(copy.path).texts.complete() == TEXTS
    assert tree(hub, f"alice/{repo_name}")["recipe.json"] == files["recipe.json"]


def test_a_recipe_that_a_copy_lacks_comes_with_a_pull(
    hub: Hub, as_user: AsUser, repo_name: str, tmp_path: Path, closed: Registry, fill: Fill
) -> None:
    """As one that was pulled by an llreg before recipes, or lost it."""
    as_user("alice")
    fill(closed, 1)
    push(closed, f"alice/{repo_name}")
    copy = Registry(clone(f"alice/{repo_name}", tmp_path / "copy").path)
    (copy.path / "recipe.json").unlink()
    fill(closed, 1, start=1)
    push(closed)
    pull(copy)
    assert copy.recipe == closed.recipe


@pytest.mark.datasets
def test_a_data_set_is_streamed_from_a_commit(hub: Hub, repo_name: str, tmp_path: Path, cli: Cli) -> None:
    """The commit that main is at is recorded; later commits do not change what the recipe makes."""
    repo = f"alice/{repo_name}"
    folder = tmp_path / "data"
    folder.mkdir()
    items = [{"text": f"{k}: {'é語' * (k % 9)}", "meta": {"kind": "xy"[k % 2]}} for k in range(90)]
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(items[30 * part : 30 * part + 30]), folder / f"train-{part}.parquet")
    publish(hub.api("alice"), repo, folder)
    commit = head(hub, repo)
    recipe = Recipe("streamed", "MIT", (Source("text", repo, subset="meta.kind"),), sample=Sample(5, 20, 10))
    (tmp_path / "r.json").write_text(recipe.to_text())

    done = cli("texts", "build", "r.json", cwd=tmp_path, env=hub.env(None))
    assert done.code == 0, done.err
    texts = load_texts(tmp_path / "streamed.parquet")
    assert texts.complete() == random.Random(5).sample([str(item["text"]) for item in items], 20)[:10]
    assert texts.recipe is not None
    assert texts.recipe["sources"][0]["revision"] == commit

    pq.write_table(pa.Table.from_pylist(items[:5]), folder / "train-0.parquet")
    publish(hub.api("alice"), repo, folder)
    (tmp_path / "built.json").write_text(json.dumps(texts.recipe))
    again = cli("texts", "build", "built.json", "-o", "again.parquet", cwd=tmp_path, env=hub.env(None))
    assert again.code == 0, again.err
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "streamed.parquet").read_bytes()

    changed = dict(texts.recipe["sources"][0], revision=None)
    (tmp_path / "main.json").write_text(json.dumps({**texts.recipe, "sources": [changed]}))
    refused = cli("texts", "build", "main.json", "-o", "main.parquet", cwd=tmp_path, env=hub.env(None))
    assert refused.code == 1
    assert f"expected 90 pieces; {repo} gave 65: it has changed since the recipe was made" in refused.err


@pytest.mark.datasets
def test_a_data_set_that_is_not_there(hub: Hub, repo_name: str, tmp_path: Path, cli: Cli) -> None:
    sources = [Source("text", f"alice/{repo_name}", revision="0" * 40), Source("text", f"alice/{repo_name}")]
    for number, source in enumerate(sources):
        (tmp_path / f"{number}.json").write_text(Recipe("none", "MIT", (source,)).to_text())
        done = cli("texts", "build", f"{number}.json", cwd=tmp_path, env=hub.env(None))
        assert done.code == 1
        assert f"alice/{repo_name}" in done.err
        assert done.err.startswith("llreg: ")
        assert len(done.err.strip().splitlines()) == 1, done.err
