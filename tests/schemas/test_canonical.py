"""Canonical JSON and the hashes: what must not change them, and what must."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg_schemas import (
    Identity,
    RowRecord,
    canonical_json,
    hash_json,
    make_view,
    modelmap_protocol,
    pretty_json,
    row_digest,
    sha256_text,
    text_set_id,
    version_id,
)

IDENTITY = Identity(
    model="org/name", source="hub", revision="a" * 40, weight_dtype="float32", text_set="b" * 64, protocol="c" * 64
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=15
)
LOG_LIKELIHOODS = st.lists(
    st.floats(width=32, max_value=0, allow_infinity=False) | st.just(math.nan), min_size=1, max_size=20
)


def _reversed(value: Any) -> Any:
    """The same value with every object's keys in the opposite order."""
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(TEXT, VALUES, max_size=6))
def test_key_order_does_not_matter(value: dict[str, Any]) -> None:
    assert canonical_json(_reversed(value)) == canonical_json(value)
    assert hash_json(_reversed(value)) == hash_json(value)


@given(VALUES)
def test_json_reads_back_as_the_value(value: Any) -> None:
    for text in (canonical_json(value), pretty_json(value)):
        assert json.loads(text) == value
    assert pretty_json(value).endswith("\n")


def test_canonical_json_is_written_out() -> None:
    assert (
        canonical_json({"ü": [1, 2.5, None], "a": {"z": True, "b": ""}}) == '{"a":{"b":"","z":true},"ü":[1,2.5,null]}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_has_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [value]})


def test_text_set_id_worked_out() -> None:
    texts = ["one", "zwei, drü"]
    lines = "".join(hashlib.sha256(text.encode()).hexdigest() + "\n" for text in texts)
    assert text_set_id(map(sha256_text, texts)) == hashlib.sha256(lines.encode()).hexdigest()
    assert text_set_id(map(sha256_text, reversed(texts))) != text_set_id(map(sha256_text, texts))
    assert text_set_id([]) == hashlib.sha256(b"").hexdigest()


def test_version_id_worked_out() -> None:
    digests = ["b" * 64, "a" * 64]
    assert version_id(digests) == hashlib.sha256(b"a" * 64 + b"\n" + b"b" * 64 + b"\n").hexdigest()


@given(st.sets(st.integers(0, 2**64), max_size=8), st.randoms(use_true_random=False))
def test_version_id_does_not_depend_on_order(numbers: set[int], random: Any) -> None:
    digests = [f"{number:064x}" for number in numbers]
    shuffled = random.sample(digests, len(digests))
    assert version_id(shuffled) == version_id(digests)
    assert version_id([*digests, "f" * 64]) != version_id(digests)


def test_row_digest_worked_out() -> None:
    values = np.array([-1.5, np.nan], np.float32)
    tokens = np.array([3, 0], np.int32)
    expected = hashlib.sha256(
        canonical_json(IDENTITY.to_json()).encode()
        + b"\n"
        + bytes.fromhex("0000c0bf0000c07f")  # -1.5 and the quiet NaN, little-endian
        + bytes.fromhex("0300000000000000")
    )
    assert row_digest(IDENTITY.to_json(), values, tokens) == expected.hexdigest()


@given(LOG_LIKELIHOODS, st.integers(1, 0x3FFFFF), st.booleans())
def test_bit_pattern_of_nan_does_not_matter(values: list[float], payload: int, negative: bool) -> None:
    plain = np.array([*values, math.nan], "<f4")
    other = plain.copy()
    other.view("<u4")[np.isnan(plain)] = 0x7FC00000 | payload | (0x80000000 if negative else 0)
    tokens = np.ones(len(plain), np.int32)
    assert other.tobytes() != plain.tobytes()
    before = other.tobytes()
    assert row_digest(IDENTITY.to_json(), other, tokens) == row_digest(IDENTITY.to_json(), plain, tokens)
    assert other.tobytes() == before  # the caller's array is left alone


@given(LOG_LIKELIHOODS)
def test_byte_order_and_layout_do_not_matter(values: list[float]) -> None:
    plain = np.array(values, "<f4")
    tokens = np.arange(len(plain), dtype="<i4")
    strided = np.stack([plain, plain], axis=1)[:, 0]
    digest = row_digest(IDENTITY.to_json(), plain, tokens)
    assert row_digest(IDENTITY.to_json(), plain.astype(">f4"), tokens.astype(">i4")) == digest
    assert row_digest(IDENTITY.to_json(), strided, tokens) == digest


@given(LOG_LIKELIHOODS, st.data())
def test_any_changed_value_changes_the_digest(values: list[float], data: st.DataObject) -> None:
    plain = np.array(values, np.float32)
    tokens = np.full(len(plain), 5, np.int32)
    digest = row_digest(IDENTITY.to_json(), plain, tokens)
    k = data.draw(st.integers(0, len(plain) - 1))
    changed = plain.copy()
    changed[k] = -1.0 if np.isnan(plain[k]) else np.nextafter(plain[k], np.float32(1))
    assert row_digest(IDENTITY.to_json(), changed, tokens) != digest
    more = tokens.copy()
    more[k] += 1
    assert row_digest(IDENTITY.to_json(), plain, more) != digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "org/name2"),
        ("source", "local"),
        ("revision", "d" * 40),
        ("weight_dtype", "float16"),
        ("text_set", "d" * 64),
        ("protocol", "d" * 64),
        ("file", "a.gguf"),
        ("subfolder", "checkpoint-1"),
        ("adapter", {"model": "org/lora", "revision": "a" * 40}),
        ("quantization", "gptq"),
        ("subset", "d" * 64),
    ],
)
def test_any_changed_identity_field_changes_the_digest(field: str, value: Any) -> None:
    values, tokens = np.array([-1.0], np.float32), np.array([1], np.int32)
    other = dataclasses.replace(IDENTITY, **{field: value})
    assert other.id != IDENTITY.id
    assert row_digest(other.to_json(), values, tokens) != row_digest(IDENTITY.to_json(), values, tokens)


