"""Prediction of scores: equal to the paper's recipe in scikit-learn, honest intervals, the leak screen, the edges."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import config_context
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, KFold

from llreg.geometry.kl.rows import Rows
from llreg.geometry.predict.leak import EXCESS_LIMIT, mean_log_likelihood
from llreg.geometry.predict.predict import predict as predict_by_default
from llreg.geometry.predict.prediction import Prediction
from llreg.geometry.predict.ridge import ALPHAS
from llreg.geometry.predict.scores import read_scores
from llreg.geometry.view.view import View
from llreg.printable import harmless
from llreg.texts.design import Design
from llreg_schemas import Identity, RowRecord
from llreg_schemas.errors import InputError, NotFoundError

Array = np.ndarray[Any, Any]
NAN = math.nan


def predict(*given: Any, **options: Any) -> Prediction:
    """With two ways to split where a test names none: enough to be pooled and to differ; by default there are five."""
    return predict_by_default(*given, **{"seeds": (0, 1), **options})


def _rows(values: Array, *, names: Sequence[str] | None = None, **declared: Sequence[Any]) -> Rows:
    """Rows of given values, called org/m0, org/m1, ..."""
    count, num_texts = values.shape
    records = [
        RowRecord(
            Identity(names[k] if names else f"org/m{k}", "hub", None, "float32", "t" * 64, "p" * 64),
            {"added_at": "2026-01-02T03:04:05.000000Z"},
            {key: column[k] for key, column in declared.items()},
            f"{k:08x}" * 8,
        )
        for k in range(count)
    ]
    subsets = np.array(["prose"] * num_texts, dtype=object)
    designs = [None] * count
    return Rows(
        records,
        values,
        np.full(num_texts, 900.0),
        np.arange(num_texts),
        subsets,
        None,
        designs,
        View(),
        "toy",
        "v" * 64,
    )


class World:
    """Families of models in a space of skills: log-likelihoods and scores both follow from the skills."""

    def __init__(
        self,
        seed: int,
        sizes: Sequence[int],
        *,
        texts: int = 150,
        skills: int = 6,
        noise: float = 3.0,
        apart: float = 1.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.family = np.repeat(np.arange(len(sizes)), sizes)
        self.labels = [f"family {k}" for k in self.family]
        self.skill = apart * rng.normal(size=(len(sizes), skills))[self.family] + rng.normal(
            size=(len(self.family), skills)
        )
        count = len(self.family)
        self.values = -600 + rng.normal(size=texts) * 100 + rng.normal(size=(count, 1)) * 10
        self.values = self.values + self.skill @ rng.normal(size=(skills, texts)) * 15
        self.values += rng.normal(size=(count, texts)) * 10
        self.scores = 50 + self.skill @ rng.normal(size=(skills, 2)) * 5 + rng.normal(size=(count, 2)) * noise
        self.names = [f"org/m{k}" for k in range(count)]

    def given(self, scores: Array | None = None, *, families: bool = True) -> dict[str, Any]:
        columns: dict[str, Any] = {"model": self.names}
        if families:
            columns["family"] = self.labels
        values = self.scores if scores is None else scores
        return columns | {f"task{t}": values[:, t] for t in range(values.shape[1])}

    def predict(self, scores: Array | None = None, *, families: bool = True, **options: Any) -> Prediction:
        return predict(_rows(self.values), read_scores(self.given(scores, families=families)), **options)


SIZES = [14, 9, 9, 7, 6, 5, 4, 3, 2, 1]


def test_equals_the_recipe_of_the_paper() -> None:
    """GroupKFold(5, shuffle, seed) around RidgeCV(alphas, cv=5) on double-centred q, predictions clipped to 0..100."""
    world = World(0, SIZES, texts=60)  # wide enough to need the penalty, and a quarter of the time of 150
    world.scores[0, 0] = 99.5
    found = world.predict(seeds=(0, 1))
    values = world.values
    q = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    for t, y in enumerate(world.scores.T[:1]):  # scikit-learn takes seconds a task
        for name in ("grouped", "plain"):
            pooled = []
            for seed in (0, 1):
                split: Any = (KFold if name == "plain" else GroupKFold)(5, shuffle=True, random_state=seed)
                one = np.full(len(y), NAN)
                for train, test in split.split(q, groups=None if name == "plain" else world.family):
                    with config_context(assume_finite=True, skip_parameter_validation=True):  # half of its time
                        one[test] = RidgeCV(ALPHAS, cv=5).fit(q[train], y[train]).predict(q[test]).clip(0, 100)
                pooled.append(one)
            agreement = getattr(found.tasks[t], name)
            linear = [pearsonr(one, y).statistic for one in pooled]
            ranks = [spearmanr(one, y).statistic for one in pooled]
            assert agreement.pearson == pytest.approx(np.mean(linear), abs=1e-8)
            assert agreement.pearson_sd == pytest.approx(np.std(linear, ddof=1), abs=1e-8)
            assert agreement.spearman == pytest.approx(np.mean(ranks), abs=1e-8)
            assert agreement.spearman_sd == pytest.approx(np.std(ranks, ddof=1), abs=1e-8)
            if name == "grouped":
                np.testing.assert_allclose(found.out_of_fold[:, t], np.mean(pooled, axis=0), atol=1e-7)
        mean = values.mean(axis=1)
        assert found.tasks[t].baseline.pearson == pytest.approx(pearsonr(mean, y).statistic)
        assert found.tasks[t].baseline.spearman == pytest.approx(spearmanr(mean, y).statistic)
        assert math.isnan(found.tasks[t].baseline.pearson_sd)
        assert (found.tasks[t].num_models, found.tasks[t].num_families) == (60, 10)
    assert found.notes == ["families are those of the column 'family'"]


def test_rows_without_a_score_are_predicted_as_by_scikit_learn() -> None:
    world = World(1, SIZES)
    scores = world.scores.copy()
    scores[[3, 20, 50], 0] = NAN
    scores[20, 1] = NAN
    found = world.predict(scores)
    q = _rows(world.values).q
    for t, y in enumerate(scores.T):
        known = ~np.isnan(y)
        theirs = RidgeCV(ALPHAS, cv=5).fit(q[known], y[known])
        assert found.tasks[t].alpha == theirs.alpha_
        np.testing.assert_allclose(found.predicted[~known, t], theirs.predict(q[~known]), atol=1e-7)
        assert np.isnan(found.predicted[known, t]).all()
        assert np.isnan(found.out_of_fold[~known, t]).all()
        half = found.tasks[t].half_width
        np.testing.assert_allclose(found.high[~known, t] - found.predicted[~known, t], half)
        np.testing.assert_allclose(found.predicted[~known, t] - found.low[~known, t], half)
    assert (found.tasks[0].num_models, found.tasks[1].num_models) == (57, 59)


def test_half_width_is_the_conformal_quantile() -> None:
    world = World(2, SIZES)
    found = world.predict(seeds=[4], level=0.8)
    for t, y in enumerate(world.scores.T):
        errors = np.sort(np.abs(found.out_of_fold[:, t] - y))
        assert found.tasks[t].half_width == pytest.approx(errors[math.ceil(61 * 0.8) - 1])


def test_other_rows_do_not_change_a_prediction() -> None:
    """q is centred over all rows, but a regression with an intercept does not see that."""
    world = World(3, SIZES)
    more = World(99, [30]).values * 1.5
    alone = world.predict()
    both = predict(_rows(np.vstack([world.values, more])), read_scores(world.given()))
    np.testing.assert_allclose(both.out_of_fold[:60], alone.out_of_fold, atol=1e-7)
    assert both.tasks[0].grouped.pearson == pytest.approx(alone.tasks[0].grouped.pearson, abs=1e-9)


def test_siblings_leak_in_plain_folds() -> None:
    """Scores that are a trait of the family and nothing else: only siblings tell."""
    world = World(4, [8] * 12, apart=4, skills=20)
    trait = np.random.default_rng(0).normal(size=12)[world.family, None]
    found = world.predict(50 + 10 * trait).tasks[0]
    assert found.plain.pearson > 0.5
    assert found.grouped.pearson < found.plain.pearson - 0.3


def test_skill_beats_likelihood() -> None:
    found = World(5, SIZES).predict()
    assert all(result.grouped.pearson > 0.8 > result.baseline.pearson + 0.3 for result in found.tasks)


def test_intervals_cover() -> None:
    """The 90 % intervals hold 86 to 97 % of 450 values of new families, and they are not vacuous."""
    inside, widths = [], []
    for seed in range(15):  # the share of 450 values scatters by 1.4 %
        world = World(seed, [5] * 16, texts=60)
        scores = world.scores.copy()
        new = world.family >= 13
        scores[new] = NAN
        found = world.predict(scores, seeds=(0,))
        inside += list(((found.low <= world.scores) & (world.scores <= found.high))[new].ravel())
        widths.append(found.tasks[0].half_width)
    assert len(inside) == 450
    assert 0.86 < np.mean(inside) < 0.97
    assert np.mean(widths) < 1.3 * np.std(world.scores)


def test_percent_scores_stay_in_bounds_and_others_do_not() -> None:
    world = World(6, SIZES)
    steep = (world.scores - world.scores.mean(axis=0)) * 8 + 50
    scores = np.column_stack([steep[:, 0].clip(0, 100), steep[:, 0] - 500])
    scores[::6] = NAN
    found = world.predict(scores)
    for array in (found.predicted, found.low, found.high, found.out_of_fold):
        known = array[~np.isnan(array[:, 0]), 0]
        assert ((known >= 0) & (known <= 100)).all()
    assert found.low[~np.isnan(found.low[:, 0]), 0].min() == 0
    assert np.nanmin(found.low[:, 1]) < -500


# Leaks


def test_models_that_have_seen_the_texts_are_flagged() -> None:
    world = World(7, SIZES)
    world.values[[11, 33]] += 120  # likelier everywhere, no more skilled: q does not see it
    scores = world.scores.copy()
    scores[33] = NAN
    found = world.predict(scores)
    assert set(found.flagged) == {11, 33}
    assert found.excess[11] > EXCESS_LIMIT < found.excess[33]
    assert [line["model"] for line in found.table() if line["flagged"] and line["task"] == "task0"] == [
        "org/m11",
        "org/m33",
    ]


def test_skill_is_no_leak() -> None:
    """A model that is likelier because it is more skilled is not flagged."""
    world = World(8, SIZES)
    skill = (world.scores - world.scores.mean(axis=0)).sum(axis=1)
    world.values -= world.values.mean(axis=1, keepdims=True)
    world.values += -600 + 4 * skill[:, None]
    found = world.predict(seeds=(0,))
    assert pearsonr(found.mean_log_likelihood, skill).statistic == pytest.approx(1)
    best = int(skill.argmax())
    assert found.excess[best] < EXCESS_LIMIT


def test_few_rows_are_not_screened() -> None:
    found = World(9, [3, 2, 2]).predict()
    assert np.isnan(found.excess).all()
    assert "no screen for leaks: it needs ten rows whose predicted scores differ" in found.notes


def test_mean_log_likelihood_of_a_row_that_lacks_texts() -> None:
    world = World(10, SIZES)
    rows = _rows(world.values)
    np.testing.assert_allclose(mean_log_likelihood(rows), world.values.mean(axis=1))
    holes = world.values.copy()
    easy = holes.mean(axis=0) > np.median(holes.mean(axis=0))
    holes[5, easy] = NAN  # a plain mean would be 80 nats lower
    assert mean_log_likelihood(_rows(holes))[5] == pytest.approx(world.values[5].mean(), abs=8)
    weights = np.linspace(1, 2, 150)
    np.testing.assert_allclose(
        mean_log_likelihood(replace(rows, weights=weights)), np.average(world.values, axis=1, weights=weights)
    )


# Texts that are missing


def test_rows_that_lack_texts_are_compared_on_what_they_share() -> None:
    world = World(11, SIZES, texts=400)
    whole = world.predict()
    world.values[40:, ::5] = NAN
    holes = world.predict()
    for a, b in zip(whole.tasks, holes.tasks, strict=True):
        assert b.grouped.pearson == pytest.approx(a.grouped.pearson, abs=0.03)
    np.testing.assert_allclose(holes.out_of_fold, whole.out_of_fold, atol=2.5)


def test_a_sample_of_the_texts_stands_for_all() -> None:
    """The row is predicted as if all rows had been scored on its sample, with the sample's weights."""
    world = World(12, SIZES, texts=400)
    scores = world.scores.copy()
    scores[[7, 8, 9]] = NAN
    given = read_scores(world.given(scores))
    whole = predict(_rows(world.values), given)
    counts = np.bincount(np.random.default_rng(0).integers(0, 400, 250), minlength=400)
    design = Design("d" * 64, counts, np.full(400, 250 / 400), replacement=True)
    drawn = np.flatnonzero(counts)
    weighted = replace(_rows(world.values[:, drawn]), weights=counts[drawn] / 1.0)
    expected = predict(weighted, given, alphas=np.array(ALPHAS) * len(drawn) / 400)
    world.values[np.ix_([7, 9], counts == 0)] = NAN
    rows = replace(_rows(world.values), designs=[design if k in (7, 9) else None for k in range(60)])
    sampled = predict(rows, given)
    np.testing.assert_allclose(sampled.predicted[[7, 9]], expected.predicted[[7, 9]], atol=1e-7)
    np.testing.assert_allclose(sampled.high[7], expected.high[7], atol=1e-7)
    np.testing.assert_allclose(sampled.predicted[[7, 9]], whole.predicted[[7, 9]], atol=3)
    np.testing.assert_allclose(sampled.predicted[8], whole.predicted[8], atol=1e-7)


