"""Log-likelihoods of segments against float64 logits from transformers and places from the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import llreg_extract
from llreg_extract import Status
from llreg_extract.scoring.pairs import score_pairs
from llreg_extract.scoring.scores import _segment_sums, gather, iter_scores
from llreg_schemas import Pair

ToyModel = Callable[..., Path]
Cuts = list[np.ndarray]


def open_model(folder: Path) -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")


def every(num_bytes: int, texts: list[str]) -> Cuts:
    """Cuts of so many bytes, wherever they fall; an empty text has a segment of none."""
    return [np.arange(0, max(1, len(text.encode())), num_bytes, dtype=np.int32) for text in texts]


@cache
def in_float64(folder: Path) -> tuple[Any, tokenizers.Tokenizer]:
    module = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    return module, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def exact(folder: Path, text: str, begins: np.ndarray, *, before: Sequence[int] = ()) -> tuple[np.ndarray, int]:
    """Segments of a text in float64 (nats), and how many of its tokens were the first choice, with none of llreg's code."""
    module, backend = in_float64(folder)
    encoding = backend.encode(text, add_special_tokens=False)
    with torch.inference_mode():
        log_probs = torch.log_softmax(module(torch.tensor([[*before, *encoding.ids]])).logits[0], -1)
    sums, correct = np.zeros(len(begins)), 0
    for k, (number, (place, _)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
        if (position := len(before) + k) == 0:  # nothing predicts it
            continue
        row, byte = log_probs[position - 1], len(text[:place].encode())
        sums[max(j for j, begin in enumerate(begins) if begin <= byte)] += float(row[number])
        correct += bool(row[number] == row.max())
    return sums, correct


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_segments_are_those_of_exact_logits(toy_model: ToyModel, texts: list[str], kind: str) -> None:
    folder = toy_model(kind, bos=kind == "llama")
    model = open_model(folder)
    assert model.path == "replay"
    for path in ("replay", "logits"):
        if path == "logits":
            model.base = None
        for num_bytes in (1, 7, 24):
            cuts = every(num_bytes, texts)
            scores = llreg_extract.score(model, texts, cuts=cuts)
            for k, text in enumerate(texts):
                if scores.status[k] != Status.SCORED:
                    assert np.isnan(scores.segments[k]).all()
                    assert len(scores.segments[k]) == len(cuts[k])
                    assert scores.num_correct[k] == 0
                    continue
                sums, correct = exact(folder, text, cuts[k], before=[0] * (kind == "llama"))
                np.testing.assert_allclose(scores.segments[k], sums, atol=2e-4)
                assert scores.num_correct[k] == correct
                np.testing.assert_allclose(scores.segments[k].sum(), scores.log_likelihood[k], rtol=1e-6)


def test_the_reference_says_the_same(toy_model: ToyModel, texts: list[str]) -> None:
    model, cuts = open_model(toy_model("llama")), every(11, texts)
    found, reference = (how(model, texts, cuts=cuts) for how in (llreg_extract.score, llreg_extract.reference_scores))
    for a, b in zip(found.segments, reference.segments, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    np.testing.assert_array_equal(found.num_correct, reference.num_correct)


def test_nothing_but_the_segments_depends_on_the_cuts(toy_model: ToyModel, texts: list[str]) -> None:
    model = open_model(toy_model("gpt2"))
    without, one, many = (
        llreg_extract.score(model, texts, cuts=c) for c in (None, every(10**6, texts), every(3, texts))
    )
    assert without.segments is None
    for scores in (one, many):
        np.testing.assert_array_equal(scores.log_likelihood, without.log_likelihood)
        np.testing.assert_array_equal(scores.num_correct, without.num_correct)
        for value, segments in zip(without.log_likelihood, scores.segments, strict=True):
            np.testing.assert_allclose(segments.sum(), value, rtol=1e-6)


def test_what_is_known_already_changes_no_segment(toy_model: ToyModel, texts: list[str]) -> None:
    model, cuts = open_model(toy_model("llama")), every(9, texts)
    encoded = llreg_extract.encode(model, texts)
    whole = gather(iter_scores(model, encoded, cuts=cuts), len(texts))
    for batch in iter_scores(model, encoded, cuts=cuts, skip={0, 2, 5}):
        for text, segments in zip(batch.index.tolist(), batch.segments, strict=True):
            np.testing.assert_array_equal(segments, whole.segments[text])


@given(st.data())
def test_sums_over_segments(data: st.DataObject) -> None:
    """Each token counts once, for the last segment that does not begin behind it, however long the token is."""
    num_bytes = data.draw(st.integers(1, 60))
    begins = np.array(sorted({0, *data.draw(st.lists(st.integers(0, num_bytes - 1)))}), np.int32)
    offsets = np.array(sorted(data.draw(st.lists(st.integers(0, num_bytes - 1)))), np.int32)
    values = -np.arange(1.0, len(offsets) + 1, dtype=np.float32)
    sums = _segment_sums(values, offsets, begins)
    assert sums.dtype == np.float64
    ends = [*begins[1:].tolist(), num_bytes]
    assert sums.tolist() == [
        values[(begin <= offsets) & (offsets < end)].sum() for begin, end in zip(begins, ends, strict=True)
    ]


def test_a_token_longer_than_a_segment_and_texts_of_a_byte_or_none(toy_model: ToyModel) -> None:
    folder = toy_model("llama", bos=True)
    model, texts = open_model(folder), ["quick brown", "x", ""]
    encoded = llreg_extract.encode(model, texts)
    assert max(np.diff(encoded.offsets[0][1:])) > 1
    scores = llreg_extract.score(model, texts, cuts=every(1, texts))
    sums, _ = exact(folder, texts[0], np.arange(len(texts[0])), before=[0])
    np.testing.assert_allclose(scores.segments[0], sums, atol=2e-4)
    assert (scores.segments[0] == 0.0).sum() == len(texts[0]) - scores.num_tokens[0]
    assert scores.segments[1].shape == scores.segments[2].shape == (1,)
    np.testing.assert_allclose(scores.segments[1][0], scores.log_likelihood[1], rtol=1e-6)
    assert np.isnan(scores.segments[2]).all()


@pytest.mark.parametrize("path", ["replay", "logits"])
def test_what_a_model_writes_is_its_first_choice(toy_model: ToyModel, path: str) -> None:
    folder = toy_model("llama")
    model, (module, _) = open_model(folder), in_float64(folder)
    ids = [5]
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(module(torch.tensor([ids])).logits[0, -1].argmax()))
    other = [*ids[:8], (ids[8] + 1) % 300, *ids[9:]]
    if path == "logits":
        model.base = None
    rows = tuple(np.array(row, np.int32) for row in (ids, other, ids))
    scores = gather(iter_scores(model, llreg_extract.Encoded(rows, 0, np.array([1, 1, 4]), np.zeros(3, bool))), 3)
    assert scores.num_correct[[0, 2]].tolist() == [12, 9]
    assert 7 <= scores.num_correct[1] < 12


def test_a_tie_is_a_first_choice(toy_model: ToyModel) -> None:
    model = open_model(toy_model("llama", bos=True))
    for weight in model.module.lm_head.parameters():
        weight.data.zero_()
    scores = llreg_extract.score(model, ["All tokens are as likely."])
    assert scores.num_correct.tolist() == scores.num_tokens.tolist()


def test_pairs(toy_model: ToyModel) -> None:
    """Segments of a response, given its prompt and alone."""
    folder = toy_model("gpt2")
    model = open_model(folder)
    pairs = [Pair("Where?", "In Köln, am Rhein."), Pair("", "4 and more"), Pair("数学は", "楽しい。")]
    cuts = every(5, [pair.response for pair in pairs])
    given, alone = score_pairs(model, pairs, "raw", cuts=cuts)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for k, pair in enumerate(pairs):
        for scores, prompt in ((given, pair.prompt), (alone, "")):
            before = backend.encode(str(prompt), add_special_tokens=False).ids
            sums, correct = exact(folder, pair.response, cuts[k], before=before)
            np.testing.assert_allclose(scores.segments[k], sums, atol=2e-4)
            assert scores.num_correct[k] == correct


def test_without_places_there_are_no_segments(toy_model: ToyModel) -> None:
    model, texts = open_model(toy_model("gpt2")), ["A text."]
    encoded = llreg_extract.encode(model, texts)
    without: Any = llreg_extract.Encoded(encoded.ids, 0, encoded.starts, encoded.unknown)
    scores = gather(iter_scores(model, without, cuts=every(5, texts)), 1)
    assert scores.segments is None
    assert scores.num_tokens[0] > 0
