"""Tables of a map: coordinates, columns and neighbours, as Parquet or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import output_file, write_output
from llreg.printable import harmless

if TYPE_CHECKING:
    import pyarrow as pa

    from llreg.maps.scene import Column, Scene


def write_parquet(scene: Scene, path: Path) -> None:
    """Write a map as Parquet, one row a model.

    Parameters
    ----------
    scene : Scene
    path : Path

    Raises
    ------
    StorageError
        If it cannot be written.

    Notes
    -----
    Columns as embedding-atlas reads them: ``embedding-atlas map.parquet --text model --x x --y y --neighbors
    neighbors``. ``neighbors`` is a struct of ``ids``, zero-based row numbers of the nearest rows, and ``distances``,
    the KL divergences to them in bits per byte. How the map was made stands in the file's metadata under ``llreg``.
    """
    import pyarrow.parquet as pq

    with output_file(path) as temp:
        pq.write_table(_table(scene), temp)


def write_csv(scene: Scene, path: Path) -> None:
    """Write a map as CSV, one line a model; a text that a spreadsheet would take for a formula gets an apostrophe.

    Parameters
    ----------
    scene : Scene
    path : Path

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    columns = table_columns(scene)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([harmless(name) for name in columns])
    for row in zip(*columns.values(), strict=True):
        writer.writerow([_cell(value) for value in row])
    write_output(path, file.getvalue().encode("utf-8", "replace"))


def table_columns(scene: Scene) -> dict[str, list[Any]]:
    """Columns of a map's table: ids and names, coordinates, the scene's columns, neighbours."""
    nearest = scene.neighbors[:, 0].tolist() if scene.neighbors.shape[1] else [-1] * len(scene.row_ids)
    found = [there >= 0 for there in nearest]
    return {
        "row_id": list(scene.row_ids),
        "model": list(scene.names),
        "x": scene.xy[:, 0].tolist(),
        "y": scene.xy[:, 1].tolist(),
        "placed": [False] * len(scene.row_ids) if scene.placed is None else scene.placed.tolist(),
        **{column.name: _values(column) for column in scene.columns},
        "nearest": [scene.row_ids[k] if ok else None for k, ok in zip(nearest, found, strict=True)],
        "nearest_kl": [float(scene.kl[i, 0]) if ok else None for i, ok in enumerate(found)],
        "nearest_kl_se": [float(scene.kl_se[i, 0]) if ok else None for i, ok in enumerate(found)],
        "neighbors": [_neighbors(scene, i) for i in range(len(scene.row_ids))],
    }


def _values(column: Column) -> list[Any]:
    if column.kind == "date":
        return [None if day is None else date.fromisoformat(str(day)) for day in column.values]
    return list(column.values)


def _neighbors(scene: Scene, row: int) -> dict[str, list[Any]]:
    there = scene.neighbors[row] >= 0
    return {"ids": scene.neighbors[row][there].tolist(), "distances": scene.kl[row][there].tolist()}


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if isinstance(value, dict):
        return json.dumps(value)
    return value


def _table(scene: Scene) -> pa.Table:
    import pyarrow as pa

    kinds = {"category": pa.string(), "number": pa.float64(), "date": pa.date32()}
    types: dict[str, pa.DataType] = {
        "row_id": pa.string(),
        "model": pa.string(),
        "placed": pa.bool_(),
        **{column.name: kinds[column.kind] for column in scene.columns},
        "nearest": pa.string(),
        "neighbors": pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))]),
    }
    columns = table_columns(scene)
    units = _units(scene.columns, scene.axes)
    fields = [
        pa.field(name, types.get(name, pa.float64()), metadata={"unit": units[name]} if name in units else None)
        for name in columns
    ]
    metadata = {"llreg": json.dumps({"title": scene.title, **dict(scene.facts)}, ensure_ascii=False)}
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))


def _units(columns: Sequence[Column], axes: tuple[str, str]) -> dict[str, str]:
    kl = dict.fromkeys(("nearest_kl", "nearest_kl_se", "neighbors"), "bit/byte")
    xy = dict.fromkeys(("x", "y"), "sqrt(bit/byte)") if any(axes) else {}
    return kl | xy | {column.name: column.unit for column in columns if column.unit}
