"""Annotations travel with a registry, and are the one thing that may be replaced on either side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub.asking import commit
from tests.hub.client import Hub

from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.locate import open_registry
from llreg.registry import Registry
from llreg.store.annotations import column_of, read_annotation
from llreg.store.rowfile import Row
from llreg_schemas.errors import LlregWarning

Fill = Callable[..., list[Row]]


def _table(folder: Path, value: int) -> Path:
    path = folder / "scores.csv"
    path.write_text(f"model,arc\norg/m0,{value}\n", encoding="utf-8")
    return path


def _arc(registry: Registry) -> list[object]:
    return column_of(registry, "arc", registry.records())


def test_annotations_go_both_ways(
    hub: Hub, as_user: Callable[..., None], repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    place = f"alice/{repo_name}"
    as_user("alice")
    fill(small_registry, 2)
    small_registry.annotate(_table(tmp_path, 1))
    assert "annotations/scores.parquet" in push(small_registry, place, dry_run=True).files
    assert "annotations/scores.parquet" in push(small_registry, place).files
    assert push(small_registry).commit is None

    clone(place, tmp_path / "other")
    other = Registry(tmp_path / "other")
    assert _arc(other) == _arc(open_registry(place)) == [1, None]
    assert other.validate() == []

    other.annotate(_table(tmp_path, 2))  # changed there only
    assert list(push(other).files) == ["annotations/scores.parquet"]
    pull(small_registry)
    assert _arc(small_registry) == [2, None]

    other.annotate(_table(tmp_path, 3))  # changed on both sides: each keeps its own, and who pushes last is told
    push(other)
    small_registry.annotate(_table(tmp_path, 4))
    with pytest.warns(
        LlregWarning, match=r"annotations/scores\.parquet was changed here and on the Hub; yours is kept"
    ):
        pull(small_registry)
    assert _arc(small_registry) == [4, None]
    assert list(push(small_registry).files) == ["annotations/scores.parquet"]
    pull(other)
    assert _arc(other) == [4, None]


def test_a_table_of_another_name_is_not_taken(
    hub: Hub, as_user: Callable[..., None], repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    place = f"alice/{repo_name}"
    as_user("alice")
    fill(small_registry, 1)
    small_registry.annotate(_table(tmp_path, 1))
    push(small_registry, place)
    commit(hub, "alice", place, {"annotations/evil.sh": b"echo", "annotations/-x.parquet": b"PAR1"})
    clone(place, tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other" / "annotations").iterdir()) == ["scores.parquet"]
    assert read_annotation(Registry(tmp_path / "other"), "scores").models == ["org/m0"]
