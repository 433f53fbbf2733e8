"""A registry whose rows have segments, but for one: which estimator each command takes, and that it says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from llreg.geometry.kl.distance import kl_plain
from llreg.geometry.kl.matrix import write_kl
from llreg.geometry.kl.pairs import list_pairs
from llreg.geometry.kl.rows import view_rows
from llreg.geometry.kl.stream import principal_coordinates, stream_rows
from llreg.geometry.subset import subset_errors
from llreg.hub.judge.population import _gathered
from llreg.locate import init
from llreg.maps.make import make_map, place_onto
from llreg.maps.scene import make_scene
from llreg.registry import Registry
from llreg.store.arrays import UNSCORED
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import LlregWarning

MakeRow = Callable[..., Row]
FINE = [f"org/m{k}" for k in range(6)]
LATE = "org/imported"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Registry:
    """Six rows with segments, one of which lacks a text, and one without; three are built. Tests must not change it."""
    registry = init(tmp_path_factory.mktemp("mixed") / "registry")
    rng = np.random.default_rng(0)
    level = rng.normal(-200, 40, registry.num_texts)
    for k, name in enumerate(FINE):
        values = level + rng.normal(0, 2 + k, registry.num_texts)
        values[k] = np.nan if k == 3 else values[k]
        write_row(registry.path, make_row(registry, name, k, fine=True, log_likelihood=values))
        if k == 2:
            registry.build()
    write_row(registry.path, make_row(registry, LATE, 9, log_likelihood=level + rng.normal(0, 3, registry.num_texts)))
    return registry


def plain_kl(registry: Registry, first: str, second: str) -> float:
    """From the segments in the two files, one text after the other; nats per text."""
    cuts = registry.cuts
    assert cuts is not None
    a, b = (registry.segments(registry.find(name)) for name in (first, second))
    assert a is not None
    assert b is not None
    total, num_texts = 0.0, 0
    for text in range(registry.num_texts):
        part = slice(cuts.first[text], cuts.first[text + 1])
        if UNSCORED in a[part] or UNSCORED in b[part]:
            continue
        difference, sizes = (a[part].astype(float) - b[part]) / 256, cuts.sizes[part]
        left = 1 - (sizes.astype(float) ** 2).sum() / sizes.sum() ** 2
        if left >= 0.25:
            difference = (difference - sizes * difference.sum() / sizes.sum()) / np.sqrt(left)
        total, num_texts = total + (difference**2).sum() / 2, num_texts + 1
    return total / num_texts


def test_built_or_not_it_is_the_plain_formula(mixed: Registry) -> None:
    kl = mixed.kl(FINE)
    assert kl["fine"].values.all()
    assert kl.attrs["view_description"] == "segments, whole texts: no clipping"
    for i, j in [(0, 1), (0, 5), (3, 4), (2, 3)]:
        assert kl["kl"].values[i, j] == pytest.approx(plain_kl(mixed, FINE[i], FINE[j]), rel=1e-5)
    assert kl["num_texts"].values[3].tolist() == [127, 127, 127, 127, 127, 127]


def test_a_pair_says_by_what_it_is_estimated(mixed: Registry) -> None:
    pairs = list_pairs(mixed, to=LATE).pairs
    assert {pair["estimator"] for pair in pairs} == {"text"}
    nearest = mixed.neighbors(FINE[0], 6).nearest
    assert {neighbor.model: neighbor.estimator for neighbor in nearest} == {
        **dict.fromkeys(FINE[1:], "fine"),
        LATE: "text",
    }
    text = mixed.kl(FINE[:2], view=replace(mixed.view, estimator="text"))
    values = mixed.rows(FINE[:2]).values
    assert text["kl"].values[0, 1] == pytest.approx(np.var(values[0] - values[1]) / 2)
    assert not text["fine"].values.any()


def test_one_estimator_for_a_map(mixed: Registry) -> None:
    result = make_map(mixed, FINE, method="mds")
    assert result.map.view == mixed.view
    scene = make_scene(result)
    (accuracy,) = (column.values for column in scene.columns if column.name == "accuracy")
    assert accuracy == [line["accuracy"] for line in mixed.accuracy(FINE)]
    with pytest.warns(LlregWarning, match="distances are estimated from whole texts: no segments in org/imported"):
        whole = make_map(mixed, method="mds")
    assert whole.map.view.estimator == "text"
    placed = place_onto(mixed, result.map)
    assert "1 rows without segments are left out: the map is made of segments" in placed.notes
    assert len(placed.map.row_ids) == len(FINE)


def test_every_verb_takes_them(mixed: Registry, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LlregWarning)
        tree = mixed.tree(FINE)
        path = mixed.trajectory(FINE, order=range(6))
    kl = mixed.kl(FINE)["kl_bits_per_byte"].values
    np.testing.assert_allclose(path["kl_step_bits_per_byte"].values[1:], np.diag(kl, 1))
    assert len(tree) == len(FINE)
    relatives = mixed.lineage(FINE[0]).relatives
    assert {relative.neighbor.estimator for relative in relatives} == {"fine", "text"}
    write_kl(mixed, tmp_path / "kl.zarr", models=FINE)
    np.testing.assert_allclose(xr.open_zarr(tmp_path / "kl.zarr")["kl"], kl, rtol=1e-6)


def test_principal_coordinates_keep_the_distances(mixed: Registry) -> None:
    names = [name for name in FINE if name != FINE[3]]  # which lacks a text
    points = principal_coordinates(stream_rows(mixed, names), dims=5)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, mixed.kl(names)["kl_bits_per_byte"].values, rtol=1e-4, atol=1e-9)


def test_how_far_a_sample_of_the_texts_is_off(mixed: Registry) -> None:
    with pytest.warns(LlregWarning, match="whole texts: no segments in org/imported"):
        errors = subset_errors(mixed, mixed.subset(64))
    assert 0 < errors[0]["relative"] < 1


def test_blocks_with_and_without_segments_go_together(mixed: Registry) -> None:
    """What new rows are compared with is read in blocks, one of which may have no row with segments."""
    blocks = [view_rows(mixed, [mixed.find(name) for name in names], mixed.view, "v") for names in ([LATE], FINE[:2])]
    rows = _gathered(blocks, [2, 0, 1])
    assert rows.names == [FINE[1], LATE, FINE[0]]
    assert rows.has_fine.tolist() == [True, False, True]
    expected = mixed.kl(rows.names)
    for name in ("kl", "fine"):
        np.testing.assert_array_equal(kl_plain(rows)[name], expected[name])
