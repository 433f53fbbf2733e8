"""The interactive page of a map: one HTML file that works from disk, without a network."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import write_output
from llreg.maps.draw.onefile import asset, joined_scripts, packed, packed_indices, printable, script_json, whole_page
from llreg_schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from llreg.maps.scene import Column, Scene

WEBGL_FROM = 3000  # points; a canvas draws fewer as fast, and its page is 0.2 MB smaller
SCRIPTS = (
    "format",
    "arrays",
    "data",
    "color",
    "plot",
    "legend",
    "panel",
    "csv",
    "state",
    "actions",
    "main",
)  # page_*.js
_EPOCH = date(1970, 1, 1)

_READ_FREE = (
    "Models that are near each other give the texts similar likelihoods. The axes have no meaning of their own, and "
    "distances between far groups are not to scale: take numbers from the neighbour list, which is computed from all texts."
)
_READ_AXES = (
    "Models that are near each other give the texts similar likelihoods, as far as these two axes can show it: a straight "
    "line on the map is at most as long as the true distance. The neighbour list is computed from all texts."
)


def write_page(scene: Scene, path: Path, *, color: str | None = None) -> None:
    """Write the interactive page of a map as one self-contained HTML file.

    Parameters
    ----------
    scene : Scene
        What to show. Its names are treated as untrusted text.
    path : Path
        The file; replaced whole or not at all.
    color : str, optional
        Column that colours the points at first; the scene's first one by default.

    Raises
    ------
    InputError
        If the scene has no such column.
    MissingExtraError
        If Bokeh is not installed.
    StorageError
        If the file cannot be written.
    """
    write_output(path, page_html(scene, color=color).encode("utf-8", "replace"))


def page_html(scene: Scene, *, color: str | None = None) -> str:
    """The page of `write_page` as text; the same scene gives the same text.

    Parameters
    ----------
    scene : Scene
    color : str, optional

    Returns
    -------
    str

    Raises
    ------
    InputError, MissingExtraError
    """
    columns = [column.name for column in scene.columns]
    if color is not None and color not in columns:
        raise InputError(f"no column {color!r} to colour by; there are: {', '.join(columns) or 'none'}")
    try:
        from bokeh.resources import Resources
    except ImportError as error:
        raise MissingExtraError("bokeh", "map") from error

    webgl = len(scene.names) >= WEBGL_FROM
    inline = Resources(mode="inline", components=["bokeh", "bokeh-gl"] if webgl else ["bokeh"], log_level="warn")
    # One kind of line end, as the HTML parser will make them, or the hash would not match.
    bokeh = re.sub(r"\r\n?", "\n", "\n".join(inline.js_raw))
    parts = {
        "title": html.escape(printable(scene.title)),
        "subtitle": html.escape(printable(scene.subtitle)),
        "style": asset("base.css") + asset("page.css"),
        "reading": html.escape(_READ_AXES if any(scene.axes) else _READ_FREE),
        "facts": "".join(
            f"<div><dt>{html.escape(printable(name))}</dt><dd>{html.escape(printable(fact))}</dd></div>"
            for name, fact in scene.facts
        ),
        "plot": script_json(_plot_json(scene, webgl)),
        "data": script_json(scene_payload(scene) | {"color": color}),
    }
    scripts = {"bokeh": bokeh, "script": joined_scripts(f"page_{name}.js" for name in SCRIPTS)}
    # Bokeh's WebGL (regl) compiles its draw commands with `Function`.
    return whole_page("page.html", parts, scripts, compiles=webgl)


def scene_payload(scene: Scene) -> dict[str, Any]:
    """What the page's script reads.

    Parameters
    ----------
    scene : Scene

    Returns
    -------
    dict
        JSON-able. Arrays are ``{"type": "f4", "data": base64}``, little-endian and flat. Coordinates and KL are
        float32, which is finer than a screen and than any standard error; columns of numbers stay float64.
    """
    from bokeh.palettes import Viridis256

    index = np.asarray(scene.neighbors)
    k = index.shape[1] if index.ndim == 2 and len(index) == len(scene.names) else 0
    relations = sorted({relation for _, _, relation in scene.edges})
    links = [link if link and link.startswith("https://") else None for link in scene.links]
    return {
        "ids": list(scene.row_ids),
        "names": list(scene.names),
        "links": links if any(scene.links) else [],
        "xy": packed(scene.xy, "f4"),
        "free": not any(scene.axes),
        "columns": [_column(column) for column in scene.columns],
        "neighbors": {
            "k": k,
            "rows": packed_indices(index[:, :k] + 1),  # 0: none
            "kl": packed(scene.kl[:, :k], "f4"),
            "se": packed(scene.kl_se[:, :k], "f4"),
        },
        "edges": {
            "parent": packed_indices([parent for parent, _, _ in scene.edges]),
            "child": packed_indices([child for _, child, _ in scene.edges]),
            "relation": packed_indices([relations.index(relation) for _, _, relation in scene.edges]),
            "relations": relations,
        },
        "trajectories": [{"name": name, "rows": [int(row) for row in rows]} for name, rows in scene.trajectories],
        "ellipses": None if scene.ellipses is None else packed(scene.ellipses, "f4"),
        "placed": None if scene.placed is None else packed(scene.placed, "u1"),
        # Viridis: perceptually uniform, also for colour-blind eyes.
        "palette": [color.lower() for color in (*Viridis256[::4], Viridis256[-1])],
    }


def _column(column: Column) -> dict[str, Any]:
    head = {"name": column.name, "title": column.title, "kind": column.kind, "unit": column.unit, "log": column.log}
    # Numbers and days are NaN where unknown, also for text that is no date, as cards hold it.
    if column.kind == "number":
        numbers = np.array([math.nan if value is None else float(value) for value in column.values])
        return head | {"values": packed(np.where(np.isfinite(numbers), numbers, math.nan), "f8")}
    if column.kind == "date":
        days = []
        for value in column.values:
            try:
                days.append(float((date.fromisoformat(str(value)[:10]) - _EPOCH).days))
            except ValueError:
                days.append(math.nan)
        return head | {"values": packed(days, "f8")}
    # Levels, most frequent first and then by name; codes count from 1, and 0 is unknown.
    unknown = [value is None or (isinstance(value, float) and math.isnan(value)) for value in column.values]
    texts = ["" if missing else str(value) for value, missing in zip(column.values, unknown, strict=True)]
    counts = Counter(text for text in texts if text)
    levels = sorted(counts, key=lambda level: (-counts[level], level))
    code = {level: k for k, level in enumerate(levels, 1)} | {"": 0}
    return head | {"levels": levels, "codes": packed_indices([code[text] for text in texts])}


def _plot_json(scene: Scene, webgl: bool) -> dict[str, Any]:
    from bokeh.embed import json_item

    item: Mapping[str, Any] = json_item(_figure(scene, webgl), theme=None)
    renamed: dict[str, str] = {}
    _rename_ids(item, renamed)
    return {**item, "target_id": None, "root_id": renamed[item["root_id"]]}


def _rename_ids(node: Any, renamed: dict[str, str]) -> None:
    """Number Bokeh's ids, which count over the life of the process, in the order of the document."""
    if isinstance(node, dict):
        if isinstance(node.get("id"), str):
            node["id"] = renamed.setdefault(node["id"], f"b{len(renamed)}")
        for child in node.values():
            _rename_ids(child, renamed)
    elif isinstance(node, list):
        for child in node:
            _rename_ids(child, renamed)


