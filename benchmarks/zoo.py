"""llreg's geometry against the truth: small real models whose family tree is known.

    python benchmarks/zoo.py --zoo ZOO --texts TEXTS.jsonl [--registry REGISTRY]

ZOO holds a directory a model and lineage.json, which says for each its kind, parents, architecture and tokenizer. Models
that have no row in REGISTRY are scored first: about a minute a model of half a million parameters. Prints Markdown:
what the nearest rows are, what the lineage test finds and how its p is calibrated, and KL from log-likelihood vectors beside
KL by sampling.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _measure import machine, markdown
from _sampling import Estimate, Sampler
from _zoo import DERIVED, FURTHER, KINDS, Zoo
from sklearn.metrics import roc_auc_score

import llreg
from llreg.geometry.kl.contrast import by_subset
from llreg.geometry.view.freeze import measured_view
from llreg.geometry.view.view import CLIP_QUANTILE, View
from llreg.texts.textset import load_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.registry import Registry
    from llreg_extract import Model

TAIL = 0.03  # share of the texts that one of the views drops, as P3 does
LEVEL = 0.05  # false discovery rate at which the lineage test says "related"
ZERO = 1e-12  # of a baseline's distance: rounding between equal rows
SAMPLED = (  # pairs with one tokenizer, from near to far
    ("neox-code", "neox-code-bf16"),
    ("gpt2-mix-s1", "gpt2-mix-s1-speeches-light"),
    ("gpt2-mix-s1", "gpt2-mix-s1-speeches"),
)
LIBRARIES = ("numpy", "scikit-learn", "torch", "transformers")

Line = tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """A registry with a row for every model of a zoo, and nothing else."""

    zoo: Zoo
    registry: Registry
    views: Mapping[str, View]

    @property
    def names(self) -> list[str]:
        return self.zoo.names

    def truth(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.bool_]:
        """Which pairs of models are related."""
        return np.array([self.zoo.related(*pair) for pair in pairs])


# Rows


def scored(directory: Path, zoo_directory: Path, texts: Path) -> Registry:
    """The registry of a directory, made if there is none, with every model of the zoo."""
    there = (directory / "registry.json").is_file()
    registry = llreg.open(directory) if there else llreg.init(directory, texts=texts, name="zoo")
    if registry.text_index.info.id != load_texts(texts).info.id:
        raise SystemExit(f"{directory}: its text set is not {texts}; choose another directory")
    names = Zoo.load(zoo_directory).names
    rows = Counter(record.identity.model for record in registry.records())
    if set(rows) - set(names) or max(rows.values(), default=1) > 1:
        raise SystemExit(f"{directory}: expected one row a model of the zoo and no others; choose another directory")
    missing = [str(zoo_directory / name) for name in names if name not in rows]
    failed = [result for result in (registry.add(missing) if missing else ()) if result.status == "failed"]
    if failed:
        raise SystemExit(f"{failed[0].model}: {failed[0].message}")
    return registry


def views(registry: Registry) -> dict[str, View]:
    """The views that are compared."""
    clipped = measured_view(registry, View(), clip_quantile=CLIP_QUANTILE)
    foreign = tuple(name for name in registry.text_index.info.subsets if name.startswith("lang_"))
    return {
        "raw": View(),
        "clipped at 2 %": clipped,
        "clipped, 3 % tail dropped": measured_view(registry, clipped, drop_tail=TAIL),
        "raw, no foreign languages": View(without=foreign),
        "clipped, no foreign languages": replace(clipped, without=foreign),
    }


# Nearest rows


@dataclass(frozen=True)
class Contender:
    """A way to say how far models are apart.

    Attributes
    ----------
    name : str
    distances : float64 array of shape (n_models, n_models)
        In the order of the zoo's names; larger is less alike.
    nearest : mapping of str to sequence of str
        All other models, nearest first.
    same : set of frozenset of str
        Pairs that it cannot tell apart.
    """

    name: str
    distances: NDArray[np.float64]
    nearest: Mapping[str, Sequence[str]]
    same: set[frozenset[str]]


def through_view(bench: Bench, name: str, view: View) -> Contender:
    """KL as the registry estimates it."""
    registry, names = bench.registry, bench.names
    nearest = {model: [n.model for n in registry.neighbors(model, len(names), view=view).nearest] for model in names}
    model_of = {record.row_id: record.identity.model for record in registry.records()}
    groups = [[model_of[row_id] for row_id in found.row_ids] for found in registry.duplicates(view=view)]
    same = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    return Contender(f"KL, {name}", registry.kl(names, view=view, se=False)["kl"].values, nearest, same)


def baseline(bench: Bench, name: str, distances: NDArray[np.float64]) -> Contender:
    """Another distance of the same rows."""
    names = bench.names
    nearest = {
        model: [names[k] for k in np.argsort(row, kind="stable") if k != i]
        for i, (model, row) in enumerate(zip(names, distances, strict=True))
    }
    same = {frozenset((names[i], names[j])) for i, j in combinations(range(len(names)), 2) if distances[i, j] <= ZERO}
    return Contender(name, distances, nearest, same)


def contenders(bench: Bench) -> Iterator[Contender]:
    """The views, then what one would try without them."""
    for name, view in bench.views.items():
        yield through_view(bench, name, view)
    values = bench.registry.rows(bench.names, view=View()).values
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    yield baseline(bench, "cosine on raw vectors", 1 - unit @ unit.T)
    mean = values.mean(axis=1)
    yield baseline(bench, "difference of mean log-likelihood", np.abs(mean[:, None] - mean[None, :]))


def nearest_line(bench: Bench, contender: Contender) -> Line:
    """What the nearest rows are, duplicates and copies, and how distances separate relatives."""
    zoo = bench.zoo
    derived = zoo.of_kind(*DERIVED)
    # What was made from a model is near it, and says nothing of where the model comes from.
    first = {of: next(x for x in contender.nearest[of] if not zoo.is_made_from(x, of)) for of in derived}
    parent = [of for of in derived if zoo.is_parent(of, first[of])]
    sibling = [of for of in derived if zoo.is_sibling(of, first[of]) and of not in parent]
    family = [of for of in derived if zoo.related(of, first[of])]
    any_row = [of for of in derived if zoo.related(of, contender.nearest[of][0])]
    copies = zoo.of_kind("quantized", "cast")
    ranked_first = [
        copy for copy in copies if _first_original(zoo, copy, contender.nearest[copy]) == zoo.original(copy)
    ]
    true = {frozenset((name, zoo.original(name))) for name in zoo.of_kind("duplicate")}
    return (
        contender.name,
        *(f"{len(x)}/{len(derived)}" for x in (parent, parent + sibling, family, any_row)),
        f"{len(contender.same & true)}/{len(true)}, {len(contender.same - true)} false",
        f"{len(ranked_first)}/{len(copies)}",
        *(auc(bench, contender, field) for field in (None, "tokenizer", "arch")),
    )


def _first_original(zoo: Zoo, copy: str, nearest: Sequence[str]) -> str:
    """The nearest row that is no other copy of the same model."""
    others = (name for name in nearest if name == zoo.original(copy) or zoo.original(name) != zoo.original(copy))
    return next(others)


def auc(bench: Bench, contender: Contender, field: str | None) -> str:
    """ROC AUC of related against unrelated pairs by distance; of pairs with the same tokenizer or architecture."""
    chosen = list(_pairs(bench, field))
    places = {name: k for k, name in enumerate(bench.names)}
    distances = [contender.distances[places[one], places[other]] for one, other in chosen]
    truth = bench.truth(chosen)
    return f"{roc_auc_score(truth, -np.array(distances)):.3f}" if truth.any() and not truth.all() else "-"


def _pairs(bench: Bench, field: str | None) -> Iterator[tuple[str, str]]:
    return (pair for pair in combinations(bench.names, 2) if field is None or bench.zoo.alike(*pair, field))


def nearest_table(bench: Bench) -> str:
    """A line a view and baseline."""
    header = (
        "",
        "parent",
        "parent or sibling",
        "family",
        "family, all rows",
        "duplicates",
        "copies",
        "AUC",
        "AUC, same tokenizer",
        "AUC, same architecture",
    )
    return markdown(header, [nearest_line(bench, contender) for contender in contenders(bench)])


def nearest_words(bench: Bench) -> str:
    """What the columns count."""
    counts = []
    for field in (None, "tokenizer", "arch"):
        truth = bench.truth(_pairs(bench, field))
        counts.append(f"{truth.sum()} related and {(~truth).sum()} unrelated pairs")
    return (
        "Of fine-tunes and merges, how many have as the nearest row that was not made from them their parent (or a copy of "
        "it), parent or sibling, a row of their family; family among all rows. Duplicates: exact copies found, and others "
        "taken for one. Copies: int8, int4 and bf16 copies whose original is nearest, other copies of it left out. ROC AUC of "
        f"related against unrelated pairs: over all ({counts[0]}), of one tokenizer ({counts[1]}), of one architecture "
        f"({counts[2]})."
    )


# The lineage test


@dataclass(frozen=True)
class Tested:
    """A row tested for kinship with another."""

    relation: str
    p: float
    q: float
    null_pairs: int


def declared(zoo: Zoo, which: str, query: str) -> dict[str, str]:
    """Families that are told to the test."""
    if which == "nothing":
        return {}
    return {name: family for name, family in zoo.family.items() if which == "everything" or name != query}


def tests(bench: Bench, view: View, which: str) -> list[Tested]:
    """Every model against every other."""
    found = []
    for query in bench.names:
        families = declared(bench.zoo, which, query)
        result = bench.registry.lineage(
            query, candidates=len(bench.names) - 1, level=LEVEL, view=view, families=families
        )
        for relative in result.relatives:
            relation = bench.zoo.relation(query, relative.neighbor.model)
            found.append(Tested(relation, relative.p, relative.q, relative.null_pairs))
    return found


def lineage_line(name: str, which: str, found: Sequence[Tested]) -> Line:
    """Found of each kind, then false findings and the calibration."""
    kinds = [[test for test in found if test.relation == kind] for kind in (*KINDS, FURTHER, "")]
    p = np.array([test.p for test in kinds[-1]])
    right, wrong = (sum(_is_found(test) for test in found if bool(test.relation) == kin) for kin in (True, False))
    related = np.array([bool(test.relation) for test in found])
    pairs = [test.null_pairs for test in found]
    return (
        name,
        which,
        *(f"{sum(map(_is_found, some))}/{len(some)}" for some in kinds),
        f"{wrong / (right + wrong):.0%}" if right + wrong else "-",
        *(f"{np.mean(p <= level):.1%}" for level in (0.05, 0.1)),
        f"{min(pairs)} to {max(pairs)}",
        f"{roc_auc_score(related, [-test.p for test in found]):.3f}",
    )


def _is_found(test: Tested) -> bool:
    return test.q <= LEVEL


def lineage_table(bench: Bench) -> str:
    """A line a view and declaration."""
    header = ("view", "families declared", *KINDS, FURTHER, "unrelated", "of findings false")
    lines = [
        lineage_line(name, which, tests(bench, bench.views[name], which))
        for name in ("raw", "clipped at 2 %", "clipped, no foreign languages")
        for which in ("all but the query's", "nothing", "everything")
    ]
    return markdown((*header, "unrelated p ≤ 0.05", "p ≤ 0.1", "null pairs", "AUC of p"), lines)


def lineage_words(bench: Bench) -> str:
    """What the columns count, and how small p can be."""
    families = len(set(bench.zoo.family.values()))
    pairs = list(combinations(bench.names, 2))
    strangers = [pair for pair, related in zip(pairs, bench.truth(pairs), strict=True) if not related]
    unrelated = max(sum(name not in pair for pair in strangers) for name in bench.names)
    rows = len(bench.names)
    independent = math.comb(families, 2)
    return (
        f"Every model is tested against the {rows - 1} others: found at q ≤ {LEVEL:g} of each kind of relation (both ways round), "
        "then of unrelated pairs, and the share of all findings that is false. Calibrated, a share of 5 % and 10 % of the "
        f"unrelated pairs would have p ≤ 0.05 and 0.1. What {rows} rows can show: with all families known the null of a query has at most "
        f"{unrelated} pairs, so p is at least {1 / (1 + unrelated):.4f} and a single relative has q ≥ {(rows - 1) / (1 + unrelated):.2f}: "
        f"only groups of relatives can be found. And these pairs are of only {independent} pairs of {families} families, whose "
        f"members move together: evidence for a p below about {1 / (1 + independent):.2f} is not there, whatever the table counts."
    )


# Monte Carlo


def sampling_table(bench: Bench, zoo_directory: Path, texts: Sequence[str], count: int, seed: int) -> str:
    """A line a pair: the registry's KL, and three estimates by sampling."""
    sampler = Sampler(partial(_load, zoo_directory), count, seed)
    bits = bench.registry.rows(bench.names[:1], view=View()).bits
    header = (
        "",
        "KL, raw",
        "KL, clipped, no foreign languages",
        "KL, raw, within subsets",
        "written texts: mean",
        "written texts: variance",
        "given texts: tokens",
        "KL raw / mean",
        "KL raw / tokens",
        "variance / mean",
    )
    lines = []
    for one, other in (pair for pair in SAMPLED if set(pair) <= set(bench.names)):
        raw, clipped = (_estimate(bench, one, other, name) for name in ("raw", "clipped, no foreign languages"))
        within = within_subsets(bench, one, other)
        found = sampler.compare(one, other, texts)
        sampled = (found.written, found.formula, found.tokens)
        ratios = (_ratio(raw, found.written), _ratio(raw, found.tokens), _ratio(found.formula, found.written))
        registry = (_shown(raw, bits), _shown(clipped, bits), f"{within:.4g}")
        lines.append((f"{one}, {other}", *registry, *(_shown(estimate, bits) for estimate in sampled), *ratios))
    return markdown(header, lines)


