"""Row files made to harm: refused in a sentence, before anything is allocated or decompressed, and never a crash."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llreg.registry import Registry
from llreg.store.rowfile import Row, parse_row, read_row, row_path, write_row
from llreg_schemas import row_digest
from llreg_schemas.errors import InvalidFileError, LlregWarning

MakeRow = Callable[..., Row]
Members = dict[str, bytes]
N = 6
DELETE = object()


@pytest.fixture
def row(small_registry: Registry, make_row: MakeRow) -> Row:
    return make_row(small_registry, seed=1)


@pytest.fixture
def members(small_registry: Registry, row: Row) -> Members:
    """The members of a good row file, to be spoiled."""
    with zipfile.ZipFile(write_row(small_registry.path, row)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(members: Members, compression: int = zipfile.ZIP_STORED, extra: Members | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in [*members.items(), *(extra or {}).items()]:
            archive.writestr(name, content)
    return buffer.getvalue()


def _edit(members: Members, member: str, path: str, value: Any) -> Members:
    """The members with one field of a JSON member replaced or deleted."""
    document = json.loads(members[member])
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = document
    for part in parts:
        place = place[part]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return {**members, member: json.dumps(document).encode()}


def _refused(data: bytes) -> str:
    with pytest.raises(InvalidFileError) as caught:
        parse_row(data, N, label="row")
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_members_alone_are_a_row(members: Members, row: Row) -> None:
    assert parse_row(_zip(members), N, label="row").record == row.record


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_zip(members: Members, compression: int) -> None:
    assert "expected an uncompressed zip" in _refused(_zip(members, compression))


@pytest.mark.parametrize(
    "name", ["run.py", "../../etc/passwd", "/etc/passwd", "log_likelihood/c/1", "c:\\x", "\u001b[2J", "zarr.json/"]
)
def test_extra_member(members: Members, name: str) -> None:
    assert "expected the members" in _refused(_zip(members, extra={name: b"import os"}))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_member_twice(members: Members) -> None:
    assert "expected the members" in _refused(_zip(members, extra={"zarr.json": members["zarr.json"]}))


@pytest.mark.parametrize("name", ["zarr.json", "log_likelihood/c/0", "num_tokens/zarr.json"])
def test_missing_member(members: Members, name: str) -> None:
    assert "expected the members" in _refused(_zip({key: value for key, value in members.items() if key != name}))


@pytest.mark.parametrize("where", ["gzip", "zip"])
def test_bomb_is_not_inflated(members: Members, where: str) -> None:
    zeros = bytes(64 << 20)
    if where == "gzip":
        data = _zip({**members, "log_likelihood/c/0": gzip.compress(zeros)})
    else:
        data = _zip({**members, "log_likelihood/c/0": zeros}, zipfile.ZIP_DEFLATED)
    del zeros
    assert len(data) < 1 << 20
    tracemalloc.start()
    message = _refused(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "expected exactly 24 bytes" in message or "uncompressed zip" in message
    assert peak < 8 << 20


def test_bomb_of_several_gzip_streams(members: Members) -> None:
    twice = {**members, "num_tokens/c/0": members["num_tokens/c/0"] * 2}
    assert "num_tokens: expected exactly 24 bytes" in _refused(_zip(twice))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "expected exactly 24 bytes"),
        (b"plain bytes, not gzip data", "expected gzip data"),
        (gzip.compress(bytes(20), mtime=0), "expected exactly 24 bytes"),
        (gzip.compress(bytes(28), mtime=0), "expected exactly 24 bytes"),
        (gzip.compress(bytes(24), mtime=0)[:-1], "expected exactly 24 bytes"),
        (gzip.compress(bytes(24), mtime=0) + b"more", "expected exactly 24 bytes"),
        (gzip.compress(bytes(24), mtime=0), "expected the digest of the values"),
    ],
    ids=["empty", "plain", "short", "long", "torn", "tail", "other values"],
)
def test_other_chunk(members: Members, content: bytes, told: str) -> None:
    assert told in _refused(_zip({**members, "log_likelihood/c/0": content}))


ARRAY = "log_likelihood/zarr.json"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("shape", [10**15], "expected shape (6,)"),
        ("shape", [6, 1], "expected shape (6,)"),
        ("shape", [-6], "expected shape (6,)"),
        ("shape", "6", "expected shape (6,)"),
        ("shape", DELETE, "expected shape (6,)"),
        ("shape", ["\u001b[31m"], "expected shape (6,)"),
        ("data_type", "float64", "expected data type float32; got 'float64'"),
        ("data_type", "int32", "expected data type float32; got 'int32'"),
        ("data_type", {"name": "numpy.void"}, "expected data type float32"),
        ("data_type", "\u001b[31m", "expected data type float32"),
        ("codecs.1.name", "zstd", "expected Zarr v3 with codecs bytes, gzip"),
        ("codecs.1.name", "numcodecs.pickle", "expected Zarr v3 with codecs bytes, gzip"),
        ("codecs", [], "expected Zarr v3 with codecs bytes, gzip"),
        ("codecs", None, "expected Zarr v3 with codecs bytes, gzip"),
        ("codecs", ["bytes", "gzip"], "expected Zarr v3 with codecs bytes, gzip"),
        ("codecs.0.configuration.endian", "big", "expected little-endian"),
        ("codecs.0.configuration", None, "expected little-endian"),
        ("codecs.0.configuration", ["little"], "expected little-endian"),
        ("chunk_grid.configuration.chunk_shape", [1], "and one chunk"),
        ("chunk_grid.configuration", None, "and one chunk"),
        ("chunk_grid.configuration", "regular", "and one chunk"),
        ("chunk_grid", DELETE, "and one chunk"),
        ("zarr_format", 2, "expected Zarr v3"),
    ],
)
def test_other_array_metadata(members: Members, path: str, value: Any, told: str) -> None:
    assert told in _refused(_zip(_edit(members, ARRAY, path, value)))


@pytest.mark.parametrize(
    ("member", "content", "told"),
    [
        ("zarr.json", b"[]", "zarr.json: expected a JSON object"),
        ("zarr.json", b"{", "zarr.json: expected JSON"),
        ("zarr.json", b"\xff\xff", "zarr.json: expected JSON"),
        ("zarr.json", b'{"a":' * 100_000, "zarr.json: expected JSON"),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "array"}', "expected a Zarr v3 group"),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "group"}', "expected a value of type object"),
        (
            "zarr.json",
            b'{"zarr_format": 3, "node_type": "group", "attributes": [1]}',
            "expected a value of type object",
        ),
        (ARRAY, b"null", "log_likelihood: expected a JSON object"),
        (ARRAY, b"{}", "log_likelihood: expected shape"),
    ],
)
def test_other_json(members: Members, member: str, content: bytes, told: str) -> None:
    assert told in _refused(_zip({**members, member: content}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_record_with_a_number_that_is_none(members: Members, number: str) -> None:
    """canonical JSON has none, so such a row would pass here and break every later build."""
    data = members["zarr.json"].replace(b'"contributor"', b'"seconds": ' + number.encode() + b', "contributor"')
    assert number.encode() in data
    assert "row: " in _refused(_zip({**members, "zarr.json": data}))


def test_record_with_a_lone_surrogate(members: Members) -> None:
    """It is no text that UTF-8 can hold, so it would break every later build."""
    spoilt = _edit(members, "zarr.json", "attributes.provenance.contributor", "\ud800")
    assert "row: " in _refused(_zip(spoilt))


@pytest.mark.parametrize("number", [2**63, 10**30, 1e30])
def test_record_with_a_number_that_no_column_holds(members: Members, number: float) -> None:
    spoilt = _edit(members, "zarr.json", "attributes.declared.num_parameters", number)
    assert "declared.num_parameters: expected a number of at most" in _refused(_zip(spoilt))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("identity.model", "other/name"),
        ("identity.revision", "f" * 40),
        ("identity.weight_dtype", "float16"),
        ("digest", "f" * 64),
    ],
)
def test_identity_changed_under_the_digest(members: Members, path: str, value: str) -> None:
    assert "digest: expected the digest of the values" in _refused(
        _zip(_edit(members, "zarr.json", f"attributes.{path}", value))
    )


def test_good_row_under_a_wrong_name(small_registry: Registry, row: Row) -> None:
    path = write_row(small_registry.path, row)
    renamed = path.with_name(path.name.replace("a--b", "good--name"))
    path.rename(renamed)
    assert read_row(renamed, N).record == row.record  # the file itself is fine
    with pytest.raises(InvalidFileError, match=r"good--name.*: expected the name rows/../a--b-"):
        small_registry.records(strict=True)
    with pytest.warns(LlregWarning, match=r"left out, .*good--name"):
        assert small_registry.records() == []


def test_good_row_in_a_wrong_folder(small_registry: Registry, row: Row) -> None:
    path = write_row(small_registry.path, row)
    other = small_registry.path / "rows" / ("00" if path.parent.name != "00" else "01") / path.name
    other.parent.mkdir()
    path.rename(other)
    assert small_registry.records() == []
    assert [problem.file for problem in small_registry.validate()] == [small_registry.label(other)]


def test_row_under_another_rows_name(small_registry: Registry, make_row: MakeRow, row: Row) -> None:
    path = write_row(small_registry.path, row)
    other = make_row(small_registry, "a/c", 2)
    path.write_bytes(write_row(small_registry.path, other).read_bytes())
    with pytest.raises(InvalidFileError, match="expected the name rows/"):
        small_registry.read_file(path)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"text_set": "f" * 64}, "identity.text_set: expected this registry's .*such rows are not comparable"),
        ({"protocol": "f" * 64}, "identity.protocol: expected this registry's"),
        ({"log_likelihood": [np.nan] * N}, "expected at least one scored text; all are NaN"),
        ({"log_likelihood": [-1, -1, 0.5, -1, -1, -1]}, r"log_likelihood: expected at most 0 nats .*got 0.5 at text 2"),
        ({"log_likelihood": [-1, -np.inf, -1, -1, -1, -1]}, "expected a finite number or NaN; got -inf at text 1"),
        ({"num_tokens": [1, 1, 1, 1, 1, -1]}, "num_tokens: expected at least 0; got -1 at text 5"),
        ({"num_tokens": [1, 1, 0, 1, 1, 1]}, "expected 0 exactly where log_likelihood is NaN; got 0 at text 2"),
        ({"num_tokens": [1, 1, 1, 2**31 - 1, 1, 1]}, "no more tokens than the text can hold; got 2147483647 at text 3"),
        ({"provenance": {"tokens": 7}}, "provenance.tokens: expected .*, the sum of num_tokens; got 7"),
        ({"provenance": {"over_context": 1}}, "expected at most 0 texts over the context.*got 1"),
    ],
)
def test_impossible_row_is_refused_where_it_is_read(
    small_registry: Registry, make_row: MakeRow, over: dict[str, Any], told: str
) -> None:
    write_row(small_registry.path, make_row(small_registry, **over))
    with pytest.raises(InvalidFileError, match=told):
        small_registry.records(strict=True)
    with pytest.warns(LlregWarning, match=told):
        assert small_registry.records() == []
    (problem,) = small_registry.validate()
    assert problem.file.startswith("rows/")


def test_names_stay_inside_the_registry(small_registry: Registry, row: Row) -> None:
    path = row_path(row.record)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert row_digest(row.record.identity.to_json(), row.log_likelihood, row.num_tokens) in path.name
