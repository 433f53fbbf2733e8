"""The authors' matrices: raw values become rows, metadata and scores annotations; clipped values become no rows."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from llreg.importers import rows as imported_rows
from llreg.importers.modelmap import import_modelmap, read_names
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.annotations import annotations_of, read_annotation
from llreg.store.rowfile import Row
from llreg_schemas.errors import InputError, InvalidFileError, StorageError

MODELS = 12


@pytest.fixture
def pile(tmp_path: Path) -> Registry:
    """A registry on 120 texts that are named as the paper's."""
    rng = np.random.default_rng(0)
    path = tmp_path / "pile-10k.jsonl"
    texts = [f"text {k} " + "x" * int(rng.integers(50, 900)) for k in range(120)]
    path.write_text("".join(json.dumps({"text": text, "subset": "ab"[k % 2]}) + "\n" for k, text in enumerate(texts)))
    return init(tmp_path / "pile", texts=path)


@pytest.fixture
def matrix(pile: Registry) -> dict[str, np.ndarray]:
    """Raw log-likelihoods as published: float64, and of a few models much lower on a few texts."""
    rng = np.random.default_rng(1)
    sizes = pile.text_index.bytes_per_text
    values = -sizes * rng.uniform(0.4, 1.0, (MODELS, 1)) * rng.uniform(0.8, 1.25, (MODELS, len(sizes)))
    values[2, 7] = -20503.7119140625
    return {f"org/Model-{k}": row for k, row in enumerate(values)}


def _metadata(matrix: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    stacked = np.stack(list(matrix.values()))
    clipped = np.maximum(stacked, np.quantile(stacked, 0.02))
    return [
        {
            "model_name": name,
            "model_type": ["llama-2", "mistral", "gemma"][k % 3],
            "model_size": 6.7 if k else None,
            "created_at": "2024-04-20T00:53:57+00:00",
            "downloads": 10 * k,
            "tags": ["transformers", "license:llama2", "base_model:org/Base", "base_model:finetune:org/Base"],
            "log-likelihood-10k": clipped[k],
            "mean_logp": float(clipped[k].mean()),
            "score_v1_ARC": np.float64(50 + k),
            "score_v1_GSM8K": None if k == 3 else 20.0 - k,
        }
        for k, name in enumerate(matrix)
    ]


def _pickled(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value, 4))
    return path


