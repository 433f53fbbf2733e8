"""Named versions and retractions: what a registry's owner says of the rows that are there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llreg import settings
from llreg.atomic import write_atomic
from llreg.store.layout import retraction_file, version_file
from llreg_schemas import RowRecord, check, pretty_json, version_id
from llreg_schemas.errors import InputError
from llreg_schemas.records import now, retraction, version_manifest

if TYPE_CHECKING:
    from llreg.store.contents import Contents

_COMMIT = re.compile(r"[0-9a-f]{40}")
# As git takes it for a tag, too: no "..", no dot or ".lock" at the end.
_TAG = re.compile(r"(?!.*\.\.)(?!.*(\.|\.lock)$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def tag(registry: Contents, name: str) -> dict[str, Any]:
    """Name the present version: write ``versions/<name>.json``.

    Behind `Registry.tag`, which describes parameters, result and errors.
    """
    registry.check_changeable()
    file = version_file(check_tag(name))
    digests = registry.digests()
    version = version_id(digests)
    if (registry.path / file).exists():  # naming the same version again is no error
        manifest = registry.version_manifest(name)
        if manifest["version"] == version:
            return manifest
        raise InputError(
            f"tag {name} names version {manifest['version'][:12]} already; tags never move: choose another name"
        )
    manifest = version_manifest(name, version, now(), sorted(digests), registry.info.view)
    write_atomic(registry.path, registry.path / file, pretty_json(check("version", manifest, file)).encode())
    return manifest


def check_tag(name: str) -> str:
    """The name, if it can name a version.

    Raises
    ------
    InputError
    """
    if not _TAG.fullmatch(name) or name in ("main", "HEAD", "refs") or _COMMIT.fullmatch(name):
        raise InputError(
            f"tag {name!r}: use letters, digits, '.', '_' and '-', for example v1, and nothing that git takes for "
            "something else (main, HEAD, a commit, '..', a dot or .lock at the end)"
        )
    return name


def retract(registry: Contents, name: str, *, why: str) -> RowRecord:
    """Withdraw a row: write ``retractions/<digest>.json``; the row's file stays.

    Behind `Registry.retract`, which describes parameters, result and errors.
    """
    registry.check_changeable()
    if not why.strip() or not why.isprintable() or len(why) > 500:
        raise InputError("--why: give the reason in one printable line of at most 500 characters")
    record = registry.find(name)
    file = retraction_file(record.digest)
    document = retraction(record.digest, record.identity.name, why, settings.contributor(), now())
    write_atomic(registry.path, registry.path / file, pretty_json(check("retraction", document, file)).encode())
    return record
