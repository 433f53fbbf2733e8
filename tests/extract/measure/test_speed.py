"""Operations counted, peaks of matrix products, and speeds measured in processes of their own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llreg_extract import load, score
from llreg_extract.find.resolve import resolve
from llreg_extract.measure.flops import Flops, count_flops, matmul_peak
from llreg_extract.measure.shapes import SHAPES, random_model
from llreg_extract.measure.speed import Trial, measure, measure_here, peak_resident
from llreg_schemas.errors import InputError, ModelError

ToyModel = Callable[..., Path]
WORDS = [f"{k} ships came in, and {k * k} sailed out before the fog." for k in range(40)]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return random_model("tiny", WORDS, dtype="float32", device="cpu")


def _trial(model: Any, **over: Any) -> Trial:
    settings = {"dtype": "float32", "device": "cpu", "batch_tokens": 200, "texts": WORDS, "seconds": 0.2}
    return Trial(model, **{**settings, **over})


def _by_hand(shape: str) -> Flops:
    """The operations of a Llama, from its sizes."""
    size = SHAPES[shape]
    hidden, heads = size["hidden_size"], size["num_attention_heads"]
    attention = 2 * hidden * hidden * (1 + size["num_key_value_heads"] / heads)
    layer = attention + 3 * hidden * size["intermediate_size"]
    weights = size["num_hidden_layers"] * layer + hidden * size["vocab_size"]
    return Flops(2 * weights, 4 * hidden * size["num_hidden_layers"])


@pytest.mark.parametrize("attention", ["as loaded", "sdpa", "eager"])
def test_operations_are_those_of_the_sizes(tiny: Any, attention: str) -> None:
    before = tiny.module.config._attn_implementation
    if attention != "as loaded":
        tiny.module.set_attn_implementation(attention)
    try:
        assert count_flops(tiny) == _by_hand("tiny")
    finally:
        tiny.module.set_attn_implementation(before)


def test_operations_of_a_loaded_checkpoint(toy_model: ToyModel) -> None:
    model = load(resolve(str(toy_model("llama"))), dtype="bfloat16", device="cpu")
    layer = 2 * 32 * 32 * 1.5 + 3 * 32 * 64
    assert count_flops(model) == Flops(2 * (2 * layer + 32 * 300), 4 * 32 * 2)


def test_a_state_space_model_has_no_pairs(toy_model: ToyModel) -> None:
    flops = count_flops(load(resolve(str(toy_model("mamba"))), device="cpu"))
    assert flops.per_pair == 0
    assert flops.per_token > 2 * 32 * 300


def test_a_token_sees_those_up_to_it() -> None:
    assert Flops(10.0, 2.0).of(np.array([1, 3])) == 10 + 2 + 30 + 2 * (1 + 2 + 3)


def test_the_peak_leaves_torch_as_it_was() -> None:
    def settings() -> tuple[Any, ...]:
        return torch.get_num_threads(), getattr(torch.backends.mkldnn.matmul, "fp32_precision", None)

    before = settings()
    assert matmul_peak("float32", "cpu", threads=2, seconds=0.02) > 1e8
    assert settings() == before


def test_random_weights_are_always_the_same(tiny: Any) -> None:
    again = random_model("tiny", WORDS, dtype="float32", device="cpu")
    found, other = score(tiny, WORDS), score(again, WORDS)
    assert np.array_equal(found.log_likelihood, other.log_likelihood)
    assert (found.log_likelihood < 0).all()
    assert tiny.declared["num_parameters"] == sum(p.numel() for p in tiny.module.parameters())


def test_no_such_shape() -> None:
    with pytest.raises(InputError, match="unknown shape 'gpt-9': choose one of tiny, smollm2-135m"):
        random_model("gpt-9", WORDS, dtype="float32", device="cpu")


def test_measured_here(toy_model: ToyModel) -> None:
    source = resolve(str(toy_model("llama")))
    texts = [text[:60] for text in WORDS]
    speed = measure_here(_trial(source, texts=texts, threads=1))
    model = load(source, device="cpu")
    alone = score(model, texts[: len(speed.alone)], batch_tokens=1).log_likelihood
    assert (speed.dtype, speed.batch_tokens, speed.problem, speed.threads) == ("float32", 200, None, 1)
    assert np.allclose(speed.alone, alone, rtol=1e-6)
    assert speed.spread <= 1e-3
    assert 0 <= speed.padding < 0.5
    assert 60 <= speed.largest_batch <= 200 or speed.largest_batch == max(len(text) for text in texts)
    assert speed.tokens_per_second > 0
    assert speed.tokens_per_cpu_second is not None
    assert speed.tokens_per_cpu_second > 0
    # More operations than tokens, and fewer than the peak allows.
    assert speed.tokens_per_second < speed.flops_per_second < 2 * speed.peak_flops
    assert 100 << 20 < speed.memory_bytes <= peak_resident()


def test_texts_past_the_context_are_told(toy_model: ToyModel) -> None:
    source = resolve(str(toy_model("llama")))
    with pytest.raises(ModelError, match="can score none of the texts: they exceed its context of 128 tokens"):
        measure_here(_trial(source, texts=["word " * 500]))


def test_an_overflow_is_no_speed(toy_model: ToyModel) -> None:
    source = resolve(str(toy_model("llama", blow_up=1e4)))
    with pytest.raises(ModelError, match="gives NaN or inf in float16"):
        measure_here(_trial(source, dtype="float16"))


@pytest.mark.usefixtures("warm_spawning")
def test_a_process_of_its_own_has_its_own_peak() -> None:
    ballast = np.ones(300 << 17)  # 300 MiB that are not the measured model's
    speed = measure(_trial("tiny", seconds=0.05, threads=1))  # what it measures is no matter here
    assert speed.problem is None
    assert 100 << 20 < speed.memory_bytes < peak_resident()
    assert ballast.nbytes == 300 << 20


def _kill_child(until: float) -> None:
    """End this process's newest child as the kernel does where memory runs out."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while time.monotonic() < until:
        for number in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(int(number), signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_a_killed_process_is_a_line_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killer = threading.Thread(target=_kill_child, args=(time.monotonic() + 60,))
    killer.start()
    speed = measure(_trial("tiny", dtype="bfloat16"))
    killer.join()
    assert (speed.dtype, speed.batch_tokens) == ("bfloat16", 200)
    assert speed.problem == "the system killed it, as it does when memory runs out"
