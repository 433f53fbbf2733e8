"""The JSON documents of a registry: what they must say of each other, beyond their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llreg.settings import MAX_TEXT_BYTES
from llreg_schemas import hash_json, parse, version_id
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import CONDITIONAL_NAME, FINE_VERSION, RegistryInfo


def read_info(data: bytes, label: str) -> RegistryInfo:
    """registry.json; its ids must be the hashes of what they name.

    Parameters
    ----------
    data : bytes
    label : str
        Name used in messages.

    Raises
    ------
    InvalidFileError, FormatVersionError
    """
    info = RegistryInfo(parse("registry", data, label))
    if info["protocol"]["text_set"] != info.text_set.id:
        raise InvalidFileError(label, "expected the id of the text set", field="protocol.text_set")
    conditional, prompts = info["protocol"]["name"] == CONDITIONAL_NAME, info.text_set.mean_prompt_bytes is not None
    if not info.has_pairs == conditional == prompts:
        raise InvalidFileError(
            label,
            f"expected the protocol {CONDITIONAL_NAME}, kind pairs and mean_prompt_bytes of a set of pairs, or none of them",
            field="text_set",
        )
    _check_segments(info, label)
    for part in ("protocol", "view", *(["segments"] if info.segments else [])):
        expected = _hash_of_rules(info[part])
        if expected != info[part]["id"]:
            raise InvalidFileError(label, f"expected the hash of the {part}, {expected[:12]}…", field=f"{part}.id")
    return info


def _check_segments(info: RegistryInfo, label: str) -> None:
    """What registry.json says of segments must be there in format 2 alone, be of its texts, and be possible."""
    segments = info.segments
    if (segments is not None) != (info["format_version"] == FINE_VERSION):
        raise InvalidFileError(
            label, f"expected segments in format version {FINE_VERSION}, and in no other", field="segments"
        )
    if segments is None:
        return
    if segments["text_set"] != info.text_set.id:
        raise InvalidFileError(label, "expected the id of the text set", field="segments.text_set")
    # It bounds what is allocated. All segments of a text but the last have as many bytes as a character leaves them.
    shortest = max(1, min(segments["target_bytes"], segments["max_bytes"] - 3))
    texts = info.text_set
    most = texts.num_texts * (1 + min(texts.mean_bytes, MAX_TEXT_BYTES) / shortest)
    if not texts.num_texts <= segments["num_segments"] <= most:
        raise InvalidFileError(
            label,
            f"expected {texts.num_texts:,} to {most:,.0f} segments; got {segments['num_segments']:,}",
            field="segments.num_segments",
        )


def read_manifest(tag: str, data: bytes, label: str) -> dict[str, Any]:
    """The manifest of a named version, checked against its own name, rows and view.

    Parameters
    ----------
    tag : str
        As its file's name says.
    data : bytes
    label : str
        Name used in messages.

    Raises
    ------
    InvalidFileError
    """
    manifest = parse("version", data, label)
    if manifest["tag"] != tag:
        raise InvalidFileError(label, f"expected {tag!r}; got {manifest['tag']!r}", field="tag")
    view = manifest.get("view_document")
    if view is not None and not _hash_of_rules(view) == view["id"] == manifest["view"]:
        raise InvalidFileError(label, "expected the view that `view` names", field="view_document")
    if manifest["version"] != version_id(manifest["rows"]):
        raise InvalidFileError(label, "expected the version id of the rows it lists", field="version")
    return manifest


def read_retraction(digest: str, data: bytes, label: str) -> dict[str, Any]:
    """The retraction of a row, whose digest its file's name says; parameters and errors are those of `read_manifest`."""
    document = parse("retraction", data, label)
    if document["digest"] != digest:
        raise InvalidFileError(label, f"expected {digest}; got {document['digest']}", field="digest")
    return document


def _hash_of_rules(document: Mapping[str, Any]) -> str:
    """The id that a protocol, view or segments document must have."""
    return hash_json({key: value for key, value in document.items() if key != "id"})
