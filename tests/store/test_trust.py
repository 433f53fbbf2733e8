"""What a build, a retraction or a damaged file must never do: lose a row, or change what is read unseen."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import numpy as np
import pytest

from llreg.locate import open_registry
from llreg.registry import Registry
from llreg.store.layout import STORE
from llreg.store.rowfile import Row
from llreg_schemas import canonical_json
from llreg_schemas.errors import InvalidFileError

Fill = Callable[..., list[Row]]


def test_retracted_row_that_only_the_build_held_is_kept(small_registry: Registry, fill: Fill) -> None:
    rows = fill(small_registry, 3)
    small_registry.build()
    small_registry.tag("v1")
    shutil.rmtree(small_registry.path / "rows")  # as after a pull of the build alone
    registry = Registry(small_registry.path)
    registry.retract("org/m1", why="wrong weights")
    registry.build()
    assert [record.identity.model for record in registry.records()] == ["org/m0", "org/m2"]
    assert registry.validate() == []
    before = open_registry(small_registry.path, revision="v1")
    values = before.dataset()["log_likelihood"].values
    np.testing.assert_array_equal(values, [row.log_likelihood for row in rows])


def test_changed_value_in_the_store_is_not_read(small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 3)
    small_registry.build()
    shard = small_registry.path / STORE / "log_likelihood" / "c.0.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 0x40
    shard.write_bytes(data)
    with pytest.raises(InvalidFileError, match=r"store\.zarr: is damaged .*checksum"):
        Registry(small_registry.path).kl()


def test_missing_shard_is_not_read_as_missing_values(small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 3)
    small_registry.build()
    (small_registry.path / STORE / "num_tokens" / "c.0.0").unlink()
    with pytest.raises(InvalidFileError, match=r"num_tokens/c\.0\.0 is missing"):
        Registry(small_registry.path).records()


def test_record_changed_in_the_store_is_found_and_built_anew(small_registry: Registry, fill: Fill) -> None:
    import zarr

    row = fill(small_registry, 1)[0]
    small_registry.build()
    document = row.record.to_json()
    document["provenance"] = {**document["provenance"], "contributor": "Mallory"}
    group = zarr.open_group(small_registry.path / STORE, mode="r+")
    group["record"][:] = np.array([canonical_json(document)], dtype=object)  # type: ignore[index]
    registry = Registry(small_registry.path)
    assert any("expected the record in rows/" in problem.message for problem in registry.validate())
    assert "store.zarr differs from the rows" in registry.check_build()
    registry.build()
    assert registry.records() == [row.record]
    assert registry.check_build() == []


def test_junk_under_a_good_rows_digest_does_not_hide_it(small_registry: Registry, fill: Fill) -> None:
    row = fill(small_registry, 1)[0]
    path = next((small_registry.path / "rows").rglob("*.zip"))
    for name in ("aa", "zz"):
        path.with_name(f"{name}-{row.record.digest}.zarr.zip").write_bytes(b"junk")
    assert Registry(small_registry.path).records() == [row.record]


def test_distances_to_others_are_those_of_the_square(small_registry: Registry, fill: Fill) -> None:
    fill(small_registry, 5)
    square = small_registry.kl()
    strip = small_registry.kl(["org/m2"], ["org/m0", "org/m4"])
    assert strip["kl"].shape == (1, 2)
    for name in ("kl", "kl_se", "tail_share", "num_texts", "kl_bits_per_byte"):
        expected = square[name].values[2, [0, 4]]
        np.testing.assert_allclose(strip[name].values[0], expected, rtol=1e-12)  # sums in another order
