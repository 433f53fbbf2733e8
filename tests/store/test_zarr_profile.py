"""Stores from strangers: what is not as llreg's writer makes it is named and refused before anything is decompressed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import VLenUTF8, Zstd

from llreg.registry import Registry
from llreg.store import zarr_profile
from llreg.store.rowfile import Row, write_row
from llreg.store.zarr_profile import StoreForm
from llreg_schemas.errors import InvalidFileError

Fill = Callable[..., list[Row]]
BOMB = Zstd(level=1).encode(bytes(50 << 20))  # 50 MiB of zeros in a few kB


def edit(registry: Registry, array: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an array in the store's consolidated metadata, which is what readers go by."""
    path = registry.path / "store.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    change(document["consolidated_metadata"]["metadata"][array])
    path.write_text(json.dumps(document))


def shard(registry: Registry, name: str) -> Path:
    return registry.path / "store.zarr" / name / "c.0.0"


def plant_bomb_among_tokens(registry: Registry, name: str) -> None:
    """The first chunk of an array of counts becomes a frame of 50 MiB, and the index says where it is."""
    empty = (1 << 64) - 1
    index = struct.pack("<8Q", 0, len(BOMB) + 4, *[empty] * 6)
    shard(registry, name).write_bytes(BOMB + bytes(4) + index + bytes(4))