def test_a_row_with_a_part_of_the_texts_is_predicted_from_that_part() -> None:
    world = World(24, SIZES)
    scores = world.scores.copy()
    scores[[7, 8]] = NAN
    given = read_scores(world.given(scores))
    part = np.arange(150) % 3 > 0
    expected = predict(_rows(world.values[:, part]), given, alphas=np.array(ALPHAS) * 100 / 150)
    world.values[7, ~part] = NAN
    world.values[8, 3] = NAN  # one text of 150 is too many to overlook, but makes no difference
    found = predict(_rows(world.values), given)
    np.testing.assert_allclose(found.predicted[7], expected.predicted[7], atol=1e-7)
    np.testing.assert_allclose(found.predicted[8], expected.predicted[8], atol=3)


def test_a_scored_row_on_another_part_is_left_out_only_there() -> None:
    world = World(25, SIZES)
    scores = world.scores.copy()
    scores[7] = NAN
    world.values[7, 60:] = NAN
    world.values[20, :80] = NAN
    found = predict(_rows(world.values), read_scores(world.given(scores)))
    assert found.tasks[0].num_models == 59
    assert np.isfinite(found.predicted[7]).all()
    assert (found.low[7] < found.predicted[7]).all()
    assert "1 scored rows have a part of the texts only; what they add is rougher" in found.notes