def within_subsets(bench: Bench, one: str, other: str) -> float:
    """Mean of the KLs within each subset of the texts, weighted by their texts: what mean shifts of subsets do not add to."""
    parts = by_subset(bench.registry.rows([one, other], view=View()))
    bytes_per_text = bench.registry.text_index.bytes_per_text
    subsets = np.asarray(bench.registry.text_index.subset, dtype=object)
    nats = [math.log(2) * bytes_per_text[subsets == name].mean() for name in parts["subset"].values]
    return float(np.average(parts["kl_bits_per_byte"].values * nats, weights=parts["num_texts"].values))


def _load(directory: Path, name: str) -> Model:
    import llreg_extract

    return llreg_extract.load(llreg_extract.resolve(str(directory / name)), device="cpu")


def _estimate(bench: Bench, one: str, other: str, view: str) -> Estimate:
    found: Any = bench.registry.kl([one], [other], view=bench.views[view])
    return Estimate(float(found["kl"].values[0, 0]), float(found["kl_se"].values[0, 0]))


def _ratio(one: Estimate, other: Estimate) -> str:
    """With the standard error of a ratio of independent estimates, to first order."""
    ratio = one.value / other.value
    return f"{ratio:.2f} ± {abs(ratio) * math.hypot(one.se / one.value, other.se / other.value):.2f}"


