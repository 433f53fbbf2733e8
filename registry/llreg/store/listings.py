"""What a registry lists: its rows, its state, and its past, all read from its files, so that no journal can disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llreg.settings import SHARD_ROWS
from llreg.store.annotations import column_of
from llreg.store.layout import RUNS
from llreg.store.pin import read_pin
from llreg_schemas import RowRecord, version_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg.texts.design import Design


def summary(registry: Contents, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A line a row: what `llreg ls` shows.

    Behind `Registry.summary`, which describes parameters, result and errors.
    """
    records = registry.records()
    source = registry.row_source()
    lines = summarise(
        records,
        registry.text_index.bytes_per_text,
        lambda batch: source.read("log_likelihood", [record.digest for record in batch]),
        registry.designs(records),
    )
    for name in columns:
        for line, value in zip(lines, column_of(registry, name, records), strict=True):
            line[name] = value
    return lines


def summarise(
    records: Sequence[RowRecord],
    num_bytes: NDArray[np.float64],
    read: Callable[[Sequence[RowRecord]], NDArray[np.float32]],
    designs: Sequence[Design | None],
) -> list[dict[str, Any]]:
    """Lines of `summary`.

    Parameters
    ----------
    records : sequence of RowRecord
    num_bytes : float64 array of shape (n_texts,)
    read : callable
        Records -> float32 array of shape (n_rows, n_texts), nats.
    designs : sequence of (Design or None)
        How the texts of each row were drawn. Means of a sampled row are estimates: sum v l / sum v with the design's
        weights v (Hajek 1971).
    """
    import numpy as np

    lines = []
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        values = read(batch).astype(np.float64)  # (n_rows, n_texts)
        scored = ~np.isnan(values)
        # Sums over the scored texts stand for all texts where a design says how they were drawn.
        weights = scored.astype(np.float64)
        for k, design in enumerate(designs[start : start + SHARD_ROWS]):
            if design is not None:
                weights[k] *= design.weights
        total = (np.where(scored, values, 0.0) * weights).sum(axis=1)  # (n_rows,)
        mean = total / weights.sum(axis=1)
        bits_per_byte = -total / math.log(2) / (weights * num_bytes).sum(axis=1)
        for k, record in enumerate(batch):
            identity = record.identity
            quantization = f" ({identity.quantization})" if identity.quantization else ""
            lines.append(
                {
                    "model": identity.name,
                    "base": identity.model if identity.adapter else None,
                    "row_id": record.row_id,
                    "revision": identity.revision,
                    "weights": identity.weight_dtype + quantization,
                    "num_parameters": record.num_parameters,
                    "texts_scored": int(scored[k].sum()),
                    "subset": identity.subset,
                    "mean_log_likelihood": float(mean[k]),
                    "bits_per_byte": float(bits_per_byte[k]),
                    "added_at": record.added_at,
                    "contributor": record.contributor,
                }
            )
    return lines


