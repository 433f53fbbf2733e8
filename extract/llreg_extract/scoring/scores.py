"""Log-likelihoods of texts under a loaded model, by protocol ``modelmap-1``."""

from __future__ import annotations

import enum
import time
import traceback
from collections.abc import Collection, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llreg_extract.fast.kernels import fast_products
from llreg_extract.libraries import first_line, is_out_of_memory
from llreg_extract.model import Model
from llreg_extract.quirks import keeps_state, rope_boundary
from llreg_extract.scoring.batches import BatchPlan, default_batch_tokens
from llreg_extract.scoring.encoding import Encoded, encode
from llreg_extract.scoring.forward import token_log_probs
from llreg_schemas.errors import InputError, ModelError

_SLOW_BATCH = 20.0  # seconds; on a slower machine batches shrink, so that an interruption loses little


class Status(enum.IntEnum):
    """What became of a text."""

    SCORED = 0
    OVER_CONTEXT = 1  # longer than the model's context
    UNSCORED = 2  # no token with another before it: nothing to predict
    NON_FINITE = 3  # the model returned NaN or inf
    UNKNOWN_TOKEN = 4  # a part of it is in no token of the vocabulary


@dataclass(frozen=True)
class Batch:
    """Scores of some texts, in the order they were computed.

    Attributes
    ----------
    index : int64 array of shape (b,)
        Which texts.
    log_likelihood : float64 array of shape (b,), nats
        NaN where `status` is not SCORED.
    num_tokens : int32 array of shape (b,)
        Tokens scored.
    status : int8 array of shape (b,)
        Values of `Status`.
    seconds : float
        Time the forward pass and the sums took.
    """

    index: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    num_tokens: NDArray[np.int32]
    status: NDArray[np.int8]
    seconds: float


@dataclass(frozen=True)
class Scores:
    """Scores of a list of texts, in its order.

    Attributes
    ----------
    log_likelihood : float32 array of shape (n_texts,), nats
        NaN where `status` is not SCORED.
    num_tokens : int32 array of shape (n_texts,)
        Tokens scored.
    status : int8 array of shape (n_texts,)
        Values of `Status`.
    """

    log_likelihood: NDArray[np.float32]
    num_tokens: NDArray[np.int32]
    status: NDArray[np.int8]


def score(model: Model, texts: Sequence[str], *, batch_tokens: int | None = None) -> Scores:
    """Log-likelihood of each text.

    ll(x) = sum of ln p(y_t | y_<t) over t = 2..n of the text's tokens y, with the special tokens that go before a text and
    none behind it (Oyama et al., ACL 2025, arXiv 2502.16173, section 3).

    Parameters
    ----------
    model : Model
    texts : sequence of str
    batch_tokens : int, optional
        Padded tokens of a batch at most.

    Returns
    -------
    Scores

    Raises
    ------
    ModelError
        A text does not fit in memory, or the model fails on it.
    """
    return gather(iter_scores(model, encode(model, texts), batch_tokens=batch_tokens), len(texts))


def gather(batches: Iterable[Batch], num_texts: int) -> Scores:
    """Scores of batches in the order of the texts; UNSCORED where no batch has a text."""
    values = np.full(num_texts, np.nan, dtype=np.float32)
    tokens = np.zeros(num_texts, dtype=np.int32)
    status = np.full(num_texts, Status.UNSCORED, dtype=np.int8)
    for batch in batches:
        values[batch.index] = batch.log_likelihood
        tokens[batch.index] = batch.num_tokens
        status[batch.index] = batch.status
    return Scores(values, tokens, status)


