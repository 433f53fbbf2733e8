"""The files that a map is written to, by their endings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.files import check_output, check_place
from llreg.maps.document import Map, read_map
from llreg_schemas.errors import InputError, LlregError, MissingExtraError

if TYPE_CHECKING:
    from llreg.maps.making import MapResult
    from llreg.registry import Registry

_MAP = ".json"
_FIGURES = (".png", ".svg", ".pdf")
_TABLES = (".parquet", ".csv")
ENDINGS = (_MAP, ".html", *_FIGURES, *_TABLES)
_NEEDS = {".html": "bokeh", **dict.fromkeys(_FIGURES, "matplotlib")}


def check_outputs(paths: Sequence[Path]) -> None:
    """Find out before the work that a file cannot be written.

    Raises
    ------
    InputError
        If a file's ending says no format, it is a directory, or there is no directory for it.
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


def map_to_replace(paths: Sequence[Path], registry: Registry, method: str) -> tuple[Map | None, str | None]:
    """The map that an output would replace, for the new one to be aligned to, and a note if it cannot be.

    Raises
    ------
    InputError
        If a file that would be replaced is no map: it may be something else of the user's.
    """
    for path in paths:
        if path.suffix.lower() == _MAP and path.exists():
            try:
                old = read_map(path)
            except LlregError as error:
                raise InputError(
                    f"{path} is there and is no map that can be read; remove it or name another file ({error})"
                ) from error
            if old.method != method or old.text_set != registry.info["text_set"]["id"]:
                return None, f"{path} held a {old.method} map of {old.registry}, to which this one is not aligned"
            return old, None
    return None, None


def write_outputs(
    result: MapResult,
    paths: Sequence[Path],
    *,
    color: str | None = None,
    labels: Sequence[str] | None = None,
    scores: Path | str | None = None,
) -> None:
    """Write a map to files.

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
    scene = make_scene(result, scores=scores) if set(kinds.values()) != {_MAP} or scores or color else None
    column = find_column(scene.columns, color).name if scene and color else None
    for path, ending in kinds.items():
        if ending == _MAP:
            result.map.write(path)
            continue
        assert scene is not None
        if ending == ".html":
            from llreg.maps.page import write_page

            write_page(scene, path, color=column)
        elif ending in _FIGURES:
            from llreg.maps.figure import write_figure

            write_figure(scene, path, color=column, labels=labels)
        else:
            from llreg.maps import table

            (table.write_parquet if ending == ".parquet" else table.write_csv)(scene, path)
