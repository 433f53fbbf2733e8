"""Coordinates: against plain formulas and scikit-learn, the same on every run, and what happens at the edges."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_info, threadpool_limits

from llreg.maps.axes import add_points, classical_mds
from llreg.maps.embedding import Embedding, Settings, embed, embed_rows, kl_bits
from llreg.maps.make import make_map
from llreg.maps.nearest import nearest, nearest_rows, with_errors
from llreg.maps.scene import make_scene
from llreg.maps.tsne import num_neighbors
from llreg.registry import Registry
from llreg_schemas.errors import InputError

Array = np.ndarray[Any, Any]


def _points(count: int = 60, dims: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, dims)) * np.arange(dims, 0, -1)


def _squared(points: Array) -> Array:
    return np.asarray(squareform(pdist(points, "sqeuclidean")))


def test_pca_is_that_of_scikit_learn(groups: Registry) -> None:
    rows = groups.rows()
    made = embed_rows(rows, Settings("pca").checked(len(rows)))
    scaled = rows.q / np.sqrt(2 * len(rows.texts) * rows.bits)
    theirs = PCA(2).fit(scaled)
    there = theirs.transform(scaled)
    signs = np.sign((made.xy * there).sum(axis=0))
    np.testing.assert_allclose(made.xy, there * signs, atol=1e-9)
    first, second = np.round(100 * theirs.explained_variance_ratio_)
    assert made.axes == (f"PC1 (sqrt(bit/byte), {first:.0f} %)", f"PC2 (sqrt(bit/byte), {second:.0f} %)")


@pytest.mark.parametrize("count", [7, 150])  # all eigenvectors, and Lanczos
def test_mds_finds_points_again(count: int) -> None:
    points = np.random.default_rng(1).normal(size=(count, 2)) * [3, 1]
    axes = classical_mds(_squared(points))
    np.testing.assert_allclose(_squared(axes.xy), _squared(points), atol=1e-9)
    assert sum(axes.shares) == pytest.approx(1)
    assert axes.shares[0] > axes.shares[1]


def test_axes_have_fixed_signs() -> None:
    kl = _squared(_points())
    axes = classical_mds(kl)
    for axis in axes.xy.T:
        assert axis[np.abs(axis).argmax()] > 0
    order = np.random.default_rng(3).permutation(len(kl))
    np.testing.assert_allclose(classical_mds(kl[np.ix_(order, order)]).xy, axes.xy[order], atol=1e-9)


@given(st.integers(3, 30), st.integers(0, 1000))
def test_added_points_are_where_pca_has_them(count: int, seed: int) -> None:
    points = _points(count + 2, 5, seed)
    old, new = points[:count], points[count:]
    kl = _squared(old)
    axes = classical_mds(kl)
    turned = axes.xy @ np.array([[0.6, -0.8], [0.8, 0.6]]) + [5, -2]  # a map that was aligned to another
    to_new = ((new[:, None] - old[None]) ** 2).sum(axis=2)
    pca = PCA(2).fit(old)
    expected = pca.transform(new) * np.sign((pca.transform(old) * axes.xy).sum(axis=0))
    found = add_points(turned, kl.mean(axis=1), to_new)
    np.testing.assert_allclose(found, expected @ [[0.6, -0.8], [0.8, 0.6]] + [5, -2], atol=1e-6)
    np.testing.assert_allclose(add_points(turned, kl.mean(axis=1), kl), turned, atol=1e-6)


def _replaced(rows: Any, values: Array) -> Any:
    from dataclasses import replace

    return replace(rows, values=values)


def test_missing_texts_leave_mds_right_and_pull_pca_to_the_middle(groups: Registry) -> None:
    rows = groups.rows()
    holes = rows.values.copy()
    holes[0, ::2] = np.nan
    seen = _replaced(rows, holes)
    whole = embed_rows(rows, Settings("mds").checked(60)).xy
    mds, pca = (embed_rows(seen, Settings(method).checked(60)).xy for method in ("mds", "pca"))  # type: ignore[arg-type]
    size = np.linalg.norm(whole[0])
    assert np.linalg.norm(mds[0]) > 0.8 * size
    assert np.linalg.norm(pca[0]) < 0.7 * size


# t-SNE


def _plain_affinities(kl: Array, perplexity: float) -> Array:
    """Symmetric affinities of the squared KL, by root search; over scikit-learn's number of neighbours."""
    count = len(kl)
    p = np.zeros((count, count))
    for i in range(count):
        others = [j for j in np.argsort(kl[i], kind="stable") if j != i][: min(count - 1, int(3 * perplexity + 1))]
        energy = kl[i, others] ** 2 / np.median(kl[i, others]) ** 2

        def excess(log_beta: float, energy: Array = energy) -> float:
            weights = np.exp(-np.exp(log_beta) * (energy - energy.min()))
            weights /= weights.sum()
            return float(-(weights * np.log(np.maximum(weights, 1e-300))).sum() - np.log(perplexity))

        weights = np.exp(-np.exp(brentq(excess, -40, 40)) * (energy - energy.min()))
        p[i, others] = weights / weights.sum()
    return (p + p.T) / (2 * count)