def sharding(part: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda array: array["codecs"][0]["configuration"].__setitem__(part, value)


@pytest.fixture
def built(small_registry: Registry, fill: Fill, make_row: Callable[..., Row]) -> Registry:
    """Of two rows without segments and one with them."""
    fill(small_registry, 2)
    write_row(small_registry.path, make_row(small_registry, "org/m2", 2, fine=True))
    small_registry.build()
    assert Registry(small_registry.path).validate() == []
    return small_registry


@pytest.mark.parametrize(
    ("array", "change", "told"),
    [
        ("log_likelihood", lambda a: a.update(shape=[3, 10**12]), r"log_likelihood: expected shape \[3, 6\]"),
        ("num_tokens", lambda a: a.update(shape=[10**12, 6]), r"num_tokens: expected shape \[3, 6\]"),
        ("log_likelihood", lambda a: a.update(shape=[3.0, 6]), "is damaged .*Expected an iterable of integers"),
        ("log_likelihood", lambda a: a.update(data_type="float64"), "log_likelihood: expected data type float32"),
        ("num_tokens", lambda a: a.update(data_type="int64"), "num_tokens: expected data type int32"),
        ("log_likelihood", lambda a: a["chunk_grid"]["configuration"].update(chunk_shape=[2**40, 6]), "log_likelihood: expected shards"),
        ("log_likelihood", sharding("chunk_shape", [256, 6]), "log_likelihood: expected chunks"),
        ("num_tokens", sharding("index_location", "start"), "num_tokens: expected place of the index end"),
        ("num_tokens", sharding("codecs", [{"name": "bytes"}]), "num_tokens: expected codecs"),
        ("log_likelihood", lambda a: a.update(codecs=[{"name": "numcodecs.zlib"}]), "log_likelihood: expected an array with codecs that llreg writes"),
        ("licence", lambda a: a.update(codecs=[{"name": "numcodecs.pickle"}]), "licence: expected an array with codecs"),
        ("digest", lambda a: a.update(shape=[10**15]), "digest: expected chunks"),
        ("digest", lambda a: a.update(shape=[-1]), "digest: expected one dimension"),
        ("record", lambda a: a.update(data_type="bytes"), "record: expected data type string"),
        ("num_correct", lambda a: a.update(data_type="float32"), "num_correct: expected data type int32"),
        ("fine_coordinate", lambda a: a.update(shape=[3, 10**12]), r"fine_coordinate: expected shape \[3, 12\]"),
        ("fine_coordinate", sharding("codecs", [{"name": "bytes"}, {"name": "zstd"}]), "fine_coordinate: expected codecs"),
    ],
)  # fmt: skip
def test_array_of_another_form(
    built: Registry, array: str, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    edit(built, array, change)
    with pytest.raises(InvalidFileError, match=f"store.zarr: ({told})"):
        Registry(built.path).records()


@pytest.mark.parametrize("array", ["digest", "record", "log_likelihood", "num_tokens", "num_correct", "consolidated"])
def test_missing_array(built: Registry, array: str) -> None:
    path = built.path / "store.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    if array == "consolidated":
        del document["consolidated_metadata"]
    else:
        del document["consolidated_metadata"]["metadata"][array]
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidFileError, match=f"{array}: expected this array|expected consolidated metadata"):
        Registry(built.path).records()


def test_store_of_another_text_set(built: Registry) -> None:
    reader = Registry(built.path).store
    assert len(reader.records()) == 3
    reader.form = StoreForm(7, built.info.num_segments)
    reader._signature = None
    with pytest.raises(InvalidFileError, match=r"log_likelihood: expected shape \[3, 7\]; got \[3, 6\]"):
        reader.records()


@pytest.mark.parametrize("column", ["digest", "record"])
def test_bomb_in_a_column(built: Registry, column: str) -> None:
    (built.path / "store.zarr" / column / "c" / "0").write_bytes(BOMB)
    with pytest.raises(InvalidFileError, match=rf"{column}: a chunk of 52,428,800 bytes; at most [\d,]+ are possible"):
        Registry(built.path).records()


@pytest.mark.parametrize(
    "raw",
    [struct.pack("<I", 2**32 - 1), struct.pack("<II", 3, 2**32 - 1) + b"abc", struct.pack("<I", 3), b"", b"\xff\xff"],
)
def test_column_that_claims_more_than_it_has(built: Registry, raw: bytes) -> None:
    (built.path / "store.zarr" / "digest" / "c" / "0").write_bytes(Zstd().encode(raw))
    with pytest.raises(InvalidFileError, match=r"store.zarr: is damaged .*(digest: |zstd)"):
        Registry(built.path).records()


@pytest.mark.parametrize("name", ["num_tokens", "num_correct"])
def test_bomb_among_the_tokens(built: Registry, name: str) -> None:
    plant_bomb_among_tokens(built, name)
    registry = Registry(built.path)
    assert len(registry.records()) == 3  # the values are not looked at for that
    with pytest.raises(InvalidFileError, match=rf"{name}: expected chunks of 1,536 bytes; got 52,428,800"):
        registry.store.read(name, [registry.records()[1].digest], slice(None))
    assert any(name in problem.message for problem in Registry(built.path).validate())


@pytest.mark.parametrize("name", ["log_likelihood", "num_tokens", "num_correct", "fine_coordinate"])
def test_shard_larger_than_its_values(built: Registry, name: str) -> None:
    with shard(built, name).open("ab") as file:
        file.truncate(1 << 20)
    with pytest.raises(InvalidFileError, match=rf"{name}/c.0.0 has 1,048,576 bytes; at most [\d,]+ are possible"):
        Registry(built.path).records()


def test_old_format_of_zarr_is_not_read(built: Registry) -> None:
    """Zarr 2 has codecs that unpickle: only version 3 is ever opened."""
    store = built.path / "store.zarr"
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / "zarr.json").write_text('{"zarr_format": 2, "attributes": {}}')
    with pytest.raises(InvalidFileError, match="expected a Zarr v3 group"):
        Registry(built.path).records()


@given(st.lists(st.text(max_size=64), min_size=1, max_size=50))
def test_strings_are_those_that_zarr_reads(texts: list[str]) -> None:
    raw = VLenUTF8().encode(np.array(texts, dtype=object))
    assert zarr_profile.decode_strings(Zstd().encode(raw), "record", len(texts)) == texts


@given(st.integers(0, 70_000), st.integers(1, 19))
def test_frame_size(size: int, level: int) -> None:
    assert zarr_profile.frame_size(Zstd(level=level).encode(bytes(size))) == size
    if size:  # arrow's encoder writes the same form
        assert zarr_profile.frame_size(pa.compress(bytes(size), codec="zstd", asbytes=True)) == size


@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_with_a_size_or_refused(data: bytes) -> None:
    for given_ in (data, b"\x28\xb5\x2f\xfd" + data):
        with suppress(ValueError):
            assert 0 <= zarr_profile.frame_size(given_) < 1 << 64