def _figure(scene: Scene, webgl: bool) -> figure:
    """The plot with empty sources; the page's script fills them, colours it and keeps its aspect."""
    from bokeh.models import BoxSelectTool, LassoSelectTool, PanTool, PlainText, Range1d, WheelZoomTool
    from bokeh.plotting import figure

    pan, wheel = PanTool(name="pan"), WheelZoomTool(name="wheel", zoom_on_axis=False)
    plot = figure(
        name="map",
        sizing_mode="stretch_both",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        tools=[pan, wheel, BoxSelectTool(name="box"), LassoSelectTool(name="lasso")],
        active_drag=pan,
        active_scroll=wheel,
        toolbar_location=None,
        output_backend="webgl" if webgl else "canvas",
        lod_threshold=None,
        min_border=0,
        outline_line_color=None,
        background_fill_color=None,  # the page's own background shows through
        border_fill_color=None,
    )
    # PlainText: a label with $$ in it must not make Bokeh fetch MathJax.
    plot.xaxis.axis_label, plot.yaxis.axis_label = (PlainText(text=printable(axis)) for axis in scene.axes)
    plot.axis.visible = any(scene.axes)
    _add_layers(plot, placed=scene.placed is not None, many=webgl)
    return plot


def _add_layers(plot: figure, *, placed: bool, many: bool) -> None:
    """Glyphs from the bottom to the top, each with an empty source, by whose name the script finds it."""
    from bokeh.models import ColumnDataSource, Ellipse, Scatter, Segment

    def add(name: str, glyph: Ellipse | Scatter | Segment, fields: str) -> None:
        source = ColumnDataSource({field: [] for field in fields.split()}, name=name)
        # The script paints the selection itself.
        plot.add_glyph(source, glyph, nonselection_glyph=None, selection_glyph=None)

    ellipse = Ellipse(x="x", y="y", width="width", height="height", angle="angle")
    ellipse.update(fill_color="color", fill_alpha=0.12, line_color="color", line_alpha=0.5)
    line = Segment(line_color="color", line_alpha="alpha", line_width="width", line_cap="round")
    arrow = Scatter(
        size="size", angle="angle", marker="triangle", fill_color="color", fill_alpha="alpha", line_color=None
    )
    point = Scatter(size="size", marker="marker" if placed else "circle", fill_color="color", fill_alpha="alpha")
    point.update(line_color=None if many else "line", line_alpha="alpha", line_width=0.6)  # a rim costs half the time
    ring = Scatter(size="size", fill_color=None, line_color="color", line_width="width")

    add("ellipses", ellipse, "x y width height angle color")
    for name in ("edges", "trajectories"):
        add(name, line.clone(), "x0 y0 x1 y1 color alpha width")
        add(f"{name}-arrows", arrow.clone(), "x y size angle color alpha")
    add("links", line, "x0 y0 x1 y1 color alpha width")
    add("points", point, "x y size marker color line alpha")
    add("rings", ring, "x y size color width")
