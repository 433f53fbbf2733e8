from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llreg_extract
from llreg_extract import Status
from llreg_extract.scoring.batches import BatchPlan
from llreg_schemas.errors import InputError, ModelError, UnsupportedModelError

KINDS = ["gpt2", "gpt_neox", "llama", "mistral", "gemma2", "phi3", "mamba", "bloom"]


@pytest.fixture(scope="session")
def loaded(toy_model: Callable[..., Path]) -> Callable[..., Any]:
    """Factory of loaded toy models, each loaded once."""
    made: dict[str, Any] = {}

    def load(kind: str, *, dtype: str = "auto", **options: Any) -> Any:
        key = f"{kind}{dtype}{sorted(options.items())}"
        if key not in made:
            source = llreg_extract.resolve(str(toy_model(kind, **options)))
            made[key] = llreg_extract.load(source, dtype=dtype, device="cpu")
        return made[key]

    return load


def gather(model: Any, texts: Sequence[str], **options: Any) -> np.ndarray:
    """Scores in the order of the texts; each text must come exactly once."""
    values = np.full(len(texts), np.inf)
    for batch in llreg_extract.iter_scores(model, llreg_extract.encode(model, texts), **options):
        assert np.all(np.isinf(values[batch.index])), "a text came twice"
        values[batch.index] = batch.log_likelihood
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_the_float64_reference(kind: str, loaded: Callable[..., Any], texts: list[str]) -> None:
    model = loaded(kind)
    scores = llreg_extract.score(model, texts)
    reference = llreg_extract.reference_scores(model, texts)
    np.testing.assert_allclose(scores.log_likelihood, reference.log_likelihood, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(scores.num_tokens, reference.num_tokens)
    np.testing.assert_array_equal(scores.status, reference.status)
    assert (scores.log_likelihood.dtype, scores.num_tokens.dtype, scores.status.dtype) == (
        np.float32,
        np.int32,
        np.int8,
    )


def test_the_definition_written_out(loaded: Callable[..., Any]) -> None:
    # Not through reference_scores: the sum of the protocol, from the plain library call.
    model = loaded("gpt2")
    ids = model.tokenizer.library("A few words.")["input_ids"]
    with torch.no_grad():
        log_p = torch.log_softmax(model.module(torch.tensor([ids])).logits[0].double(), -1)
    expected = sum(log_p[t - 1, ids[t]].item() for t in range(1, len(ids)))
    score = llreg_extract.score(model, ["A few words."])
    assert score.log_likelihood[0] == pytest.approx(expected, rel=1e-6)
    assert score.num_tokens[0] == len(ids) - 1


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(st.text("ab c\nü<", max_size=60), min_size=1, max_size=12),
    budget=st.integers(1, 300),
    kind=st.sampled_from(["llama", "phi3", "mamba"]),
    data=st.data(),
)
def test_no_score_depends_on_the_batch_or_the_order(
    loaded: Callable[..., Any], texts: list[str], budget: int, kind: str, data: st.DataObject
) -> None:
    model = loaded(kind)
    order = data.draw(st.permutations(range(len(texts))))
    together = gather(model, [texts[i] for i in order], batch_tokens=budget)
    alone = [float(llreg_extract.score(model, [texts[i]]).log_likelihood[0]) for i in order]
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-5)  # atol: for texts of one or two tokens


def test_long_rope_batches_texts_of_its_two_ranges_apart(loaded: Callable[..., Any]) -> None:
    # Above its original context the model takes other frequencies, for all texts of a batch.
    model = loaded("phi3")
    rare = "".join(chr(65 + (7 * i * i) % 26) for i in range(150))  # no merges: one token a byte
    texts = [rare, rare[5:25], rare[:101], rare[:100]]
    assert model.batching
    reference = llreg_extract.reference_scores(model, texts).log_likelihood
    np.testing.assert_allclose(gather(model, texts), reference, rtol=1e-5)


@pytest.mark.parametrize(("kind", "workers"), [("phi3", 1), ("llama", 3)])
def test_a_model_that_keeps_state_is_run_by_one_thread(toy_model: Callable[..., Path], kind: str, workers: int) -> None:
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model(kind))), device="cpu")
    model.threads, seen, together = 3, set(), threading.Barrier(workers)

    def meet(module: Any, args: Any) -> None:
        seen.add(threading.get_ident())
        together.wait(10)  # breaks unless as many threads as expected run at once

    model.module.register_forward_pre_hook(meet)
    gather(model, ["some words"] * 6, batch_tokens=1)
    assert len(seen) == workers


