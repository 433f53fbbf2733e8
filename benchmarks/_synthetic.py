"""Rows like real ones, the same on every run: low-rank log-likelihoods plus noise, tokens by tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg
from llreg_schemas import Identity, RowRecord, row_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANK = 8
TOKENIZERS = 20
TEXT_BYTES = 1024  # about; the paper's texts are Pile documents cut there
_START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Matrix:
    """Synthetic measurements.

    Attributes
    ----------
    names : list of str
    log_likelihood : float32 array of shape (n_models, n_texts), nats
        NaN for a few texts of every fiftieth model, as if they exceeded its context.
    num_tokens : int32 array of shape (n_models, n_texts)
        Equal for models that share a tokenizer, but for those NaNs, where it is 0.
    """

    names: list[str]
    log_likelihood: NDArray[np.float32]
    num_tokens: NDArray[np.int32]


def make_matrix(n_models: int, n_texts: int, seed: int = 0) -> Matrix:
    """The measurements: text means of about -1,000 nats, model quality, `RANK` factors, and noise."""
    rng = np.random.default_rng(seed)
    means = rng.gamma(9.0, 110.0, n_texts)  # nats
    quality = rng.lognormal(0.0, 0.15, (n_models, 1))
    factors = rng.normal(size=(n_models, RANK)) @ rng.normal(size=(RANK, n_texts)) * (30 / RANK**0.5)
    values = -np.maximum(quality * means + factors + rng.normal(0.0, 15.0, (n_models, n_texts)), 1.0)
    bytes_per_token = rng.uniform(3.0, 4.5, (TOKENIZERS, 1)) * rng.lognormal(0.0, 0.1, (TOKENIZERS, n_texts))
    tokens = np.rint(TEXT_BYTES / bytes_per_token)[rng.integers(TOKENIZERS, size=n_models)]
    long = (np.arange(n_models)[:, None] % 50 == 0) & (tokens > np.quantile(tokens, 0.995))
    values[long], tokens[long] = np.nan, 0
    names = [f"org-{k % 97}/model-{k:04d}" for k in range(n_models)]
    return Matrix(names, values.astype(np.float32), tokens.astype(np.int32))


def make_blocks(n_models: int, n_texts: int, seed: int = 0, *, block: int = 1024) -> Iterator[Matrix]:
    """Measurements like `make_matrix`'s without gaps, a block of models at a time, for more than memory holds."""
    common = np.random.default_rng(seed)
    means = common.gamma(9.0, 110.0, n_texts).astype(np.float32)  # nats
    basis = (common.normal(size=(RANK, n_texts)) * (30 / RANK**0.5)).astype(np.float32)
    tokens = np.rint(TEXT_BYTES / common.uniform(3.0, 4.5, (TOKENIZERS, n_texts))).astype(np.int32)
    for start in range(0, n_models, block):
        rng = np.random.default_rng([seed, start])
        count = min(block, n_models - start)
        quality = rng.lognormal(0.0, 0.15, (count, 1)).astype(np.float32)
        noise = rng.standard_normal((count, n_texts), dtype=np.float32) * np.float32(15)
        factors = rng.standard_normal((count, RANK), dtype=np.float32) @ basis
        values = -np.maximum(quality * means + factors + noise, np.float32(1))
        names = [f"org-{k % 97}/model-{k:06d}" for k in range(start, start + count)]
        yield Matrix(names, values, tokens[rng.integers(TOKENIZERS, size=count)])


def make_registry(path: Path, n_models: int, n_texts: int) -> llreg.Registry:
    """A registry with a build of so many synthetic rows, written without holding them."""
    from llreg.store.layout import STORE
    from llreg.store.zarr_write import write_store
    from llreg.texts.textset import TextIndex

    texts = path.with_name(f"{path.name}-texts.jsonl")
    write_texts(texts, n_texts)
    registry = llreg.init(path, texts=texts)
    texts.unlink()

    def rows() -> Iterator[llreg.Row]:
        for start, matrix in enumerate(make_blocks(n_models, n_texts)):
            yield from make_rows(registry, matrix, start * 1024)

    index: TextIndex = registry.text_index
    attributes = {"registry": registry.name}
    write_store(path / STORE, rows(), [row.record for row in rows()], index, attributes, registry.fine_map)
    return llreg.open(path)


def write_texts(path: Path, n_texts: int, seed: int = 0) -> None:
    """Unique texts of about `TEXT_BYTES` bytes as JSON Lines, for ``llreg.init(texts=path)``."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 12, 5000)]
    picks = rng.zipf(1.3, (n_texts, TEXT_BYTES // 7)) % len(words)
    with path.open("w", encoding="utf-8") as file:
        for k, row in enumerate(picks):
            text = f"{k} " + " ".join(words[w] for w in row)
            file.write(json.dumps({"text": text, "subset": f"subset-{k % 16}"}) + "\n")


def make_rows(registry: llreg.Registry, matrix: Matrix, first: int = 0) -> Iterator[llreg.Row]:
    """The measurements as rows of a registry, with full records; `first` is the number of the first one."""
    for k, name in enumerate(matrix.names, first):
        values, tokens = matrix.log_likelihood[k - first], matrix.num_tokens[k - first]
        identity = Identity(
            model=name,
            source="hub",
            revision=sha1(name.encode()).hexdigest(),
            weight_dtype="bfloat16",
            text_set=registry.info["text_set"]["id"],
            protocol=registry.info["protocol"]["id"],
        )
        digest = row_digest(identity.to_json(), values, tokens)
        yield llreg.Row(RowRecord(identity, _provenance(k, values, tokens), _declared(k, name), digest), values, tokens)


def _provenance(k: int, values: NDArray[np.float32], tokens: NDArray[np.int32]) -> dict[str, Any]:
    return {
        "added_at": (_START + timedelta(minutes=k)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "contributor": f"contributor-{k % 13}",
        "versions": {"llreg": "0.1.0", "torch": "2.9.0", "transformers": "4.57.0", "python": "3.12.0"},
        "device": {"type": "cuda", "name": "synthetic"},
        "attention": "sdpa",
        "batch_tokens": 65536,
        "seconds": 60.0 + k,
        "tokens": int(tokens.sum(dtype=np.int64)),
        "over_context": int(np.isnan(values).sum()),
        "non_finite": 0,
        "unscored": 0,
        "first_token_scored": k % 2 == 0,
        "trust_remote_code": False,
    }


def _declared(k: int, name: str) -> dict[str, Any]:
    return {
        "base_model": [] if k % 3 else [f"{name}-base"],
        "relation": None if k % 3 else "finetune",
        "licence": "apache-2.0",
        "architecture": "LlamaForCausalLM",
        "num_parameters": 1_000_000 * (k + 1),
        "created": "2025-01-01",
    }
