"""One line a row: what `llreg ls` shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llreg.settings import SHARD_ROWS
from llreg_schemas import RowRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.texts.design import Design


def summarise(
    records: Sequence[RowRecord],
    num_bytes: NDArray[np.float64],
    read: Callable[[Sequence[str]], NDArray[np.float32]],
    designs: Sequence[Design | None] | None = None,
) -> list[dict[str, Any]]:
    """Summaries of rows.

    Parameters
    ----------
    records : sequence of RowRecord
    num_bytes : float64 array of shape (n_texts,)
    read : callable
        Digests -> float32 array of shape (n_rows, n_texts), nats.
    designs : sequence of (Design or None), optional
        How the texts of each row were drawn. Means of a sampled row are estimates: sum v l / sum v with the design's
        weights v (Hajek 1971).
    """
    import numpy as np

    lines = []
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        values = read([record.digest for record in batch]).astype(np.float64)
        scored = ~np.isnan(values)
        weights = scored.astype(np.float64)
        for k, design in enumerate(designs[start : start + SHARD_ROWS] if designs else ()):
            if design is not None:
                weights[k] *= design.weights
        total = (np.where(scored, values, 0.0) * weights).sum(axis=1)
        mean = total / weights.sum(axis=1)
        bits = -total / math.log(2) / (weights * num_bytes).sum(axis=1)
        for k, record in enumerate(batch):
            lines.append(_line(record, int(scored[k].sum()), float(mean[k]), float(bits[k])))
    return lines


def _line(record: RowRecord, scored: int, mean: float, bits: float) -> dict[str, Any]:
    identity = record.identity
    return {
        "model": identity.name,
        "base": identity.model if identity.adapter else None,
        "row_id": record.row_id,
        "revision": identity.revision,
        "weights": identity.weight_dtype + (f" ({identity.quantization})" if identity.quantization else ""),
        "num_parameters": record.declared.get("num_parameters"),
        "texts_scored": scored,
        "subset": identity.subset,
        "mean_log_likelihood": mean,
        "bits_per_byte": bits,
        "added_at": record.provenance["added_at"],
        "contributor": record.provenance.get("contributor"),
    }
