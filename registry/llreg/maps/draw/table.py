"""Tables of a map: coordinates, columns and neighbours, as Parquet or CSV."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import output_file, write_output
from llreg.printable import harmless

if TYPE_CHECKING:
    import pyarrow as pa

    from llreg.maps.scene import Scene


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"category": pa.string(), "number": pa.float64(), "date": pa.date32()}
    types: dict[str, pa.DataType] = {
        "row_id": pa.string(),
        "model": pa.string(),
        "placed": pa.bool_(),
        **{column.name: kinds[column.kind] for column in scene.columns},
        "nearest": pa.string(),
        "neighbors": pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))]),
    }
    units = dict.fromkeys(("nearest_kl", "nearest_kl_se", "neighbors"), "bit/byte")
    if any(scene.axes):
        units |= dict.fromkeys(("x", "y"), "sqrt(bit/byte)")
    units |= {column.name: column.unit for column in scene.columns if column.unit}
    columns = table_columns(scene)
    fields = [
        pa.field(name, types.get(name, pa.float64()), metadata={"unit": units[name]} if name in units else None)
        for name in columns
    ]
    metadata = {"llreg": json.dumps({"title": scene.title, **dict(scene.facts)}, ensure_ascii=False)}
    table = pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))
    with output_file(path) as temp:
        pq.write_table(table, temp)


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

    def cell(value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(value)
        return harmless(value) if isinstance(value, str) else value

    columns = table_columns(scene)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([harmless(name) for name in columns])
    writer.writerows([cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_output(path, file.getvalue().encode("utf-8", "replace"))


def table_columns(scene: Scene) -> dict[str, list[Any]]:
    """Columns of a map's table: ids and names, coordinates, the scene's columns, neighbours."""
    count = len(scene.row_ids)
    # The nearest row, its KL and the standard error; None where a row has no neighbour.
    nearest: list[tuple[str | None, float | None, float | None]] = [(None, None, None)] * count
    neighbors = []
    for row, index in enumerate(scene.neighbors):
        present = index >= 0
        neighbors.append({"ids": index[present].tolist(), "distances": scene.kl[row][present].tolist()})
        if len(index) and present[0]:
            nearest[row] = scene.row_ids[index[0]], float(scene.kl[row, 0]), float(scene.kl_se[row, 0])
    columns: dict[str, list[Any]] = {column.name: list(column.values) for column in scene.columns}
    for column in scene.columns:
        if column.kind == "date":
            columns[column.name] = [None if day is None else date.fromisoformat(str(day)) for day in column.values]
    return {
        "row_id": list(scene.row_ids),
        "model": list(scene.names),
        "x": scene.xy[:, 0].tolist(),
        "y": scene.xy[:, 1].tolist(),
        "placed": [False] * count if scene.placed is None else scene.placed.tolist(),
        **columns,
        "nearest": [row_id for row_id, _, _ in nearest],
        "nearest_kl": [kl for _, kl, _ in nearest],
        "nearest_kl_se": [kl_se for _, _, kl_se in nearest],
        "neighbors": neighbors,
    }
