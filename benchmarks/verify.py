"""What `llreg verify` tells apart: rows of small real models against copies, relatives and perturbed weights.

    python benchmarks/verify.py --zoo ZOO --texts TEXTS.jsonl [--models gpt2-mix-s1 neox-code] [--sample 32]

ZOO holds a directory a model and lineage.json, which says what is a copy of what. Each model gets a row in float32, one in
bfloat16, and one in bfloat16 by other kernels (eager attention), which stands for other hardware. All are verified with the
model's own files and with those of every other variant. Prints Markdown: the outcome by the values alone (other files are
always told, by their hash), and the distance from the row that was seen.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from _measure import machine, markdown
from _zoo import Zoo
from safetensors.torch import load_file, save_file

import llreg
import llreg_extract
from llreg.add.job import Job, Scoring
from llreg.add.reporter import Reporter
from llreg.store.rowfile import Row, write_row
from llreg.texts.textset import load_texts
from llreg.verify.comparison import Agreement
from llreg_schemas import row_digest

if TYPE_CHECKING:
    from llreg.registry import Registry

EVERY = 12  # of the texts, one makes it into the text set: rows of all take long
NOISES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SEED = 1
Weights = dict[str, torch.Tensor]


# Variants


def perturbed(folder: Path, to: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of a checkpoint with its weights changed."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    changed = {name: change(name, tensor).contiguous() for name, tensor in weights.items()}
    save_file(changed, to / "model.safetensors", metadata={"format": "pt"})
    return to


def with_noise(size: float, only: str = "") -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Multiplies every weight, or those whose name holds `only`, by 1 + size * a normal number."""
    generator = torch.Generator().manual_seed(SEED)

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight * (1 + size * torch.randn(weight.shape, generator=generator)) if only in name else weight

    return change