def test_rows_without_common_texts_are_left_out() -> None:
    world = World(13, SIZES)
    scores = world.scores.copy()
    scores[30] = NAN
    world.values[[20, 30], 1:] = NAN  # one text: nothing to compare
    world.values[31] = NAN  # as a view shows a row that was scored on texts it leaves out
    scores[31] = NAN
    found = world.predict(scores)
    assert math.isnan(found.mean_log_likelihood[31])
    assert found.tasks[0].num_models == 57
    assert np.isnan(found.out_of_fold[20]).all()
    assert np.isnan(found.predicted[30]).all()
    assert "task0, task1: 1 scored rows share too few texts with others and are left out" in found.notes
    assert "2 rows share too few texts with scored ones to be predicted" in found.notes


# Few models, few families, few differences


def test_declared_families_without_a_column() -> None:
    world = World(14, SIZES)
    bases = [[f"org/base{k}-7b"] for k in world.family]
    rows = _rows(world.values, base_model=bases)
    found = predict(rows, read_scores(world.given(families=False)))
    assert found.families == [f"base{k}" for k in world.family]
    assert found.notes == ["families are those that models declare; where you know better, give a column family"]
    named = world.predict()
    assert found.tasks[0].grouped.pearson == pytest.approx(named.tasks[0].grouped.pearson, abs=0.1)


