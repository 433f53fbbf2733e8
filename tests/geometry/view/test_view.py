"""Views: what they keep, their ids, and how one is measured and frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.view.freeze import freeze_view, measured_view
from llreg.geometry.view.view import View, clip_at, double_centred, read_view, tail_texts
from llreg.locate import open_registry
from llreg.registry import Registry
from llreg.store.rowfile import Row
from llreg_schemas import make_view
from llreg_schemas.errors import InputError

Fill = Callable[..., list[Row]]


@pytest.fixture
def filled(small_registry: Registry, fill: Fill) -> Registry:
    fill(small_registry, 5)
    return small_registry


def test_a_view_that_only_clips_has_the_id_it_always_had() -> None:
    assert View(-100.0).to_json() == make_view(-100.0)
    assert set(View(-100.0).to_json()) == {"clip", "id"}


def test_round_trip_and_ids() -> None:
    views = [
        View(),
        View(-5.0, only=("prose",)),
        View(-5.0, without=("code", "prose")),
        View(drop=(3, 1)),
        View(weights={"code": 2.0}),
        View(weights=(1.0, 2.0, 1.0, 1.0, 1.0, 1.0)),
    ]
    assert len({view.id for view in views}) == len(views)
    for view in views:
        again = View.from_json(json.loads(json.dumps(view.to_json())))
        assert again.id == view.id
    assert View(drop=(3, 1)).id == View(drop=(1, 3, 3)).id


def test_texts_that_are_kept(filled: Registry) -> None:
    index = filled.text_index
    subsets = np.array(index.subset)
    assert View().texts(index).tolist() == [0, 1, 2, 3, 4, 5]
    assert (
        View(only=("code", "multilingual")).texts(index).tolist()
        == np.flatnonzero((subsets == "code") | (subsets == "multilingual")).tolist()
    )
    assert View(without=("code",), drop=(0,)).texts(index).tolist() == [k for k in range(1, 6) if subsets[k] != "code"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(only=("cod",)), "no subset 'cod' in this text set; it has: all, code"),
        (View(without=("all", "multilingual", "code", "prose")), "keeps 0 of 6 texts"),
        (View(drop=(6,)), "no text 6 in this text set; it has 0 to 5"),
        (View(weights={"lang": 1.0}), "no subset 'lang'"),
    ],
)
def test_views_that_do_not_fit(filled: Registry, view: View, message: str) -> None:
    with pytest.raises(InputError, match=message):
        view.texts(filled.text_index)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 2.0), "expected 6, one a text; got 2"),
        ((1.0, 0.0, 1.0, 1.0, 1.0, 1.0), "expected finite numbers above 0"),
    ],
)
def test_bad_weights(filled: Registry, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        View(weights=weights).text_weights(filled.text_index)


def test_kl_of_a_masked_view_is_that_of_the_masked_columns(filled: Registry) -> None:
    view = View(clip=-40.0, only=("code", "multilingual"))
    kept = view.texts(filled.text_index)
    values = np.maximum(filled.values(filled.records())[:, kept].astype(float), -40.0)
    expected = np.var(values[:, None] - values[None], axis=2) / 2
    result = filled.kl(view=view)
    np.testing.assert_allclose(result["kl"].values, expected, rtol=1e-12)
    bits = np.mean(np.array(filled.text_index.num_bytes)[kept]) * np.log(2)
    np.testing.assert_allclose(result["kl_bits_per_byte"].values, expected / bits, rtol=1e-12)
    assert result.attrs["view"] == view.id


def test_weights_count_like_repeated_texts(filled: Registry) -> None:
    """A text of weight 3 is worth three copies of it."""
    weights = (1.0, 3.0, 1.0, 2.0, 1.0, 1.0)
    result = filled.kl(view=View(weights=weights))
    repeated = np.repeat(filled.values(filled.records()).astype(float), [1, 3, 1, 2, 1, 1], axis=1)
    np.testing.assert_allclose(result["kl"].values, np.var(repeated[:, None] - repeated[None], axis=2) / 2, rtol=1e-12)


def test_coordinates_give_the_distances_of_the_view(filled: Registry) -> None:
    for view in (View(), View(weights=(1.0, 3.0, 1.0, 2.0, 1.0, 1.0)), View(weights={"code": 5.0}, drop=(1,))):
        rows = filled.rows(view=view)
        squared = ((rows.q[:, None] - rows.q[None]) ** 2).sum(axis=2)
        kl = filled.kl(view=view)["kl"].values
        np.testing.assert_allclose(squared / (2 * rows.values.shape[1]), kl, rtol=1e-9, atol=1e-12)


def test_clip_quantile_is_numpys(filled: Registry) -> None:
    raw = filled.values(filled.records())
    assert clip_at(raw, 0.3) == pytest.approx(np.quantile(raw.astype(np.float64), 0.3))
    assert measured_view(filled, View(), clip_quantile=0.3).clip == pytest.approx(clip_at(raw, 0.3))


def test_tail_texts_carry_most_of_all_distances(filled: Registry) -> None:
    values = filled.values(filled.records()).astype(np.float64)
    pairs = ((values - values.mean(1, keepdims=True))[:, None] - (values - values.mean(1, keepdims=True))[None]) ** 2
    carried = pairs.sum(axis=(0, 1))
    assert tail_texts(values, 0.3) == sorted(np.argsort(-carried)[:2].tolist())
    assert tail_texts(values, 0.0) == []
    view = measured_view(filled, View(), drop_tail=0.3)
    assert list(view.drop) == tail_texts(values, 0.3)


def test_double_centred_has_no_means() -> None:
    values = np.random.default_rng(0).normal(size=(4, 7))
    q = double_centred(values)
    np.testing.assert_allclose(q.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(q.mean(axis=1), 0, atol=1e-12)


def test_freezing_changes_the_default_and_nothing_else(filled: Registry) -> None:
    before = filled.kl()["kl"].values
    view = View(clip=-30.0, without=("code",))
    freeze_view(filled, view)
    again = open_registry(filled.path)
    assert again.view.id == view.id
    np.testing.assert_array_equal(again.kl()["kl"].values, filled.kl(view=view)["kl"].values)
    np.testing.assert_array_equal(again.kl(view=View())["kl"].values, before)
    assert again.validate() == []


def test_empty_registry_has_nothing_to_measure(small_registry: Registry) -> None:
    with pytest.raises(InputError, match="a clip quantile needs rows"):
        measured_view(small_registry, View(), clip_quantile=0.02)
    with pytest.raises(InputError, match="the tail is measured on rows"):
        measured_view(small_registry, View(), drop_tail=0.02)


def test_views_from_files(tmp_path: Path) -> None:
    view = View(-3.0, only=("code",))
    file = tmp_path / "view.json"
    file.write_text(json.dumps({"anything": 1, "view": view.to_json()}))
    assert read_view(file).id == view.id
    file.write_text(json.dumps({**view.to_json(), "clip": -4.0}))
    with pytest.raises(InputError, match="the view's id is not the hash of its rules"):
        read_view(file)
    for content in (
        "[1, 2]",
        "{}",
        "not json",
        "[" * 100_000,
        *(
            json.dumps({**view.to_json(), **wrong})
            for wrong in (
                {"weights": "abc"},
                {"weights": {"a": "x"}},
                {"drop": ["a"]},
                {"drop": [True]},
                {"only": "abc"},
                {"without": {"a": 1}},
            )
        ),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match="llreg view -o"):
            read_view(file)
    with pytest.raises(InputError, match="llreg view -o"):
        read_view(tmp_path / "none.json")


def test_a_named_version_keeps_its_view(filled: Registry) -> None:
    before = filled.kl()["kl"].values
    filled.tag("v1")
    freeze_view(filled, View(clip=-20.0))
    then = open_registry(filled.path, revision="v1")
    assert then.view.id == View(estimator="fine").id != filled.view.id
    np.testing.assert_array_equal(then.kl()["kl"].values, before)
    assert then.clip is None
    assert filled.validate() == []


def test_every_verb_takes_a_view_in_every_form(filled: Registry, tmp_path: Path) -> None:
    view = View(clip=-30.0)
    file = tmp_path / "view.json"
    file.write_text(json.dumps(view.to_json()))
    for form in (view, view.to_json(), file, str(file)):
        assert filled.neighbors("org/m1", 1, view=form).view.id == view.id
        assert filled.lineage("org/m1", view=form).view.id == view.id
        assert filled.duplicates(view=form) == []
        assert filled.rows(view=form).view.id == view.id


class TestCommand:
    """`llreg view`."""

    def test_weights_and_lists_add_up(self, filled: Registry, cli: Any) -> None:
        assert cli("-r", filled.path, "view", "--without", "code", "--freeze").code == 0
        made = json.loads(cli("-r", filled.path, "view", "--without", "all", "--weight", "prose=2", "--json").out)
        assert (made["without"], made["weights"]) == (["all", "code"], {"prose": 2.0})
        for wrong in ("prose", "prose=", "prose=-1", "=2"):
            assert cli("-r", filled.path, "view", "--weight", wrong).code == 2

    def test_options_that_do_not_go_together(self, filled: Registry, tmp_path: Path, cli: Any) -> None:
        for options in (
            ["-o", tmp_path / "x.zarr", "--to", "org/m1"],
            ["org/m1", "org/m2", "--by", "subset", "--nats"],
        ):
            assert cli("-r", filled.path, "dist", *options).code == 2
        assert cli("-r", filled.path, "dist", "-o", tmp_path / "no" / "x.zarr").code == 1

    def test_shows_makes_and_freezes(self, filled: Registry, tmp_path: Path, cli: Any) -> None:
        shown = cli("-r", filled.path, "view")
        assert (shown.code, shown.out.partition(":")[2].strip()) == (
            0,
            "segments, whole texts: no clipping; 6 of 6 texts",
        )
        file = tmp_path / "v.json"
        made = cli("-r", filled.path, "view", "--clip-quantile", "0.5", "--without", "code", "-o", file, "--json")
        assert json.loads(made.out)["id"] == read_view(file).id
        through = cli("-r", filled.path, "dist", "--view", file, "--json")
        assert json.loads(through.out)["view"] == read_view(file).id
        frozen = cli("-r", filled.path, "view", "--view", file, "--freeze")
        assert frozen.code == 0
        assert json.loads(cli("-r", filled.path, "dist", "--json").out)["view"] == read_view(file).id

    def test_bad_values(self, filled: Registry, cli: Any) -> None:
        assert cli("-r", filled.path, "view", "--clip", "5").code == 2
        wrong = cli("-r", filled.path, "dist", "--only", "prosa")
        assert (wrong.code, wrong.out) == (1, "")
        assert "no subset 'prosa'" in wrong.err
