"""Which published rows and documents are here, and as they must be."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llreg.atomic import state_dir
from llreg.hub.sync.published import Published
from llreg.settings import SHARD_ROWS
from llreg.store.contents import Contents, open_folder
from llreg.store.documents import read_manifest
from llreg.store.layout import STORE
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord, parse
from llreg_schemas.errors import FormatVersionError, InvalidFileError, LlregWarning


def usable(registry: Contents) -> Contents:
    """The registry; with no store, if the one it has cannot be opened: a pull makes another."""
    try:
        registry.store.records()
    except FormatVersionError:
        raise
    except InvalidFileError as error:
        warnings.warn(f"made anew, {error}", LlregWarning, stacklevel=4)
        other = open_folder(registry.path)
        other.store = StoreReader(state_dir(registry.path) / STORE)  # there is none
        return other
    return registry


def held(registry: Contents) -> dict[str, RowRecord]:
    """Records, by digest, of the rows that are here with the values their digests name."""
    found: dict[str, RowRecord] = {}
    records = registry.store.records()
    for start in range(0, len(records), SHARD_ROWS):
        with suppress(InvalidFileError):  # its rows are downloaded again
            rows = registry.store.intact_rows(records[start : start + SHARD_ROWS])
            found |= {digest: row.record for digest, row in rows.items()}
    for digest, path in registry.row_files().items():
        if digest not in found and registry.is_sound(path):
            found[digest] = registry.file_record(path)
    return found


def is_whole(published: Published, registry: Contents) -> bool:
    """Whether the accepted rows and the documents of a commit are all here."""
    if not all((registry.path / path).is_file() for path in published.documents):
        return False
    return holds(registry, published.rows, published.names_in("retractions"))


def holds(registry: Contents, digests: Collection[str], retracted: Collection[str]) -> bool:
    """Whether some rows, but for those that are retracted, are all here, intact."""
    return not set(digests) - set(retracted) - held(registry).keys()


def incomparable(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What keeps rows of two registries from being compared: its name and the two ids, shortened; None if nothing does.

    Parameters
    ----------
    ours, theirs : mapping
        Their registry.json.
    """
    for part, word in (("text_set", "text set"), ("protocol", "protocol")):
        if ours[part]["id"] != theirs[part]["id"]:
            return word, ours[part]["id"][:12], theirs[part]["id"][:12]
    return None


def check_document(path: str, data: bytes, info: Mapping[str, Any]) -> dict[str, Any]:
    """A retraction, subset or version, if it is what its name says.

    Parameters
    ----------
    path : str
        In the registry.
    data : bytes
    info : mapping
        registry.json.

    Raises
    ------
    InvalidFileError
    """
    folder, stem = path.partition("/")[0], Path(path).stem
    if folder == "versions":
        return read_manifest(stem, data, path)
    if folder == "subsets":
        from llreg.store.subsets import check_subset

        document, key = check_subset(parse("subset", data, path), info, path), "id"
    else:
        document, key = parse("retraction", data, path), "digest"
    if document[key] != stem:
        raise InvalidFileError(path, f"expected {stem[:12]}…; got {str(document[key])[:12]}…", field=key)
    return document


def is_sound_document(root: Path, path: str, info: Mapping[str, Any]) -> bool:
    """Whether a document that is here is what its name says."""
    try:
        check_document(path, (root / path).read_bytes(), info)
    except (InvalidFileError, OSError):
        return False
    return True