def test_every_identity_field_is_tried_above() -> None:
    tried = test_any_changed_identity_field_changes_the_digest.pytestmark[0].args[1]
    assert {field for field, _ in tried} == {field.name for field in dataclasses.fields(Identity)}


def test_no_subset_is_not_written() -> None:
    """Identities of rows on all texts, and so their digests, are what they were before there were subsets."""
    assert "subset" not in IDENTITY.to_json()
    assert dataclasses.replace(IDENTITY, subset="d" * 64).to_json() == {**IDENTITY.to_json(), "subset": "d" * 64}


def test_record_reads_back_with_fields_of_a_later_llreg() -> None:
    provenance = {"added_at": "2026-01-02T03:04:05Z", "later": 1}
    record = RowRecord(IDENTITY, provenance, {"licence": None, "later": "x"}, "d" * 64)
    assert RowRecord.from_json(record.to_json()) == record
    assert RowRecord.from_json(json.loads(canonical_json(record.to_json()))).to_json() == record.to_json()
    assert record.row_id == "org/name@dddddddd"
    assert record.sort_key == ("2026-01-02T03:04:05Z", "d" * 64)


def test_protocol_and_view_ids_are_hashes_of_their_rules() -> None:
    for document in (modelmap_protocol("b" * 64), make_view(-100.0), make_view(None)):
        rules = {key: value for key, value in document.items() if key != "id"}
        assert document["id"] == hashlib.sha256(canonical_json(rules).encode()).hexdigest()
    assert modelmap_protocol("b" * 64)["id"] != modelmap_protocol("c" * 64)["id"]
    assert make_view(-100.0)["id"] != make_view(None)["id"]
