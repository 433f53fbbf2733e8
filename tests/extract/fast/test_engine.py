"""What makes scoring fast: the replayed head, attention in blocks, and the check that chooses among them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import llreg_extract
from llreg_extract.fast import replay
from llreg_extract.fast.kernels import blocked_attention, fast_products
from llreg_extract.loading.selfcheck import prepare
from llreg_extract.scoring.forward import token_log_probs

CPU = torch.device("cpu")


def load(folder: Path, **options: Any) -> Any:
    return llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu", **options)


def plain_log_probs(module: Any, ids: np.ndarray) -> np.ndarray:
    """From the library's own logits, in float64."""
    with torch.no_grad():
        log_p = torch.log_softmax(module(torch.tensor(ids[None].astype(np.int64))).logits[0].double(), -1)
    return log_p[:-1].gather(1, torch.tensor(ids[1:, None].astype(np.int64)))[:, 0].numpy()


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    length=st.sampled_from([2, 3, 127, 128, 129, 300]),
    scaling=st.sampled_from([None, 0.3]),
)
def test_blocks_equal_the_whole_attention(
    batch: int, groups: int, shared: int, length: int, scaling: float | None
) -> None:
    generator = torch.Generator().manual_seed(length)
    query = torch.randn(batch, groups * shared, length, 8, generator=generator)
    key, value = (torch.randn(batch, groups, length, size, generator=generator) for size in (8, 4))
    layer = SimpleNamespace(num_key_value_groups=shared, is_causal=True)
    found, _ = blocked_attention(layer, query, key, value, None, scaling=scaling)
    expected, _ = sdpa_attention_forward(layer, query, key, value, None, scaling=scaling)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unusual", ["mask", "encoder", "window", "bias"])
def test_attention_that_is_not_plainly_causal_is_the_librarys(unusual: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 9, 4, generator=generator) for _ in range(3))
    layer = SimpleNamespace(num_key_value_groups=1, is_causal=unusual != "encoder")
    mask = torch.rand(1, 1, 9, 9, generator=generator) > 0.3 if unusual in ("mask", "window") else None
    options: dict[str, Any] = {"sliding_window": 3} if unusual == "window" else {}
    if unusual == "bias":
        options["position_bias"] = torch.randn(1, 2, 9, 9, generator=generator)
    found, _ = blocked_attention(layer, query, key, value, mask, **options)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom", "mamba"])
@pytest.mark.parametrize("first", [1, 5, 40])
def test_the_head_on_chosen_tokens_gives_what_the_whole_logits_give(
    toy_model: Callable[..., Path], kind: str, first: int
) -> None:
    model = load(toy_model(kind))
    assert model.path == "replay"
    rng = np.random.default_rng(first)
    sequences = [rng.integers(3, 250, length).astype(np.int32) for length in (60, 41, 60)]
    found = token_log_probs(model.module, sequences, CPU, starts=[first, 1, first], base=model.base)
    assert [len(part) for part in found] == [60 - first, 40, 60 - first]
    for ids, part, start in zip(sequences, found, (first, 1, first), strict=True):
        np.testing.assert_allclose(part, plain_log_probs(model.module, ids)[start - 1 :], rtol=2e-5, atol=2e-5)


