"""Rows of a registry: found by any of their names, replicated, retracted, summarised, read before a build."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import llreg
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]


class TestFind:
    """A model name, a row id or a digest prefix."""

    @pytest.fixture
    def rows(self, small_registry: Registry, fill: Fill) -> list[Row]:
        return fill(small_registry, 3)

    def test_by_any_name(self, small_registry: Registry, rows: list[Row]) -> None:
        wanted = rows[1].record
        for name in ("org/m1", wanted.row_id, wanted.digest, wanted.digest[:6], wanted.digest[:20]):
            assert small_registry.find(name) == wanted

    def test_digest_prefix_of_five_is_too_short(self, small_registry: Registry, rows: list[Row]) -> None:
        with pytest.raises(NotFoundError, match="no row of"):
            small_registry.find(rows[1].record.digest[:5])

    def test_near_names_are_suggested(self, small_registry: Registry, rows: list[Row]) -> None:
        with pytest.raises(NotFoundError, match=r"no row of org/m9 in this registry; did you mean org/m. or org/m"):
            small_registry.find("org/m9")
        with pytest.raises(NotFoundError, match=r"no row of zzz in this registry; see: llreg ls"):
            small_registry.find("zzz")

    @pytest.mark.parametrize("name", ["", "*", "org/", "m1", "ORG/M1", "../org/m1", "org/m1@"])
    def test_nothing_else_matches(self, small_registry: Registry, rows: list[Row], name: str) -> None:
        with pytest.raises(NotFoundError, match="no row of"):
            small_registry.find(name)

    def test_model_name_goes_before_digest(self, small_registry: Registry, rows: list[Row], make_row: MakeRow) -> None:
        named = make_row(small_registry, rows[0].record.digest[:8], 9)
        write_row(small_registry.path, named)
        assert small_registry.find(rows[0].record.digest[:8]) == named.record

    def test_by_several_names_in_the_given_order(self, small_registry: Registry, rows: list[Row]) -> None:
        data = small_registry.dataset(["org/m2", rows[0].record.row_id])
        assert data["model_id"].values.tolist() == ["org/m2", "org/m0"]
        np.testing.assert_array_equal(data["log_likelihood"].values, [rows[2].log_likelihood, rows[0].log_likelihood])


class TestReplicates:
    """The same identity measured twice."""

    def test_both_are_kept_and_named_when_ambiguous(self, small_registry: Registry, make_row: MakeRow) -> None:
        rows = [make_row(small_registry, "a/b", seed) for seed in (1, 2)]
        other = make_row(small_registry, "a/b", 3, weight_dtype="float16")
        for row in (*rows, other):
            write_row(small_registry.path, row)
        assert rows[0].record.identity.id == rows[1].record.identity.id != other.record.identity.id
        assert len(small_registry.records()) == 3
        assert small_registry.replicates(rows[0].record.identity) == [row.record for row in rows]
        assert small_registry.validate() == []
        with pytest.raises(InputError, match=r"a/b has 3 rows; name one by its id: ") as caught:
            small_registry.find("a/b")
        for row in (*rows, other):
            assert f"{row.record.row_id} ({row.record.identity.weight_dtype})" in str(caught.value)

    def test_same_values_are_the_same_row(self, small_registry: Registry, make_row: MakeRow) -> None:
        one = make_row(small_registry, "a/b", 1)
        two = make_row(small_registry, "a/b", 1, provenance={"contributor": "Eve"}, added_at="2027-01-01T00:00:00Z")
        for row in (one, two):
            write_row(small_registry.path, row)
        assert small_registry.records() == [one.record]


class TestRetract:
    """Withdrawn, never deleted."""

    def test_leaves_it_out_and_keeps_the_file(
        self, small_registry: Registry, fill: Fill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLREG_CONTRIBUTOR", "Ada")
        rows = fill(small_registry, 3)
        before = small_registry.version
        record = small_registry.retract("org/m1", why="wrong weights")
        assert record == rows[1].record
        assert [r.identity.model for r in small_registry.records()] == ["org/m0", "org/m2"]
        assert small_registry.version != before
        assert record.digest in small_registry.row_files()
        assert small_registry.all_records()[record.digest] == record
        document = json.loads((small_registry.path / "retractions" / f"{record.digest}.json").read_text())
        assert (document["why"], document["by"], document["model"]) == ("wrong weights", "Ada", "org/m1")
        assert small_registry.validate() == []
        with pytest.raises(NotFoundError, match="no row of org/m1"):
            small_registry.retract("org/m1", why="again")

    @pytest.mark.parametrize("why", ["", "  ", "two\nlines", "esc\u001b[31m", "w" * 501])
    def test_reason_must_be_a_line(self, small_registry: Registry, fill: Fill, why: str) -> None:
        fill(small_registry, 1)
        with pytest.raises(InputError, match="--why: give the reason in one printable line"):
            small_registry.retract("org/m0", why=why)
        assert small_registry.retractions() == {}

    def test_replicate_of_a_retracted_row_stands(self, small_registry: Registry, make_row: MakeRow) -> None:
        rows = [make_row(small_registry, "a/b", seed) for seed in (1, 2)]
        for row in rows:
            write_row(small_registry.path, row)
        small_registry.retract(rows[0].record.row_id, why="superseded")
        assert small_registry.find("a/b") == rows[1].record


class TestBeforeABuild:
    """Reading is the build and the rows not in it yet."""

    def test_build_and_pending_are_one(self, small_registry: Registry, fill: Fill) -> None:
        rows = fill(small_registry, 2)
        small_registry.build()
        rows += fill(small_registry, 2, start=2)
        data = small_registry.dataset()
        np.testing.assert_array_equal(data["log_likelihood"].values, [row.log_likelihood for row in rows])
        np.testing.assert_array_equal(data["num_tokens"].values, [row.num_tokens for row in rows])
        assert data["digest"].values.tolist() == [row.record.digest for row in rows]
        small_registry.build()
        assert small_registry.dataset().identical(data)

    def test_pending_row_older_than_the_build_goes_in_its_place(
        self, small_registry: Registry, fill: Fill, make_row: MakeRow
    ) -> None:
        fill(small_registry, 2, start=5)
        small_registry.build()
        old = make_row(small_registry, "org/old", 1)
        write_row(small_registry.path, old)
        data = small_registry.dataset()
        assert data["model_id"].values.tolist() == ["org/old", "org/m5", "org/m6"]
        np.testing.assert_array_equal(data["log_likelihood"].values[0], old.log_likelihood)

    def test_indexing_reads_what_is_asked_for(self, small_registry: Registry, fill: Fill) -> None:
        rows = fill(small_registry, 3)
        small_registry.build()
        rows += fill(small_registry, 2, start=3)
        expected = np.array([row.log_likelihood for row in rows])
        lazy = small_registry.dataset()["log_likelihood"]
        for key in [
            (2, slice(None)),
            (slice(None), 1),
            (4, 3),
            ([4, 0], slice(1, 4)),
            (slice(None, None, 2), [5, 0]),
            (slice(None, None, -1), slice(None, None, -2)),
            (np.array([True, False, True, False, True]), -1),
            ([], slice(None)),
        ]:
            got = lazy[{"model": key[0], "text": key[1]}].values
            np.testing.assert_array_equal(got, expected[key], str(key))

    def test_selection_by_subset(self, registry: Registry, fill: Fill) -> None:
        rows = fill(registry, 2)
        data = registry.dataset()
        code = data.sel(text=data["subset"] == "python")
        assert code.sizes["text"] == 16
        chosen = np.array(registry.texts.subset) == "python"
        np.testing.assert_array_equal(code["log_likelihood"].values, [row.log_likelihood[chosen] for row in rows])

    def test_dataset_stays_what_it_was_when_rows_come(self, small_registry: Registry, fill: Fill) -> None:
        rows = fill(small_registry, 2)
        lazy = small_registry.dataset()
        fill(small_registry, 2, start=2)
        small_registry.build()
        np.testing.assert_array_equal(lazy["log_likelihood"].values, [row.log_likelihood for row in rows])

    def test_row_that_has_left_is_a_sentence(self, small_registry: Registry, fill: Fill) -> None:
        """Only the build held it; a rebuild that leaves it out keeps it as a file, and who opened it before reads on."""
        rows = fill(small_registry, 2)
        small_registry.build()
        shutil.rmtree(small_registry.path / "rows")
        lazy = small_registry.dataset()
        small_registry.retract("org/m0", why="wrong")
        small_registry.build()
        np.testing.assert_array_equal(lazy["log_likelihood"].values, [row.log_likelihood for row in rows])
        lazy = small_registry.dataset(["org/m1"])
        shutil.rmtree(small_registry.path / "rows")
        shutil.rmtree(small_registry.path / "store.zarr")
        with pytest.raises(NotFoundError, match="has left this registry since it was opened; open it again"):
            _ = lazy["log_likelihood"].values

    def test_empty(self, small_registry: Registry) -> None:
        data = small_registry.dataset()
        assert data["log_likelihood"].shape == data["log_likelihood"].values.shape == (0, 6)
        assert small_registry.summary() == []


def test_summary_is_worked_out(small_registry: Registry, make_row: MakeRow) -> None:
    values = [-10.0, -20.0, np.nan, -40.0, np.nan, -60.0]
    row = make_row(small_registry, "a/b", log_likelihood=values, quantization="gguf:Q4_1", weight_dtype="bfloat16")
    write_row(small_registry.path, row)
    (line,) = small_registry.summary()
    size = np.array(small_registry.texts.num_bytes)[[0, 1, 3, 5]].sum()
    assert line["texts_scored"] == 4
    assert line["mean_log_likelihood"] == pytest.approx(-130 / 4)
    assert line["bits_per_byte"] == pytest.approx(130 / math.log(2) / size)
    assert (line["model"], line["row_id"], line["weights"]) == ("a/b", row.record.row_id, "bfloat16 (gguf:Q4_1)")
    assert (line["num_parameters"], line["contributor"]) == (124_000_000, "Ada")


class TestOpening:
    """`llreg.init` and `llreg.open`."""

    def test_public_names(self, tmp_path: object, small_texts: object) -> None:
        made = llreg.init(f"{tmp_path}/r", texts=str(small_texts), clip=-100)
        opened = llreg.open(made.path)
        assert isinstance(opened, llreg.Registry)
        assert (opened.name, opened.num_texts, opened.clip) == ("r", 6, -100.0)
        assert opened.texts == made.texts
        assert opened.texts.info.id == llreg.load_texts(str(made.path / "texts.parquet")).info.id
        assert set(llreg.__all__) <= set(dir(llreg))
        for name in llreg.__all__:
            assert getattr(llreg, name) is not None

    def test_not_a_registry(self, tmp_path: object) -> None:
        with pytest.raises(NotFoundError, match=r"is not a registry \(no registry.json\); make one with: llreg init"):
            llreg.open(f"{tmp_path}")
        with pytest.raises(NotFoundError, match="is not a registry"):
            llreg.open(f"{tmp_path}/nowhere")

    def test_no_second_registry_in_a_place(self, small_registry: Registry) -> None:
        with pytest.raises(InputError, match="is a registry already; add to it with"):
            init(small_registry.path)

    @pytest.mark.parametrize("name", ["", "a b", "a\u001b[0m", "../x", "a/b/c", "x" * 201])
    def test_bad_name(self, tmp_path: object, name: str) -> None:
        with pytest.raises(InputError, match=r"name .*: use letters, digits"):
            init(f"{tmp_path}/dir with spaces", name=name)

    def test_name_made_from_the_directory(self, tmp_path: object) -> None:
        assert init(f"{tmp_path}/dir with spaces").name == "dir-with-spaces"

    def test_files_of_others_are_not_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "texts.parquet").write_bytes(b"mine")
        (tmp_path / ".gitignore").write_text("*.log")
        with pytest.raises(InputError, match=r"holds texts\.parquet already, which a registry would overwrite"):
            init(tmp_path)
        assert (tmp_path / "texts.parquet").read_bytes() == b"mine"
        (tmp_path / "texts.parquet").unlink()
        init(tmp_path)
        assert (tmp_path / ".gitignore").read_text() == "*.log\n.llreg/\n"

    @pytest.mark.parametrize("clip", [0.5, float("nan"), float("-inf")])
    def test_bad_clip(self, tmp_path: object, clip: float) -> None:
        with pytest.raises((InputError, InvalidFileError), match="clip"):
            init(f"{tmp_path}/r", clip=clip)

    @pytest.mark.parametrize("clip", [0.5, float("nan"), float("-inf")])
    def test_bad_clip_of_a_distance(self, small_registry: Registry, fill: Fill, clip: float) -> None:
        fill(small_registry, 2)
        with pytest.raises(InputError, match="clip"):
            small_registry.kl(clip=clip)

    @pytest.mark.parametrize(
        ("part", "field", "value"),
        [
            ("view", "clip", -5.0),
            ("protocol", "text_set", "0" * 64),
            ("text_set", "id", "0" * 64),
            ("view", "id", "0" * 64),
        ],
    )
    def test_ids_in_registry_json_are_checked(
        self, small_registry: Registry, part: str, field: str, value: object
    ) -> None:
        path = small_registry.path / "registry.json"
        document = json.loads(path.read_text())
        document[part][field] = value
        path.write_text(json.dumps(document))
        with pytest.raises(InvalidFileError, match=r"registry\.json: (protocol|view)\."):
            Registry(small_registry.path)

    def test_row_files_elsewhere_are_not_followed(self, small_registry: Registry, fill: Fill) -> None:
        fill(small_registry, 1)
        shutil.move(small_registry.path / "rows", small_registry.path / "rows.old")
        assert small_registry.records() == []
