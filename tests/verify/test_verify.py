"""`llreg verify` with real toy models: what matches, what is told apart and named, and what stays open."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import MakeRow

from llreg.geometry.subset import make_subset
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.arrays import row_variables
from llreg.store.rowfile import Row, make_row, write_row
from llreg.texts.textset import mini
from llreg.verify.comparison import ERROR_RATE, OPEN_RATE, Agreement, compare, segment_difference, token_difference
from llreg.verify.verify import _judge_files
from llreg_schemas.errors import InputError, NotFoundError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ToyModel = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]
Change = Callable[[str, Any], Any]
SHORT = 14  # texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few short texts, each of another length."""
    found = [text[: 60 + 5 * k] for k, text in enumerate(mini().complete()[:SHORT])]
    path = tmp_path_factory.mktemp("texts") / "short.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, texts: Path, toy_model: ToyModel) -> dict[str, Row]:
    """The toy model's rows by dtype, made once."""
    registry, found = init(tmp_path_factory.mktemp("rows") / "registry", texts=texts), {}
    for dtype in ("float32", "bfloat16"):
        (result,) = registry.add([str(toy_model())], dtype=dtype)
        assert result.row_id is not None, result
        found[dtype] = registry.row(result.row_id)
    return found


@pytest.fixture
def here(tmp_path: Path, texts: Path) -> Registry:
    """An empty registry on the short texts."""
    return init(tmp_path / "registry", texts=texts)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, toy_model: ToyModel) -> Callable[[Change], Path]:
    """Factory: the toy model with its weights changed, under its own name."""
    from safetensors.torch import load_file, save_file

    def make(change: Change) -> Path:
        folder = Path(shutil.copytree(toy_model(), tmp_path_factory.mktemp("changed") / "toy"))
        weights = {name: change(name, weight) for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def _noise(size: float) -> Change:
    rng = np.random.default_rng(0)
    return lambda _, weight: weight * weight.new_tensor(1 + size * rng.standard_normal(weight.shape))


def _to_int8(_: str, weight: Any) -> Any:
    """The weights as they come back from 255 levels a row."""
    if weight.ndim < 2:
        return weight
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


def _remade(row: Row, provenance: Mapping[str, Any] | None = None, **identity: Any) -> Row:
    """The row with another identity or provenance, its digest made good."""
    made = replace(row.record.identity, **identity)
    return make_row(made, {**row.record.provenance, **(provenance or {})}, row.record.declared, row.arrays)


def _with_values(row: Row, values: Any, tokens: Any = None) -> Row:
    """The row, claiming other values, and no segments."""
    tokens = row.num_tokens if tokens is None else tokens
    told = {key: value for key, value in row.record.provenance.items() if not key.startswith("segments")}
    arrays = {"log_likelihood": np.asarray(values, np.float32), "num_tokens": tokens}
    return make_row(row.record.identity, {**told, "tokens": int(tokens.sum())}, row.record.declared, arrays)


def _kept(registry: Registry, row: Row) -> str:
    write_row(registry.path, row)
    return row.record.row_id


def _row_of(registry: Registry, model: Path, **options: Any) -> Row:
    (result,) = registry.add([str(model)], **options)
    assert result.row_id is not None, result
    return registry.row(result.row_id)


class TestFloat32:
    """Where nearly everything is seen."""

    def test_match(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        row = _kept(here, rows["float32"])
        found = here.verify(row, 8, path=toy_model())
        assert (found.outcome, found.cause, found.row_id, found.model) == ("match", "", row, "toy")
        assert len(found.texts) == 8
        assert (found.dtype, found.device, found.row_device) == ("float32", "cpu", "cpu")
        assert found.comparison is not None
        assert found.comparison.max_difference <= 1e-3
        assert found.comparison.unseen < 1e-3
        assert "the row holds what this model gives" in found.why
        document = json.loads(json.dumps(found.to_json()))
        assert (document["outcome"], document["seed"]) == ("match", found.seed)
        assert document["comparison"]["rms_difference"] == found.comparison.rms_difference

    def test_texts_are_drawn_by_chance_and_can_be_drawn_again(
        self, here: Registry, rows: dict[str, Row], toy_model: ToyModel
    ) -> None:
        row = _kept(here, rows["float32"])
        first, second = (here.verify(row, 3, path=toy_model()) for _ in range(2))
        assert first.seed != second.seed
        assert here.verify(row, 3, seed=first.seed, path=toy_model()).texts == first.texts
        assert here.verify(row, 999, path=toy_model()).texts == tuple(range(SHORT))

    @pytest.mark.parametrize(
        "change",
        [
            _to_int8,
            lambda name, weight: weight * 1.001 if name == "transformer.h.1.mlp.c_fc.weight" else weight,
            lambda name, weight: _noise(1e-3)(name, weight) if ".h.0." in name else weight,
            lambda name, weight: _noise(1e-4)(name, weight),
        ],
        ids=["int8", "one matrix scaled by 1.001", "a layer's noise of 1e-3", "noise of 1e-4"],
    )
    def test_changed_weights_are_seen(
        self, here: Registry, rows: dict[str, Row], changed: Callable[[Change], Path], change: Change
    ) -> None:
        found = here.verify(_kept(here, rows["float32"]), path=changed(change))
        assert (found.outcome, found.cause) == ("mismatch", "files")
        assert found.comparison is not None
        assert found.comparison.outcome == "mismatch"
        assert "these are not the row's files: sha256 " in found.why
        assert "their values are others, too: the row was not made with these weights" in found.why

    def test_sentence_about_other_files_where_the_values_stay_open(self, here: Registry, rows: dict[str, Row]) -> None:
        row = rows["float32"].record
        files = SimpleNamespace(identity={**row.identity.to_json(), "revision": f"sha256:{'0' * 64}"}, kind="local")
        comparison = compare(*(np.zeros(3), np.full(3, 1e-9), np.full(3, 9), "float32"))
        open_outcome = Agreement(
            row.row_id,
            "toy",
            "inconclusive",
            "",
            "it stays open: too few texts",
            comparison=replace(comparison, outcome="inconclusive"),
        )
        verdict = _judge_files(open_outcome, row.identity, cast(Any, files))
        assert (verdict.outcome, verdict.cause) == ("mismatch", "files")
        assert verdict.why.endswith("; whether their values are the same stays open: too few texts")

    def test_forged_row(
        self, here: Registry, rows: dict[str, Row], changed: Callable[[Change], Path], toy_model: ToyModel
    ) -> None:
        """The values of changed weights under the identity of the right ones."""
        other = _row_of(here, changed(_to_int8))
        row = _kept(here, _with_values(rows["float32"], other.log_likelihood))
        found = here.verify(row, path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "weights")
        assert "no arithmetic moves its values so far" in found.why

    def test_a_few_changed_values(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        values = rows["float32"].log_likelihood.copy()
        values[:2] -= 1
        found = here.verify(_kept(here, _with_values(rows["float32"], values)), path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "weights")
        assert found.comparison is not None
        assert found.comparison.max_difference == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("with_tokens", [True, False])
    def test_another_text_order(
        self, here: Registry, rows: dict[str, Row], toy_model: ToyModel, with_tokens: bool
    ) -> None:
        row, order = rows["float32"], np.roll(np.arange(SHORT), 1)
        forged = _with_values(row, row.log_likelihood[order], row.num_tokens[order] if with_tokens else None)
        found = here.verify(_kept(here, forged), path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "text order")
        told = (
            "have other numbers of tokens" if with_tokens else f"{SHORT} of {SHORT} values stand at other places of it"
        )
        assert told in found.why

    def test_file_hash_differs_and_values_do_not(
        self, here: Registry, rows: dict[str, Row], toy_model: ToyModel, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(toy_model(), tmp_path / "toy"))
        (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
        found = here.verify(_kept(here, rows["float32"]), path=copy)
        assert (found.outcome, found.cause) == ("mismatch", "files")
        assert found.comparison is not None
        assert found.comparison.outcome == "match"
        assert found.why.endswith("their values are the same all the same, as far as can be seen")

    def test_imported_row_names_no_files(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        row = _kept(here, _remade(rows["float32"], source="imported", revision=None))
        found = here.verify(row, path=toy_model())
        assert found.outcome == "match"
        assert "that these are its files is not shown" in found.why
        assert "the row was imported: give the model's files with --model" in here.verify(row).why


class TestTokens:
    """Rows of other tokenizers, and texts that only one of the two can score."""

    def test_another_tokenizer(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel, tmp_path: Path) -> None:
        found = here.verify(_kept(here, rows["float32"]), path=_retokenised(toy_model(), tmp_path / "toy", bos=False))
        assert found.outcome == "mismatch"
        assert "the row was made with another tokenizer" in found.why
        assert "texts have other numbers of tokens (text " in found.why

    def test_special_token_before_each_text(
        self, here: Registry, rows: dict[str, Row], toy_model: ToyModel, tmp_path: Path
    ) -> None:
        theirs = _row_of(here, _retokenised(toy_model(), tmp_path / "toy", bos=True))
        row = _kept(here, _with_values(rows["float32"], theirs.log_likelihood, theirs.num_tokens))
        found = here.verify(row, path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "tokens")
        assert "a special token before each text is scored in the row only" in found.why

    def test_texts_past_the_context(self, here: Registry, toy_model: ToyModel) -> None:
        short = toy_model("short", n_positions=90)
        row = _row_of(here, short)
        over = np.isnan(row.log_likelihood)
        assert 0 < over.sum() < SHORT
        found = here.verify(row.record.row_id, path=short)
        assert found.outcome == "match"
        assert set(found.texts) == set(np.flatnonzero(~over).tolist())

        values, tokens = row.log_likelihood.copy(), row.num_tokens.copy()
        at = int(np.flatnonzero(over)[0])
        values[at], tokens[at] = -200.0, 150
        told = {"over_context": int(over.sum()) - 1}
        forged = _kept(here, _remade(_with_values(row, values, tokens), told))
        found = here.verify(forged, SHORT, path=short)
        assert (found.outcome, found.cause) == ("mismatch", "coverage")
        assert f"the row has a value for text {at}, of 150 tokens, and the model takes at most 90 here" in found.why

        hidden = int(np.flatnonzero(~over)[0])
        values, tokens = row.log_likelihood.copy(), row.num_tokens.copy()
        values[hidden], tokens[hidden] = np.nan, 0
        told = {"over_context": int(over.sum()) + 1, "tokens": int(tokens.sum())}
        forged = _kept(here, _remade(_with_values(row, values, tokens), told))
        causes = {here.verify(forged, 3, path=short, seed=seed).cause for seed in range(4)}
        assert "coverage" in causes  # four of the texts without a value are looked at

    def test_one_text_was_cut_otherwise(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        """All texts are tokenised again, not the sample alone; a row of before llreg followed the file says so."""
        row = rows["float32"]
        tokens = row.num_tokens.copy()
        tokens[3] += 1
        forged = _with_values(row, row.log_likelihood, tokens)
        seed = next(
            seed for seed in range(99) if 3 not in here.verify(_kept(here, row), 2, path=toy_model(), seed=seed).texts
        )
        found = here.verify(_kept(here, forged), 2, path=toy_model(), seed=seed)
        assert (found.outcome, found.cause) == ("mismatch", "tokens")
        assert "the row was made with another tokenizer" in found.why
        assert f"text 3 has {tokens[3]} tokens in the row and {tokens[3] - 1} here" in found.why
        tokens[4] += 1
        forged = _with_values(row, row.log_likelihood, tokens)
        provenance = {key: value for key, value in forged.record.provenance.items() if key != "tokenization"}
        older = replace(forged, record=replace(forged.record, provenance=provenance))
        found = here.verify(_kept(here, older), 2, path=toy_model(), seed=seed)
        assert (found.outcome, found.cause) == ("mismatch", "tokens")
        assert "by a version of llreg that did not yet follow the checkpoint's own file: 2 of" in found.why

    def test_texts_that_the_vocabulary_cannot_write(self, here: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(toy_model(), tmp_path / "toy"))
        texts = here.texts.complete()
        letters = {letter: sum(letter in text for text in texts) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
        letter = next(letter for letter, count in letters.items() if 0 < count < len(texts))
        document = json.loads((folder / "tokenizer.json").read_text())
        del document["model"]["vocab"][letter]
        (folder / "tokenizer.json").write_text(json.dumps(document))
        row = _row_of(here, folder)
        unknown = np.array([letter in text for text in texts])
        assert np.isnan(row.log_likelihood).tolist() == unknown.tolist()
        assert row.record.provenance["unknown_token"] == unknown.sum()
        assert here.verify(row.record.row_id, path=folder).outcome == "match"
        at = int(np.flatnonzero(unknown)[0])
        values, tokens = row.log_likelihood.copy(), row.num_tokens.copy()
        values[at], tokens[at] = -200.0, 50
        told = {"unknown_token": int(unknown.sum()) - 1}
        found = here.verify(_kept(here, _remade(_with_values(row, values, tokens), told)), path=folder)
        assert (found.outcome, found.cause) == ("mismatch", "tokens")
        assert f"text {at} has 50 tokens in the row and 0 here" in found.why

    def test_subset(self, here: Registry, toy_model: ToyModel) -> None:
        document = make_subset(here, 5, method="uniform")
        row = _row_of(here, toy_model(), subset=document)
        found = here.verify(row.record.row_id, path=toy_model())
        assert (found.outcome, list(found.texts)) == ("match", document["texts"])


def _retokenised(model: Path, to: Path, *, bos: bool) -> Path:
    """The model with a tokenizer that knows no merges, or one that puts a special token before each text."""
    shutil.copytree(model, to)
    document = json.loads((to / "tokenizer.json").read_text())
    if bos:
        first, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }
    else:
        document["model"]["merges"] = []
    (to / "tokenizer.json").write_text(json.dumps(document))
    return to


class TestBfloat16:
    """Where arithmetic hides small changes."""

    def test_made_here(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        found = here.verify(_kept(here, rows["bfloat16"]), path=toy_model())
        assert (found.outcome, found.dtype) == ("match", "bfloat16")

    def test_made_elsewhere(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        """With errors of its own, as large as those here."""
        found = here.verify(_kept(here, _elsewhere(rows)), path=toy_model())
        assert found.outcome == "match"
        assert found.comparison is not None
        assert found.comparison.measured
        assert found.comparison.distance == pytest.approx(found.comparison.explained, rel=0.2)
        assert "from float32 arithmetic the row is " in found.figures
        assert found.why.endswith("would look the same (--texts 256 shows smaller ones)")

    def test_errs_more_than_it_should(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        found = here.verify(_kept(here, _elsewhere(rows, 4)), path=toy_model())
        assert (found.outcome, found.cause) == ("inconclusive", "arithmetic")
        assert found.why.endswith("more texts may tell (--texts 256)")

    def test_changed_a_little_here(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        """The row says that it was made on this machine, which repeats itself."""
        values = rows["bfloat16"].log_likelihood
        values = values + np.float32(0.02) * (-1) ** np.arange(SHORT)
        found = here.verify(_kept(here, _with_values(rows["bfloat16"], values)), path=toy_model())
        assert (found.outcome, found.cause) == ("inconclusive", "arithmetic")
        assert "where llreg repeats itself" in found.why
        assert "--dtype float32" in found.why

    @pytest.mark.parametrize("elsewhere", [True, False])
    def test_changed_weights(
        self,
        here: Registry,
        rows: dict[str, Row],
        changed: Callable[[Change], Path],
        elsewhere: bool,
    ) -> None:
        row = _kept(here, _elsewhere(rows) if elsewhere else rows["bfloat16"])
        found = here.verify(row, path=changed(_noise(0.05)))
        assert found.comparison is not None
        assert (found.comparison.measured, found.comparison.outcome) == (True, "mismatch")

    def test_int8_here(self, here: Registry, rows: dict[str, Row], changed: Callable[[Change], Path]) -> None:
        found = here.verify(_kept(here, rows["bfloat16"]), path=changed(_to_int8))
        assert found.comparison is not None
        assert found.comparison.outcome != "match"

    def test_another_text_order(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        order = np.roll(np.arange(SHORT), 1)
        row = rows["bfloat16"]
        forged = _with_values(row, row.log_likelihood[order], row.num_tokens[order])
        found = here.verify(_kept(here, forged), path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "text order")

    def test_few_texts_are_judged_by_the_table(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        found = here.verify(_kept(here, _elsewhere(rows)), 4, path=toy_model())
        assert found.comparison is not None
        assert not found.comparison.measured
        assert found.comparison.allowed > 0.1


def _elsewhere(rows: dict[str, Row], factor: float = 1) -> Row:
    """The row in bfloat16 as another machine might have made it: other errors, larger by a factor."""
    exact, rounded = (rows[dtype].log_likelihood for dtype in ("float32", "bfloat16"))
    made = _with_values(rows["bfloat16"], exact - np.float32(factor) * (rounded - exact))
    return _remade(made, {"device": {"type": "cpu", "name": "another"}})


class TestUnavailable:
    """Nothing can be scored: inconclusive, with the reason."""

    def test_local_model_without_its_files(self, here: Registry, rows: dict[str, Row]) -> None:
        found = here.verify(_kept(here, rows["float32"]))
        assert (found.outcome, found.cause, found.comparison) == ("inconclusive", "unavailable", None)
        assert found.why.endswith("made from files on somebody's machine: give the model's files with --model")
        assert found.figures == ""
        assert found.to_json()["comparison"] is None

    def test_hub_that_cannot_be_reached(self, here: Registry, make_row: MakeRow) -> None:
        found = here.verify(_kept(here, make_row(here, "org/gone")))
        assert (found.outcome, found.cause) == ("inconclusive", "unavailable")
        assert found.why.startswith("it cannot be scored here: ")

    def test_overflow(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        loud = toy_model("loud", gain=3e3)
        row = _kept(here, _remade(_row_of(here, loud), weight_dtype="float16"))
        found = here.verify(row, 2, path=loud)
        assert (found.outcome, found.cause) == ("inconclusive", "unavailable")
        assert "gives NaN or inf in float16" in found.why

    def test_no_such_files(self, here: Registry, rows: dict[str, Row], tmp_path: Path) -> None:
        found = here.verify(_kept(here, rows["float32"]), path=tmp_path / "nothing")
        assert found.cause == "unavailable"
        assert "does not exist" in found.why

    def test_wrong_arguments(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        row = _kept(here, rows["float32"])
        with pytest.raises(InputError, match="texts: expected at least 1; got 0"):
            here.verify(row, 0)
        with pytest.raises(NotFoundError, match="no row of foo in this registry"):
            here.verify("foo")
        with pytest.raises(InputError, match="unknown device 'tpu'"):
            here.verify(row, device="tpu", path=toy_model())


def test_pairs(pair_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
    """Both log-likelihoods of a row of pairs are compared."""
    model = Path(shutil.copytree(toy_model(), tmp_path / "chat"))
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    )
    row = _row_of(pair_registry, model)
    assert pair_registry.verify("chat", path=model).outcome == "match"
    alone = row.log_likelihood_response
    assert alone is not None
    arrays = {name: row.arrays[name] for name in row_variables(pairs=True)}
    told = {key: value for key, value in row.record.provenance.items() if not key.startswith("segments")}
    arrays["log_likelihood_response"] = alone - np.float32(2)
    forged = _kept(pair_registry, make_row(row.record.identity, told, row.record.declared, arrays))
    found = pair_registry.verify(forged, path=model)
    assert (found.outcome, found.cause) == ("mismatch", "weights")


class TestSegments:
    """Where the texts' values are the model's own, as they are."""

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_in_another_order(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel, dtype: str) -> None:
        """Of one text alone: its sum is what it was."""
        row, cuts = rows[dtype], here.cuts
        assert cuts is not None
        text = int(np.argmax(np.diff(cuts.first)))
        arrays = {name: array.copy() for name, array in row.arrays.items()}
        arrays["segment_log_likelihood"][cuts.first[text] : cuts.first[text + 1]] = np.roll(
            arrays["segment_log_likelihood"][cuts.first[text] : cuts.first[text + 1]], 1
        )
        forged = _kept(here, make_row(row.record.identity, row.record.provenance, row.record.declared, arrays))
        assert here.validate() == []
        found = here.verify(forged, SHORT, path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "segments")
        assert "the texts' values are this model's, and those of their segments are not: they are " in found.why
        assert here.verify(_kept(here, row), SHORT, path=toy_model()).outcome == "match"

    def test_more_correct_tokens(self, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        row = rows["float32"]
        arrays = {**row.arrays, "num_correct": row.num_tokens}
        forged = _kept(here, make_row(row.record.identity, row.record.provenance, row.record.declared, arrays))
        found = here.verify(forged, 8, path=toy_model())
        assert (found.outcome, found.cause) == ("mismatch", "segments")
        assert "tokens are the model's first choice in the row and" in found.why

    @given(st.lists(st.lists(st.integers(-10_000, 0), min_size=1, max_size=20), min_size=1, max_size=9), st.data())
    def test_rounding_is_no_difference(self, texts: list[list[int]], data: st.DataObject) -> None:
        stored = [np.array(text, np.int32) for text in texts]
        assert segment_difference(stored, stored, 1e-3) == ""
        noise = st.integers(-1, 1)
        other = [segments + np.array([data.draw(noise) for _ in segments], np.int32) for segments in stored]
        assert segment_difference(stored, other, 1e-2) == ""
        assert segment_difference(stored, [segments + 2560 for segments in stored], 1.0) != ""


class TestCommand:
    """`llreg verify` itself, in this process: torch is loaded already."""

    @pytest.fixture
    def command(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Registry) -> Command:
        from llreg.cli import main

        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

        def run(*args: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["llreg", "-r", str(here.path), "verify", *map(str, args)])
            with pytest.raises(SystemExit) as done:
                main()
            return int(done.value.code or 0), *capsys.readouterr()

        return run

    def test_match(self, command: Command, here: Registry, rows: dict[str, Row], toy_model: ToyModel) -> None:
        row = _kept(here, rows["float32"])
        code, out, err = command("toy", "--model", toy_model(), "--texts", 4, "--seed", 7)
        assert (code, err) == (0, "llreg: scoring 4 texts of toy again\n")
        first, why, figures, seed = out.splitlines()
        assert first == f"match         {row}"
        assert "the row holds what this model gives" in why
        assert "4 texts scored again in float32 on cpu (the row: cpu): root mean square difference " in figures
        assert seed == "    drawn by --seed 7"

    def test_all_and_json_and_quiet(
        self, command: Command, here: Registry, rows: dict[str, Row], make_row: MakeRow
    ) -> None:
        ids = [_kept(here, rows["float32"]), _kept(here, make_row(here, "org/gone"))]
        code, out, err = command("--all", "--json")
        assert code == 1
        assert sorted(entry["row_id"] for entry in json.loads(out)) == sorted(ids)
        assert {entry["outcome"] for entry in json.loads(out)} == {"inconclusive"}
        assert "scoring 32 texts" in err
        code, out, err = command("--all", "-q")
        assert (code, sorted(out.split()), err) == (1, sorted(ids), "")

    @pytest.mark.parametrize(
        ("args", "told"),
        [
            ((), "name the rows to verify, or give --all"),
            (("toy", "--all"), "name the rows to verify, or give --all"),
            (("toy", "other", "--model", "x"), "--model goes with one row"),
            (("toy", "--texts", "0"), "'--texts'"),
        ],
    )
    def test_usage(self, command: Command, args: tuple[str, ...], told: str) -> None:
        code, out, err = command(*args)
        assert (code, out) == (2, "")
        assert told in err


# The decision itself: what arithmetic explains

N, TOKENS, LEVEL = 32, 300, -1000.0


def _drawn(seed: int, size: float, n: int = N) -> Any:
    return size * np.random.default_rng(seed).standard_normal(n)


def test_error_rates_of_the_right_row() -> None:
    """With errors of the size that was measured, drawn 2,000 times."""
    stored, tokens, outcomes = np.full(N, LEVEL), np.full(N, TOKENS), []
    for seed in range(2000):
        exact = stored + _drawn(3 * seed, 0.5)
        found = compare(stored, exact + _drawn(3 * seed + 1, 0.5), tokens, "bfloat16", exact=exact)
        outcomes.append(found.outcome)
    assert outcomes.count("mismatch") <= 2000 * ERROR_RATE
    assert outcomes.count("match") >= 2000 * (1 - OPEN_RATE)


@pytest.mark.parametrize(
    ("noise", "outcome"), [(0.0, "match"), (1e-4, "match"), (1e-3, "inconclusive"), (0.05, "mismatch")]
)
def test_float32_by_the_table(noise: float, outcome: str) -> None:
    stored, tokens = np.full(N, LEVEL), np.full(N, TOKENS)
    assert compare(stored, stored + _drawn(1, noise), tokens, "float32").outcome == outcome


def test_float32_of_a_gpu_may_be_tf32() -> None:
    stored, tokens = np.full(N, LEVEL), np.full(N, TOKENS)
    found = stored + _drawn(1, 0.05)
    assert compare(stored, found, tokens, "float32", on_cpu=False).outcome == "inconclusive"
    assert compare(stored, stored + _drawn(1, 3), tokens, "float32", on_cpu=False).outcome == "mismatch"


def test_bias_tells_where_the_spread_does_not() -> None:
    n = 256
    stored, tokens = np.full(n, LEVEL), np.full(n, TOKENS)
    exact = stored + _drawn(1, 0.3, n)
    found = exact + _drawn(2, 0.3, n)
    assert compare(stored, found, tokens[:n], "bfloat16", exact=exact).outcome == "match"
    shifted = compare(stored - 0.25, found, tokens, "bfloat16", exact=exact)
    assert shifted.distance < shifted.allowed
    assert shifted.outcome == "inconclusive"


@given(seed=st.integers(0, 1 << 20), factor=st.floats(1e-4, 1e4), n=st.integers(1, 60))
def test_scale_and_order_of_the_texts_do_not_matter(seed: int, factor: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    stored, tokens = -rng.uniform(5, 2000, n), rng.integers(1, 900, n)
    exact = stored + factor * rng.standard_normal(n)
    found = exact + rng.standard_normal(n)
    one = compare(stored, found, tokens, "bfloat16", exact=exact)
    order = rng.permutation(n)
    other = compare(stored[order], found[order], tokens[order], "bfloat16", exact=exact[order])
    assert one.outcome == other.outcome
    assert one.distance == pytest.approx(other.distance)
    assert one.allowed <= one.beyond
    assert (one.outcome == "mismatch") >= (one.distance > one.beyond)


def test_numbers_of_tokens() -> None:
    texts, here = [4, 7, 9], np.array([10, 20, 30])
    assert token_difference(texts, here, here) == ""
    assert token_difference(texts, 0 * here, here) == ""  # imported: not known
    assert (
        "1 of 3 texts have other numbers of tokens (text 7 has 21 tokens in the row and 20 here)"
        in token_difference(texts, np.array([10, 21, 30]), here)
    )
    assert "a special token before each text is scored here only" in token_difference(texts, here - 1, here)
