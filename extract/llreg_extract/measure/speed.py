"""How fast a model is scored in a dtype and with a batch budget, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llreg_extract.libraries import is_out_of_memory
from llreg_extract.loading.load import load
from llreg_extract.measure.flops import count_flops, matmul_peak
from llreg_extract.measure.shapes import random_model
from llreg_extract.model import Model
from llreg_extract.scoring.batches import default_batch_tokens
from llreg_extract.scoring.encoding import Encoded, encode
from llreg_extract.scoring.scores import Status, iter_scores
from llreg_extract.source import Source
from llreg_schemas.errors import LlregError, ModelError

_COMPARED = 16  # texts, at most, that are scored alone and together
_EXIT_SECONDS = 10.0  # that a process gets to clean up after itself
_MAX_TEXTS = 200_000  # that a run repeats its texts to


@dataclass(frozen=True)
class Trial:
    """What to measure; it can be pickled.

    Attributes
    ----------
    model : Source or str
        A pinned model, or the name of a shape (`llreg_extract.measure.shapes.SHAPES`) to fill with random weights.
    dtype, device : str
        As `llreg_extract.choose` gives them.
    batch_tokens : int or None
        Padded tokens of a batch at most; None: the device's default.
    texts : sequence of str
        Scored over and over until the time is up.
    seconds : float
        Time to score for.
    threads : int or None
        Worker threads on a CPU; None: one a core.
    trust_remote_code : bool
        Whether code from the checkpoint may run.
    """

    model: Source | str
    dtype: str
    device: str
    batch_tokens: int | None
    texts: Sequence[str]
    seconds: float
    threads: int | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes
    ----------
    dtype : str
    batch_tokens : int
        Budget of a batch, in padded tokens.
    problem : str or None
        Why nothing was measured, one sentence; all that follows says nothing then.
    threads : int
        Worker threads.
    tokens_per_second : float
        Tokens scored, without padding.
    tokens_per_cpu_second : float or None
        By the processor time of all threads; None on a GPU.
    flops_per_second : float
        Operations that the texts needed (`llreg_extract.measure.flops.Flops.of`), padding not counted.
    peak_flops : float
        Operations a second of large matrix products in this dtype (`llreg_extract.measure.flops.matmul_peak`).
    memory_bytes : int
        The most that the process held, loading included: on a GPU device memory, else resident memory.
    largest_batch : int
        Padded tokens of the largest batch; far below the budget where memory ran out, or texts were few.
    padding : float
        Share of the tokens computed that were padding.
    alone, together : sequence of float, nats
        Log-likelihoods of the first texts, each by itself, and in batches under the budget; NaN where not scored.
    """

    dtype: str
    batch_tokens: int
    problem: str | None = None
    threads: int = 1
    tokens_per_second: float = float("nan")
    tokens_per_cpu_second: float | None = None
    flops_per_second: float = float("nan")
    peak_flops: float = float("nan")
    memory_bytes: int = 0
    largest_batch: int = 0
    padding: float = float("nan")
    alone: Sequence[float] = ()
    together: Sequence[float] = ()

    @property
    def spread(self) -> float:
        """Largest difference between a text alone and in a batch, nats; NaN where none was scored."""
        gaps = np.abs(np.subtract(self.together, self.alone))
        return float(np.nanmax(gaps)) if np.isfinite(gaps).any() else float("nan")


def measure(trial: Trial) -> Speed:
    """Measure in a new process, so that its peak memory is its own and running out of it ends no more than that.

    As with all of multiprocessing, a script that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    trial : Trial

    Returns
    -------
    Speed
        With `problem` set where the model cannot be loaded or scored like this, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(trial, sender), daemon=True)
    process.start()
    sender.close()  # else its end would not be seen here
    try:
        answer: Speed | str = receiver.recv()
        process.join(_EXIT_SECONDS)
    except EOFError:
        process.join()
        answer = f"its process ended with exit code {process.exitcode}; what it said is above"
        if process.exitcode == -signal.SIGKILL:
            answer = "the system killed it, as it does when memory runs out"
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(answer, str):
        size = trial.model.declared.get("num_parameters") if isinstance(trial.model, Source) else None
        return Speed(trial.dtype, _budget(trial, size), answer)
    return answer


def _answer(trial: Trial, sender: Connection) -> None:
    """In the new process: send what was measured, or a sentence that says why nothing was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        sender.send(measure_here(trial))
    except LlregError as error:
        sender.send(str(error))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sender.send("memory ran out")


def _budget(trial: Trial, num_parameters: int | None) -> int:
    return trial.batch_tokens or default_batch_tokens(trial.device.partition(":")[0], num_parameters)


