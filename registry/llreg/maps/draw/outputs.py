"""The files that a map is written to, by their endings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.atomic import check_output, check_place
from llreg.maps.document import Map, read_map
from llreg.maps.draw.labels import matching
from llreg_schemas.errors import InputError, LlregError, MissingExtraError

if TYPE_CHECKING:
    from llreg.maps.make import MapResult
    from llreg.store.contents import Contents

_MAP = ".json"
_FIGURES = (".png", ".svg", ".pdf")
_TABLES = (".parquet", ".csv")
COMMON_ROWS = 3  # that aligning needs, see `llreg.maps.align.align`
ENDINGS = (_MAP, ".html", *_FIGURES, *_TABLES)
_NEEDS = {".html": "bokeh", **dict.fromkeys(_FIGURES, "matplotlib")}


def check_outputs(paths: Sequence[Path]) -> None:
    """Find out before the work that a file cannot be written.

    Raises
    ------
    InputError
        If a file's ending says no format, it is a directory, there is no directory for it, or what a map would replace
        is no map: it may be something else of the user's.
    MissingExtraError
        If what draws it is not installed.
    StorageError
        If its directory cannot be written to.
    """
    for path in paths:
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise InputError(
                f"{path}: a map is written to files that end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
            )
        check_place(path)
        if ending in _NEEDS and find_spec(_NEEDS[ending]) is None:
            raise MissingExtraError(_NEEDS[ending], "map")
        check_output(path)
        if ending == _MAP and path.exists():
            _read_old(path)


def map_to_replace(
    paths: Sequence[Path], registry: Contents, method: str, models: Sequence[str] | None = None
) -> tuple[Map | None, str | None]:
    """The map that an output would replace, for the new one to be aligned to, and a note if it cannot be.

    Parameters
    ----------
    paths : sequence of Path
        As `check_outputs` has found them.
    registry : Contents
    method : str
    models : sequence of str, optional
        Rows of the new map, as in `Contents.find`; all by default.

    Raises
    ------
    NotFoundError, InputError
        If a name means no row or several.
    """
    for path in paths:
        if path.suffix.lower() == _MAP and path.exists():
            old = _read_old(path)
            why_not = _why_apart(old, registry, method, models)
            return (None, f"{path} held {why_not}") if why_not else (old, None)
    return None, None


def _read_old(path: Path) -> Map:
    try:
        return read_map(path)
    except LlregError as error:
        raise InputError(
            f"{path} is there and is no map that can be read; remove it or name another file ({error})"
        ) from error


def _why_apart(old: Map, registry: Contents, method: str, models: Sequence[str] | None) -> str | None:
    """What an old map is that a new one cannot be aligned to; None if it can."""
    if old.method != method:
        return f"a {old.method} map of {old.registry}, to which this one is not aligned"
    try:
        old.check_registry(registry)
    except InputError as error:
        return f"a map to which this one is not aligned: {error}"
    there = {digest for digest, placed in zip(old.digests, old.placed, strict=True) if not placed}
    common = sum(record.digest in there for record in registry.select(models)[0])
    if common < COMMON_ROWS:
        return f"a map to which this one is not aligned: that needs {COMMON_ROWS} common rows, and there are {common}"
    return None


def write_outputs(
    result: MapResult,
    paths: Sequence[Path],
    *,
    color: str | None = None,
    labels: Sequence[str] | None = None,
    scores: Path | str | None = None,
) -> None:
    """Write a map to files: none of them unless all is sound.

    Parameters
    ----------
    result : MapResult
    paths : sequence of Path
        Of known endings.
    color : str, optional
        Column to colour by; the first telling one by default.
    labels : sequence of str, optional
        Models to name in figures; by default all if there are at most 30.
    scores : Path, optional
        As in `map_columns`.

    Raises
    ------
    InputError
        If there is no such column, or no such model on the map.
    StorageError
        If a file cannot be written.
    """
    from llreg.maps.columns import find_column
    from llreg.maps.scenery import make_scene

    kinds = {path: path.suffix.lower() for path in paths}
    named = None if labels is None else _row_ids(result, labels)
    scene = make_scene(result, scores=scores) if set(kinds.values()) != {_MAP} or scores or color else None
    column = find_column(scene.columns, color).name if scene and color else None
    # A map that is there may be published: it is replaced last, when the rest has been written.
    for path, ending in sorted(kinds.items(), key=lambda kind: kind[1] == _MAP):
        if ending == _MAP:
            result.map.write(path)
            continue
        assert scene is not None
        if ending == ".html":
            from llreg.maps.draw.page import write_page

            write_page(scene, path, color=column)
        elif ending in _FIGURES:
            from llreg.maps.draw.figure import write_figure

            write_figure(scene, path, color=column, labels=named)
        else:
            from llreg.maps.draw import table

            (table.write_parquet if ending == ".parquet" else table.write_csv)(scene, path)


def _row_ids(result: MapResult, labels: Sequence[str]) -> list[str]:
    """Row ids of the models to name: by row id, model name or shown name."""
    rows = result.rows
    return [rows.row_ids[k] for k in matching(rows.row_ids, rows.labels, labels)]
