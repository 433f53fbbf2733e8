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
from llreg_extract.scoring.forward import token_scores
from llreg_schemas.errors import InputError, ModelError

Cuts = Sequence[NDArray[np.int32]]  # of each text, the byte at which each of its segments begins

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
    num_correct : int32 array of shape (b,)
        How many of them were the model's first choice.
    status : int8 array of shape (b,)
        Values of `Status`.
    segments : tuple of float64 arrays of shape (n_segments,), nats, or None
        Log-likelihood of each segment of each text, NaN where `status` is not SCORED: the sum over the tokens that begin in
        it. None where no cuts were given, or the tokenizer does not tell where its tokens begin.
    seconds : float
        Time the forward pass and the sums took.
    """

    index: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    num_tokens: NDArray[np.int32]
    num_correct: NDArray[np.int32]
    status: NDArray[np.int8]
    segments: tuple[NDArray[np.float64], ...] | None
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
    num_correct : int32 array of shape (n_texts,)
        How many of them were the model's first choice.
    status : int8 array of shape (n_texts,)
        Values of `Status`.
    segments : tuple of float64 arrays of shape (n_segments,), nats, or None
        As of `Batch`.
    """

    log_likelihood: NDArray[np.float32]
    num_tokens: NDArray[np.int32]
    num_correct: NDArray[np.int32]
    status: NDArray[np.int8]
    segments: tuple[NDArray[np.float64], ...] | None = None


def score(model: Model, texts: Sequence[str], *, batch_tokens: int | None = None, cuts: Cuts | None = None) -> Scores:
    """Log-likelihood of each text.

    ll(x) = sum of ln p(y_t | y_<t) over t = 2..n of the text's tokens y, with the special tokens that go before a text and
    none behind it (Oyama et al., ACL 2025, arXiv 2502.16173, section 3).

    Parameters
    ----------
    model : Model
    texts : sequence of str
    batch_tokens : int, optional
        Padded tokens of a batch at most.
    cuts : sequence of int32 arrays of shape (n_segments,), optional
        Byte of each text at which each of its segments begins, the first at 0.

    Returns
    -------
    Scores

    Raises
    ------
    ModelError
        A text does not fit in memory, or the model fails on it.
    """
    return gather(iter_scores(model, encode(model, texts), batch_tokens=batch_tokens, cuts=cuts), len(texts))


def gather(batches: Iterable[Batch], num_texts: int) -> Scores:
    """Scores of batches in the order of the texts; UNSCORED where no batch has a text."""
    values = np.full(num_texts, np.nan, dtype=np.float32)
    tokens, correct = np.zeros(num_texts, dtype=np.int32), np.zeros(num_texts, dtype=np.int32)
    status = np.full(num_texts, Status.UNSCORED, dtype=np.int8)
    segments: dict[int, NDArray[np.float64]] = {}
    for batch in batches:
        values[batch.index] = batch.log_likelihood
        tokens[batch.index], correct[batch.index] = batch.num_tokens, batch.num_correct
        status[batch.index] = batch.status
        if batch.segments is not None:
            segments |= zip(batch.index.tolist(), batch.segments, strict=True)
    all_segments = tuple(segments[text] for text in range(num_texts)) if segments else None
    return Scores(values, tokens, correct, status, all_segments)


def iter_scores(
    model: Model,
    encoded: Encoded,
    *,
    skip: Collection[int] = (),
    batch_tokens: int | None = None,
    cuts: Cuts | None = None,
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
    cuts : sequence of int32 arrays of shape (n_segments,), optional
        Byte of each text (of a pair: of its response) at which each of its segments begins, the first at 0.

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
    return _iterate(model, encoded, frozenset(skip), batch_tokens, cuts if encoded.offsets is not None else None)


def _iterate(
    model: Model, encoded: Encoded, skip: frozenset[int], batch_tokens: int | None, cuts: Cuts | None
) -> Generator[Batch, None, None]:
    import torch

    lengths = encoded.lengths
    over = lengths > (model.context_length if model.context_length is not None else np.inf)
    unscored = over | encoded.unknown | (lengths <= encoded.starts)
    texts = np.array([text for text in np.flatnonzero(unscored) if text not in skip], dtype=np.int64)
    if len(texts):
        status = np.where(over[texts], Status.OVER_CONTEXT, Status.UNSCORED).astype(np.int8)
        status[encoded.unknown[texts]] = Status.UNKNOWN_TOKEN
        none = np.zeros(len(texts), dtype=np.int32)
        segments = None if cuts is None else tuple(np.full(len(cuts[text]), np.nan) for text in texts)
        yield Batch(texts, np.full(len(texts), np.nan), none, none, status, segments, 0.0)

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
                    running[executor.submit(_score_batch, model, encoded, cuts, batch_texts)] = batch_texts
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    batch = _collect(model, plan, future, running.pop(future))
                    if batch is not None:
                        yield batch
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


def _score_batch(model: Model, encoded: Encoded, cuts: Cuts | None, texts: Sequence[int]) -> Batch:
    """Score texts in one forward pass."""
    started = time.perf_counter()
    sequences, starts = [encoded.ids[i] for i in texts], encoded.starts[list(texts)].tolist()
    log_probs, is_first = token_scores(model.module, sequences, model.device, starts=starts, base=model.base)
    values = np.array([of_text.sum(dtype=np.float64) for of_text in log_probs])
    finite = np.isfinite(values)
    segments = None
    if cuts is not None and encoded.offsets is not None:
        sums = (
            _segment_sums(of_text, encoded.offsets[i][start:], cuts[i])
            for of_text, i, start in zip(log_probs, texts, starts, strict=True)
        )
        segments = tuple(np.where(good, of_text, np.nan) for good, of_text in zip(finite, sums, strict=True))
    return Batch(
        index=np.array(texts, dtype=np.int64),
        log_likelihood=np.where(finite, values, np.nan),
        num_tokens=np.where(finite, [len(of_text) for of_text in log_probs], 0).astype(np.int32),
        num_correct=np.where(finite, [of_text.sum() for of_text in is_first], 0).astype(np.int32),
        status=np.where(finite, Status.SCORED, Status.NON_FINITE).astype(np.int8),
        segments=segments,
        seconds=time.perf_counter() - started,
    )


def _segment_sums(
    log_probs: NDArray[np.float32], offsets: NDArray[np.int32], begins: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Sums of the log-probabilities of the tokens that begin in each segment of a text.

    Parameters
    ----------
    log_probs : float32 array of shape (n_scored,), nats
    offsets : int32 array of shape (n_scored,)
        Byte at which each of the tokens begins.
    begins : int32 array of shape (n_segments,)
        Byte at which each segment begins, the first at 0.

    Returns
    -------
    float64 array of shape (n_segments,), nats
    """
    segment = np.searchsorted(begins, offsets, side="right") - 1  # (n_scored,)
    return np.bincount(segment, weights=log_probs, minlength=len(begins)).astype(np.float64, copy=False)


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
