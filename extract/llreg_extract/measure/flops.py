"""Arithmetic: what a model needs for a text, and what the device can do at best."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.fast.kernels import fast_products
from llreg_extract.model import Model

_PROBE = 64  # tokens; the count is exact at any length, and short ones are quick on a large model
_CPU_SIZES = (512, 2048, 2048)  # rows, inputs, outputs: larger ones are no faster
_CUDA_SIZES = (8192, 8192, 8192)
_ROUNDS = 3


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward pass; a multiply and an add are two.

    Attributes
    ----------
    per_token : float
        Twice the parameters in matrix products, the head among them and the embedding not; of experts, those in use.
    per_pair : float
        Of attention, for a token and one that it sees.
    """

    per_token: float
    per_pair: float

    def of(self, lengths: NDArray[np.int64]) -> float:
        """Operations that texts of these lengths, in tokens, need: no padding, and each token sees those up to it."""
        n = np.asarray(lengths, dtype=np.float64)
        return float((self.per_token * n + self.per_pair * n * (n + 1) / 2).sum())


def count_flops(model: Model) -> Flops:
    """Count a model's operations in two forward passes, with torch's counter.

    A pass over n tokens takes an + bn^2 operations: the matrix products with the weights a, and, since the counter
    takes attention as if every token saw every other, b. Elementwise operations are not counted, nor is what a
    quantised checkpoint's own kernels compute.

    Parameters
    ----------
    model : Model

    Returns
    -------
    Flops
    """
    short = min(_PROBE, (model.context_length or 2 * _PROBE) // 2)
    once, twice = (_count(model, length) for length in (short, 2 * short))
    per_pair = (twice - 2 * once) / (2 * short**2)
    # State-space models work in blocks of tokens, so that a short text costs as much as a block.
    return Flops((once - per_pair * short**2) / short, per_pair) if per_pair >= 0 else Flops(twice / (2 * short), 0.0)


def _count(model: Model, length: int) -> int:
    """Operations of one forward pass over a text of `length` tokens, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens = torch.zeros((1, length), dtype=torch.long, device=model.device)
    with FlopCounterMode(display=False, custom_mapping=_attention_kernels()) as counter, torch.inference_mode():
        model.module(input_ids=tokens)
    return int(counter.get_total_flops())


def _attention_kernels() -> dict[Any, Any]:
    """Formulas for torch's attention kernels: the counter knows none of a CPU, and in older versions no grouped heads."""
    import torch

    def count(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        batch, heads, length, dim = query
        return int(2 * batch * heads * length * key[-2] * (dim + value[-1]))

    kinds = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    names = [f"_scaled_dot_product_{kind}" for kind in kinds]
    return {getattr(torch.ops.aten, name): count for name in names if hasattr(torch.ops.aten, name)}


def matmul_peak(dtype: str, device: str, *, threads: int = 1, seconds: float = 0.3) -> float:
    """The most operations a second that large matrix products reach; on a CPU a second of its cores.

    Parameters
    ----------
    dtype : str
        "float32", "bfloat16" or "float16".
    device : str
        "cpu", "cuda" or "cuda:N".
    threads : int
        Of a CPU: so many products at a time, each on one core.
    seconds : float
        Time of a round; the best of three counts.

    Returns
    -------
    float
        Operations a second; in float32 on a CPU the better of torch's own way and `llreg_extract.fast.kernels.fast_products`.
    """
    import torch

    if device != "cpu":
        return max(_cuda_rate(dtype, device, seconds) for _ in range(_ROUNDS))
    libraries: list[AbstractContextManager[None]] = [nullcontext()]
    if dtype == "float32":
        libraries.append(fast_products(device))
    rates = []
    num_threads = torch.get_num_threads()  # torch gives new threads the last number that was set
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        for library in libraries:
            with library:
                rates += [_cpu_rate(executor, threads, dtype, seconds) for _ in range(_ROUNDS)]
    torch.set_num_threads(num_threads)
    return max(rates)


def _cpu_rate(executor: ThreadPoolExecutor, threads: int, dtype: str, seconds: float) -> float:
    """Operations a second of all threads together."""
    import torch

    rows, inputs, outputs = _CPU_SIZES
    x, weight = (torch.randn(size, inputs).to(getattr(torch, dtype)) for size in (rows, outputs))

    def work(until: float) -> float:
        torch.nn.functional.linear(x, weight)  # the first one sets up the kernel
        # By the core's own time: what else runs on the machine does not lower what it can do.
        started, count = time.thread_time(), 0
        while time.perf_counter() < until or not count:
            torch.nn.functional.linear(x, weight)
            count += 1
        return count / (time.thread_time() - started)

    return 2.0 * rows * inputs * outputs * sum(executor.map(work, [time.perf_counter() + seconds] * threads))


def _cuda_rate(dtype: str, device: str, seconds: float) -> float:
    import torch

    rows, inputs, outputs = _CUDA_SIZES
    x, weight = (torch.randn(size, inputs, device=device).to(getattr(torch, dtype)) for size in (rows, outputs))
    torch.nn.functional.linear(x, weight)
    torch.cuda.synchronize(device)
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(8):
            torch.nn.functional.linear(x, weight)
        torch.cuda.synchronize(device)
        products += 8
    return 2.0 * rows * inputs * outputs * products / (time.perf_counter() - started)
