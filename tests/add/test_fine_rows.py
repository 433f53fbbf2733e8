"""Rows with segments, as `add` makes them: against exact logits, interrupted, and where there can be none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tools.rows import without_texts

from llreg.add.job import flat_arrays, row_arrays, row_entries
from llreg.add.journal import Journal
from llreg.add.reporter import Reporter
from llreg.locate import init
from llreg.registry import Registry
from llreg.score import score_row
from llreg.store.arrays import UNSCORED
from llreg.store.rowfile import Row, make_row, write_row
from llreg.texts.segments import Cuts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ToyModel = Callable[..., Path]


def cuts_of(registry: Registry) -> Cuts:
    assert registry.cuts is not None
    return registry.cuts


def add(registry: Registry, model: Path, **options: Any) -> Row:
    (result,) = registry.add([str(model)], **options)
    assert result.row_id is not None, result.message
    return registry.row(result.row_id)


@pytest.fixture(scope="module")
def toy_row(tmp_path_factory: pytest.TempPathFactory, small_texts: Path, toy_model: ToyModel) -> Row:
    """The row of the toy model on the six small texts."""
    return add(init(tmp_path_factory.mktemp("toy") / "small", texts=small_texts), toy_model())


def test_segments_are_those_of_exact_logits(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    """In float64, by transformers and `tokenizers`; the segments of a text add up to its value, to the resolution."""
    from tokenizers import Tokenizer

    module = transformers.AutoModelForCausalLM.from_pretrained(toy_model(), dtype=torch.float64).eval()
    backend, cuts = Tokenizer.from_file(str(toy_model() / "tokenizer.json")), cuts_of(small_registry)
    segments, correct = toy_row.segment_log_likelihood, toy_row.num_correct
    assert segments is not None
    assert correct is not None
    for k, text in enumerate(small_registry.texts.complete()):
        encoding = backend.encode(text, add_special_tokens=False)
        with torch.inference_mode():
            log_probs = module(torch.tensor([encoding.ids])).logits[0].log_softmax(-1)
        ends = np.cumsum(cuts.sizes[cuts.first[k] : cuts.first[k + 1]])
        expected, num_first = np.zeros(len(ends)), 0
        for t in range(1, len(encoding.ids)):
            byte = len(text[: encoding.offsets[t][0]].encode())
            expected[int((ends <= byte).sum())] += float(log_probs[t - 1, encoding.ids[t]])
            num_first += int(log_probs[t - 1].argmax()) == encoding.ids[t]
        found = segments[cuts.first[k] : cuts.first[k + 1]]
        np.testing.assert_allclose(found / 256, expected, atol=1 / 256 + 1e-3)
        np.testing.assert_allclose(np.cumsum(found) / 256, np.cumsum(expected), atol=1 / 512 + 1e-3)
        assert correct[k] == num_first
        assert abs(found.sum() / 256 - float(toy_row.log_likelihood[k])) <= 1 / 512 + 1e-4


def test_record(small_registry: Registry, toy_row: Row) -> None:
    assert small_registry.info.segments is not None
    assert toy_row.record.provenance["segments"] == small_registry.info.segments["id"]
    assert "no_segments" not in toy_row.record.provenance
    assert toy_row.record.to_json()["format_version"] == 2
    write_row(small_registry.path, toy_row)
    assert small_registry.validate() == []


def test_an_interrupted_run_goes_on_to_the_same_row(
    small_registry: Registry, toy_model: ToyModel, toy_row: Row
) -> None:
    class Interrupted(Reporter):
        seen = 0

        def advance(self, tokens: int) -> None:
            self.seen += 1
            if self.seen == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_registry.add([str(toy_model())], reporter=Interrupted(), batch_tokens=1)
    (path,) = (small_registry.path / ".llreg" / "runs").glob("*.journal")
    kept = Journal(path).read()
    assert 0 < len(kept) < 6
    assert kept["num_segments"].tolist() == np.diff(cuts_of(small_registry).first)[kept["text"]].tolist()
    assert add(small_registry, toy_model(), batch_tokens=1).record.digest == toy_row.record.digest


def test_a_row_that_is_not_kept_is_the_same(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    assert score_row(small_registry, str(toy_model())).record.digest == toy_row.record.digest
    assert small_registry.records() == []


def test_a_row_and_its_entries(small_registry: Registry, toy_row: Row) -> None:
    cuts = cuts_of(small_registry)
    for row in (toy_row, without_texts(toy_row, [1, 4], cuts)):
        arrays = row_arrays(row_entries(row, cuts), 6, pairs=False, cuts=cuts)
        assert list(arrays) == list(row.arrays)
        for name, array in row.arrays.items():
            assert arrays[name].dtype == array.dtype
            np.testing.assert_array_equal(arrays[name], array)


def test_texts_without_a_value_have_no_segments(small_registry: Registry, toy_model: ToyModel) -> None:
    row, cuts = add(small_registry, toy_model("short", n_positions=45)), cuts_of(small_registry)
    is_missing, segments = np.isnan(row.log_likelihood), row.segment_log_likelihood
    assert 0 < is_missing.sum() < 6
    assert segments is not None
    assert row.num_correct is not None
    np.testing.assert_array_equal(segments == UNSCORED, is_missing[cuts.text])
    assert (row.num_correct[is_missing] == 0).all()
    assert small_registry.validate() == []


def test_empty_and_short_texts(tmp_path: Path, toy_model: ToyModel) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a", "ab", "é", "Some words. " * 9)))
    registry = init(tmp_path / "registry", texts=texts)
    row, cuts = add(registry, toy_model()), cuts_of(registry)
    assert row.segment_log_likelihood is not None
    values = np.nan_to_num(row.log_likelihood.astype(np.float64), nan=UNSCORED / 256)
    np.testing.assert_allclose(cuts.sums(row.segment_log_likelihood) / 256, values, atol=1 / 512 + 1e-4)
    assert registry.validate() == []


def test_pairs(pair_registry: Registry, toy_model: ToyModel, tmp_path: Path) -> None:
    """Responses given their prompts, and alone: each adds up to its own value."""
    model = Path(shutil.copytree(toy_model(), tmp_path / "chat"))
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    )
    row, cuts = add(pair_registry, model), cuts_of(pair_registry)
    for end in ("", "_response"):
        segments, values = row.arrays[f"segment_log_likelihood{end}"], row.arrays[f"log_likelihood{end}"]
        is_scored = ~np.isnan(values)
        np.testing.assert_allclose(cuts.sums(segments)[is_scored] / 256, values[is_scored], atol=1 / 512 + 1e-4)
        assert (segments[~is_scored[cuts.text]] == UNSCORED).all()
        assert (row.arrays[f"num_correct{end}"] <= row.arrays[f"num_tokens{end}"]).all()
    assert not np.array_equal(row.arrays["segment_log_likelihood"], row.arrays["segment_log_likelihood_response"])
    assert pair_registry.validate() == []


def test_a_registry_of_format_1(small_registry: Registry, toy_model: ToyModel, toy_row: Row) -> None:
    """Its rows have no segments, and none is missing."""
    path = small_registry.path / "registry.json"
    document = {**json.loads(path.read_text()), "format_version": 1}
    del document["segments"]
    path.write_text(json.dumps(document))
    registry = Registry(small_registry.path)
    row = add(registry, toy_model())
    assert list(row.arrays) == ["log_likelihood", "num_tokens"]
    assert row.record.to_json()["format_version"] == 1
    assert not {"segments", "no_segments", "segments_sha256"} & set(row.record.provenance)
    np.testing.assert_array_equal(row.log_likelihood, toy_row.log_likelihood)
    assert registry.validate() == []


def test_a_tokenizer_that_does_not_tell_where_tokens_begin(
    small_registry: Registry, toy_model: ToyModel, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(toy_model(), tmp_path / "bytes"))
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}))
    (model / "vocab.txt").write_text("of no use to bytes, and yet a vocabulary")
    row = add(small_registry, model)
    assert list(row.arrays) == ["log_likelihood", "num_tokens"]
    assert row.record.provenance["no_segments"] == "the tokenizer does not tell where in a text a token begins"
    assert row.record.to_json()["format_version"] == 1
    assert small_registry.validate() == []


def test_a_row_without_segments_is_completed_without_them(
    small_registry: Registry, toy_model: ToyModel, toy_row: Row
) -> None:
    lacking = without_texts(toy_row, [0, 3], cuts_of(small_registry))
    told = {key: value for key, value in lacking.record.provenance.items() if not key.startswith("segments")}
    arrays = dict(zip(("log_likelihood", "num_tokens"), flat_arrays(lacking), strict=True))
    write_row(small_registry.path, make_row(lacking.record.identity, told, lacking.record.declared, arrays))
    row = add(small_registry, toy_model())
    np.testing.assert_allclose(row.log_likelihood, toy_row.log_likelihood, rtol=1e-6)
    assert row.segment_log_likelihood is None
    assert row.record.provenance["no_segments"] == "it completes a row that has none"
    assert add(small_registry, toy_model(), overwrite="always").record.digest == toy_row.record.digest