def iter_scores(
    model: Model,
    encoded: Encoded,
    *,
    skip: Collection[int] = (),
    batch_tokens: int | None = None,
) -> Generator[Batch, None, None]:
    """Score texts batch by batch, longest first; each text comes once, in no promised order.

    Texts that cannot be scored come first, as one batch, without a forward pass. On a CPU
    batches run in `model.threads` threads of one core each, which is faster than one batch on all
    cores. Which texts share a batch does not depend on `skip`, so that a run that goes on gives the very values of one that
    was not interrupted. Closing the iterator drops what has not begun and waits for what has.

    Parameters
    ----------
    model : Model
    encoded : Encoded
    skip : collection of int
        Texts to leave out, because their scores are known.
    batch_tokens : int, optional
        Padded tokens of a batch at most; `default_batch_tokens` if not given.

    Yields
    ------
    Batch

    Raises
    ------
    InputError
        `batch_tokens` is not positive.
    ModelError
        A single text does not fit in memory, or the model fails on it.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens must be at least 1, got {batch_tokens}")
    return _iterate(model, encoded, frozenset(skip), batch_tokens)


def _iterate(
    model: Model, encoded: Encoded, skip: frozenset[int], batch_tokens: int | None
) -> Generator[Batch, None, None]:
    import torch

    lengths = encoded.lengths
    over = lengths > (model.context_length if model.context_length is not None else np.inf)
    unscored = over | encoded.unknown | (lengths <= encoded.starts)
    texts = np.array([text for text in np.flatnonzero(unscored) if text not in skip], dtype=np.int64)
    if len(texts):
        status = np.where(over[texts], Status.OVER_CONTEXT, Status.UNSCORED).astype(np.int8)
        status[encoded.unknown[texts]] = Status.UNKNOWN_TOKEN
        yield Batch(texts, np.full(len(texts), np.nan), np.zeros(len(texts), dtype=np.int32), status, 0.0)

    config = model.module.config.to_dict()
    plan = BatchPlan(
        lengths,
        np.flatnonzero(~unscored).tolist(),
        batch_tokens or default_batch_tokens(model.device.type, model.source.declared.get("num_parameters")),
        scored=skip,
        single=not model.batching,
        boundary=rope_boundary(config),
    )
    # A GPU takes one batch at a time; a model with state would be disturbed by a second one. Some of peft's layers have state:
    # for a forward pass they put themselves in the place of their base's weights.
    alone = keeps_state(config) or model.adapter.get("adapter_application") == "beside"
    workers = 1 if model.device.type != "cpu" or alone else model.threads
    threads = torch.get_num_threads()
    running: dict[Future[Batch], list[int]] = {}
    with fast_products(model.device.type):
        # Thread counts are per thread in torch; new threads inherit the last one set, so it is put back.
        executor = ThreadPoolExecutor(
            workers, "llreg-score", torch.set_num_threads, (max(1, model.threads // workers),)
        )
        try:
            while True:
                # One batch more than there are workers keeps them busy; more would only delay an interruption.
                while len(running) < (1 if plan.retried else workers + 1) and (batch_texts := plan.next()):
                    running[executor.submit(_score_batch, model, encoded, batch_texts)] = batch_texts
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    batch = _collect(model, plan, future, running.pop(future))
                    if batch is not None:
                        yield batch
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


def _score_batch(model: Model, encoded: Encoded, texts: Sequence[int]) -> Batch:
    """Score texts in one forward pass."""
    started = time.perf_counter()
    sequences, starts = [encoded.ids[i] for i in texts], encoded.starts[list(texts)].tolist()
    log_probs = token_log_probs(model.module, sequences, model.device, starts=starts, base=model.base)
    values = np.array([of_text.sum(dtype=np.float64) for of_text in log_probs])
    finite = np.isfinite(values)
    return Batch(
        index=np.array(texts, dtype=np.int64),
        log_likelihood=np.where(finite, values, np.nan),
        num_tokens=np.where(finite, [len(of_text) for of_text in log_probs], 0).astype(np.int32),
        status=np.where(finite, Status.SCORED, Status.NON_FINITE).astype(np.int8),
        seconds=time.perf_counter() - started,
    )


def _collect(model: Model, plan: BatchPlan, future: Future[Batch], texts: Sequence[int]) -> Batch | None:
    """A finished batch; None if it ran out of memory and goes back to be tried in smaller ones."""
    import torch

    error = future.exception()
    if error is None:
        batch = future.result()
        if batch.seconds > _SLOW_BATCH:
            plan.shrink(plan.padded(texts) // 2)
        return batch
    tokens = int(plan.lengths[texts].max())
    if not isinstance(error, Exception):
        raise error
    if not is_out_of_memory(error):
        raise ModelError(f"{model.source.name} failed on a text of {tokens} tokens: {first_line(error)}") from error
    if len(texts) == 1 and texts[0] in plan.retried:
        raise ModelError(
            f"a text of {tokens} tokens does not fit in the memory of {model.device} with {model.source.name}: "
            "try --dtype bfloat16, or another device"
        ) from error
    if len(texts) == 1:  # once more, when it need not share the memory with others
        plan.retried.add(texts[0])
    else:
        plan.shrink(plan.padded(texts) // 2)
    plan.put_back(texts)
    traceback.clear_frames(error.__traceback__)  # its frames hold the tensors of the failed batch
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return None
