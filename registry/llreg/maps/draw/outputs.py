"""The files that a map is written to: which endings there are, what is checked before the work, what writes each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.atomic import check_output, check_place
from llreg.maps.document import Map, read_map
from llreg.maps.draw.figure import FIGURE_ENDINGS, write_figure
from llreg.maps.draw.labels import match_labels
from llreg.maps.draw.page import write_page
from llreg.maps.draw.table import write_csv, write_parquet
from llreg.maps.make import make_map, place_onto
from llreg.maps.placement import COMMON_ROWS
from llreg.maps.scene import find_column, make_scene
from llreg.maps.tsne import ITERATIONS
from llreg.store.annotations import table_file
from llreg_schemas.errors import InputError, LlregError, MissingExtraError

if TYPE_CHECKING:
    from llreg.geometry.view.view import AnyView
    from llreg.maps.embedding import Method
    from llreg.maps.make import MapResult
    from llreg.store.contents import Contents

_MAP = ".json"
ENDINGS = (_MAP, ".html", *FIGURE_ENDINGS, ".parquet", ".csv")
_PACKAGES = {".html": "bokeh", **dict.fromkeys(FIGURE_ENDINGS, "matplotlib")}  # of the extra "map"


def save_map(
    registry: Contents,
    paths: Sequence[Path],
    models: Sequence[str] | None = None,
    *,
    view: AnyView | None = None,
    method: Method | None = None,
    perplexity: float | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    onto: Map | Path | str | None = None,
    align: Map | Path | str | None = None,
    ellipses: int | None = None,
    color: str | None = None,
    labels: Sequence[str] | None = None,
    scores: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapResult:
    """Make a map, or place rows into one, and write it to files: none of them unless all is sound.

    Where a file is a map already, the new map is turned to it if that can be, and replaces it.

    Parameters
    ----------
    registry : Contents
    paths : sequence of Path
        .json is the map document, .html a page, .png .svg .pdf a figure, .parquet .csv a table.
    models : sequence of str, optional
        Rows of the map, or rows to place, as in `Contents.find`.
    view, method, perplexity, iterations, seed, align, ellipses, progress
        As in `Registry.map`, whose defaults stand for None.
    onto : Map or path, optional
        Place rows into this map, as `Registry.place` does, instead of making one; its own view, method and
        settings are used.
    color, labels
        As in `write_outputs`.
    scores : Path or str, optional
        A table of scores, or the name of an annotation, as more columns.

    Returns
    -------
    MapResult
        Its notes say what the map was aligned to, or why to none.

    Raises
    ------
    InputError
        If options do not go together, a setting is impossible, or as in `check_outputs` and `write_outputs`.
    NotFoundError, MissingExtraError, StorageError
    """
    tsne = {"perplexity": perplexity, "iterations": iterations}
    settings = {"method": method, **tsne, "seed": seed, "align": align, "ellipses": ellipses, "view": view}
    if method not in (None, "tsne") and (ignored := [name for name, value in tsne.items() if value is not None]):
        raise InputError(f"{' and '.join(ignored)} belong to t-SNE; leave out for method {method}")
    if onto is not None and (ignored := [name for name, value in settings.items() if value is not None]):
        raise InputError(f"onto keeps the map's own view, method and settings; leave out {' and '.join(ignored)}")
    check_outputs(paths)

    notes: list[str] = []
    if onto is not None:
        result = place_onto(registry, onto, models)
    else:
        if align is None:
            align, note = map_to_replace(paths, registry, method or "tsne", models)
            notes += [note] if note else []
        result = make_map(
            registry,
            models,
            view="default" if view is None else view,
            method=method or "tsne",
            perplexity=perplexity,
            iterations=ITERATIONS if iterations is None else iterations,
            seed=42 if seed is None else seed,
            align=align,
            ellipses=ellipses or 0,
            progress=progress,
        )
    table = None if scores is None else table_file(registry, scores)
    write_outputs(result, paths, color=color, labels=labels, scores=table)
    return replace(result, notes=[*notes, *result.notes])


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
        if ending in _PACKAGES and find_spec(_PACKAGES[ending]) is None:
            raise MissingExtraError(_PACKAGES[ending], "map")
        check_output(path)
        if ending == _MAP and path.exists():
            _read_replaced(path)


def map_to_replace(
    paths: Sequence[Path], registry: Contents, method: str, models: Sequence[str] | None = None
) -> tuple[Map | None, str | None]:
    """The map that an output would replace and the new one can be aligned to, if any, and a note on it.

    Parameters
    ----------
    paths : sequence of Path
        As `check_outputs` has passed them.
    registry : Contents
    method : str
    models : sequence of str, optional
        Rows of the new map, as in `Contents.find`; all by default.

    Raises
    ------
    NotFoundError, InputError
        If a name means no row or several.
    """
    path = next((path for path in paths if path.suffix.lower() == _MAP and path.exists()), None)
    if path is None:
        return None, None
    old = _read_replaced(path)
    if old.method != method:
        return None, f"{path} held a {old.method} map of {old.registry}, to which this one is not aligned"
    obstacle = None
    try:
        old.check_registry(registry)
    except InputError as error:
        obstacle = str(error)
    else:
        digests = {digest for digest, placed in zip(old.digests, old.placed, strict=True) if not placed}
        common = sum(record.digest in digests for record in registry.select(models)[0])
        if common < COMMON_ROWS:
            obstacle = f"that needs {COMMON_ROWS} common rows, and there are {common}"
    if obstacle:
        return None, f"{path} held a map to which this one is not aligned: {obstacle}"
    return old, f"aligned to map {old.id[:12]}, which is replaced"


def _read_replaced(path: Path) -> Map:
    try:
        return read_map(path)
    except LlregError as error:
        raise InputError(
            f"{path} is there and is no map that can be read; remove it or name another file ({error})"
        ) from error


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
        Models to name in figures, by row id, model name or shown name; by default all if there are at most 30.
    scores : Path, optional
        As in `map_columns`.

    Raises
    ------
    InputError
        If there is no such column, or no such model on the map.
    StorageError
        If a file cannot be written.
    """
    endings = {path: path.suffix.lower() for path in paths}
    # Names and columns are looked up before anything is written, also if only a map document is asked for.
    rows = result.rows
    labelled = None
    if labels is not None:
        labelled = [rows.row_ids[k] for k in match_labels(rows.row_ids, rows.labels, labels)]
    scene = make_scene(result, scores=scores) if set(endings.values()) != {_MAP} or scores or color else None
    column = find_column(scene.columns, color).name if scene and color else None
    # A map that is there may be published: it is replaced last, when the rest has been written.
    for path, ending in sorted(endings.items(), key=lambda item: item[1] == _MAP):
        if ending == _MAP:
            result.map.write(path)
            continue
        assert scene is not None
        if ending == ".html":
            write_page(scene, path, color=column)
        elif ending in FIGURE_ENDINGS:
            write_figure(scene, path, color=column, labels=labelled)
        elif ending == ".parquet":
            write_parquet(scene, path)
        else:
            write_csv(scene, path)
