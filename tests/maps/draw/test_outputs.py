"""Maps and trees made and written in one call, from Python as by the commands."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.maps.document import read_map
from llreg.maps.draw.dendrogram import save_tree
from llreg.maps.draw.outputs import save_map
from llreg.maps.make import make_map
from llreg.registry import Registry
from llreg.store.rowfile import write_row
from llreg_schemas.errors import InputError, LlregWarning


def test_a_map_is_made_written_and_turned_to_the_one_it_replaces(groups: Registry, tmp_path: Path) -> None:
    path, table = tmp_path / "map.json", tmp_path / "map.csv"
    names = [record.identity.model for record in groups.records()]
    first = save_map(groups, [path], names[:40], method="pca")
    assert (read_map(path).id, list(first.notes)) == (make_map(groups, names[:40], method="pca").map.id, [])
    second = save_map(groups, [path, table], method="pca")
    assert second.map.aligned_to == first.map.id
    assert second.notes[0] == f"aligned to map {first.map.id[:12]}, which is replaced"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 61
    other = save_map(groups, [path], method="mds")
    assert (other.map.aligned_to, "held a pca map" in other.notes[0]) == (None, True)


def test_rows_are_placed_and_written(groups: Registry, tmp_path: Path) -> None:
    names = [record.identity.model for record in groups.records()]
    old = make_map(groups, names[:40], method="pca").map
    placed = save_map(groups, [tmp_path / "new.json"], names[40:45], onto=old)
    assert read_map(tmp_path / "new.json").onto == old.id
    assert placed.map.placed.sum() == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pca", "perplexity": 5.0}, "perplexity belong to t-SNE; leave out for method pca"),
        ({"method": "mds", "perplexity": 5.0, "iterations": 9}, "perplexity and iterations belong to t-SNE"),
        ({"onto": "x.json", "seed": 0, "ellipses": 0}, "onto keeps .*; leave out seed and ellipses"),
        ({"onto": "x.json", "view": "default"}, "onto keeps .*; leave out view"),
    ],
)
def test_options_that_do_not_go_together(
    groups: Registry, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        save_map(groups, [tmp_path / "map.json"], **options)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_made_and_written(groups: Registry, tmp_path: Path) -> None:
    paths = [tmp_path / "tree.nwk", tmp_path / "tree.svg"]
    tree = save_tree(groups, paths, color="architecture")
    assert paths[0].read_text(encoding="utf-8") == groups.tree().newick() == tree.newick()
    assert "Arch4ForCausalLM" in paths[1].read_text(encoding="utf-8")
    with pytest.raises(InputError, match="a tree is written as Newick"):
        save_tree(groups, [tmp_path / "tree.jpg"])


def test_leaves_keep_their_marks_when_a_row_is_left_out(
    small_registry: Registry, make_row: Any, cli: Any, tmp_path: Path
) -> None:
    unscored = np.full(small_registry.num_texts, np.nan)
    unscored[0] = -5.0
    for k, name in enumerate(("a", "b", "c")):
        values = {"log_likelihood": unscored} if name == "a" else {}
        row = make_row(small_registry, f"org/{name}", k, declared={"architecture": f"Arch-{name}"}, **values)
        write_row(small_registry.path, row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlregWarning)
        tree = save_tree(small_registry, [tmp_path / "tree.svg"], color="architecture")
    text = (tmp_path / "tree.svg").read_text(encoding="utf-8")
    assert tree.labels == ("org/b", "org/c")
    assert [f"Arch-{name}" in text for name in "abc"] == [False, True, True]
    # The command marks them alike, and says what it left out.
    result = cli("-r", small_registry.path, "tree", "--color", "architecture", "-o", "command.svg", cwd=tmp_path)
    assert (result.code, "left out, with fewer than two scored texts" in result.err) == (0, True)
    assert (tmp_path / "command.svg").read_text(encoding="utf-8") == text
