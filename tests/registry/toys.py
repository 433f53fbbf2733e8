"""The registry that the examples in the docstrings speak of: 29 rows of made values on the embedded text set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.conftest import MakeRow

from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import write_row

FAMILIES = ("bat", "bee", "cat", "crow", "elk", "fox", "hare", "ibis", "lynx", "moth", "newt", "owl")


def make_toys(path: Path, make_row: MakeRow) -> Registry:
    """Make it: twelve families of two sizes, a fine-tune of ``toy/owl-3b``, and a training run of four checkpoints."""
    registry = init(path, name="ada/toys")
    rng = np.random.default_rng(7)
    num_bytes = registry.texts.bytes_per_text
    spread = 0.4 * np.sqrt(num_bytes)  # nats: longer texts differ by more

    def write(seed: int, model: str, values: np.ndarray, parameters: float, base: str | None = None) -> None:
        declared = {
            "base_model": [base] if base else [],
            "relation": "finetune" if base else None,
            "architecture": "ToyForCausalLM",
            "num_parameters": int(parameters * 1e9),
        }
        row = make_row(registry, f"toy/{model}", seed, log_likelihood=np.minimum(values, -1), declared=declared)
        write_row(registry.path, row)

    difficulty = -0.65 * num_bytes + 4 * spread * rng.standard_normal(len(num_bytes))
    for k, family in enumerate(FAMILIES):
        taste = difficulty + spread * rng.standard_normal(len(num_bytes))
        for size in (1, 3):
            values = taste + 0.04 * size * num_bytes + 0.6 * spread * rng.standard_normal(len(num_bytes))
            write(2 * k + size, f"{family}-{size}b", values, size)
    write(40, "owl-3b-chat", values + 0.2 * spread * rng.standard_normal(len(num_bytes)), 3, "toy/owl-3b")
    for step in (1000, 2000, 3000, 4000):
        difficulty = difficulty + 0.3 * spread * rng.standard_normal(len(num_bytes))
        write(41 + step // 1000, f"run-step{step}", difficulty, 0.5)
    return registry


def make_fine(path: Path, make_row: MakeRow) -> Registry:
    """Two rows with segments, of ``toy/owl-3b`` and a fine-tune of it that knows numbers better."""
    registry = init(path, name="ada/fine")
    cuts = registry.cuts
    assert cuts is not None
    rng = np.random.default_rng(8)
    texts = [str(text).encode("utf-8") for text in registry.texts.texts]
    digits = [
        sum(char in b"0123456789" for char in texts[text][start : start + size])
        for text, size, start in zip(
            cuts.text, cuts.sizes, np.concatenate([cuts.starts(text) for text in range(len(texts))]), strict=True
        )
    ]
    nats = -0.65 * cuts.sizes - rng.exponential(4, cuts.num_segments)
    for k, model in enumerate(("owl-3b", "owl-3b-chat")):
        units = np.rint(256 * (nats + np.array(digits) * 0.3 * k - rng.exponential(0.2, len(nats)))).astype(np.int32)
        values = {"log_likelihood": cuts.sums(units) / 256, "segment_log_likelihood": units}
        write_row(registry.path, make_row(registry, f"toy/{model}", 50 + k, fine=True, **values))
    return registry


def make_scores(path: Path) -> None:
    """Scores of all models of the twelve families: the larger the better, and some families are better than others."""
    rng = np.random.default_rng(3)
    lines = [
        f"toy/{family}-{size}b,{25 + 6 * size + k + rng.normal():.1f},{family}\n"
        for k, family in enumerate(FAMILIES)
        for size in (1, 3)
    ]
    path.write_text("model,arc,family\n" + "".join(lines))