def test_rows(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLREG_CONTRIBUTOR", "Ada")
    path = _pickled(tmp_path / "raw.pkl", matrix)
    result = import_modelmap(pile, path)
    records = pile.records()
    assert [record.identity.model for record in records] == list(matrix)  # in the file's order
    assert result.added == [record.row_id for record in records]
    assert result.shape == (MODELS, 120)
    assert result.minimum == -20503.7119140625  # not what float32 makes of it
    assert result.quantile == np.quantile(np.stack(list(matrix.values())), 0.02)
    for record in records:
        row = pile.row(record.row_id)
        assert row.log_likelihood.tolist() == matrix[record.identity.model].astype(np.float32).tolist()
        assert not row.num_tokens.any()
    identity, provenance = records[0].identity, records[0].provenance
    assert (identity.source, identity.revision, identity.weight_dtype) == ("imported", None, "float16")
    assert provenance["contributor"] == "Ada"
    assert provenance["device"] == {"type": "unknown", "name": "unknown"}
    assert (provenance["import"], provenance["import_file"]) == ("modelmap", "raw.pkl")
    assert len(provenance["import_sha256"]) == 64
    assert pile.validate() == []


def test_a_build_of_them(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A whole shard of unknown token counts is written all the same: one that is missing is damage."""
    import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix))
    before = pile.dataset().log_likelihood.values
    pile.build()
    assert pile.check_build() == []
    assert pile.validate() == []
    for path in pile.row_files().values():
        path.unlink()
    alone = Registry(pile.path)
    assert np.array_equal(alone.dataset().log_likelihood.values, before)
    assert not alone.dataset().num_tokens.values.any()


def test_again(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = _pickled(tmp_path / "raw.pkl", matrix)
    first = import_modelmap(pile, path)
    files = {path: path.stat().st_mtime_ns for path in pile.row_files().values()}
    again = import_modelmap(pile, path)
    assert again.added == []
    assert again.present == first.added
    assert {path: path.stat().st_mtime_ns for path in pile.row_files().values()} == files


def test_goes_on_after_a_full_disk(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _pickled(tmp_path / "raw.pkl", matrix)
    write, written = imported_rows.atomic.write_atomic, []

    def full(root: Path, target: Path, data: bytes) -> None:
        if len(written) == 5:
            raise StorageError("no space left")
        written.append(target)
        write(root, target, data)

    monkeypatch.setattr(imported_rows.atomic, "write_atomic", full)
    with pytest.raises(StorageError, match="no space left"):
        import_modelmap(pile, path)
    monkeypatch.undo()
    result = import_modelmap(pile, path)
    assert (len(result.present), len(result.added)) == (5, MODELS - 5)
    assert len(pile.records()) == MODELS


def test_dry_run_writes_nothing(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = _pickled(tmp_path / "raw.pkl", matrix)
    metadata = _pickled(tmp_path / "data.pkl", _metadata(matrix))
    before = sorted(pile.path.rglob("*"))
    would = import_modelmap(pile, path, metadata=metadata, dry_run=True)
    assert sorted(pile.path.rglob("*")) == before
    assert would.dry_run
    done = import_modelmap(pile, path, metadata=metadata)
    assert (would.added, would.annotations) == (done.added, done.annotations)


def test_retracted_rows_stay_away(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = _pickled(tmp_path / "raw.pkl", matrix)
    import_modelmap(pile, path)
    record = pile.retract("org/Model-4", why="broken")
    result = import_modelmap(pile, path)
    assert result.retracted == [record.row_id]
    assert record.row_id not in [there.row_id for there in pile.records()]


def test_metadata(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    metadata = _metadata(matrix)
    result = import_modelmap(
        pile, _pickled(tmp_path / "raw.pkl", matrix), metadata=_pickled(tmp_path / "data.pkl", metadata)
    )
    assert result.annotations == ["modelmap-metadata", "modelmap-scores"]
    record = pile.find("org/Model-1")
    declared = record.declared
    assert declared["base_model"] == ["org/Base"]
    assert (declared["relation"], declared["licence"], declared["architecture"]) == ("finetune", "llama2", None)
    assert (declared["num_parameters"], declared["downloads"]) == (6_700_000_000, 10)
    assert declared["created"] == "2024-04-20T00:53:57+00:00"
    assert declared["tags"] == metadata[1]["tags"]
    assert pile.find("org/Model-0").declared["num_parameters"] is None
    told = annotations_of(pile, record)
    assert told["modelmap-metadata"]["model_type"] == "mistral"
    assert told["modelmap-metadata"]["mean_logp"] == metadata[1]["mean_logp"]
    assert told["modelmap-metadata"]["tags"] == ", ".join(metadata[1]["tags"])
    assert told["modelmap-scores"] == {"model_type": "mistral", "score_v1_ARC": 51.0, "score_v1_GSM8K": 19.0}
    scores = read_annotation(pile, "modelmap-scores").columns["score_v1_GSM8K"]
    assert [value for value in scores if value is not None] == [
        entry["score_v1_GSM8K"] for entry in metadata if entry["score_v1_GSM8K"] is not None
    ]


def test_predict_and_neighbours_on_them(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = _pickled(tmp_path / "data.pkl", _metadata(matrix))
    import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix), metadata=path)
    scores = pile.path / "annotations" / "modelmap-scores.parquet"
    found = pile.predict(scores, tasks=["score_v1_ARC"], seeds=range(1))
    assert found.tasks[0].num_models == MODELS
    assert found.tasks[0].num_families == 3
    values = np.stack(list(matrix.values())).astype(np.float32).astype(np.float64)
    expected = [np.var(values[0] - values[k]) / 2 for k in range(1, MODELS)]
    near = pile.neighbors("org/Model-0", k=1)
    assert near.nearest[0].model == list(matrix)[1 + int(np.argmin(expected))]


def test_metadata_alone_gives_annotations_and_no_rows(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = import_modelmap(pile, _pickled(tmp_path / "data.pkl", _metadata(matrix)))
    assert result.added == []
    assert pile.records() == []
    assert result.annotations == ["modelmap-metadata", "modelmap-scores"]
    assert any("log-likelihood-10k is clipped" in note and "stored raw" in note for note in result.notes)


def test_metadata_that_holds_raw_values(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The resampling paper's edition has both, here as lists."""
    entries = [{**entry, "raw_log-likelihood-10k": matrix[entry["model_name"]].tolist()} for entry in _metadata(matrix)]
    result = import_modelmap(pile, _pickled(tmp_path / "data.pkl", entries))
    assert len(result.added) == MODELS
    assert result.minimum == -20503.7119140625


def test_names(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    listed = tmp_path / "models.yaml"
    listed.write_text("# two\n- org/Model-3\n- 'org/Model-1'  # the smaller\n\n")
    names = read_names(listed)
    assert names == ["org/Model-3", "org/Model-1"]
    metadata = _pickled(tmp_path / "data.pkl", _metadata(matrix))
    import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix), metadata=metadata, names=names)
    assert [record.identity.model for record in pile.records()] == ["org/Model-1", "org/Model-3"]
    assert read_annotation(pile, "modelmap-scores").models == ["org/Model-1", "org/Model-3"]
    with pytest.raises(InputError, match="it has no org/Absent"):
        import_modelmap(pile, tmp_path / "raw.pkl", names=["org/Model-1", "org/Absent"])
    listed.write_text("# none\n")
    with pytest.raises(InputError, match="names none"):
        read_names(listed)


def test_clipped_values_are_no_rows(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    stacked = np.stack(list(matrix.values()))
    threshold = float(np.quantile(stacked, 0.02))
    clipped = {name: np.maximum(values, threshold) for name, values in matrix.items()}
    with pytest.raises(InputError, match=f"exactly {threshold!r}, so they were clipped there.*import the raw matrix"):
        import_modelmap(pile, _pickled(tmp_path / "clipped.pkl", clipped))
    assert pile.records() == []


def test_models_that_share_their_minimum_are_not_clipped(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """One checkpoint under two names has equal values everywhere."""
    result = import_modelmap(pile, _pickled(tmp_path / "raw.pkl", {**matrix, "org/Copy": matrix["org/Model-2"]}))
    assert len(result.added) == MODELS + 1


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, str]] = {
    "too short": (lambda m: m.update({"org/Model-5": m["org/Model-5"][:-1]}), "org/Model-5: expected 120 values.*119"),
    "infinite": (lambda m: m["org/Model-5"].__setitem__(3, -np.inf), "finite number or NaN; got -inf at text 3"),
    "positive": (lambda m: m["org/Model-5"].__setitem__(3, 0.5), "at most 0 nats"),
    "impossible": (lambda m: m["org/Model-5"].__setitem__(3, -1e12), "at least -10000 nats a token"),
    "all NaN": (lambda m: m["org/Model-5"].fill(np.nan), "at least one scored text"),
    "two dimensions": (lambda m: m.update({"org/x": np.zeros((120, 1))}), r"one number a text; got .*\(120, 1\)"),
    "flags": (lambda m: m.update({"org/x": np.zeros(120, bool)}), "one number a text; got bool"),
    "text in a list": (lambda m: m.update({"org/x": ["-1"] * 120}), "org/x: expected a list of numbers"),
    "no array": (lambda m: m.update({"org/x": 3}), "got a dict with int for 'org/x'"),
    "no name": (lambda m: m.update({"../../etc": m["org/Model-5"]}), "'../../etc' cannot name a model"),
    "empty": (lambda m: m.clear(), "got an empty dict"),
    "case": (
        lambda m: m.update({"org/model-5": m["org/Model-5"]}),
        "org/model-5 differs only in case from org/Model-5",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_model_and_nothing_is_written(
    name: str, pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path
) -> None:
    change, message = BAD[name]
    metadata = _pickled(tmp_path / "data.pkl", _metadata(matrix))
    change(matrix)
    with pytest.raises((InputError, InvalidFileError), match=message) as caught:
        import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix), metadata=metadata)
    assert "raw.pkl" in str(caught.value)
    assert pile.row_files() == {}
    assert not (pile.path / "annotations").exists()


def test_case_of_a_row_that_is_there(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path, make_row: Callable[..., Row]
) -> None:
    from llreg.store.rowfile import write_row

    write_row(pile.path, make_row(pile, "ORG/Model-5"))
    with pytest.raises(InputError, match=r"org/Model-5 differs only in case from ORG/Model-5 \(in this registry\)"):
        import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix))