def test_affinities_are_of_the_squared_kl() -> None:
    from llreg.maps.tsne import _affinities

    kl = _squared(_points(40))
    found = nearest(kl, num_neighbors(9.0, 40), itself=np.arange(40))
    made = _affinities(found.index, found.kl, 9.0, symmetrize=True).toarray()
    np.testing.assert_allclose(made, _plain_affinities(kl, 9.0), atol=1e-6 * made.max())


def _cost(kl: Array, xy: Array, perplexity: float) -> float:
    p = _plain_affinities(kl, perplexity)
    q = 1 / (1 + _squared(xy))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def test_tsne_is_as_good_as_scikit_learns(groups: Registry) -> None:
    rows = groups.rows()
    kl = kl_bits(rows)
    ours = embed_rows(rows, Settings(perplexity=12.0).checked(len(rows))).xy
    theirs = TSNE(perplexity=12.0, metric="sqeuclidean", init="pca", random_state=42).fit_transform(rows.q)
    assert _cost(kl, ours, 12.0) < _cost(kl, theirs, 12.0) + 0.02
    trust = [trustworthiness(np.sqrt(kl), xy, metric="precomputed", n_neighbors=5) for xy in (ours, theirs)]
    assert trust[0] > trust[1] - 0.02
    group = np.array([name.split("/")[0] for name in rows.names])
    closest = nearest(_squared(ours), 3, itself=np.arange(len(ours))).index
    assert (group[closest] == group[:, None]).all()