def test_chunks_of_the_head_do_not_show(toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(toy_model("gpt2"))
    ids = np.arange(3, 103, dtype=np.int32)
    expected = token_log_probs(model.module, [ids], CPU, base=model.base)[0]
    for rows in (1, 7, 99):
        monkeypatch.setattr("llreg_extract.scoring.forward._CHUNK_BYTES", {"cpu": rows * 4 * 300})
        found = token_log_probs(model.module, [ids], CPU, base=model.base)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_prepared_module_still_is_what_it_was(toy_model: Callable[..., Path]) -> None:
    model = load(toy_model("llama"))
    ids = np.arange(3, 30, dtype=np.int32)
    before = plain_log_probs(model.module, ids)
    twin = copy.deepcopy(model.module)
    twin.lm_head.weight.data *= 0.5  # a copy answers for itself
    assert not np.allclose(plain_log_probs(twin, ids), before, atol=1e-3)
    found = token_log_probs(twin, [ids], CPU, base=twin.base_model)[0]
    np.testing.assert_allclose(found, plain_log_probs(twin, ids), atol=1e-5)
    replay.remove(model.module)
    assert not any("forward" in vars(part) for part in model.module.modules())
    np.testing.assert_array_equal(plain_log_probs(model.module, ids), before)


def test_hooks_around_the_base_model_stay(toy_model: Callable[..., Path]) -> None:
    accelerate = pytest.importorskip("accelerate.hooks")
    model = load(toy_model("llama"))
    replay.remove(model.module)
    calls = []

    class Count(accelerate.ModelHook):  # type: ignore[misc, name-defined]
        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(module)
            return args, kwargs

    accelerate.add_hook_to_module(model.module.model, Count())
    prepare(model)
    assert model.path == "replay"
    seen = len(calls)
    llreg_extract.score(model, ["some words"])
    assert len(calls) > seen > 0
    replay.remove(model.module)
    model.module(torch.tensor([[3, 4, 5]]))
    assert len(calls) == seen + 2


class _NoBase(torch.nn.Module):
    """A model whose forward goes past its base model."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.base_model = inner.model

    def forward(self, input_ids: Any, use_cache: bool = False) -> Any:
        hidden = inner = self.inner.model.embed_tokens(input_ids)
        positions = self.inner.model.rotary_emb(inner, torch.arange(input_ids.shape[1])[None])
        mask = torch.full((input_ids.shape[1],) * 2, -torch.inf).triu(1)[None, None]
        for layer in self.inner.model.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=positions)
        return SimpleNamespace(logits=self.inner.lm_head(self.inner.model.norm(hidden)))

    def set_attn_implementation(self, name: str) -> None:
        self.inner.set_attn_implementation(name)

    def get_output_embeddings(self) -> Any:
        return self.inner.lm_head

    def get_input_embeddings(self) -> Any:
        return self.inner.model.embed_tokens


def test_a_model_that_cannot_be_replayed_gives_its_whole_logits(
    toy_model: Callable[..., Path], texts: list[str]
) -> None:
    model = load(toy_model("llama"))
    expected = llreg_extract.reference_scores(model, texts).log_likelihood
    replay.remove(model.module)
    model.module = _NoBase(model.module)
    prepare(model)
    assert (model.path, model.base, model.batching) == ("logits", None, True)
    np.testing.assert_allclose(llreg_extract.score(model, texts).log_likelihood, expected, rtol=1e-6, atol=1e-5)


def test_a_head_that_mixes_tokens_is_not_cut(toy_model: Callable[..., Path], texts: list[str]) -> None:
    # Each token's logits get a part of the token before: nothing a head of transformers does, and one of a stranger may.
    model = load(toy_model("llama"))
    shift = torch.nn.functional.pad
    model.module.lm_head.register_forward_hook(lambda module, args, out: out + 0.5 * shift(out, (0, 0, 1, 0))[:, :-1])
    prepare(model)
    assert model.path == "logits"
    found = llreg_extract.score(model, texts).log_likelihood
    np.testing.assert_allclose(found, llreg_extract.reference_scores(model, texts).log_likelihood, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_logits_of_a_16_bit_head_are_not_rounded(toy_model: Callable[..., Path], dtype: str) -> None:
    model = load(toy_model("llama"), dtype=dtype)
    assert model.path == "replay"
    ids = np.arange(3, 90, dtype=np.int32)
    with torch.no_grad():
        states = model.module.model(torch.tensor(ids[None].astype(np.int64))).last_hidden_state[0, :-1]
        logits = states.double() @ model.module.lm_head.weight.double().T
    targets = torch.tensor(ids[1:, None].astype(np.int64))
    expected = torch.log_softmax(logits, -1).gather(1, targets)[:, 0].numpy()
    found = token_log_probs(model.module, [ids], CPU, base=model.base)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(plain_log_probs(model.module, ids) - expected).max() > 1e-4  # which the library's own are


def test_a_run_that_goes_on_gives_the_very_values_of_one_that_was_not_stopped(toy_model: Callable[..., Path]) -> None:
    model = load(toy_model("llama"))
    encoded = llreg_extract.encode(model, [f"text {i} " * (1 + i % 9) for i in range(40)])
    whole = {int(i): float(v) for b in llreg_extract.iter_scores(model, encoded, batch_tokens=90) for i, v in _of(b)}
    for stopped in (1, 5, 9):
        batches = llreg_extract.iter_scores(model, encoded, batch_tokens=90)
        done = {int(i): float(v) for _, b in zip(range(stopped), batches, strict=False) for i, v in _of(b)}
        batches.close()
        assert 0 < len(done) < 40
        rest = llreg_extract.iter_scores(model, encoded, skip=done, batch_tokens=90)
        done.update({int(i): float(v) for b in rest for i, v in _of(b)})
        assert done == whole  # to the bit


def _of(batch: Any) -> Any:
    return zip(batch.index, batch.log_likelihood, strict=True)


def test_only_tokens_from_the_start_on_are_scored(toy_model: Callable[..., Path]) -> None:
    model = load(toy_model("llama"))
    ids = np.arange(3, 23, dtype=np.int32)
    encoded = llreg_extract.Encoded((ids, ids, ids), 0, np.array([1, 15, 20]), np.zeros(3, dtype=bool))
    (unscored, *scored) = list(llreg_extract.iter_scores(model, encoded, batch_tokens=1))
    assert (unscored.index.tolist(), unscored.status.tolist()) == ([2], [llreg_extract.Status.UNSCORED])
    expected = plain_log_probs(model.module, ids)
    found = {int(b.index[0]): (float(b.log_likelihood[0]), int(b.num_tokens[0])) for b in scored}
    assert found[0] == (pytest.approx(expected.sum(), rel=1e-6), 19)
    assert found[1] == (pytest.approx(expected[14:].sum(), rel=1e-6), 5)


def test_products_go_back_to_where_they_went() -> None:
    setting: Any = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    left, right = torch.randn(64, 512), torch.randn(512, 64)
    exact = left.double() @ right.double()
    with fast_products("cpu"):
        found = left @ right
    assert float((found - exact).norm() / exact.norm()) < 1e-6  # float32, whatever the library
    assert setting.fp32_precision == before


def test_large_logits_do_not_cost_a_16_bit_model_its_exact_head(toy_model: Callable[..., Path]) -> None:
    from llreg_extract.loading.load import make_ready

    model = load(toy_model("llama"), dtype="bfloat16")
    replay.remove(model.module)
    # One vector added to all rows of the head shifts all logits of a token alike: no probability changes, and in
    # bfloat16 they are rounded the more coarsely.
    model.module.lm_head.weight.data += 8.0
    again = make_ready(model.source, model.module, model.tokenizer, "bfloat16")
    assert (again.path, again.batching) == ("replay", True)
    ids = np.arange(3, 90, dtype=np.int32)
    exact = plain_log_probs(copy.deepcopy(again.module).float(), ids)
    found = token_log_probs(again.module, [ids], CPU, base=again.base)[0]
    rounded = plain_log_probs(again.module, ids)
    assert np.sqrt(((found - exact) ** 2).mean()) < 0.5 * np.sqrt(((rounded - exact) ** 2).mean())


def test_a_way_that_gives_nan_does_not_agree(toy_model: Callable[..., Path]) -> None:
    model = load(toy_model("llama"))
    model.module.model.norm.register_forward_hook(
        lambda module, args, out: out * float("nan") if len(out) > 1 else out  # of a batch only
    )
    prepare(model)
    assert (model.path, model.batching) == ("replay", False)
