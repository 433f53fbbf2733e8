"""How fast a model is scored on this machine, by dtype and batch budget: to choose them before an `add`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg.texts.textset import mini
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_extract.measure.speed import Speed

DTYPES = ("float32", "bfloat16", "float16")
SHAPES = ("tiny", "smollm2-135m", "llama-1b", "llama-7b")  # of llreg_extract.measure.shapes, which loads torch
_GPU_BUDGETS = (4096, 16_384, 65_536)  # padded tokens
_TEXTS = 256  # of a registry; they are scored over and over
_WORTH = 1.5  # times as fast as float32: what another dtype must be to be recommended
_AS_FAST = 0.97  # of the fastest budget: a smaller one that reaches it needs less memory


@dataclass(frozen=True)
class Advice:
    """What to add models with.

    Attributes
    ----------
    dtype : str
    batch_tokens : int or None
        None where no others were tried.
    sentence : str
        What it gains, and at what price.
    """

    dtype: str
    batch_tokens: int | None
    sentence: str

    @property
    def options(self) -> str:
        """As options of `llreg add`."""
        return _options(self.dtype, self.batch_tokens)


@dataclass(frozen=True)
class Report:
    """Measurements of one model on one device.

    Attributes
    ----------
    model : str
        Its name.
    device : str
        The device's name.
    on_gpu : bool
    random_weights : bool
        Whether it has only a model's shape: errors say nothing then and are NaN.
    speeds : sequence of Speed
        See `llreg_extract.measure.speed.Speed`; those that failed are among them.
    """

    model: str
    device: str
    on_gpu: bool
    random_weights: bool
    speeds: Sequence[Speed]

    @property
    def done(self) -> list[Speed]:
        """What could be measured."""
        return [speed for speed in self.speeds if speed.problem is None]

    @property
    def peaks(self) -> dict[str, float]:
        """By dtype, the most operations a second that large matrix products reached."""
        return {speed.dtype: max(s.peak_flops for s in self.done if s.dtype == speed.dtype) for speed in self.done}

    def share_of_peak(self, speed: Speed) -> float:
        """Operations that the texts needed, as a share of the peak in that dtype."""
        return speed.flops_per_second / self.peaks[speed.dtype]

    def error(self, speed: Speed) -> float:
        """Root mean square difference from float32, one text at a time: nats per text; NaN where float32 did not run."""
        gaps = self._gaps(speed)
        return float(np.sqrt(np.mean(np.square(gaps)))) if len(gaps) else float("nan")

    def kl_floor(self, speed: Speed) -> float:
        """KL that the error alone puts between this row and one in float32, Var / 2: nats per text."""
        gaps = self._gaps(speed)
        return float(np.var(gaps) / 2) if len(gaps) else float("nan")

    def _gaps(self, speed: Speed) -> NDArray[np.float64]:
        """Differences from float32 on the texts that both have: float64 array of shape (n_compared,), nats."""
        exact = next((s.alone for s in self.done if s.dtype == "float32"), ())
        common = 0 if self.random_weights else min(len(exact), len(speed.together))
        gaps = np.subtract(speed.together[:common], exact[:common])
        return gaps[np.isfinite(gaps)]

    @cached_property
    def advice(self) -> Advice | None:
        """What to add this model with; None where nothing ran."""
        return _advise(self)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        trials: list[dict[str, Any]] = []
        for speed in self.speeds:
            trials.append({"dtype": speed.dtype, "batch_tokens": speed.batch_tokens, "problem": speed.problem})
            if speed.problem is None:
                trials[-1] |= {
                    "threads": speed.threads,
                    "tokens_per_second": speed.tokens_per_second,
                    "tokens_per_cpu_second": speed.tokens_per_cpu_second,
                    "share_of_peak": self.share_of_peak(speed),
                    "memory_bytes": speed.memory_bytes,
                    "largest_batch": speed.largest_batch,
                    "padding": speed.padding,
                    "spread": speed.spread,
                    "error": self.error(speed),
                }
        return {
            "model": self.model,
            "device": self.device,
            "random_weights": self.random_weights,
            "peak_flops": self.peaks,
            "trials": trials,
            "advice": None if self.advice is None else {**vars(self.advice), "options": self.advice.options},
        }


def bench(
    model: str | None = None,
    *,
    shape: str | None = None,
    registry: Contents | None = None,
    revision: str | None = None,
    dtypes: Sequence[str] = (),
    device: str = "auto",
    batch_tokens: Sequence[int] = (),
    seconds: float = 20.0,
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure how fast a model is scored, each dtype and batch budget in a process of its own.

    As with all of multiprocessing, a script that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    model : str, optional
        Hub id, directory or ``.gguf`` file. If not given, random weights are measured.
    shape : str, optional
        Whose shape they have: one of `SHAPES`, smollm2-135m if not given.
    registry : Contents, optional
        Whose texts are scored: 256 of them, drawn by `seed`. If not given, those of the embedded text set.
    revision : str, optional
        Branch, tag or commit on the Hub.
    dtypes : sequence of str
        "all", or some of `DTYPES`. If not given, float32 and bfloat16, and float16 of a model saved in it.
    device : str
        As for `Registry.add`.
    batch_tokens : sequence of int
        Padded tokens of a batch at most. If not given, 4,096, 16,384 and 65,536 on a GPU, and on a CPU the default.
    seconds : float
        How long each is measured, loading not counted.
    seed : int
    trust_remote_code : bool
        Run Python code from the model's repository.
    progress : callable, optional
        Called with the trials done and their number.

    Raises
    ------
    InputError
        An unknown shape, dtype or device; or a model and a shape.
    ModelError
        If the model is not found, or cannot be fetched.
    MissingExtraError
        torch or transformers is not installed.
    """
    from llreg_extract.files.hub import download
    from llreg_extract.loading.device import device_name
    from llreg_extract.measure.speed import Trial, measure
    from llreg_extract.source import Source

    if model is not None and shape is not None:
        raise InputError("give a MODEL or a --shape, not both")
    shape = shape or "smollm2-135m"
    if model is not None:
        source = llreg_extract.resolve(model, revision=revision, trust_remote_code=trust_remote_code)
    elif shape in SHAPES:
        source = Source("random", "local", "", "", None, None, "float32", {})
    else:
        raise InputError(f"unknown shape {shape!r}: choose one of {', '.join(SHAPES)}")
    default_dtypes = DTYPES if model is not None and source.checkpoint_dtype == "float16" else DTYPES[:2]
    dtypes = DTYPES if "all" in dtypes else dtypes or default_dtypes
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype!r}: choose among {', '.join(DTYPES)}")
    _, device = llreg_extract.choose(source, dtype=dtypes[0], device=device)
    text_set = mini() if registry is None else registry.texts
    sample = np.random.default_rng(seed).permutation(len(text_set))[:_TEXTS]
    texts = text_set.complete(sample.tolist())
    if model is not None:
        download(source, trust_remote_code=trust_remote_code)
    on_gpu = device != "cpu"
    budgets: list[int | None] = list(dict.fromkeys(batch_tokens)) or (list(_GPU_BUDGETS) if on_gpu else [None])
    # Each dtype with each budget, in the order of `DTYPES`.
    subject = shape if model is None else source
    trials = [
        Trial(subject, dtype, device, budget, texts, seconds, trust_remote_code=trust_remote_code)
        for dtype in sorted(set(dtypes), key=DTYPES.index)
        for budget in budgets
    ]
    speeds = []
    for k, trial in enumerate(trials):
        speeds.append(measure(trial))
        if progress:
            progress(k + 1, len(trials))
    name = f"random-{shape}" if model is None else source.name
    return Report(name, device_name(device), on_gpu, model is None, speeds)