def test_results_are_the_same_bits_for_any_number_of_threads(loaded: Callable[..., Any]) -> None:
    model = loaded("llama")
    texts = [f"text number {i} " * (i % 7 + 1) for i in range(60)]
    threads, found = model.threads, []
    try:
        for model.threads in (1, 2, 5):
            found.append(gather(model, texts))
    finally:
        model.threads = threads
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (False, True), (True, True)])
def test_special_tokens_before_a_text_are_context_and_none_goes_behind(
    loaded: Callable[..., Any], bos: bool, eos: bool
) -> None:
    text = "Four words are here."
    plain = len(loaded("llama").tokenizer.library(text)["input_ids"])
    model = loaded("llama", bos=bos, eos=eos)
    scores = llreg_extract.score(model, [text, ""])
    assert model.first_token_scored is bos
    assert scores.num_tokens[0] == plain - 1 + bos
    assert scores.status[1] == Status.UNSCORED
    assert llreg_extract.environment(model).get("appended_tokens", 0) == eos
    np.testing.assert_allclose(
        scores.log_likelihood,
        llreg_extract.reference_scores(model, [text, ""]).log_likelihood,
        rtol=1e-5,
    )


@pytest.mark.parametrize("pad", [False, True])
def test_a_pad_token_changes_nothing(loaded: Callable[..., Any], texts: list[str], pad: bool) -> None:
    values = gather(loaded("gpt2", pad=pad), texts, batch_tokens=500)
    np.testing.assert_array_equal(values, gather(loaded("gpt2"), texts, batch_tokens=500))


def test_text_past_the_context_is_nan_and_the_context_itself_fits(loaded: Callable[..., Any]) -> None:
    model = loaded("gpt2")
    longest = "q" * 128  # no merges: one token a byte
    scores = llreg_extract.score(model, [longest, longest + "q", "short one"])
    assert list(scores.status) == [Status.SCORED, Status.OVER_CONTEXT, Status.SCORED]
    assert list(np.isnan(scores.log_likelihood)) == [False, True, False]
    assert list(scores.num_tokens[:2]) == [127, 0]


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_a_model_without_positions_has_no_limit(loaded: Callable[..., Any], kind: str) -> None:
    model = loaded(kind)
    assert model.context_length is None
    assert llreg_extract.score(model, ["q" * 700]).num_tokens[0] == 699


def test_refused_texts_come_first_and_skipped_ones_never(loaded: Callable[..., Any], texts: list[str]) -> None:
    model = loaded("gpt2")
    encoded = llreg_extract.encode(model, [*texts, "q" * 200])
    batches = list(llreg_extract.iter_scores(model, encoded, skip={0, 3}))
    assert set(batches[0].status) == {Status.UNSCORED, Status.OVER_CONTEXT}
    assert batches[0].seconds == 0.0
    seen = np.concatenate([batch.index for batch in batches])
    assert sorted(seen) == [i for i in range(len(texts) + 1) if i not in (0, 3)]


def test_nothing_to_score(loaded: Callable[..., Any]) -> None:
    model = loaded("gpt2")
    assert len(llreg_extract.score(model, []).log_likelihood) == 0
    assert list(llreg_extract.iter_scores(model, llreg_extract.encode(model, ["a b"]), skip=[0])) == []


def test_half_precision_is_summed_in_full(loaded: Callable[..., Any], texts: list[str]) -> None:
    exact = llreg_extract.score(loaded("llama"), texts).log_likelihood
    for dtype in ("bfloat16", "float16"):
        model = loaded("llama", dtype=dtype)
        assert model.weight_dtype == dtype
        assert next(model.module.parameters()).dtype == getattr(torch, dtype)
        np.testing.assert_allclose(llreg_extract.score(model, texts).log_likelihood, exact, rtol=0.05)


def test_an_overflow_of_float16_is_told(loaded: Callable[..., Any]) -> None:
    fine, broken = (loaded("llama", blow_up=300.0, dtype=dtype) for dtype in ("float32", "float16"))
    assert llreg_extract.score(fine, ["some words"]).status[0] == Status.SCORED
    scores = llreg_extract.score(broken, ["some words"])
    assert scores.status[0] == Status.NON_FINITE
    assert np.isnan(scores.log_likelihood[0])
    assert scores.num_tokens[0] == 0