def test_another_row_of_a_model(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path, make_row: Callable[..., Row]
) -> None:
    from llreg.store.rowfile import write_row

    write_row(pile.path, make_row(pile, "org/Model-5"))
    result = import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix))
    assert any(
        "of 1 of these models there are other rows here, too, as of org/Model-5" in note for note in result.notes
    )


BAD_METADATA: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "no name": (lambda e: e[2].pop("model_name"), "entry 3: expected a model's name in model_name; got 'None'"),
    "name": (lambda e: e[2].update(model_name="a b"), "entry 3: expected a model's name.*'a b'"),
    "twice": (lambda e: e[2].update(model_name="org/Model-1"), "org/Model-1 stands there 2 times"),
    "case": (lambda e: e[2].update(model_name="org/model-1"), "differs only in case"),
    "score of text": (lambda e: e[2].update(score_v1_ARC="high"), "expected int in score_v1_ARC; got str"),
    "tags": (lambda e: e[2].update(tags=[1]), "expected text in tags"),
    "no list of dicts": (lambda e: e.append("x"), "expected a list of dicts with model_name; got a list"),
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata(name: str, pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    change, message = BAD_METADATA[name]
    entries = _metadata(matrix)
    change(entries)
    path = _pickled(tmp_path / "data.pkl", entries)
    with pytest.raises(InputError, match=message):
        import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix), metadata=path)
    assert pile.records() == []


