"""What the documents of a registry must say of each other, beyond their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llreg_schemas import hash_json, parse, version_id
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import CONDITIONAL_NAME, PAIRS


def check_ids(info: Mapping[str, Any], shown: str) -> None:
    """The ids in registry.json must be the hashes of what they name.

    Raises
    ------
    InvalidFileError
    """
    if info["protocol"]["text_set"] != info["text_set"]["id"]:
        raise InvalidFileError(shown, "expected the id of the text set", field="protocol.text_set")
    pairs, conditional = info["text_set"].get("kind") == PAIRS, info["protocol"]["name"] == CONDITIONAL_NAME
    if not pairs == conditional == ("mean_prompt_bytes" in info["text_set"]):
        raise InvalidFileError(
            shown,
            f"expected the protocol {CONDITIONAL_NAME}, kind {PAIRS} and mean_prompt_bytes of a set of pairs, or none of them",
            field="text_set",
        )
    for part in ("protocol", "view"):
        expected = _hash_of_rules(info[part])
        if expected != info[part]["id"]:
            raise InvalidFileError(shown, f"expected the hash of the {part}, {expected[:12]}…", field=f"{part}.id")


def read_manifest(tag: str, data: bytes, shown: str) -> dict[str, Any]:
    """The manifest of a named version, checked against its own name, rows and view.

    Parameters
    ----------
    tag : str
        As its file's name says.
    data : bytes
    shown : str
        Name used in messages.

    Raises
    ------
    InvalidFileError
    """
    manifest = parse("version", data, shown)
    if manifest["tag"] != tag:
        raise InvalidFileError(shown, f"expected {tag!r}; got {manifest['tag']!r}", field="tag")
    view = manifest.get("view_document")
    if view is not None and not _hash_of_rules(view) == view["id"] == manifest["view"]:
        raise InvalidFileError(shown, "expected the view that `view` names", field="view_document")
    if manifest["version"] != version_id(manifest["rows"]):
        raise InvalidFileError(shown, "expected the version id of the rows it lists", field="version")
    return manifest


def _hash_of_rules(document: Mapping[str, Any]) -> str:
    return hash_json({key: value for key, value in document.items() if key != "id"})