def test_fewer_families_than_folds() -> None:
    found = World(15, [10, 10, 10]).predict()
    assert "task0, task1: 3 families make 3 folds, not 5" in found.notes
    assert found.tasks[0].num_families == 3
    assert math.isfinite(found.tasks[0].grouped.pearson)


def test_one_family() -> None:
    found = World(16, [20]).predict()
    assert math.isnan(found.tasks[0].grouped.pearson)
    assert math.isfinite(found.tasks[0].plain.pearson)
    assert any("all scored models are of one family" in text for text in found.notes)
    assert np.isfinite(found.out_of_fold).all()


def test_five_models_are_enough_and_four_are_not() -> None:
    world = World(17, [3, 2, 2])
    scores = world.scores.copy()
    scores[5:] = NAN
    found = world.predict(scores)
    assert np.isfinite(found.predicted[5:]).all()
    assert np.isnan(found.low).all()
    assert "task0, task1: only 5 scored models; correlations and intervals are rough" in found.notes
    assert "task0, task1: no intervals at level 0.9: they need 9 scored models" in found.notes
    scores[4, 1] = NAN
    found = world.predict(scores)
    assert [result.task for result in found.tasks] == ["task0"]
    assert "left out, with fewer than 5 scored models: task1 has 4" in found.notes
    scores[4] = NAN
    with pytest.raises(
        InputError, match=r"prediction needs at least 5 scored models with a row; task0 has 4; give more"
    ):
        world.predict(scores)


