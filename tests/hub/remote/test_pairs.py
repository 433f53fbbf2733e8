"""Registries of pairs on the Hub: published, pulled, added to, and read without a pull."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeRow
from tests.hub.client import Hub
from tests.hub.conftest import AsUser

import llreg
from llreg.geometry.view.view import View
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.arrays import PAIR_VARIABLES
from llreg.store.rowfile import Row, row_path, to_zip, write_row
from llreg_schemas.errors import LlregWarning

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Fill = Callable[..., list[Row]]


@pytest.fixture
def place(hub: Hub, as_user: AsUser, repo_name: str, pair_registry: Registry, fill: Fill) -> str:
    """The repository of a registry of three rows that alice has published."""
    as_user("alice")
    fill(pair_registry, 3)
    push(pair_registry, f"alice/{repo_name}")
    hub.clear()
    return f"alice/{repo_name}"


def values(registry: Registry) -> dict[str, bytes]:
    """Every row as its file, by digest."""
    return {record.digest: to_zip(registry.row(record.row_id)) for record in registry.records()}


def test_a_pull_brings_both(place: str, pair_registry: Registry, tmp_path: Path) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    assert values(copy) == values(pair_registry)
    assert copy.texts.texts == pair_registry.texts.texts
    assert (copy.rendering, copy.validate(), copy.check_build()) == ("chat-template", [], [])


def test_rows_come_and_go(place: str, pair_registry: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    write_row(copy.path, make_row(copy, "org/new", 9))
    push(copy)
    pull(pair_registry)
    assert values(pair_registry) == values(copy)
    assert len(values(pair_registry)) == 4


def test_a_lost_build_is_repaired_by_shards_or_files(place: str, pair_registry: Registry, tmp_path: Path) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    expected = values(copy)
    for part in ("store.zarr", "rows"):
        shutil.rmtree(copy.path / part, ignore_errors=True)
    pull(Registry(copy.path))
    assert values(Registry(copy.path)) == expected


def test_read_without_a_pull(place: str, hub: Hub, pair_registry: Registry) -> None:
    opened = llreg.open(place)
    data, here = opened.dataset(), pair_registry.dataset()
    for name in PAIR_VARIABLES:
        np.testing.assert_array_equal(data[name].values, here[name].values)
    np.testing.assert_array_equal(
        opened.kl(view=View(vector="pmi"))["kl"].values, pair_registry.kl(view=View(vector="pmi"))["kl"].values
    )
    assert values(opened) == values(pair_registry)
    assert opened.texts.texts == pair_registry.texts.texts


def test_a_forged_response_is_refused(
    place: str, hub: Hub, pair_registry: Registry, make_row: MakeRow, tmp_path: Path
) -> None:
    """A row file whose response-alone values were changed is left out, and named; the others come."""
    from tests.hub.publishing import publish

    row = make_row(pair_registry, "org/bad", 7)
    folder = tmp_path / "forged"
    path = folder / row_path(row.record)
    path.parent.mkdir(parents=True)
    arrays = {**row.arrays, "log_likelihood_response": row.arrays["log_likelihood_response"] - 1}
    path.write_bytes(to_zip(Row(row.record, **arrays)))
    publish(hub.api("alice"), place, folder, names=[row_path(row.record).as_posix()])
    with pytest.warns(LlregWarning, match="expected the digest of the values"):
        pull(pair_registry)
    assert len(pair_registry.records()) == 3
