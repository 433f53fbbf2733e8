"""Old maps and new rows: placing without moving, turning, ellipses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes

from llreg.locate import init
from llreg.maps.document import Map
from llreg.maps.embedding import Settings, resampled_ellipses
from llreg.maps.make import make_map, place_onto
from llreg.maps.nearest import nearest
from llreg.maps.placement import align, procrustes
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError

Array = np.ndarray[Any, Any]
MakeRow = Callable[..., Row]
METHODS = ["tsne", "pca", "mds"]


def _names(registry: Registry) -> list[str]:
    return [record.identity.model for record in registry.records()]


def _groups(ids: Sequence[str]) -> Array:
    return np.array([row_id.split("/")[0] for row_id in ids])


@pytest.mark.parametrize("method", METHODS)
def test_rows_left_out_come_back_among_their_group(groups: Registry, method: Any) -> None:
    names = _names(groups)
    old = make_map(groups, names[: int(0.9 * len(names))], method=method).map
    result = place_onto(groups, old)
    made = result.map
    kept = len(old.row_ids)
    assert made.xy[:kept].tobytes() == old.xy.tobytes()
    assert made.placed.tolist() == [False] * kept + [True] * (len(names) - kept)
    assert sorted(made.row_ids) == sorted(record.row_id for record in groups.records())
    assert [record.row_id for record in result.rows.records] == made.row_ids
    away = np.linalg.norm(made.xy[kept:, None] - made.xy[None, :kept], axis=2)
    closest = nearest(away, 3).index
    assert (_groups(made.row_ids)[closest] == _groups(made.row_ids[kept:])[:, None]).mean() > 0.95
    assert (made.onto, made.aligned_to) == (old.id, None)
    assert f"{len(names) - kept} rows placed; the {kept} on the map stay where they are" in result.notes


def test_placed_rows_are_where_a_whole_pca_has_them(groups: Registry) -> None:
    names = _names(groups)
    old = make_map(groups, names[:54], method="pca").map
    placed = place_onto(groups, old).map.xy[54:]
    rows = groups.rows()
    scaled = (rows.values - rows.values.mean(axis=1, keepdims=True)) / np.sqrt(2 * len(rows.texts) * rows.bits)
    centred = scaled - scaled[:54].mean(axis=0)
    _, _, axes = np.linalg.svd(centred[:54], full_matrices=False)
    expected = centred[54:] @ axes[:2].T
    np.testing.assert_allclose(np.abs(placed), np.abs(expected), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_placing_does_not_matter(groups: Registry, method: Any) -> None:
    names = _names(groups)
    old = make_map(groups, names[:50], method=method).map
    at_once = place_onto(groups, old).map
    some = place_onto(groups, old, names[55:]).map
    assert len(some.row_ids) == 55
    then = place_onto(groups, some).map
    order = [at_once.row_ids.index(row_id) for row_id in then.row_ids]
    np.testing.assert_allclose(then.xy, at_once.xy[order], atol=1e-9)
    assert place_onto(groups, then).map.xy.tobytes() == then.xy.tobytes()


def test_a_copy_is_placed_beside_its_original(own_groups: Registry, make_row: MakeRow) -> None:
    old = make_map(own_groups).map
    original = own_groups.row("g2/g2-m3")
    write_row(own_groups.path, make_row(own_groups, "g2/copy", 99, log_likelihood=original.log_likelihood))
    made = place_onto(own_groups, old).map
    away = np.linalg.norm(made.xy[:-1] - made.xy[-1], axis=1)
    nearest_ones = [made.row_ids[k] for k in np.argsort(away)[:3]]
    assert original.record.row_id in nearest_ones


def test_a_row_far_from_everything_is_said_to_be_so(own_groups: Registry, make_row: MakeRow) -> None:
    names = _names(own_groups)
    old = make_map(own_groups, names, method="pca").map
    like, noise = (
        own_groups.row(names[0]).log_likelihood - 0.01,
        np.random.default_rng(0).normal(-9000, 3000, own_groups.num_texts),
    )
    for name, values in (("new/like", like), ("new/far", np.minimum(noise, -1.0))):
        write_row(own_groups.path, make_row(own_groups, name, 1, log_likelihood=values))
    notes = place_onto(own_groups, old).notes
    assert [note for note in notes if "far from everything on the map" in note] == [
        note for note in notes if note.startswith("new/far is far from everything on the map: ")
    ]
    assert sum("far from everything" in note for note in notes) == 1


def test_the_maps_own_view_is_used(groups: Registry) -> None:
    names = _names(groups)
    clipped = replace(groups.view, clip=-900.0)
    old = make_map(groups, names[:50], view=clipped, method="pca").map
    made = place_onto(groups, old).map
    assert made.view == replace(clipped, estimator="text")  # its rows have no segments
    plain = place_onto(groups, make_map(groups, names[:50], method="pca").map).map
    assert not np.allclose(made.xy, plain.xy)


def test_rows_that_are_gone_are_left_out(own_groups: Registry) -> None:
    names = _names(own_groups)
    old = make_map(own_groups, names[:50], method="pca").map
    own_groups.retract(old.row_ids[7], why="a test")
    result = place_onto(own_groups, old)
    assert old.row_ids[7] not in result.map.row_ids
    assert len(result.map.row_ids) == 59
    assert "1 rows of the map are not here any more and are left out" in result.notes
    kept = [k for k in range(50) if k != 7]
    assert result.map.xy[:49].tobytes() == old.xy[kept].tobytes()


def test_a_map_of_other_texts_is_refused(groups: Registry, small_registry: Registry) -> None:
    old = make_map(groups, method="pca").map
    with pytest.raises(InputError, match=r"the map is of registry with text set [0-9a-f]{12}; small has text set"):
        place_onto(small_registry, old)
    with pytest.raises(InputError, match="their rows do not compare"):
        make_map(small_registry, align=old)


def test_placing_needs_rows_of_the_map(groups: Registry, tmp_path: Path, make_row: MakeRow) -> None:

    old = make_map(groups, method="pca").map
    other = init(tmp_path / "other")
    write_row(other.path, make_row(other, "x/y", 5))
    with pytest.raises(InputError, match="placing needs two rows that the map was made of; 0 of 60 are here"):
        place_onto(other, old)
    with pytest.raises(InputError, match=r"rows cannot be placed into a UMAP.*--align"):
        place_onto(groups, replace(old, method="umap"))


# Turning


@given(st.integers(3, 40), st.floats(-3.2, 3.2), st.booleans(), st.integers(0, 10**6))
def test_procrustes_undoes_a_turn(count: int, angle: float, mirrored: bool, seed: int) -> None:
    target = np.random.default_rng(seed).normal(size=(count, 2)) * [3, 1] + [10, -5]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn[0] *= -1
    moved = target @ turn + [1, 2]
    rotation, shift = procrustes(moved, target)
    np.testing.assert_allclose(moved @ rotation + shift, target, atol=1e-8)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(2), atol=1e-12)


def test_procrustes_is_scipys_up_to_scale() -> None:
    rng = np.random.default_rng(0)
    xy, target = rng.normal(size=(2, 30, 2))
    rotation, shift = procrustes(xy, target)
    _, theirs, _ = scipy_procrustes(target, xy)
    ours = (xy @ rotation + shift) - target.mean(axis=0)
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert cosine == pytest.approx(1)


def test_remade_map_is_turned_to_the_old_one(groups: Registry) -> None:
    names = _names(groups)
    old = make_map(groups, names[:54]).map
    turned = replace(old, xy=old.xy @ np.array([[0.0, 1.0], [1.0, 0.0]]) + [100, 50])  # mirrored, turned, away
    plain, aligned = make_map(groups).map, make_map(groups, align=turned).map
    common = [plain.row_ids.index(row_id) for row_id in turned.row_ids]
    distance = [np.linalg.norm(made.xy[common] - turned.xy) for made in (plain, aligned)]
    assert distance[1] < 0.5 * distance[0]
    assert aligned.aligned_to == turned.id
    apart = [np.linalg.norm(made.xy[:, None] - made.xy[None], axis=2) for made in (plain, aligned)]
    np.testing.assert_allclose(apart[0], apart[1], atol=1e-9)


def test_pca_axes_only_change_signs(groups: Registry) -> None:
    old = make_map(groups, method="pca").map
    mirrored = replace(old, xy=old.xy * [-1, 1])
    made = make_map(groups, _names(groups)[:57], method="pca", align=mirrored).map
    plain = make_map(groups, _names(groups)[:57], method="pca").map
    np.testing.assert_array_equal(made.xy, plain.xy * [-1, 1])


def test_what_cannot_be_aligned(groups: Registry) -> None:
    tsne = make_map(groups, _names(groups)[:30], iterations=50).map
    with pytest.raises(InputError, match="a pca map has axes of its own and cannot be turned to a tsne map"):
        make_map(groups, method="pca", align=tsne)
    others = make_map(groups, _names(groups)[28:], iterations=50).map
    with pytest.raises(InputError, match="aligning needs 3 rows that both maps hold; they share 2"):
        align(others, tsne)


def test_a_map_is_aligned_by_rows_that_made_it(groups: Registry) -> None:
    old = make_map(groups, _names(groups)[:50], method="pca").map
    with_placed = place_onto(groups, old).map
    wild: Map = replace(with_placed, xy=np.where(with_placed.placed[:, None], 1e6, with_placed.xy * [-1, -1]))
    made = make_map(groups, method="pca", align=wild).map
    assert np.corrcoef(made.xy[:50, 0], wild.xy[:50, 0])[0, 1] > 0.9


# Ellipses


def test_ellipses_shrink_with_more_texts(groups: Registry) -> None:
    three = [name for name in _names(groups) if name[:2] in ("g0", "g1", "g2")][:18]
    result = make_map(groups, three, method="pca", ellipses=40)
    made, rows = result.map, result.rows
    assert made.ellipses is not None
    assert made.ellipses.shape == (18, 3)
    assert made.resamples == 40
    xx, xy, yy = made.ellipses.T
    assert (xx > 0).all()
    assert (xx * yy - xy**2 > 0).all()
    # Four times as many texts, the same ones: the same map, and resamples spread half as far.
    more = replace(
        rows,
        values=np.tile(rows.values, 4),
        num_bytes=np.tile(rows.num_bytes, 4),
        texts=np.arange(4 * len(rows.texts)),
        subsets=np.tile(rows.subsets, 4),
    )
    smaller = resampled_ellipses(more, made.xy, Settings("pca").checked(18), 40)
    assert 0.15 < np.median((smaller[:, 0] + smaller[:, 2]) / (xx + yy)) < 0.4
    assert make_map(groups, three, method="pca", ellipses=40).map.id == made.id


def test_ellipses_of_tsne(groups: Registry) -> None:
    seen = []
    made = make_map(groups, iterations=300, ellipses=3, progress=lambda k, n: seen.append((k, n))).map
    assert seen == [(1, 3), (2, 3), (3, 3)]
    plain = make_map(groups, iterations=300).map
    assert made.xy.tobytes() == plain.xy.tobytes()
    assert made.ellipses is not None
    assert np.isfinite(made.ellipses).all()
    placed = place_onto(groups, made)
    assert placed.map.ellipses is None


def test_ellipses_that_cannot_be(groups: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="ellipses: expected 2 or more resamples; got 1"):
        make_map(groups, method="pca", ellipses=1)
    monkeypatch.setattr("llreg.maps.embedding.DENSE_ROWS", 10)
    with pytest.raises(InputError, match="ellipses need whole KL matrices, up to 10 rows; got 60"):
        make_map(groups, method="pca", ellipses=5)