def test_a_task_of_too_few_models_that_share_texts_is_left_out() -> None:
    world = World(18, SIZES)
    scores = world.scores.copy()
    scores[6:, 1] = NAN
    world.values[[0, 1], 1:] = NAN  # two of its six models
    found = world.predict(scores)
    assert [result.task for result in found.tasks] == ["task0"]
    assert found.scores.shape == found.predicted.shape == found.out_of_fold.shape == (60, 1)
    assert np.isfinite(found.excess).any()
    assert "left out, with fewer than 5 scored models that share texts: task1 has 4" in found.notes
    assert [text for text in found.notes if "share too few texts with others" in text] == [
        "task0: 2 scored rows share too few texts with others and are left out"
    ]
    scores[:, 0] = scores[:, 1]
    with pytest.raises(InputError, match="at least 5 scored models that share texts; task0 has 4"):
        world.predict(scores)


@pytest.mark.filterwarnings("error")
def test_no_row_with_any_of_the_texts() -> None:
    world = World(18, SIZES)
    world.values[:] = NAN
    with pytest.raises(InputError, match="no row was scored on any of the view's texts; choose others with --only"):
        world.predict()


@pytest.mark.filterwarnings("error")
def test_constant_scores() -> None:
    world = World(18, SIZES)
    scores = np.column_stack([np.full(60, 0.1), world.scores[:, 0]])
    scores[5] = NAN
    found = world.predict(scores)
    constant = found.tasks[0]
    assert math.isnan(constant.grouped.pearson)
    assert math.isnan(constant.plain.spearman)
    assert math.isnan(constant.baseline.pearson)
    assert found.predicted[5, 0] == pytest.approx(0.1)
    assert any(text.startswith("task0: all scores are equal") for text in found.notes)
    assert found.tasks[1].grouped.pearson > 0.5
    assert np.isfinite(found.excess).all()


