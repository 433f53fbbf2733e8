"""A registry's state and past, read from its files: there is no journal that could disagree with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llreg.store.pin import read_pin
from llreg_schemas import RowRecord, version_id

if TYPE_CHECKING:
    from llreg.store.contents import Contents


def status(registry: Contents) -> dict[str, Any]:
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
        "path": registry.where,
        "version": version,
        "tags": [manifest["tag"] for manifest in registry.versions() if manifest["version"] == version],
        "rows": len(records),
        "retracted": len(retracted),
        "has_build": registry.has_build(),
        "build_current": not missing and not extra and registry.has_build(),
        "not_built": missing,
        "to_leave_out": extra,
        "unfinished": len(list(runs.glob("*.journal"))),
        "remote": _remote(registry, records),
    }


def _remote(registry: Contents, records: Mapping[str, RowRecord]) -> dict[str, Any] | None:
    """Where the registry was pulled from, and what is not published there."""
    pin = read_pin(registry.path)
    if pin is None:
        return None
    published = pin.digests()
    return {
        "repo": pin.repo,
        "revision": pin.revision,
        "commit": pin.commit or None,
        "pull_request": pin.pull_request,
        "unpublished": [record.row_id for digest, record in records.items() if digest not in published],
    }


def diff(registry: Contents, old: str, new: str | None = None) -> dict[str, Any]:
    """Rows that one version has and another has not.

    Parameters
    ----------
    registry : Contents
    old, new : str
        Tags of named versions; `new` is by default what is accepted now.

    Returns
    -------
    dict
        ``from`` and ``to`` (tag or None, version id), ``added`` and ``removed`` (lists of row_id, digest and, for removed
        ones that were retracted, why).

    Raises
    ------
    NotFoundError
        If there is no such version.
    """
    before = set(registry.version_manifest(old)["rows"])
    after = registry.digests() if new is None else set(registry.version_manifest(new)["rows"])
    records, retractions = registry.all_records(), registry.retractions()

    def line(digest: str) -> dict[str, Any]:
        row_id = records[digest].row_id if digest in records else digest[:12]
        return {"row_id": row_id, "digest": digest, "why": retractions.get(digest, {}).get("why")}

    return {
        "from": {"tag": old, "version": version_id(before)},
        "to": {"tag": new, "version": version_id(after)},
        "added": sorted((line(digest) for digest in after - before), key=lambda entry: entry["row_id"]),
        "removed": sorted((line(digest) for digest in before - after), key=lambda entry: entry["row_id"]),
    }


def log(registry: Contents) -> list[dict[str, Any]]:
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
