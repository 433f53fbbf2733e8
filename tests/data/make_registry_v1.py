"""Make ``registry-v1``, the stored sample of format version 1. Run once, with the llreg of that format.

    python tests/data/make_registry_v1.py

The sample is never made again: later versions of llreg must read it as it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg.texts.textset import make_text_set, to_parquet
from llreg_schemas import Identity, RowRecord, make_view, modelmap_protocol, pretty_json, row_digest

HERE = Path(__file__).resolve().parent / "registry-v1"
TEXTS = [
    {"text": "One small text.", "subset": "prose", "source": "sample/1"},
    {"text": "x = [1, 2, 3]\n", "subset": "code", "source": "sample/2"},
    {"text": "Ein Text mit Umlauten: äöü.", "subset": "prose", "source": "sample/3"},
]
ROWS = [
    ("org/first", "a" * 40, [-20.5, -15.25, -40.125], [4, 7, 9], "2026-01-01T00:00:00.000000Z"),
    ("second", "sha256:" + "b" * 64, [-18.0, float("nan"), -36.5], [4, 0, 9], "2026-01-02T00:00:00.000000Z"),
]


def main() -> None:
    """Write the registry, its rows, a build and a tag."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    texts = make_text_set("three", TEXTS, licence="CC0-1.0")
    document = {
        "format": "llreg-registry",
        "format_version": 1,
        "name": "sample",
        "licence": "CC0-1.0",
        "created": "2026-01-01T00:00:00Z",
        "text_set": texts.info.to_json(),
        "protocol": modelmap_protocol(texts.info.id),
        "view": make_view(-30.0),
    }
    (HERE / "texts.parquet").write_bytes(to_parquet(texts))
    (HERE / "registry.json").write_text(pretty_json(document), encoding="utf-8")
    registry = Registry(HERE)
    for row in map(_row, ROWS):
        write_row(HERE, row)
    registry.build()
    manifest = {**registry.tag("v1"), "created": "2026-01-03T00:00:00Z"}
    (HERE / "versions" / "v1.json").write_text(pretty_json(manifest), encoding="utf-8")
    shutil.rmtree(HERE / ".llreg")
    print(json.dumps({"version": registry.version, "rows": [record.row_id for record in registry.records()]}, indent=2))


def _row(given: tuple[str, str, list[float], list[int], str]) -> Row:
    model, revision, values, tokens, added_at = given
    info = Registry(HERE).info
    identity = Identity(
        model=model,
        source="hub" if "/" in model else "local",
        revision=revision,
        weight_dtype="float32",
        text_set=info["text_set"]["id"],
        protocol=info["protocol"]["id"],
    )
    log_likelihood, num_tokens = np.array(values, np.float32), np.array(tokens, np.int32)
    provenance = {
        "added_at": added_at,
        "contributor": "Ada",
        "versions": {"llreg": "0.1.0"},
        "device": {"type": "cpu", "name": "a CPU"},
        "tokens": sum(tokens),
        "over_context": int(np.isnan(log_likelihood).sum()),
        "non_finite": 0,
    }
    declared = {
        "base_model": ["org/base"],
        "relation": None,
        "licence": "mit",
        "architecture": "GPT2LMHeadModel",
        "num_parameters": 124439808,
        "created": None,
    }
    digest = row_digest(identity.to_json(), log_likelihood, num_tokens)
    return Row(RowRecord(identity, provenance, declared, digest), log_likelihood, num_tokens)


if __name__ == "__main__":
    main()