@pytest.mark.filterwarnings("error")
def test_identical_and_constant_rows() -> None:
    world = World(19, SIZES)
    world.values[3] = world.values[4]
    world.values[9] = -500
    found = world.predict()
    assert np.isfinite(found.out_of_fold).all()
    world.values[:] = world.values[0]
    found = world.predict()
    assert np.isfinite(found.out_of_fold).all()
    assert np.isnan(found.excess).all() or (np.nan_to_num(found.excess) <= EXCESS_LIMIT).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": 1}, "level: expected a number between 0 and 1, such as 0.9; got 1"),
        ({"folds": 1}, "folds: expected at least 2; got 1"),
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"alphas": (0.0, 1.0)}, "alphas: expected penalties above 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        World(20, SIZES).predict(**options)


def test_unknown_models_are_told_or_refused() -> None:
    world = World(21, SIZES)
    given = read_scores({**world.given(), "model": ["x/gone", *world.names[1:]]})
    found = predict(_rows(world.values), given)
    assert "1 scored model has no row and is left out: x/gone" in found.notes
    assert np.isfinite(found.predicted[0]).all()
    with pytest.raises(NotFoundError, match="x/gone"):
        predict(_rows(world.values), given, strict=True)


def test_same_again() -> None:
    world = World(22, SIZES)
    one, two = (predict_by_default(_rows(world.values), read_scores(world.given())) for _ in range(2))
    assert one.to_json()["tasks"] == two.to_json()["tasks"]
    np.testing.assert_array_equal(one.out_of_fold, two.out_of_fold)


# Files


@pytest.fixture
def found() -> Prediction:
    """A prediction with three rows without scores, one of them with a name that is hard on file formats."""
    world = World(23, SIZES)
    scores = world.scores.copy()
    scores[[0, 1], 0] = NAN
    scores[2] = NAN
    world.names[2] = 'org/"odd", name\n'
    rows = _rows(world.values, names=world.names)
    return predict(rows, read_scores(world.given(scores, families=False) | {"family": world.labels}), seeds=(0,))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.json", "OUT.CSV"])
def test_files_hold_the_table(name: str, found: Prediction, tmp_path: Path, read_back: Callable[[Path], Any]) -> None:
    found.write(tmp_path / name)
    as_text = harmless if name.lower().endswith("csv") else str
    lines = read_back(tmp_path / name)
    table = found.table()
    assert len(lines) == len(table) == 120
    for line, expected in zip(lines, table, strict=True):
        assert list(line) == list(expected)
        for key, value in expected.items():
            missing = isinstance(value, float) and math.isnan(value)
            wanted = as_text(value) if isinstance(value, str) else value
            assert line[key] is None if missing else line[key] == wanted
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_cell_of_a_csv_file_is_a_formula(found: Prediction, tmp_path: Path) -> None:
    families = ["=cmd|' /C calc'!A0", "+1", "@SUM(A1)", "\tx", *found.families[4:]]
    hostile = replace(found, families=families)
    hostile.write(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))[:10:2]
    assert [line["family"] for line in lines] == [
        "'=cmd|' /C calc'!A0", "'+1", "'@SUM(A1)", "'\\tx", found.families[4]
    ]  # fmt: skip
    assert all(float(line["mean_log_likelihood"]) < 0 for line in lines)  # a number may begin with a minus


@pytest.fixture
def read_back() -> Callable[[Path], Any]:
    """Lines of a written file, with missing values as None."""

    def plain(key: str, value: str) -> Any:
        if key in ("row_id", "model", "family", "task"):
            return value
        return value == "True" if key == "flagged" else (float(value) if value else None)

    def read(path: Path) -> Any:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))["rows"]
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: plain(key, value) for key, value in line.items()} for line in csv.DictReader(file)]

    return read


def test_another_ending_is_refused(found: Prediction, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out.xlsx: expected a file name that ends in .csv, .parquet or .json"):
        found.write(tmp_path / "out.xlsx")
    assert not list(tmp_path.iterdir())