def test_metadata_twice(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = _pickled(tmp_path / "data.pkl", _metadata(matrix))
    with pytest.raises(InputError, match="it holds metadata, as"):
        import_modelmap(pile, path, metadata=path)


def test_another_text_set(registry: Registry, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = registry.text_index.bytes_per_text
    path = _pickled(tmp_path / "raw.pkl", {f"a/{k}": -sizes * rng.uniform(0.5, 1, len(sizes)) for k in range(3)})
    with pytest.raises(InputError, match=r"this registry is on mini.*--force"):
        import_modelmap(registry, path)
    assert len(import_modelmap(registry, path, force=True).added) == 3


def test_a_recipe_of_that_name_is_enough(tmp_path: Path, small_registry: Registry) -> None:
    path = _pickled(tmp_path / "raw.pkl", {"a/b": -np.arange(1.0, 7)})
    recipe = small_registry.path / "recipe.json"
    for content in ("[]", "{", '{"name": 3}', '{"name": "other"}'):
        recipe.write_text(content)
        with pytest.raises(InputError, match="on six"):
            import_modelmap(small_registry, path)
    recipe.write_text('{"name": "pile-10k"}')
    assert len(import_modelmap(small_registry, path).added) == 1


def test_says_where_values_do_not_fit_the_sizes_of_texts(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fitting = import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix), dry_run=True)
    order = np.random.default_rng(5).permutation(120)
    shuffled = {name: values[order] for name, values in matrix.items()}
    strange = import_modelmap(pile, _pickled(tmp_path / "raw.pkl", shuffled), dry_run=True)
    assert not any("rank correlation" in note for note in fitting.notes)
    assert any("hardly follow the sizes of the texts" in note for note in strange.notes)
    assert all(any("in the file's order" in note for note in result.notes) for result in (fitting, strange))


def test_rank_correlation(pile: Registry) -> None:
    rng = np.random.default_rng(2)
    sizes = pile.text_index.bytes_per_text
    values = -np.round(sizes * rng.uniform(0.2, 3, (3, 120)), -2)  # with ties
    values[:, 4], values[1, 9] = np.nan, np.nan
    known = ~np.isnan(values).all(axis=0)
    expected = spearmanr(-np.nanmean(values[:, known], axis=0), sizes[known]).statistic
    found = imported_rows._size_correlation(values, sizes)
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-12)
    assert imported_rows._size_correlation(values[:, :50], sizes[:50]) is None


def test_a_fixed_version_is_not_imported_into(pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path) -> None:
    pile.tag("v1")
    with pytest.raises(InputError, match="version v1 is fixed"):
        import_modelmap(Registry(pile.path, revision="v1"), _pickled(tmp_path / "raw.pkl", matrix))


def test_contributor(
    pile: Registry, matrix: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLREG_CONTRIBUTOR", "two\nlines")
    with pytest.raises(InputError, match="LLREG_CONTRIBUTOR"):
        import_modelmap(pile, _pickled(tmp_path / "raw.pkl", matrix))