@pytest.mark.parametrize("method", ["tsne", "pca", "mds"])
def test_same_input_same_bytes(groups: Registry, method: Any) -> None:
    settings = Settings(method).checked(60)
    first, again = (embed_rows(groups.rows(), settings).xy for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_tsne_does_not_depend_on_threads_or_rounding(groups: Registry) -> None:
    maps = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            assert {pool["num_threads"] for pool in threadpool_info()} == {threads}
            # The 250 early iterations, which move rows most, and some more: a difference of one bit would grow.
            maps.add(make_map(groups, iterations=300).map.xy.tobytes())
    assert len(maps) == 1
    kl = kl_bits(groups.rows())
    noise = 1 + 1e-14 * np.random.default_rng(0).normal(size=kl.shape)
    settings = Settings(iterations=300).checked(60)
    assert embed(kl, settings).xy.tobytes() == embed(kl * (noise + noise.T) / 2, settings).xy.tobytes()


def test_seed_and_iterations_matter(groups: Registry) -> None:
    kl = kl_bits(groups.rows())
    maps = [embed(kl, Settings(seed=seed, iterations=n).checked(60)).xy for seed, n in ((1, 300), (2, 300), (1, 301))]
    assert len({xy.tobytes() for xy in maps}) == 3


def test_identical_rows_share_a_place(groups: Registry) -> None:
    kl = kl_bits(groups.rows().take([*range(20), 0, 0]))
    for method in ("tsne", "mds"):
        xy = embed(kl, Settings(method).checked(22)).xy  # type: ignore[arg-type]
        span = np.ptp(xy, axis=0).max()
        assert np.linalg.norm(xy[[20, 21]] - xy[0], axis=1).max() < 0.02 * span


def test_more_identical_rows_than_neighbours(groups: Registry) -> None:
    kl = kl_bits(groups.rows().take([0] * 12 + list(range(1, 20))))
    xy = embed(kl, Settings(perplexity=2.0).checked(31)).xy
    assert np.isfinite(xy).all()


def test_nearest_in_blocks_is_nearest(groups: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = groups.rows()
    kl = kl_bits(rows)
    monkeypatch.setattr("llreg.maps.nearest._BLOCK", 7)
    found = nearest_rows(rows, None, 10)
    np.fill_diagonal(kl, np.inf)
    np.testing.assert_array_equal(found.index, np.argsort(kl, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(found.kl, np.sort(kl, axis=1)[:, :10], rtol=1e-9)
    errors = groups.kl()["kl_bits_per_byte_se"].values
    np.testing.assert_allclose(with_errors(rows, found).kl_se, np.take_along_axis(errors, found.index, 1), rtol=1e-6)


def test_many_rows_are_mapped_without_their_matrix(groups: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {method: make_map(groups, method=method, perplexity=5.0) for method in ("tsne", "pca")}  # type: ignore[arg-type]
    for module in ("embedding", "make"):
        monkeypatch.setattr(f"llreg.maps.{module}.DENSE_ROWS", 50)
    many = make_map(groups, method="pca")
    np.testing.assert_allclose(many.map.xy, few["pca"].map.xy, atol=1e-5)
    assert many.map.axes == few["pca"].map.axes
    made = make_map(groups, perplexity=5.0)
    group = np.array([name.split("/")[0] for name in made.rows.names])
    closest = nearest(_squared(made.map.xy), 3, itself=np.arange(60)).index
    assert (group[closest] == group[:, None]).all()
    scenes = [make_scene(result) for result in (few["tsne"], made)]
    np.testing.assert_array_equal(scenes[1].neighbors, scenes[0].neighbors)
    np.testing.assert_allclose(scenes[1].kl_se, scenes[0].kl_se, rtol=1e-3)  # of float32 values
    values = [[column.values for column in scene.columns] for scene in scenes]
    assert values[0] == values[1]
    for method, message in (("mds", "mds needs the whole KL matrix, up to 50 rows; got 60"), ("umap", "umap needs")):
        with pytest.raises(InputError, match=message):
            make_map(groups, method=method)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ellipses need whole KL matrices, up to 50 rows; got 60"):
        make_map(groups, method="pca", ellipses=3)


# What cannot be


def test_perplexity_too_large_says_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"perplexity: expected 1 to 6\.333, a third of the other rows \(19\); got 7"):
        Settings(perplexity=7.0).checked(20)
    assert Settings().checked(20).perplexity == pytest.approx(19 / 3)
    assert Settings().checked(91).perplexity == 30
    assert Settings("pca", perplexity=500.0).checked(20).perplexity is None


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        (Settings(), 1, "a map needs two rows; got 1"),
        (Settings("pca"), 0, "a map needs two rows; got 0"),
        (Settings(), 3, "t-SNE needs 4 rows or more; got 3: choose another method, as pca"),
        (Settings(iterations=0), 30, "iterations: expected 1 or more; got 0"),
        (Settings(perplexity=0.5), 30, "perplexity: expected 1 to 9.667.*got 0.5"),
        (Settings("isomap"), 30, "method: expected one of tsne, pca, mds, umap; got 'isomap'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_be(settings: Settings, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings.checked(count)


@pytest.mark.parametrize("method", ["tsne", "pca", "mds"])
def test_identical_rows_only(method: Any) -> None:
    with pytest.raises(InputError, match="the 6 rows are all identical; a map needs rows that differ"):
        embed(np.zeros((6, 6)), Settings(method).checked(6))


def test_two_rows_lie_on_a_line() -> None:
    made = embed(np.array([[0.0, 4.0], [4.0, 0.0]]), Settings("pca").checked(2))
    np.testing.assert_allclose(np.abs(made.xy), [[1, 0], [1, 0]], atol=1e-12)
    assert made.axes[0] == "PC1 (sqrt(bit/byte), 100 %)"


def test_tsne_of_rows_on_a_line() -> None:
    kl = _squared(np.arange(10.0)[:, None])
    xy = embed(kl, Settings().checked(10)).xy
    assert np.isfinite(xy).all()
    assert (np.ptp(xy, axis=0) > 0).all()  # the jitter lets it leave the line


def test_rows_without_common_texts_are_named() -> None:
    kl = np.ones((5, 5)) - np.eye(5)
    kl[1, 3] = kl[3, 1] = np.nan
    with pytest.raises(InputError, match="m1 and m3 share fewer than two texts and have no distance"):
        embed(kl, Settings().checked(5), [f"m{k}" for k in range(5)])


def test_umap_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        embed(_squared(_points(10)), Settings("umap").checked(10))


def test_umap_tells_the_neighbours_that_it_takes() -> None:
    for count, neighbors in ((10, 9), (16, 15), (60, 15)):
        assert Settings("umap").checked(count).to_json() == {"seed": 42, "neighbors": neighbors}


def test_umap_is_the_same_again(groups: Registry) -> None:
    pytest.importorskip("umap")
    kl = kl_bits(groups.rows())
    first, again = (embed(kl, Settings("umap").checked(60)).xy for _ in range(2))
    assert first.tobytes() == again.tobytes()
    group = np.array([name.split("/")[0] for name in groups.rows().names])
    closest = nearest(_squared(first), 3, itself=np.arange(60)).index
    assert (group[closest] == group[:, None]).mean() > 0.95


def test_missing_opentsne_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from llreg_schemas.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(MissingExtraError, match=r'openTSNE is needed.*pip install "llreg\[map\]"'):
        embed(_squared(_points(10)), Settings().checked(10))
    assert isinstance(embed(_squared(_points(10)), Settings("pca").checked(10)), Embedding)
