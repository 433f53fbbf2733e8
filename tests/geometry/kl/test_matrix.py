"""Matrices of more rows than memory holds: blocks on disk, here and on a Dask cluster, and their leading axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from llreg.geometry.kl import matrix, stream
from llreg.geometry.kl.matrix import write_kl
from llreg.geometry.kl.stream import principal_coordinates, stream_rows
from llreg.geometry.view.view import View
from llreg.registry import Registry
from llreg.store.rowfile import Row
from llreg_schemas.errors import InputError, MissingExtraError

Fill = Callable[..., list[Row]]


@pytest.fixture
def filled(registry: Registry, fill: Fill) -> Registry:
    fill(registry, 11)
    registry.build()
    return registry


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four rows, so that a small registry has several."""
    monkeypatch.setattr(matrix, "BLOCK", 4)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_make_the_whole_matrix(filled: Registry, tmp_path: Path) -> None:
    view = View(clip=-300.0)
    seen: list[tuple[int, int]] = []
    write_kl(filled, tmp_path / "kl.zarr", view=view, progress=lambda done, total: seen.append((done, total)))
    found = xr.open_zarr(tmp_path / "kl.zarr")
    expected = filled.kl(view=view)
    np.testing.assert_allclose(found["kl"].values, expected["kl_bits_per_byte"].values, rtol=1e-6, atol=1e-12)
    assert found["model"].values.tolist() == expected["model"].values.tolist()
    assert found["other_id"].values.tolist() == expected["other_id"].values.tolist()
    assert (found.attrs["version"], found.attrs["view"]["id"]) == (filled.version, view.id)
    assert seen == [(k, 6) for k in range(1, 7)]
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_a_dask_cluster_gives_the_same(filled: Registry, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    write_kl(filled, tmp_path / "here.zarr")
    write_kl(filled, tmp_path / "there.zarr", cluster="local")
    here, there = (xr.open_zarr(tmp_path / name)["kl"].values for name in ("here.zarr", "there.zarr"))
    np.testing.assert_array_equal(here, there)


def test_no_scheduler_at_the_address(filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("llreg.dask_client._CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        write_kl(filled, tmp_path / "kl.zarr", cluster="tcp://127.0.0.1:9")


def test_missing_distributed_names_the_extra(filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llreg\[cluster\]"'):
        write_kl(filled, tmp_path / "kl.zarr", cluster="local")


def test_bad_input(filled: Registry, small_registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a distance needs two rows"):
        write_kl(small_registry, tmp_path / "kl.zarr")
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(InputError, match="is there already"):
        write_kl(filled, tmp_path / "there.zarr")
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match="there is no directory"):
        write_kl(filled, tmp_path / "file.txt" / "kl.zarr")


def test_command(filled: Registry, tmp_path: Path, cli: Any) -> None:
    target = tmp_path / "kl.zarr"
    result = cli("-r", filled.path, "dist", "-o", target)
    assert (result.code, result.out) == (0, "")
    assert xr.open_zarr(target)["kl"].shape == (11, 11)
    assert cli("-r", filled.path, "dist", "-o", tmp_path / "kl.npz").code == 2


def test_principal_coordinates_are_those_of_the_whole_matrix(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK", 3)
    rows = filled.rows(view=View(clip=-250.0))
    found = principal_coordinates(stream_rows(filled, view=View(clip=-250.0)), 5)
    scaled = rows.q / np.sqrt(2 * rows.values.shape[1] * rows.bits)
    _, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), singular[:5], rtol=1e-6)
    whole = principal_coordinates(stream_rows(filled, view=View(clip=-250.0)), 11)
    distances = ((whole[:, None] - whole[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        distances, filled.kl(view=View(clip=-250.0))["kl_bits_per_byte"].values, rtol=1e-6, atol=1e-9
    )


def test_principal_coordinates_are_the_same_every_time(filled: Registry) -> None:
    one, other = (principal_coordinates(stream_rows(filled), 3, seed=s) for s in (0, 0))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(principal_coordinates(stream_rows(filled), 3, seed=1), one, atol=1e-3)