def scaled(which: str, factor: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Multiplies one matrix."""
    return lambda name, weight: weight * factor if name == which else weight


def variants(zoo: Zoo, directory: Path, name: str, scratch: Path) -> Iterator[tuple[str, Path]]:
    """What a row of a model is verified with, and what that is, from the nearest to the farthest."""
    yield "its own files", directory / name
    entries = zoo.entries
    for copy in (n for n in zoo.of_kind("duplicate") if entries[n]["parents"] == [name]):
        yield "exact copy under another name", directory / copy
    matrix = next(
        key for key, weight in load_file(directory / name / "model.safetensors").items() if _is_inner(key, weight)
    )
    for size in reversed(NOISES):
        yield (
            f"all weights, relative noise {size:g}",
            perturbed(directory / name, scratch / f"noise-{size}", with_noise(size)),
        )
    for factor in (1.0001, 1.001, 1.01):
        path = perturbed(directory / name, scratch / f"scaled-{factor}", scaled(matrix, factor))
        yield f"one matrix of one layer times {factor}", path
    yield (
        "weights rounded to bfloat16",
        perturbed(directory / name, scratch / "rounded", lambda _, w: w.bfloat16().to(w.dtype)),
    )
    for bits in (8, 4):
        for copy in (
            n for n in zoo.of_kind("quantized") if entries[n]["parents"] == [name] and entries[n]["bits"] == bits
        ):
            yield f"int{bits} copy", directory / copy
    for kind in ("light", "full"):
        derived = [
            n
            for n in zoo.of_kind("finetune")
            if entries[n]["parents"] == [name] and zoo.relation(n, name) == f"{kind} fine-tune"
        ]
        for relative in derived[:1]:
            yield f"{kind} fine-tune", directory / relative
    for other in [n for n in zoo.names if not zoo.related(n, name) and not zoo.alike(n, name, "tokenizer")][:1]:
        yield "a model with another tokenizer", directory / other


def _is_inner(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and "mlp" in name and ".1." in name


# Rows


def make_rows(registry: Registry, folder: Path) -> dict[str, str]:
    """Row ids of a model: in float32, in bfloat16, in bfloat16 elsewhere, and with the texts permuted."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        (result,) = registry.add([str(folder)], dtype=dtype)
        assert result.row_id is not None, result
        found[dtype] = result.row_id
    found["elsewhere"] = write(registry, elsewhere(registry, folder))
    row = registry.row(found["float32"])
    order = np.random.default_rng(SEED).permutation(registry.num_texts)
    found["permuted"] = write(registry, with_values(row, row.log_likelihood[order], row.num_tokens[order]))
    found["values permuted"] = write(registry, with_values(row, row.log_likelihood[order], row.num_tokens))
    return found


def elsewhere(registry: Registry, folder: Path) -> Row:
    """The row of a model in bfloat16 by other kernels, as if from another machine."""
    source = llreg_extract.resolve(str(folder))
    identity = registry.find(folder_row(registry, folder)).identity
    texts = list(range(registry.num_texts))
    job = Job(
        source=source,
        identity=replace(identity, weight_dtype="bfloat16"),
        device="cpu",
        texts=registry.texts.complete(),
        sequences=np.array(texts),
        num_texts=registry.num_texts,
    )
    scoring = Scoring(job)
    scoring.model.module.set_attn_implementation("eager")
    row = scoring.run(lambda entries: None, Reporter()).row
    device = {"type": "cpu", "name": "another machine"}
    return replace(row, record=replace(row.record, provenance={**row.record.provenance, "device": device}))


def folder_row(registry: Registry, folder: Path) -> str:
    """Id of the float32 row of a folder's model."""
    records = (
        r for r in registry.records() if r.identity.model == folder.name and r.identity.weight_dtype == "float32"
    )
    return next(records).row_id


def with_values(row: Row, values: np.ndarray, tokens: np.ndarray) -> Row:
    """A row of the same identity with other values."""
    provenance = {**row.record.provenance, "tokens": int(tokens.sum())}
    digest = row_digest(row.record.identity.to_json(), values, tokens)
    return replace(
        row, record=replace(row.record, digest=digest, provenance=provenance), log_likelihood=values, num_tokens=tokens
    )


def write(registry: Registry, row: Row) -> str:
    """Write a row, and return its id."""
    write_row(registry.path, row)
    return row.record.row_id


# Results


def cell(found: Agreement) -> str:
    """Outcome by the values, and the distance that was judged."""
    comparison = found.comparison
    if comparison is None:
        return f"{found.outcome} ({found.cause})"
    outcome = "mismatch" if found.cause in ("tokens", "text order") else comparison.outcome
    why = f" ({found.cause})" if found.cause in ("tokens", "text order") else ""
    return f"{outcome}{why}, {comparison.distance:.2g}"


def lines(
    registry: Registry, rows: dict[str, str], zoo: Zoo, arguments: argparse.Namespace, name: str
) -> Iterator[list[str]]:
    """The table's lines for one model."""
    with tempfile.TemporaryDirectory() as scratch:
        for what, folder in variants(zoo, arguments.zoo, name, Path(scratch)):
            found = [
                registry.verify(rows[kind], arguments.sample, seed=SEED, path=folder)
                for kind in ("float32", "bfloat16", "elsewhere")
            ]
            yield [f"{name}: {what}", *map(cell, found)]
        for kind, what in (("permuted", "texts in another order"), ("values permuted", "values in another order")):
            found = [registry.verify(rows[kind], arguments.sample, seed=SEED, path=arguments.zoo / name)]
            yield [f"{name}: {what}", *map(cell, found), "-", "-"]


def main(arguments: argparse.Namespace) -> None:
    """Make the registry, verify, print."""
    zoo, made = Zoo.load(arguments.zoo), []
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.jsonl"
        kept = arguments.texts.read_text(encoding="utf-8").splitlines(keepends=True)[::EVERY]
        texts.write_text("".join(kept), encoding="utf-8")
        registry = llreg.init(Path(folder) / "registry", texts=texts)
        for name in arguments.models:
            rows = make_rows(registry, arguments.zoo / name)
            made += list(lines(registry, rows, zoo, arguments, name))
        print(f"`python benchmarks/verify.py`, {len(load_texts(texts))} texts, {arguments.sample} scored again.\n")
    print(machine("torch", "transformers", "numpy") + ".\n")
    print(
        markdown(
            ["verified with", "row in float32", "row in bfloat16, made here", "row in bfloat16, made elsewhere"], made
        )
    )


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["gpt2-mix-s1", "neox-code"])
    parser.add_argument("--sample", type=int, default=32)
    return parser.parse_args(given)


if __name__ == "__main__":
    main(parse())
