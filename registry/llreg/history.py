"""A registry's state and past, read from its files: there is no journal that could disagree with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llreg_schemas import version_id

if TYPE_CHECKING:
    from llreg.registry import Registry


def status(registry: Registry) -> dict[str, Any]:
    """What is not in the build yet, what is unfinished, and which version this is."""
    records = {record.digest: record for record in registry.records()}
    built = registry.build_records()
    version = version_id(records)
    retracted = registry.retractions()
    missing = [record.row_id for digest, record in records.items() if digest not in built]
    extra = [record.row_id for digest, record in built.items() if digest not in records]
    runs = registry.path / ".llreg" / "runs"
    return {
        "registry": registry.name,
        "path": str(registry.path),
        "version": version,
        "tags": [manifest["tag"] for manifest in registry.versions() if manifest["version"] == version],
        "rows": len(records),
        "retracted": len(retracted),
        "has_build": registry.has_build(),
        "build_current": not missing and not extra and registry.has_build(),
        "not_built": missing,
        "to_leave_out": extra,
        "unfinished": len(list(runs.glob("*.journal"))),
    }


def log(registry: Registry) -> list[dict[str, Any]]:
    """Events, newest first: rows added, rows retracted, versions named.

    Returns
    -------
    list of dict
        Keys at (UTC), what ("added", "retracted", "tagged"), id, detail.
    """
    records = registry.all_records()
    events = [
        {
            "at": str(r.provenance["added_at"]),
            "what": "added",
            "id": r.row_id,
            "detail": _by(r.provenance.get("contributor")),
        }
        for r in records.values()
    ]
    for digest, document in registry.retractions().items():
        row_id = records[digest].row_id if digest in records else f"{document['model']}@{digest[:8]}"
        detail = f"{document['why']} {_by(document['by'])}".strip()
        events.append({"at": document["at"], "what": "retracted", "id": row_id, "detail": detail})
    for manifest in registry.versions():
        detail = f"version {manifest['version'][:12]}, {len(manifest['rows'])} rows"
        events.append({"at": manifest["created"], "what": "tagged", "id": manifest["tag"], "detail": detail})
    return sorted(events, key=lambda event: event["at"], reverse=True)


def _by(name: str | None) -> str:
    return f"by {name}" if name else ""