def _shown(estimate: Estimate, bits: float) -> str:
    return f"{estimate.value:.4g} ± {estimate.se:.2g} ({estimate.value / bits:.2g} b/B)"


def sampling_words(count: int) -> str:
    """What is estimated, and why the estimates can differ."""
    return (
        "Half the Jeffreys divergence of two models, nats per text ± standard error (bits per byte). KL: the registry's, "
        "Var(l_i - l_j) / 2 over the text set; within subsets: the mean of the same within each. Written texts: "
        f"{count} drawn from each model, as long in tokens as texts of the set and begun with their first tokens; mean of "
        "l_i - l_j under i and of l_j - l_i under j, halved, which is the definition; and the registry's formula on the same "
        f"texts. Given texts: divergences of the next tokens both ways, summed along {count} texts of the set, halved. They "
        "can differ: the formula is the second-order term and holds where texts are distributed as the models write them. "
        "The set's are not: there the differences of a text's tokens are correlated (all of a language or subset that one "
        "model learnt or forgot shift together), and their covariances count in the variance but in neither mean."
    )


# The run


def run(zoo_directory: Path, texts: Path, directory: Path, count: int, seed: int) -> None:
    """Score what is missing, then print the three sections."""
    registry = scored(directory, zoo_directory, texts)
    bench = Bench(Zoo.load(zoo_directory), registry, views(registry))
    print(f"{len(bench.names)} models, {registry.num_texts:,} texts.\n\n{machine(*LIBRARIES)}.\n")
    print(f"### Nearest rows\n\n{nearest_words(bench)}\n\n{nearest_table(bench)}\n", flush=True)
    print(f"### Lineage test\n\n{lineage_words(bench)}\n\n{lineage_table(bench)}\n", flush=True)
    given = list(registry.texts.complete(None))
    random.Random(seed).shuffle(given)
    print(
        f"### KL beside sampling\n\n{sampling_words(count)}\n\n{sampling_table(bench, zoo_directory, given, count, seed)}"
    )


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="directory of models with lineage.json")
    parser.add_argument("--texts", type=Path, required=True, help="JSON Lines file with texts")
    parser.add_argument("--registry", type=Path, help="reuse its rows, or keep them there (default: a temporary one)")
    parser.add_argument("--samples", type=int, default=320, help="texts a model writes (default 320)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    options = parser.parse_args()
    if options.registry:
        run(options.zoo, options.texts, options.registry, options.samples, options.seed)
    else:
        with tempfile.TemporaryDirectory() as directory:
            run(options.zoo, options.texts, Path(directory) / "zoo", options.samples, options.seed)


if __name__ == "__main__":
    main()