def test_spelled_out_special_tokens_are_counted(loaded: Callable[..., Any]) -> None:
    texts = ["plain", "an </s> inside", "<s>first", "< s >", "</s></s>"]
    for options in ({}, {"bos": True, "eos": True}):
        model = loaded("llama", **options)
        assert llreg_extract.encode(model, texts).special_token_texts == 3
        assert 1 in llreg_extract.encode(model, ["an </s> inside"]).ids[0]


def test_ids_past_the_embedding_are_refused(editable: Callable[..., Path]) -> None:
    folder = editable("gpt2")
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["zzz"])
    backend.save(str(folder / "tokenizer.json"))
    model = llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")
    with pytest.raises(UnsupportedModelError, match="makes token id 300 and the model has 300 embeddings"):
        llreg_extract.encode(model, ["a zzz b"])


def test_a_closed_iterator_leaves_no_thread(loaded: Callable[..., Any]) -> None:
    model = loaded("llama")
    threads, setting = threading.active_count(), torch.get_num_threads()
    iterator = llreg_extract.iter_scores(model, llreg_extract.encode(model, ["some text here"] * 200), batch_tokens=1)
    next(iterator)
    assert threading.active_count() > threads
    iterator.close()
    assert (threading.active_count(), torch.get_num_threads()) == (threads, setting)


def test_batch_tokens_must_be_positive(loaded: Callable[..., Any]) -> None:
    model = loaded("gpt2")
    with pytest.raises(InputError, match="at least 1, got 0"):
        llreg_extract.iter_scores(model, llreg_extract.encode(model, ["a b"]), batch_tokens=0)


@pytest.fixture
def small_memory(toy_model: Callable[..., Path]) -> Any:
    """A model on a device that holds 100 tokens: it raises torch's own error for more."""
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("llama"))), device="cpu")

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.module.register_forward_pre_hook(refuse, with_kwargs=True)
    return model


def test_out_of_memory_makes_batches_smaller(small_memory: Any, loaded: Callable[..., Any]) -> None:
    texts = [f"text {i} " * 5 for i in range(30)]
    values = gather(small_memory, texts, batch_tokens=1000)
    np.testing.assert_allclose(values, gather(loaded("llama"), texts), rtol=1e-5)


def test_a_text_that_fits_nowhere_is_told(small_memory: Any) -> None:
    with pytest.raises(ModelError, match=r"a text of 120 tokens does not fit in the memory of cpu .*bfloat16"):
        llreg_extract.score(small_memory, ["q" * 120, "short"])


def test_texts_that_do_not_fit_beside_each_other_go_one_after_the_other(toy_model: Callable[..., Path]) -> None:
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("llama"))), device="cpu")
    texts = ["q" * 120, "z" * 110, "short"]
    expected = gather(model, texts, batch_tokens=1)
    model.threads, calls, both = 2, itertools.count(), threading.Barrier(2)

    def share(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].numel() > 100 and next(calls) < 2:  # the first two meet, and neither finds room
            both.wait(10)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.module.register_forward_pre_hook(share, with_kwargs=True)
    np.testing.assert_array_equal(gather(model, texts, batch_tokens=1), expected)


def test_a_failing_forward_pass_names_the_model(toy_model: Callable[..., Path]) -> None:
    model = llreg_extract.load(llreg_extract.resolve(str(toy_model("llama"))), device="cpu")
    model.module.lm_head.weight.data = torch.zeros(300, 7)
    with pytest.raises(ModelError, match=r"toy-llama failed on a text of \d+ tokens: "):
        llreg_extract.score(model, ["some words"])


@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=40),
    budget=st.integers(1, 200),
    boundary=st.none() | st.integers(2, 50),
)
def test_a_plan_gives_each_text_once_within_the_budget(lengths: list[int], budget: int, boundary: int | None) -> None:
    plan = BatchPlan(np.array(lengths), range(len(lengths)), budget, boundary=boundary)
    batches = list(iter(plan.next, []))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or plan.padded(batch) <= budget
        assert boundary is None or len({lengths[i] > boundary for i in batch}) == 1
    starts = [lengths[batch[0]] for batch in batches]
    assert starts == sorted(starts, reverse=True)


def test_a_plan_takes_back_what_did_not_fit() -> None:
    plan = BatchPlan(np.array([10, 10, 10, 10]), range(4), 40)
    batch = plan.next()
    plan.put_back(batch)
    plan.shrink(plan.padded(batch) // 2)
    assert [plan.next(), plan.next(), plan.next()] == [[0, 1], [2, 3], []]
    assert [len(b) for b in iter(BatchPlan(np.array([5, 5]), range(2), 99, single=True).next, [])] == [1, 1]