def measure_here(trial: Trial) -> Speed:
    """Measure in this process: `memory_bytes` then counts all that it ever held.

    Raises
    ------
    LlregError
        As `llreg_extract.load` and `llreg_extract.iter_scores` do.
    """
    if isinstance(trial.model, str):
        model = random_model(trial.model, trial.texts, dtype=trial.dtype, device=trial.device)
    else:
        model = load(trial.model, dtype=trial.dtype, device=trial.device, trust_remote_code=trial.trust_remote_code)
    if trial.threads is not None:
        model.threads = trial.threads
    encoded = encode(model, trial.texts)
    budget = _budget(trial, model.source.declared.get("num_parameters"))
    run = _run_for(model, encoded, budget, trial.seconds)
    memory = peak_resident()  # before anything else takes some
    if trial.device != "cpu":
        import torch

        memory = int(torch.cuda.max_memory_reserved(trial.device))
    flops = count_flops(model)
    workers = model.threads if trial.device == "cpu" else 1
    # As many texts are compared as an eighth of the time allows.
    compared = max(1, min(_COMPARED, int(run.rate * trial.seconds / 8 / max(1.0, encoded.lengths.mean()))))
    first = encoded.take(np.arange(min(compared, len(encoded.ids))))
    return Speed(
        dtype=trial.dtype,
        batch_tokens=budget,
        threads=workers,
        tokens_per_second=run.rate,
        tokens_per_cpu_second=run.tokens / run.cpu_seconds if trial.device == "cpu" else None,
        flops_per_second=flops.of(run.lengths) / run.seconds,
        peak_flops=matmul_peak(trial.dtype, trial.device, threads=workers),
        memory_bytes=memory,
        largest_batch=run.largest_batch,
        padding=1 - int(run.lengths.sum()) / run.padded,
        alone=_values(model, first, 1),
        together=_values(model, first, budget),
    )


@dataclass(frozen=True)
class _Run:
    """Texts scored: their lengths, tokens scored, tokens computed with padding, and the time it took."""

    lengths: NDArray[np.int64]  # (n_texts,), tokens
    tokens: int
    padded: int
    largest_batch: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Tokens scored in a second."""
        return self.tokens / self.seconds


def _run_for(model: Model, encoded: Encoded, budget: int, seconds: float) -> _Run:
    """Score texts for about `seconds`, after a first run that warms up and tells how many that will be."""
    workers = model.threads if model.device.type == "cpu" else 1
    mean = max(1.0, float(encoded.lengths.mean()))
    few = workers * max(1, int(budget / mean))
    # The first run warms up; if it took as long as asked for, it counts.
    first = _run(model, _repeated(encoded, few), budget)
    if first.seconds >= seconds:
        return first
    # The second, warm, says how many texts fill the time.
    second = _run(model, _repeated(encoded, few), budget)
    many = int(second.rate * seconds / mean)
    return second if many <= few else _run(model, _repeated(encoded, min(many, _MAX_TEXTS)), budget)


def _repeated(encoded: Encoded, count: int) -> Encoded:
    """So many texts, from the first on and round again."""
    return encoded.take(np.arange(count) % len(encoded.ids))


def _run(model: Model, encoded: Encoded, budget: int) -> _Run:
    """Score texts once and measure it."""
    lengths, scored = encoded.lengths, []
    tokens = padded = largest = 0
    started, cpu_started = time.perf_counter(), time.process_time()
    for batch in iter_scores(model, encoded, batch_tokens=budget):
        if (batch.status == Status.NON_FINITE).any():
            raise ModelError(f"{model.source.name} gives NaN or inf in {model.weight_dtype}")
        batch_lengths = lengths[batch.index[batch.status == Status.SCORED]]
        if not len(batch_lengths):
            continue
        scored.append(batch_lengths)
        tokens += int(batch.num_tokens.sum())
        batch_padded = int(batch_lengths.max()) * len(batch_lengths)
        padded, largest = padded + batch_padded, max(largest, batch_padded)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    if not scored:
        raise ModelError(
            f"{model.source.name} can score none of the texts: they exceed its context of {model.context_length} tokens"
        )
    return _Run(np.concatenate(scored), tokens, padded, largest, seconds, cpu_seconds)


def _values(model: Model, encoded: Encoded, budget: int) -> tuple[float, ...]:
    """Log-likelihoods in nats, in float64, in the order of the texts."""
    values = np.full(len(encoded.ids), np.nan)
    for batch in iter_scores(model, encoded, batch_tokens=budget):
        values[batch.index] = batch.log_likelihood
    return tuple(values.tolist())


def peak_resident() -> int:
    """The most resident memory that this process ever had, bytes."""
    try:  # a process that was forked and then became another program inherits the figure of getrusage
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
