"""Row files: what is written reads back, by llreg and by any Zarr reader; damage is always told in a sentence."""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llreg.registry import Registry
from llreg.store.rowfile import Row, digest_in_name, parse_row, read_row, row_path, write_row
from llreg_schemas import canonical_json
from llreg_schemas.errors import FormatVersionError, InvalidFileError

MakeRow = Callable[..., Row]
N = 6

log_likelihoods = hnp.arrays(
    np.float32, N, elements=st.floats(width=32, max_value=0, allow_infinity=False) | st.just(float("nan"))
)
token_counts = hnp.arrays(np.int32, N, elements=st.integers(0, 2**31 - 1))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}(/[A-Za-z0-9][A-Za-z0-9._-]{0,40})?", fullmatch=True)
plain_text = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=30)


@pytest.fixture
def row_file(small_registry: Registry, make_row: MakeRow) -> Path:
    """One good row file of the small registry."""
    return write_row(small_registry.path, make_row(small_registry, seed=1))


@pytest.fixture(scope="module")
def module_registry(tmp_path_factory: pytest.TempPathFactory, small_texts: Path) -> Registry:
    """A small registry that a property's examples share."""
    from llreg.locate import init

    return init(tmp_path_factory.mktemp("rows") / "small", texts=small_texts)


@given(values=log_likelihoods, tokens=token_counts, name=names, note=plain_text, seconds=st.floats(0, 1e9))
def test_row_reads_back(
    module_registry: Registry,
    make_row: MakeRow,
    values: np.ndarray[Any, Any],
    tokens: np.ndarray[Any, Any],
    name: str,
    note: str,
    seconds: float,
) -> None:
    provenance = {"seconds": seconds, "note": note, "tokens": int(tokens.sum(dtype=np.int64))}
    row = make_row(
        module_registry, name, log_likelihood=values, num_tokens=tokens, provenance=provenance, declared={"x": note}
    )
    # One of another example with the same digest would be left as it is.
    (module_registry.path / row_path(row.record)).unlink(missing_ok=True)
    path = write_row(module_registry.path, row)
    back = read_row(path, N)
    assert back.record == row.record
    assert canonical_json(back.record.to_json()) == canonical_json(row.record.to_json())
    np.testing.assert_array_equal(back.log_likelihood, values)
    np.testing.assert_array_equal(back.num_tokens, tokens)
    assert (back.log_likelihood.dtype, back.num_tokens.dtype) == (np.float32, np.int32)
    assert path == module_registry.path / row_path(row.record)
    assert digest_in_name(path.name) == row.record.digest
    assert len(path.name.encode()) < 255  # what a file system allows


def test_equal_rows_are_equal_bytes(small_registry: Registry, make_row: MakeRow, tmp_path: Path) -> None:
    paths = [write_row(tmp_path / name, make_row(small_registry, seed=3)) for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].relative_to(tmp_path / "one") == paths[1].relative_to(tmp_path / "two")


def test_row_that_is_there_is_left_alone(small_registry: Registry, make_row: MakeRow) -> None:
    row = make_row(small_registry, seed=3)
    path = write_row(small_registry.path, row)
    before = path.stat()
    write_row(small_registry.path, make_row(small_registry, seed=3, provenance={"contributor": "Someone else"}))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list((small_registry.path / ".llreg" / "tmp").iterdir()) == []