def _options(dtype: str, batch_tokens: int | None) -> str:
    return f"--dtype {dtype}" + (f" --batch-tokens {batch_tokens}" if batch_tokens else "")


def _advise(report: Report) -> Advice | None:
    """The fastest dtype if it is much faster than float32, which is as good as exact; else float32."""
    best = {dtype: _best_budget([s for s in report.done if s.dtype == dtype]) for dtype in report.peaks}
    if not best:
        return None
    fastest = max(best.values(), key=lambda speed: speed.tokens_per_second)
    exact = best.get("float32")
    tried = {speed.dtype for speed in report.speeds}
    price = "what it costs in accuracy only a real model tells (llreg bench MODEL)"
    if not report.random_weights:
        price = (
            f"it puts values off by {report.error(fastest):.2g} nats a text (rms), and so about "
            f"{report.kl_floor(fastest):.2g} nats between a row in it and one in float32"
        )
    if exact is None:
        choice = fastest
        reason = "float32 does not run here" if "float32" in tried else "the fastest of what was measured"
    elif exact is fastest:
        choice = fastest
        reason = "the fastest here, and the most exact" if len(tried) > 1 else "the fastest of what was measured"
    elif (gain := fastest.tokens_per_second / exact.tokens_per_second) >= _WORTH:
        choice, reason = fastest, f"it is {gain:.1f} times as fast as float32; {price}"
    else:
        choice, reason = exact, f"{fastest.dtype} is only {gain:.2f} times as fast; {price}"
    # A budget is worth naming only where others were tried.
    several_budgets = len({speed.batch_tokens for speed in report.speeds}) > 1
    budget = choice.batch_tokens if several_budgets else None
    return Advice(choice.dtype, budget, f"use {_options(choice.dtype, budget)}: {reason}")


def _best_budget(speeds: Sequence[Speed]) -> Speed:
    """The smallest budget that is as good as the fastest, since it needs less memory."""
    fastest = max(speed.tokens_per_second for speed in speeds)
    as_fast = [speed for speed in speeds if speed.tokens_per_second >= _AS_FAST * fastest]
    return min(as_fast, key=lambda speed: speed.batch_tokens)
