"""Every kind of document: a valid one passes, and each rule broken is told with file, field, expected and got."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llreg_schemas import (
    check,
    conditional_protocol,
    load_schema,
    make_view,
    modelmap_protocol,
    parse,
    version_id,
)
from llreg_schemas.errors import FormatVersionError, InvalidFileError
from llreg_schemas.records import retraction, version_manifest
from llreg_schemas.validation import KINDS, MAX_DOCUMENT_BYTES

HASH = "0123456789abcdef" * 4
COMMIT = "0123456789" * 4
DELETE = object()


def _text_set() -> dict[str, Any]:
    return {
        "id": HASH,
        "name": "six",
        "licence": "CC0-1.0",
        "description": "six texts",
        "num_texts": 6,
        "mean_bytes": 48.5,
        "subsets": {"prose": 4, "code": 2},
    }


def _row() -> dict[str, Any]:
    return {
        "format": "llreg-row",
        "format_version": 1,
        "identity": {
            "model": "org/name-1.0",
            "source": "hub",
            "revision": COMMIT,
            "file": "sub dir/model.Q4_1.gguf",
            "subfolder": None,
            "adapter": {"model": "org/lora", "revision": COMMIT},
            "weight_dtype": "bfloat16",
            "quantization": "gguf:Q4_1",
            "text_set": HASH,
            "protocol": HASH,
        },
        "provenance": {
            "added_at": "2026-01-02T03:04:05.678901Z",
            "contributor": "Ada Lövelace",
            "versions": {"llreg": "0.1.0", "torch": "2.13.0+cpu"},
            "device": {"type": "cuda", "name": "NVIDIA H100 80GB HBM3"},
            "attention": "sdpa",
            "batch_tokens": 16384,
            "seconds": 12.5,
            "tokens": 1000,
            "over_context": 0,
            "non_finite": 0,
            "unscored": 0,
            "special_token_texts": 0,
            "first_token_scored": False,
            "trust_remote_code": False,
            "a_field_of_a_later_llreg": 1,
        },
        "declared": {
            "base_model": ["org/base"],
            "relation": "finetune",
            "licence": "apache-2.0",
            "architecture": "LlamaForCausalLM",
            "num_parameters": 7_000_000_000,
            "context_length": 4096,
            "created": "2024-01-01",
            "tags": ["code", "日本語"],
        },
        "digest": HASH,
    }


def _registry() -> dict[str, Any]:
    return {
        "format": "llreg-registry",
        "format_version": 1,
        "name": "org/registry",
        "licence": "CC0-1.0",
        "created": "2026-01-02T03:04:05Z",
        "text_set": _text_set(),
        "protocol": modelmap_protocol(HASH),
        "view": make_view(-2094.0),
    }


def _map() -> dict[str, Any]:
    return {
        "format": "llreg-map",
        "format_version": 1,
        "id": HASH,
        "registry": "org/models",
        "text_set": HASH,
        "protocol": HASH,
        "version": HASH,
        "view": make_view(-1412.5, without=["code"]),
        "method": "tsne",
        "settings": {"perplexity": 30.0, "iterations": 1000, "seed": 42},
        "software": {"llreg": "0.1.0", "openTSNE": "1.0.4"},
        "axes": ["", ""],
        "models": [
            {"row_id": f"org/name@{HASH[:8]}", "digest": HASH, "x": 0.5, "y": -2, "placed": False,
             "ellipse": [1.5, -0.25, 1.0]}
        ],
        "resamples": 100,
        "aligned_to": HASH,
        "onto": HASH,
    }  # fmt: skip


def _subset() -> dict[str, Any]:
    return {
        "format": "llreg-subset",
        "format_version": 1,
        "id": HASH,
        "text_set": HASH,
        "num_texts": 4,
        "method": "ls",
        "floor": 0.5,
        "replacement": True,
        "seed": 0,
        "draws": 3,
        "texts": [0, 2],
        "counts": [1, 2],
        "chances": [10_000, 5_000, 25_000, 0],
        "view": make_view(-2094.0, without=["code"]),
        "registry": "org/registry",
        "version": HASH,
        "models": 1018,
    }


def _recipe() -> dict[str, Any]:
    source = {"dataset": "org/texts", "revision": COMMIT, "config": "20231101.de", "split": "train", "text": "text"}
    more = {"subset": {"label": "de"}, "source": ["url"], "where": {"lang": ["de", None, 1]}, "documents": 1000}
    return {
        "format": "llreg-recipe",
        "format_version": 1,
        "name": "small",
        "description": "a few texts",
        "licence": "CC0-1.0",
        "copy": False,
        "sources": [{**source, **more}, {"files": ["a.txt"], "text": "text", "unit": "line"}],
        "pieces": {"max_bytes": 1024, "min_bytes": 257},
        "sample": {"method": "python-random", "seed": 42, "draw": 40, "take": 10, "population": None},
        "duplicates": "keep",
        "expect": {"pieces": 57, "first": [[9, 2]], "text_set": HASH},
    }


VALID: dict[str, Callable[[], dict[str, Any]]] = {
    "subset": _subset,
    "recipe": _recipe,
    "runfile": lambda: {
        "defaults": {"dtype": "bfloat16"},
        "models": ["org/a", {"model": "org/b", "revision": "main", "batch_tokens": 512, "trust_remote_code": False}],
    },
    "map": _map,
    "registry": _registry,
    "row": _row,
    "textset": _text_set,
    "text": lambda: {"text": "A text.", "subset": "prose", "source": "a book", "anything": [1]},
    "pair": lambda: {"prompt": [{"role": "user", "content": "Two and two?"}], "response": "Four.", "anything": [1]},
    "version": lambda: version_manifest("v1.0", version_id([HASH]), "2026-01-02T03:04:05Z", [HASH], make_view(-5.0)),
    "view": lambda: make_view(-5.0, only=["code"], drop=[1, 2], weights={"code": 2.0}),
    "retraction": lambda: retraction(HASH, "org/name", "wrong weights", None, "2026-01-02T03:04:05Z"),
}

# kind, dotted field, the value put there (or DELETE), expected as told, got as told
BROKEN: list[tuple[str, str, Any, str, str]] = [
    ("view", "weights", "abc", "a value of type object or array", '"abc"'),
    ("view", "drop.0", 1.5, "a value of type integer", "1.5"),
    ("view", "only", "abc", "a value of type array", '"abc"'),
    ("version", "view_document.clip", 1.0, "a number of at most 0", "1.0"),
    ("map", "method", "isomap", "one of 'tsne', 'pca', 'mds', 'umap'", '"isomap"'),
    ("map", "view.clip", 1.0, "a number of at most 0", "1.0"),
    ("map", "models.0.digest", "f" * 63, "text matching", '"ffff'),
    ("map", "models.0.row_id", "org/na me@01234567", "text matching", '"org/na me'),
    ("map", "models.0.x", "1", "a value of type number", '"1"'),
    ("map", "models.0.y", DELETE, "a value", "the field is missing"),
    ("map", "settings.perplexity", 0, "a number of at least 1", "0"),
    ("map", "axes.0", "\u202eright to left", "text matching", "\\u202e"),
    ("subset", "method", "best", "one of 'uniform', 'ls', 'kl'", '"best"'),
    ("subset", "floor", 1.5, "a number of at most 1", "1.5"),
    ("subset", "replacement", "no", "a value of type boolean", '"no"'),
    ("subset", "draws", 0, "a number of at least 1", "0"),
    ("subset", "texts", [], "at least 1 items", "[]"),
    ("subset", "texts.0", -1, "a number of at least 0", "-1"),
    ("subset", "counts.1", 0, "a number of at least 1", "0"),
    ("subset", "chances.0", 0.5, "a value of type integer", "0.5"),
    ("subset", "view.clip", 1, "a number of at most 0", "1"),
    ("subset", "registry", "../up", "text matching", '"../up"'),
    ("subset", "curve", [], "no such field", ""),
    ("runfile", "models", [], "at least 1 items", "[]"),
    ("runfile", "models.0", "", "at least 1 characters", '""'),
    ("runfile", "models.1.revision", 7, "a value of type string", "7"),
    ("runfile", "models.1.model", DELETE, "a value", "the field is missing"),
    ("runfile", "models.1.device", "cpu", "no such field; known fields are model, revision", ""),
    ("runfile", "defaults.dtype", "float8", "one of 'auto', 'float32'", '"float8"'),
    ("recipe", "name", "a b", "text matching", '"a b"'),
    ("recipe", "sources", [], "at least 1 items", "[]"),
    ("recipe", "sources.0.revision", "main", "text matching", '"main"'),
    ("recipe", "sources.0.text", DELETE, "a value", "the field is missing"),
    ("recipe", "sources.0.where.lang", "de", "a value of type array", '"de"'),
    ("recipe", "sources.0.filter", 1, "no such field; known fields are dataset, files, revision", ""),
    ("recipe", "sources.1.unit", "word", "one of 'paragraph', 'line', 'file'", '"word"'),
    ("recipe", "pieces.max_bytes", 3, "a number of at least 4", "3"),
    ("recipe", "sample.method", "numpy", "'python-random'", '"numpy"'),
    ("recipe", "expect.first.0", [1], "at least 2 items", "[1]"),
    ("registry", "format", "llreg-row", "'llreg-registry'", '"llreg-row"'),
    ("registry", "format_version", 0, "one of 1, 2", "0"),
    ("registry", "name", DELETE, "a value", "the field is missing"),
    ("registry", "name", "no spaces", "text matching", '"no spaces"'),
    ("registry", "name", "../up", "text matching", '"../up"'),
    ("registry", "name", "n" * 201, "at most 200 characters", '"nnnn'),
    ("registry", "licence", "CC0\u001b[31m", "text matching", '"CC0\\u001b[31m"'),
    ("registry", "created", "yesterday", "text matching", '"yesterday"'),
    ("registry", "surprise", 1, "no such field; known fields are format, format_version, name", ""),
    ("registry", "text_set.num_texts", 0, "a number of at least 1", "0"),
    ("registry", "text_set.num_texts", 10_000_001, "a number of at most 10000000", "10000001"),
    ("registry", "text_set.mean_bytes", 0, "a number above 0", "0"),
    ("registry", "text_set.subsets.prose", 0, "a number of at least 1", "0"),
    ("registry", "protocol.name", "modelmap-2", "'modelmap-1'", '"modelmap-2"'),
    ("registry", "protocol.split_special_tokens", True, "False", "true"),
    ("registry", "protocol.special_tokens", DELETE, "a value", "the field is missing"),
    ("registry", "view.clip", 1, "a number of at most 0", "1"),
    ("registry", "view.clip", "low", "a value of type number or null", '"low"'),
    ("row", "identity", DELETE, "a value", "the field is missing"),
    ("row", "identity.model", "a/b/c", "text matching", '"a/b/c"'),
    ("row", "identity.model", "-a", "text matching", '"-a"'),
    ("row", "identity.model", 5, "a value of type string", "5"),
    ("row", "identity.source", "ftp", "one of 'hub', 'local', 'imported'", '"ftp"'),
    ("row", "identity.revision", "main", "text matching", '"main"'),
    ("row", "identity.revision", None, "a value of type string", "null"),
    ("row", "identity.file", "/etc/passwd", "text matching", '"/etc/passwd"'),
    ("row", "identity.file", "a/../../b", "text matching", '"a/../../b"'),
    ("row", "identity.subfolder", "..", "text matching", '".."'),
    ("row", "identity.adapter.revision", DELETE, "a value", "the field is missing"),
    ("row", "identity.adapter.rank", 8, "no such field; known fields are model, revision", ""),
    ("row", "identity.weight_dtype", "int8", "one of 'float64', 'float32', 'bfloat16', 'float16'", '"int8"'),
    ("row", "identity.quantization", "", "text matching", '""'),
    ("row", "identity.text_set", HASH[:63], "text matching", '"0123'),
    ("row", "identity.temperature", 1, "no such field", ""),
    ("row", "identity.subset", None, "a value of type string", "null"),
    ("row", "identity.subset", "../x", "text matching", '"../x"'),
    ("row", "provenance.added_at", "2026-01-02 03:04:05", "text matching", '"2026-01-02 03:04:05"'),
    ("row", "provenance.added_at", "2026-01-02T03:04:05+01:00", "text matching", '"2026'),
    ("row", "provenance.contributor", "Eve\u202e", "text matching", '"Eve\\u202e"'),
    ("row", "provenance.versions.torch", "2.13; rm -rf", "text matching", '"2.13; rm -rf"'),
    ("row", "provenance.device.type", "abacus", "one of 'cpu', 'cuda'", '"abacus"'),
    ("row", "provenance.device.serial", "1", "no such field; known fields are type, name", ""),
    ("row", "provenance.tokens", -1, "a number of at least 0", "-1"),
    ("row", "provenance.tokens", 1.5, "a value of type integer", "1.5"),
    ("row", "provenance.non_finite", DELETE, "a value", "the field is missing"),
    ("row", "provenance.seconds", -0.1, "a number of at least 0", "-0.1"),
    ("row", "provenance.later", {"a": 1}, "a value of type string or number or boolean or null", '{"a": 1}'),
    ("row", "provenance.later", "x" * 501, "at most 500 characters", '"xxxx'),
    ("row", "declared.base_model", "org/base", "a value of type array", '"org/base"'),
    ("row", "declared.base_model.0", "<b>", "text matching", '"<b>"'),
    ("row", "declared.base_model", ["a"] * 33, "at most 32 items", '["a", "a"'),
    ("row", "declared.num_parameters", -1, "a number of at least 0", "-1"),
    ("row", "declared.licence", DELETE, "a value", "the field is missing"),
    ("row", "declared.tags.0", "\u001b]0;x\u0007", "text matching", '"\\u001b]0;x\\u0007"'),
    ("row", "digest", HASH.upper(), "text matching", '"0123'),
    ("textset", "id", "abc", "text matching", '"abc"'),
    ("textset", "num_texts", True, "a value of type integer", "true"),
    ("textset", "subsets", [], "a value of type object", "[]"),
    ("textset", "description", "d" * 2001, "at most 2000 characters", '"ddd'),
    ("text", "text", DELETE, "a value", "the field is missing"),
    ("text", "text", "", "at least 1 characters", '""'),
    ("text", "text", ["a"], "a value of type string", '["a"]'),
    ("text", "subset", 3, "a value of type string or null", "3"),
    ("text", "source", "line\nbreak", "text matching", '"line\\nbreak"'),
    ("pair", "response", DELETE, "a value", "the field is missing"),
    ("pair", "response", "", "at least 1 characters", '""'),
    ("pair", "prompt", 3, "a value of type string or array", "3"),
    ("pair", "prompt", [], "at least 1 items", "[]"),
    ("pair", "prompt.0.role", "narrator", "one of 'system', 'user', 'assistant'", '"narrator"'),
    ("pair", "prompt.0.content", DELETE, "a value", "the field is missing"),
    ("pair", "prompt.0.tool", "x", "no such field; known fields are role, content", ""),
    ("view", "vector", "conditional", "one of 'pmi', 'response'", '"conditional"'),
    ("version", "tag", "v 1", "text matching", '"v 1"'),
    ("version", "tag", "../v1", "text matching", '"../v1"'),
    ("version", "rows", [HASH, HASH], "items that all differ", '["0123'),
    ("version", "rows.0", "abc", "text matching", '"abc"'),
    ("version", "view", DELETE, "a value", "the field is missing"),
    ("version", "message", "hello", "no such field", ""),
    ("retraction", "why", "", "at least 1 characters", '""'),
    ("retraction", "why", "w" * 2001, "at most 2000 characters", '"www'),
    ("retraction", "by", DELETE, "a value", "the field is missing"),
    ("retraction", "at", None, "a value of type string", "null"),
    ("retraction", "digest", 7, "a value of type string", "7"),
]


def _broken(kind: str, field: str, value: Any) -> dict[str, Any]:
    return _changed(copy.deepcopy(VALID[kind]()), field, value)


def _changed(document: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    *path, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    place: Any = document
    for part in path:
        place = place[part]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_valid_2020_12(kind: Any) -> None:
    schema = load_schema(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("kind", KINDS)
def test_valid_document_passes_unchanged(kind: Any) -> None:
    document = VALID[kind]()
    assert check(kind, copy.deepcopy(document), "file.json") == document
    assert parse(kind, json.dumps(document), "file.json") == document


@pytest.mark.parametrize(("kind", "field", "value", "expected", "got"), BROKEN)
def test_broken_rule_is_told(kind: Any, field: str, value: Any, expected: str, got: str) -> None:
    pattern = re.escape(f"some/file.json: {field}: expected {expected}") + ".*" + re.escape(got)
    with pytest.raises(InvalidFileError, match=pattern) as caught:
        check(kind, _broken(kind, field, value), "some/file.json")
    assert (caught.value.file, caught.value.field) == ("some/file.json", field)
    assert "more)" not in str(caught.value)  # one thing is broken, and one is told


CONDITIONAL: list[tuple[str, Any, str, str]] = [
    ("protocol.prompt", "template", "one of 'chat-template', 'raw'", '"template"'),
    ("protocol.prompt", DELETE, "a value", "the field is missing"),
    ("protocol.date", DELETE, "a value", "the field is missing"),
    ("protocol.date", "2025-01-01", "'2024-07-26'", '"2025-01-01"'),
    ("protocol.scored_tokens", "all-but-first", "'response'", '"all-but-first"'),
    ("protocol.special_tokens", "tokenizer-default", "no such field; known fields are id, name, version", ""),
    ("text_set.kind", "texts", "'pairs'", '"texts"'),
    ("text_set.mean_prompt_bytes", -1, "a number of at least 0", "-1"),
]


@pytest.mark.parametrize("prompt", ["chat-template", "raw"])
def test_registry_of_pairs(prompt: Any) -> None:
    document = _conditional(prompt)
    assert check("registry", copy.deepcopy(document), "registry.json") == document


@pytest.mark.parametrize(("field", "value", "expected", "got"), CONDITIONAL)
def test_broken_rule_of_a_registry_of_pairs_is_told(field: str, value: Any, expected: str, got: str) -> None:
    pattern = re.escape(f"some/file.json: {field}: expected {expected}") + ".*" + re.escape(got)
    with pytest.raises(InvalidFileError, match=pattern) as caught:
        check("registry", _changed(_conditional("chat-template"), field, value), "some/file.json")
    assert "more)" not in str(caught.value)


def _conditional(prompt: Any) -> dict[str, Any]:
    text_set = {**_text_set(), "kind": "pairs", "mean_prompt_bytes": 31.0}
    return {**_registry(), "text_set": text_set, "protocol": conditional_protocol(HASH, prompt)}


def test_row_of_unknown_revision_only_if_imported() -> None:
    document = _broken("row", "identity.revision", None)
    document["identity"]["source"] = "imported"
    assert check("row", document, "row")["identity"]["revision"] is None


def test_format_version_must_be_a_number() -> None:
    with pytest.raises(InvalidFileError, match=r'format_version: expected .*; got "1"'):
        check("registry", _broken("registry", "format_version", "1"), "registry.json")


def test_several_problems_are_counted() -> None:
    document = _broken("row", "digest", 7)
    document["identity"]["source"] = "ftp"
    document["provenance"]["tokens"] = -1
    with pytest.raises(InvalidFileError, match=re.escape("(and 2 more)")):
        check("row", document, "row")


@pytest.mark.parametrize("document", [None, 3, "text", [1, 2], True])
@pytest.mark.parametrize("kind", KINDS)
def test_document_that_is_no_object(kind: Any, document: Any) -> None:
    with pytest.raises(InvalidFileError, match=r"f\.json: \(document\): expected a value of type object; got"):
        parse(kind, json.dumps(document), "f.json")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("text", "pair", "textset", "view", "runfile")])
def test_newer_format_version_asks_for_an_upgrade(kind: Any) -> None:
    newest = 2 if kind in ("registry", "row") else 1
    document = {**VALID[kind](), "format_version": newest + 1, "a_new_field": {"deep": []}}
    expected = rf"f\.json: format_version: expected .*{newest} or older; got {newest + 1}.*--upgrade"
    with pytest.raises(FormatVersionError, match=expected):
        parse(kind, json.dumps(document), "f.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    ("kind", "field"),
    [("registry", "view.clip"), ("registry", "text_set.mean_bytes"), ("row", "provenance.seconds"),
     ("row", "declared.anything")],
)  # fmt: skip
def test_number_that_is_none_is_refused(kind: Any, field: str, number: str) -> None:
    text = json.dumps(_broken(kind, field, "@@")).replace('"@@"', number)
    with pytest.raises(InvalidFileError, match=r"f\.json"):
        parse(kind, text, "f.json")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1}{', "Extra data"),
        (b"\xff\xfe{", "decode"),
        (b"[" * 100_000, "expected JSON"),
        (b"9" * 5_000, "expected JSON"),
    ],
    ids=["empty", "torn", "twice", "not UTF-8", "deep", "digits"],
)
def test_text_that_is_not_json(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidFileError, match=r"f\.json: expected JSON;") as caught:
        parse("registry", data, "f.json")
    assert reason in str(caught.value)


def test_oversized_document_is_refused_before_parsing() -> None:
    data = b" " * (MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(InvalidFileError, match=r"f\.json: expected at most 1,048,576 bytes; got 1,048,577"):
        parse("retraction", data, "f.json")


@pytest.mark.parametrize("place", ["value", "extra field", "name of a bad field", "version name"])
def test_message_holds_no_control_characters(place: str) -> None:
    evil = "\u001b]0;owned\u0007\u001b[2J\n\u202e\u009b"
    document = VALID["row"]()
    if place == "value":
        document["provenance"]["contributor"] = evil
    elif place == "extra field":
        document["identity"][evil] = 1
    elif place == "name of a bad field":
        document["provenance"][evil] = []
    else:
        document["provenance"]["versions"][evil] = "1"
    with pytest.raises(InvalidFileError) as caught:
        check("row", document, "row")
    assert str(caught.value).isprintable()
    assert "\\u001b]0;owned" in str(caught.value)


def test_long_value_is_cut() -> None:
    with pytest.raises(InvalidFileError) as caught:
        check("row", _broken("row", "identity.model", "/" + "x" * 10_000), "row")
    assert len(str(caught.value)) < 150
    assert "xxx… (and 1 more)" in str(caught.value)