def accuracy(registry: Contents, models: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """How often the first choice of each model was the token that came.

    Behind `Registry.accuracy`, which describes parameters, result and errors.
    """
    import numpy as np

    records, _ = registry.select(models)
    subsets = np.asarray(registry.text_index.subset, dtype=object)  # (n_texts,)
    lines = []
    for start in range(0, len(records), SHARD_ROWS):
        # Rows without segments do not know.
        batch = [record for record in records[start : start + SHARD_ROWS] if record.is_fine]
        known = {}
        if batch:
            correct = registry.values(batch, variable="num_correct")  # (n_rows, n_texts)
            tokens = registry.values(batch, variable="num_tokens")
            known = {record.digest: (correct[k], tokens[k]) for k, record in enumerate(batch)}
        for record in records[start : start + SHARD_ROWS]:
            line: dict[str, Any] = {"row_id": record.row_id, "accuracy": None, "subsets": {}}
            if record.digest in known:
                num_correct, num_tokens = known[record.digest]  # both (n_texts,)
                line["accuracy"] = float(num_correct.sum() / num_tokens.sum())
                for name in registry.info.text_set.subsets:
                    total = int(num_tokens[subsets == name].sum())
                    line["subsets"][name] = float(num_correct[subsets == name].sum() / total) if total else None
            lines.append(line)
    return lines


def status(registry: Contents) -> dict[str, Any]:
    """What is not in the build yet, what is unfinished, which version this is, and what is not published.

    Returns
    -------
    dict
        Keys registry, path, segments, fine_rows, version, tags, rows, retracted, has_build, build_current, not_built and
        to_leave_out (row ids), unfinished (models), remote (None, or repo, revision, commit, pull_request, and the row ids in
        unpublished).
    """
    records = {record.digest: record for record in registry.records()}
    built = {record.digest: record for record in registry.store.records()}
    has_build = registry.store.exists()
    version = version_id(records)
    not_built = [record.row_id for digest, record in records.items() if digest not in built]
    to_leave_out = [record.row_id for digest, record in built.items() if digest not in records]
    remote = None
    pin = read_pin(registry.path)
    if pin is not None:
        published = pin.digests()
        remote = {
            "repo": pin.repo,
            "revision": pin.revision,
            "commit": pin.commit or None,
            "pull_request": pin.pull_request,
            "unpublished": [record.row_id for digest, record in records.items() if digest not in published],
        }
    return {
        "registry": registry.name,
        "path": registry.where,
        "segments": registry.info.num_segments,
        "fine_rows": sum(record.is_fine for record in records.values()),
        "version": version,
        "tags": [manifest["tag"] for manifest in registry.versions() if manifest["version"] == version],
        "rows": len(records),
        "retracted": len(registry.retractions()),
        "has_build": has_build,
        "build_current": not not_built and not to_leave_out and has_build,
        "not_built": not_built,
        "to_leave_out": to_leave_out,
        "unfinished": sum(name.endswith(".journal") for name in registry.folder.names(registry.path / RUNS)),
        "remote": remote,
    }


def diff(registry: Contents, old: str, new: str | None = None) -> dict[str, Any]:
    """Rows that one version has and another has not.

    Behind `Registry.diff`, which describes parameters, result and errors.
    """
    before = set(registry.version_manifest(old)["rows"])
    after = registry.digests() if new is None else set(registry.version_manifest(new)["rows"])
    records, retractions = registry.all_records(), registry.retractions()

    def lines(digests: set[str]) -> list[dict[str, Any]]:
        entries = [
            {
                "row_id": records[digest].row_id if digest in records else digest[:12],
                "digest": digest,
                "why": retractions.get(digest, {}).get("why"),
            }
            for digest in digests
        ]
        return sorted(entries, key=lambda entry: entry["row_id"])

    return {
        "from": {"tag": old, "version": version_id(before)},
        "to": {"tag": new, "version": version_id(after)},
        "added": lines(after - before),
        "removed": lines(before - after),
    }


def log(registry: Contents) -> list[dict[str, Any]]:
    """Events, newest first: rows added, rows retracted, versions named.

    Returns
    -------
    list of dict
        Keys at (UTC), what ("added", "retracted", "tagged"), id, detail.
    """
    records = registry.all_records()
    events = []
    for record in records.values():
        detail = f"by {record.contributor}" if record.contributor else ""
        events.append({"at": record.added_at, "what": "added", "id": record.row_id, "detail": detail})
    for digest, document in registry.retractions().items():
        row_id = records[digest].row_id if digest in records else f"{document['model']}@{digest[:8]}"
        detail = document["why"] + (f" by {document['by']}" if document["by"] else "")
        events.append({"at": document["at"], "what": "retracted", "id": row_id, "detail": detail.strip()})
    for manifest in registry.versions():
        detail = f"version {manifest['version'][:12]}, {len(manifest['rows'])} rows"
        events.append({"at": manifest["created"], "what": "tagged", "id": manifest["tag"], "detail": detail})
    return sorted(events, key=lambda event: event["at"], reverse=True)