def test_plain_zarr_reads_it(small_registry: Registry, row_file: Path) -> None:
    row = read_row(row_file, N)
    with zarr.storage.ZipStore(row_file, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert dict(group.attrs) == row.record.to_json()
        values: Any = group["log_likelihood"]
        assert values.metadata.dimension_names == ("text",)
        np.testing.assert_array_equal(values[:], row.log_likelihood)


def test_xarray_reads_it(row_file: Path) -> None:
    row = read_row(row_file, N)
    with zarr.storage.ZipStore(row_file, mode="r") as store:
        data = xr.open_zarr(store, consolidated=False, decode_times=False).load()
    assert data["log_likelihood"].dims == ("text",)
    assert data["log_likelihood"].attrs["units"] == "nat"
    np.testing.assert_array_equal(data["log_likelihood"].values, row.log_likelihood)
    np.testing.assert_array_equal(data["num_tokens"].values, row.num_tokens)


def test_zip_is_stored_and_dated_the_same(row_file: Path) -> None:
    with zipfile.ZipFile(row_file) as archive:
        entries = archive.infolist()
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_truncated_at_every_length(row_file: Path) -> None:
    data = row_file.read_bytes()
    for length in [*range(0, len(data), 23), len(data) - 1]:
        with pytest.raises(InvalidFileError, match=r"^row: .*(truncated|damaged)"):
            parse_row(data[:length], N, label="row")


def _same_or_refused(data: bytes, row: Row, what: str) -> bool:
    """Whether it was refused; what is accepted must be the row, unchanged where the digest covers it."""
    try:
        back = parse_row(data, N, label="row")
    except InvalidFileError as error:
        return error.file == "row"
    assert back.record.digest == row.record.digest, what
    assert back.record.identity == row.record.identity, what
    np.testing.assert_array_equal(back.log_likelihood, row.log_likelihood, what)
    np.testing.assert_array_equal(back.num_tokens, row.num_tokens, what)
    return False


def test_every_byte_flipped(row_file: Path) -> None:
    """Checksums cover the content, so only a date, a version or a mode in the zip's own headers may differ unnoticed."""
    data, row = row_file.read_bytes(), read_row(row_file, N)
    rng = random.Random(0)
    refused = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= rng.randrange(1, 256)
        refused += _same_or_refused(bytes(damaged), row, f"byte {position}")
    with zipfile.ZipFile(row_file) as archive:
        content = sum(entry.file_size for entry in archive.infolist())
    assert refused >= content


def test_random_regions_overwritten_cut_or_repeated(row_file: Path) -> None:
    data, row = row_file.read_bytes(), read_row(row_file, N)
    rng = random.Random(1)
    for trial in range(400):
        start, length = rng.randrange(len(data)), rng.randrange(1, 60)
        middle = [rng.randbytes(length), b"", data[start : start + length] * 2, bytes(length), b"\xff" * length][
            trial % 5
        ]
        _same_or_refused(data[:start] + middle + data[start + length :], row, f"trial {trial} at {start}")


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"{}", gzip.compress(b"x", mtime=0), bytes(10_000)]
)
def test_something_else_entirely(data: bytes) -> None:
    with pytest.raises(InvalidFileError, match=r"^row: expected"):
        parse_row(data, N, label="row")


def test_missing_file_and_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="cannot be read: No such file"):
        read_row(tmp_path / "none.zarr.zip", N)
    (tmp_path / "dir.zarr.zip").mkdir()
    with pytest.raises(InvalidFileError, match="cannot be read: Is a directory"):
        read_row(tmp_path / "dir.zarr.zip", N)


def test_file_too_large_is_not_read(row_file: Path) -> None:
    with row_file.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that no disk holds
    with pytest.raises(InvalidFileError, match=r"expected at most .* bytes for 6 texts; got 1,099,511,627,776"):
        read_row(row_file, N)


def test_row_of_another_length(row_file: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"log_likelihood: expected shape \(7,\), one value a text; got \[6\]"):
        read_row(row_file, 7)


def test_row_of_a_newer_format(row_file: Path) -> None:
    from_members = _members(row_file)
    document = json.loads(from_members["zarr.json"])
    document["attributes"]["format_version"] = 3
    from_members["zarr.json"] = json.dumps(document).encode()
    with zipfile.ZipFile(row_file, "w") as archive:
        for name, content in from_members.items():
            archive.writestr(name, content)
    with pytest.raises(FormatVersionError, match="expected format version 2 or older; got 3, written by a newer llreg"):
        read_row(row_file, N)


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (f"a--b-{'0' * 64}.zarr.zip", "0" * 64),
        (f"a-b-{'0' * 64}.zarr.zip", "0" * 64),
        (f"{'0' * 64}.zarr.zip", None),
        (f"a-{'0' * 63}.zarr.zip", None),
        (f"a-{'A' * 64}.zarr.zip", None),
        (f"a-{'0' * 64}.zarr.zip.part", None),
        (f".a-{'0' * 64}.zarr.zip", None),
        (f"a\n-{'0' * 64}.zarr.zip", None),
    ],
)
def test_digest_in_name(name: str, digest: str | None) -> None:
    assert digest_in_name(name) == digest


def test_no_time_enters_a_file(registry: Registry, make_row: MakeRow) -> None:
    """Two contributors of one measurement write the same bytes, whenever they do it."""
    path = write_row(registry.path, make_row(registry))
    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for name in ("log_likelihood/c/0", "num_tokens/c/0"):
            assert archive.read(name)[4:8] == bytes(4)  # gzip's MTIME, RFC 1952
