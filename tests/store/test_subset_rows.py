"""Rows scored on a text subset: made, kept, listed, validated, resumed, and compared with full rows."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.subset import describe_subset, make_subset, subset_errors
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.layout import subset_file
from llreg.store.listings import summarise
from llreg.store.lookup import find_record
from llreg.store.rowfile import Row, row_path, write_row
from llreg.store.subsets import check_subset, dump_subset, load_subset, read_designs, store_subset
from llreg_schemas import RowRecord, hash_json, row_digest
from llreg_schemas.errors import InputError, InvalidFileError, LlregWarning, NotFoundError

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]
ToyModel = Callable[..., Path]
Document = dict[str, Any]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, empty_registries: Path, make_row: MakeRow) -> Path:
    """What `filled` copies."""
    registry = Registry(shutil.copytree(empty_registries / "registry", tmp_path_factory.mktemp("filled") / "registry"))
    for k in range(4):
        write_row(registry.path, make_row(registry, f"org/m{k}", k))
    return registry.path


@pytest.fixture
def filled(made_once: Path, tmp_path: Path) -> Registry:
    """Four full rows on 128 texts."""
    return Registry(shutil.copytree(made_once, tmp_path / "filled"))


@pytest.fixture(scope="module")
def drawn(made_once: Path) -> Document:
    return make_subset(Registry(made_once), 40)


@pytest.fixture
def document(drawn: Document) -> Document:
    """A subset of 40 of its texts."""
    return copy.deepcopy(drawn)


def _on(row: Row, document: Document, *, keep_outside: int = 0) -> Row:
    """The row as if scored on a subset only, and on some texts outside it."""
    values, tokens = row.log_likelihood.copy(), row.num_tokens.copy()
    outside = np.setdiff1d(np.arange(len(values)), document["texts"])[keep_outside:]
    values[outside], tokens[outside] = np.nan, 0
    identity = replace(row.record.identity, subset=document["id"])
    provenance = {**row.record.provenance, "tokens": int(tokens.sum()), "over_context": 0}
    digest = row_digest(identity.to_json(), values, tokens)
    return Row(RowRecord(identity, provenance, row.record.declared, digest), values, tokens)


def _add(registry: Registry, document: Document, row: Row, **more: Any) -> Row:
    store_subset(registry.path, document)
    sampled = _on(row, document, **more)
    write_row(registry.path, sampled)
    return sampled


# Making subsets


@pytest.mark.parametrize("method", ["ls", "kl", "uniform"])
def test_a_subset_says_how_it_was_drawn(filled: Registry, method: Any) -> None:
    document = make_subset(filled, 40, method=method)
    assert len(document["texts"]) == document["draws"] == 40
    assert document["texts"] == sorted(set(document["texts"]))
    assert document["counts"] == [1] * 40
    assert (document["text_set"], document["version"]) == (filled.info["text_set"]["id"], filled.version)
    assert document["view"] == filled.view.to_json()
    assert document["id"] == hash_json({name: value for name, value in document.items() if name != "id"})
    assert document == make_subset(filled, 40, method=method)
    assert document["models"] == (0 if method == "uniform" else 4)
    assert (len(set(document["chances"])) == 1) == (method == "uniform")
    cost = describe_subset(filled, document)
    sizes = filled.text_index.bytes_per_text
    assert cost["byte_share"] == pytest.approx(sizes[document["texts"]].sum() / sizes.sum())
    assert cost["text_share"] == 40 / 128


def test_another_seed_is_another_sample(filled: Registry, document: Document) -> None:
    other = make_subset(filled, 40, seed=1)
    assert other["id"] != document["id"]
    assert other["texts"] != document["texts"]
    assert other["chances"] == document["chances"]


def test_draws_with_replacement(filled: Registry) -> None:
    document = make_subset(filled, draws=200, floor=0.0)
    assert sum(document["counts"]) == 200
    assert len(document["texts"]) < 128
    assert max(document["counts"]) > 1


def test_a_view_bounds_what_is_drawn(filled: Registry) -> None:
    index = filled.text_index
    one = next(iter(index.info.subsets))
    document = make_subset(filled, 10, view=replace(filled.view, only=(one,)))
    assert {index.subset[text] for text in document["texts"]} == {one}
    assert all((chance > 0) == (label == one) for chance, label in zip(document["chances"], index.subset, strict=True))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "give the number of texts"),
        ({"size": 5, "draws": 5}, "not both"),
        ({"size": 129}, "expected at most 128 texts, as many as can be drawn; got 129"),
        ({"size": 0}, "at least 1 text"),
        ({"size": 5, "method": "best"}, "expected one of uniform, ls, kl; got 'best'"),
        ({"size": 5, "seed": -1}, "seed: expected at least 0"),
        ({"size": 5, "floor": 2.0}, "floor: expected a number from 0 to 1"),
    ],
)
def test_what_cannot_be_drawn(filled: Registry, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_subset(filled, **options)


def test_telling_texts_need_rows(registry: Registry, fill: Fill) -> None:
    fill(registry, 1)
    with pytest.raises(InputError, match=r"needs two rows scored on all texts.*there are 1: add rows, or draw"):
        make_subset(registry, 10)
    document = make_subset(registry, 10, method="uniform")
    assert subset_errors(registry, document) == []
    with pytest.raises(InputError, match="errors are measured between rows that differ"):
        subset_errors(registry, document, curve=True)


def test_errors_are_measured_on_full_rows(filled: Registry, document: Document) -> None:
    (line,) = subset_errors(filled, document)
    assert (line["method"], line["texts"]) == ("ls", 40)
    assert 0 < line["relative"] < line["relative_total"]
    _add(filled, document, filled.row("org/m0"))
    assert subset_errors(filled, document) == [line]


# Files


def test_a_file_is_read_back(filled: Registry, document: Document, tmp_path: Path) -> None:
    path = tmp_path / "subset.json"
    path.write_bytes(dump_subset(document))
    assert load_subset(filled, path) == load_subset(filled, str(path)) == load_subset(filled, document) == document
    with pytest.raises(InputError, match="expected a subset file"):
        load_subset(filled, document["id"])
    store_subset(filled.path, document)
    assert load_subset(filled, document["id"]) == document


def _signed(document: Document, **changed: Any) -> Document:
    rest = {name: value for name, value in {**document, **changed}.items() if name != "id"}
    return {**rest, "id": hash_json(rest)}


TAMPERED: list[tuple[Callable[[Document], Document], str]] = [
    (lambda d: {**d, "seed": 9}, "id: expected the hash of the other fields"),
    (lambda d: _signed(d, text_set="0" * 64), "text_set: expected this registry's text set"),
    (
        lambda d: _signed(d, texts=d["texts"][:-1], counts=d["counts"][:-1]),
        "texts: expected the texts that its chances",
    ),
    (lambda d: _signed(d, texts=[*d["texts"][:-1], 127.0]), "texts: "),
    (lambda d: _signed(d, chances=d["chances"][:-1]), "chances: expected 128, one a text"),
    (lambda d: _signed(d, chances=[0] * 128), "chances: expected a sum above 0"),
    (lambda d: _signed(d, chances=[10**12] * 128, draws=10**6), "chances: expected a sum"),
    (lambda d: _signed(d, draws=129), "draws: expected at most 128 texts"),
    (lambda d: _signed(d, draws=12_801, replacement=True), "draws: expected at most 100 a text"),
    (lambda d: _signed(d, counts=[2] * 40), "texts: expected the texts that its chances"),
    (lambda d: {name: value for name, value in d.items() if name != "view"}, "view: expected a value"),
]


@pytest.mark.parametrize(("tamper", "told"), TAMPERED)
def test_a_subset_that_was_not_drawn_is_refused(
    filled: Registry, document: Document, tamper: Callable[[Document], Document], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "subset.json"
    path.write_text(json.dumps(tamper(document)))
    with pytest.raises(InputError, match=told):
        load_subset(filled, path)


def test_no_subset_file(filled: Registry, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=r"make (one|a subset) with: llreg subset"):
            load_subset(filled, path)
    (tmp_path / "text").write_text("no JSON")
    with pytest.raises(InputError, match=r"expected JSON.*; make a subset with: llreg subset"):
        load_subset(filled, tmp_path / "text")


# Rows


def test_the_row_is_kept_built_and_read_back(filled: Registry, document: Document) -> None:
    sampled = _add(filled, document, filled.row("org/m0"))
    assert filled.validate() == []
    filled.build()
    assert filled.check_build() == []
    shutil.rmtree(filled.path / "rows")
    pulled = Registry(filled.path)
    assert pulled.row(sampled.record.row_id).record == sampled.record
    np.testing.assert_array_equal(pulled.row(sampled.record.row_id).log_likelihood, sampled.log_likelihood)
    assert pulled.validate() == []
    (pulled.path / subset_file(document["id"])).unlink()
    (problem,) = pulled.validate()
    assert "identity.subset: expected a sound subset" in problem.message
    assert "get it from where they came" in problem.message


def test_designs(filled: Registry, document: Document) -> None:
    sampled = _add(filled, document, filled.row("org/m0"))
    records = [sampled.record, filled.find("org/m1"), sampled.record]
    other = make_subset(filled, 20)
    first, none, second = read_designs(filled, records)
    assert none is None
    assert first is second
    assert first is not None
    assert np.flatnonzero(first.counts).tolist() == document["texts"]
    path = filled.path / subset_file(document["id"])
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1'))
    with pytest.raises(InvalidFileError, match=r"subsets/.*id: expected the hash"):
        read_designs(filled, records)
    path.write_bytes(dump_subset(other))
    with pytest.raises(InvalidFileError, match=f"expected {document['id']}"):
        read_designs(filled, records)
    path.unlink()
    with pytest.raises(InvalidFileError, match="cannot be read: No such file"):
        read_designs(filled, records)


def test_distances_of_the_row(filled: Registry, document: Document) -> None:
    of_all = filled.row("org/m0").record.row_id
    row_id = _add(filled, document, filled.row(of_all)).record.row_id
    whole = filled.kl(["org/m1"], ["org/m2"])["kl"].item()
    result = filled.kl([row_id], ["org/m1", "org/m2", "org/m3"])
    assert (result["num_texts"].values == 40).all()
    full = filled.kl([of_all], ["org/m1", "org/m2", "org/m3"])
    off = np.abs(result["kl"].values - full["kl"].values)
    assert (off < 4 * result["kl_se"].values).all()
    assert (result["kl_se"].values > full["kl_se"].values).all()
    assert filled.kl(["org/m1"], ["org/m2"])["kl"].item() == whole
    labels = list(filled.text_index.info.subsets)[:4]
    result = filled.kl([row_id], ["org/m1"], view=replace(filled.view, only=tuple(labels)))
    inside = [text for text in document["texts"] if filled.text_index.subset[text] in labels]
    assert result["num_texts"].item() == len(inside)
    assert result["kl"].item() > 0


def test_a_view_beyond_the_subset_is_told(filled: Registry) -> None:
    label = next(iter(filled.text_index.info.subsets))
    document = make_subset(filled, 8, view=replace(filled.view, only=(label,)))
    row_id = _add(filled, document, filled.row("org/m0")).record.row_id
    with pytest.warns(LlregWarning, match=f"no distance in this view for {row_id}"):
        result = filled.kl([row_id, "org/m1"])
    assert np.isnan(result["kl"].values[0, 1])
    within = filled.kl([row_id], ["org/m1"], view=document)  # the subset names its view
    assert within["kl"].item() > 0
    assert within["num_texts"].item() == 8


def test_means_are_estimates_for_all_texts(filled: Registry, document: Document) -> None:
    full = filled.row("org/m0")
    sizes = filled.text_index.bytes_per_text
    (plain,) = summarise([full.record], sizes, lambda _: full.log_likelihood[None], [None])
    assert plain["subset"] is None
    assert plain["mean_log_likelihood"] == pytest.approx(full.log_likelihood.astype(float).mean())
    estimates = []
    for seed in range(60):
        drawn = make_subset(filled, 40, seed=seed)
        store_subset(filled.path, drawn)
        row = _on(full, drawn)
        (line,) = summarise(
            [row.record], sizes, lambda _, row=row: row.log_likelihood[None], read_designs(filled, [row.record])
        )
        assert (line["subset"], line["texts_scored"]) == (drawn["id"], 40)
        estimates.append((line["mean_log_likelihood"], line["bits_per_byte"]))
    truth = np.array([plain["mean_log_likelihood"], plain["bits_per_byte"]])
    error = np.std(estimates, axis=0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - truth) < 4 * error).all()


def test_two_rows_of_a_model_are_told_apart(filled: Registry, document: Document) -> None:
    sampled = _add(filled, document, filled.row("org/m0"))
    with pytest.raises(InputError, match=rf"has 2 rows.*{sampled.record.row_id} \(float32, text subset "):
        filled.find("org/m0")
    assert find_record(filled.records(), sampled.record.row_id) == sampled.record
    assert [r.digest for r in filled.replicates(sampled.record.identity)] == [sampled.record.digest]


# Validation


def test_values_outside_the_subset_are_refused(filled: Registry, document: Document) -> None:
    row = _add(filled, document, filled.row("org/m0"), keep_outside=1)
    (problem,) = filled.validate()
    assert problem.file == str(row_path(row.record))
    assert "log_likelihood: expected NaN outside the row's text subset" in problem.message


def test_more_texts_over_the_context_than_missing_in_the_subset_are_refused(
    filled: Registry, document: Document
) -> None:
    store_subset(filled.path, document)
    row = _on(filled.row("org/m0"), document)
    record = replace(row.record, provenance={**row.record.provenance, "over_context": 3})
    write_row(filled.path, replace(row, record=record))
    (problem,) = filled.validate()
    assert "provenance: expected at most 0 texts over the context" in problem.message


def test_validate_looks_into_subsets(filled: Registry, document: Document) -> None:
    store_subset(filled.path, document)
    path = filled.path / subset_file(document["id"])
    assert filled.validate() == []
    path.write_bytes(path.read_bytes()[:-100])
    (problem,) = filled.validate()
    assert problem.file == f"subsets/{document['id']}.json"


def test_a_directory_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "subsets").mkdir()
    with pytest.raises(InputError, match="holds subsets already"):
        init(tmp_path)


def test_subset_of_another_registry(filled: Registry, document: Document, small_registry: Registry) -> None:
    with pytest.raises(InvalidFileError, match="expected this registry's text set"):
        check_subset(document, small_registry.info, "it")


# Adding


@pytest.fixture
def six(small_registry: Registry) -> Document:
    """A subset of three of six texts."""
    return make_subset(small_registry, 3, method="uniform", seed=1)


torch = pytest.mark.torch


def _subset_of(registry: Registry, six: Document, model: Path, **options: Any) -> Row:
    (result,) = registry.add([str(model)], subset=six, **options)
    assert result.status == "added", result.message
    return registry.row(result.row_id or "")


@torch
def test_add_scores_only_the_subset(small_registry: Registry, six: Document, toy_model: ToyModel) -> None:
    pytest.importorskip("torch")
    sampled = _subset_of(small_registry, six, toy_model())
    assert np.flatnonzero(sampled.num_tokens).tolist() == six["texts"]
    assert np.flatnonzero(~np.isnan(sampled.log_likelihood)).tolist() == six["texts"]
    assert sampled.record.identity.subset == six["id"]
    assert sampled.record.provenance["over_context"] == sampled.record.provenance["unscored"] == 0
    assert small_registry.validate() == []
    assert load_subset(small_registry, six["id"]) == six
    (again,) = small_registry.add([str(toy_model())], subset=six["id"])
    assert (again.status, again.row_id) == ("present", sampled.record.row_id)
    (whole,) = small_registry.add([str(toy_model())])
    assert whole.status == "added"
    full = small_registry.row(whole.row_id or "")
    np.testing.assert_allclose(sampled.log_likelihood[six["texts"]], full.log_likelihood[six["texts"]], rtol=1e-5)
    assert full.record.identity.subset is None
    assert len(small_registry.records()) == 2


@torch
def test_a_full_row_makes_a_subset_needless(small_registry: Registry, six: Document, toy_model: ToyModel) -> None:
    pytest.importorskip("torch")
    (whole,) = small_registry.add([str(toy_model())])
    (result,) = small_registry.add([str(toy_model())], subset=six)
    assert (result.status, result.row_id) == ("present", whole.row_id)
    assert "on all texts" in result.message
    assert not (small_registry.path / "subsets").exists()
    _subset_of(small_registry, six, toy_model(), overwrite="always")


@torch
def test_only_missing_texts_of_the_subset_are_scored(
    small_registry: Registry, six: Document, toy_model: ToyModel
) -> None:
    pytest.importorskip("torch")
    sampled = _subset_of(small_registry, six, toy_model())
    values, tokens = sampled.log_likelihood.copy(), sampled.num_tokens.copy()
    values[six["texts"][0]], tokens[six["texts"][0]] = np.nan, 0
    values[six["texts"][1]] -= 1  # so that rescoring would show
    record = sampled.record
    # A row without segments, as an older version made it: what is completed has none either.
    without = {name: value for name, value in record.provenance.items() if not name.startswith("segments")}
    provenance = {**without, "tokens": int(tokens.sum()), "added_at": "2026-01-01T00:00:00Z"}
    lacking = replace(record, provenance=provenance, digest=row_digest(record.identity.to_json(), values, tokens))
    (small_registry.path / row_path(record)).unlink()
    write_row(small_registry.path, Row(lacking, values, tokens))
    (result,) = small_registry.add([str(toy_model())], subset=six)
    assert result.status == "added"
    completed = small_registry.row(result.row_id or "").log_likelihood
    assert completed[six["texts"][0]] == sampled.log_likelihood[six["texts"][0]]
    assert completed[six["texts"][1]] == values[six["texts"][1]]
    assert np.flatnonzero(~np.isnan(completed)).tolist() == six["texts"]


@torch
def test_texts_over_the_context_are_explained(small_registry: Registry, six: Document, toy_model: ToyModel) -> None:
    pytest.importorskip("torch")
    short = toy_model("short", n_positions=45)
    sampled = _subset_of(small_registry, six, short)
    over = sampled.record.provenance["over_context"]
    assert over == int(np.isnan(sampled.log_likelihood[six["texts"]]).sum()) > 0
    (again,) = small_registry.add([str(short)], subset=six)
    assert again.status == "present"
    assert small_registry.validate() == []


@torch
def test_texts_outside_the_subset_need_not_be_here(
    small_registry: Registry, six: Document, toy_model: ToyModel
) -> None:
    """Where a licence forbids copying a text, a subset without it can be scored all the same."""
    pytest.importorskip("torch")
    texts = small_registry.texts
    outside = next(text for text in range(6) if text not in six["texts"])
    left = [None if text == outside else kept for text, kept in enumerate(texts.texts)]
    small_registry.__dict__["texts"] = replace(texts, texts=left)
    _subset_of(small_registry, six, toy_model())
    inside = [None if text == six["texts"][0] else kept for text, kept in enumerate(texts.texts)]
    small_registry.__dict__["texts"] = replace(texts, texts=inside)
    with pytest.raises(NotFoundError, match=r"1 of 3 texts of .* are not copied"):
        small_registry.add([str(toy_model("other", seed=1))], subset=six)


@torch
def test_a_wrong_subset_is_refused_before_anything_is_loaded(
    filled: Registry, document: Document, small_registry: Registry, toy_model: ToyModel
) -> None:
    with pytest.raises(InputError, match="expected this registry's text set"):
        small_registry.add([str(toy_model())], subset=document)


def test_neighbours_of_a_large_map_know_samples(filled: Registry, document: Document, make_row: MakeRow) -> None:
    """Where rows are streamed, sampled rows keep their weights, and other pairs the exact KL."""
    from llreg.geometry.kl.stream import stream_rows
    from llreg.maps.nearest import Nearest, exact_neighbors

    _add(filled, document, make_row(filled, "org/m1", 21, log_likelihood=filled.row("org/m1").log_likelihood))
    rows = stream_rows(filled)
    others = np.array([[j for j in range(5) if j != i] for i in range(5)])
    found = exact_neighbors(rows, Nearest(others, np.zeros(others.shape)), 4)
    ids = rows.row_ids
    result = filled.kl(ids)
    for i, index in enumerate(found.index):
        np.testing.assert_allclose(found.kl[i], result["kl_bits_per_byte"].values[i, index], rtol=1e-9, atol=1e-20)
        assert found.kl_se is not None
        np.testing.assert_allclose(found.kl_se[i], result["kl_bits_per_byte_se"].values[i, index], rtol=1e-9)
        assert (np.diff(found.kl[i]) >= 0).all()
