"""Figures of a map for print, through matplotlib: PNG, SVG, PDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.maps.columns import find_column
from llreg.maps.draw.drawing import save, style
from llreg.maps.draw.labels import matching, place_labels
from llreg.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from llreg.maps.scene import Column, Scene

LABEL_ALL = 30  # models up to which every one is named
_WIDTH, _DPI = 7.0, 300  # inches, the text width of most papers; dots an inch
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.12, 1.75, 0.32, 0.12  # inches kept free beside the plot; at the right the legend
_FOR_AXES = 0.45  # inches more at the left and below for ticks and labels
_SHAPES = 0.44, 1.05  # height / width of a plot, at least and at most
_CATEGORIES = 12  # colours that eyes keep apart; the page has the same
_COLORS = (
    "#305fc8", "#f6b015", "#9e2f22", "#c75884", "#069af1", "#937226",
    "#f58271", "#74e78b", "#803594", "#e5a3ff", "#65a624", "#8877b8",
)  # fmt: skip
_OTHER, _UNKNOWN, _INK, _SOFT = "#7d8590", "#c4c9d0", "#222222", "#666666"
_CUT = 28  # characters of a name in the legend
_STYLE: dict[str, Any] = {"font.size": 7.5, "axes.linewidth": 0.6, "axes.unicode_minus": True}


def write_figure(scene: Scene, path: Path, *, color: str | None = None, labels: Sequence[str] | None = None) -> None:
    """Draw a map, 7 inches wide, as the text of most papers.

    Parameters
    ----------
    scene : Scene
    path : Path
        Ends in .png, .svg or .pdf.
    color : str, optional
        Column to colour by; the scene's first by default.
    labels : sequence of str, optional
        Names or row ids of the models to name; by default all if there are at most 30, else none.

    Raises
    ------
    InputError
        If there is no such column, or no such model on the map.
    MissingExtraError
        If matplotlib is not installed.
    StorageError
        If it cannot be written.
    """
    column = find_column(scene.columns, color) if color else next(iter(scene.columns), None)
    named = _named(scene, labels)
    with style(**_STYLE):
        figure = _figure(scene, column, named)
        save(figure, path, dpi=_DPI)


def _named(scene: Scene, labels: Sequence[str] | None) -> list[int]:
    """Positions of the models to name."""
    if labels is None:
        return list(range(len(scene.names))) if len(scene.names) <= LABEL_ALL else []
    return matching(scene.row_ids, scene.names, labels)


def _figure(scene: Scene, column: Column | None, named: Sequence[int]) -> Figure:
    figure, axes = _canvas(scene)
    _frame(axes, scene)
    colors = [_COLORS[0]] * len(scene.names) if column is None else _colors(figure, axes, column)
    size = float(np.clip(6.5 * (100 / len(scene.names)) ** 0.25, 1.6, 6.5))  # points across
    _ellipses(axes, scene, colors)
    _points(axes, scene, colors, size)
    _caption(figure, scene)
    place_labels(axes, scene.xy, {k: printable(scene.names[k]) for k in named}, size, ink=_INK)
    return figure


def _canvas(scene: Scene) -> tuple[Figure, Axes]:
    """A figure as high as the map needs, and its plot."""
    from matplotlib.figure import Figure

    more = _FOR_AXES if any(scene.axes) else 0.0
    width = _WIDTH - _LEFT - _RIGHT - more
    across, up = np.ptp(scene.xy, axis=0)
    height = width * float(np.clip(up / across if across else 1.0, *_SHAPES))
    whole = height + _BELOW + _ABOVE + more
    figure = Figure(figsize=(_WIDTH, whole))
    axes = figure.add_axes(((_LEFT + more) / _WIDTH, (_BELOW + more) / whole, width / _WIDTH, height / whole))
    return figure, axes


def _frame(axes: Axes, scene: Scene) -> None:
    axes.set_aspect("equal", adjustable="datalim")  # distances mean the same in all directions
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color("#9a9a9a")
    if any(scene.axes):
        axes.set_xlabel(printable(scene.axes[0]), parse_math=False)
        axes.set_ylabel(printable(scene.axes[1]), parse_math=False)
        axes.tick_params(color="#9a9a9a", width=0.6, length=2.5)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.margins(0.08)


def _points(axes: Axes, scene: Scene, colors: Sequence[Any], size: float) -> None:
    placed = np.zeros(len(scene.names), dtype=bool) if scene.placed is None else scene.placed
    for marker, chosen in (("o", ~placed), ("D", placed)):
        rows = np.flatnonzero(chosen)
        if len(rows):
            axes.scatter(
                scene.xy[rows, 0],
                scene.xy[rows, 1],
                s=size**2,
                marker=marker,
                c=[colors[int(k)] for k in rows],
                edgecolors="white",
                linewidths=0.06 * size,
                zorder=3,
            )


def _ellipses(axes: Axes, scene: Scene, colors: Sequence[Any]) -> None:
    """Ellipses of one standard deviation: axes 2 sqrt(eigenvalue), as P2 draws them."""
    if scene.ellipses is None:
        return
    from matplotlib.patches import Ellipse

    for k, (xx, xy, yy) in enumerate(scene.ellipses):
        values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
        short, long = 2 * np.sqrt(np.maximum(values, 0))
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        axes.add_patch(
            Ellipse(
                (float(scene.xy[k, 0]), float(scene.xy[k, 1])),
                long,
                short,
                angle=angle,
                facecolor=(colors[k], 0.15),
                edgecolor=(colors[k], 0.7),
                linewidth=0.5,
            )
        )


def _caption(figure: Figure, scene: Scene) -> None:
    """What the figure shows, small, under it."""
    facts = dict(scene.facts)
    lines = [f"{scene.title}: {scene.subtitle}"] + ([f"view: {facts['view']}"] if "view" in facts else [])
    text = printable("; ".join(lines))
    left, below = _LEFT / _WIDTH, 0.1 / figure.get_figheight()
    figure.text(left, below, text, fontsize=6, color=_SOFT, va="bottom", parse_math=False)


def _colors(figure: Figure, axes: Axes, column: Column) -> list[Any]:
    """Colour of each point; draws the legend or the colour bar."""
    if column.kind == "category":
        return _legend(axes, column)
    return _colorbar(figure, axes, column)


def _legend(axes: Axes, column: Column) -> list[Any]:
    from matplotlib.lines import Line2D

    values = [None if value is None else str(value) for value in column.values]
    marks = category_colors(values)
    entries = list(dict.fromkeys((_entry(value, marks), color) for value, color in marks.items()))
    handles = [Line2D([], [], color=color, marker="o", linestyle="none", markersize=5, mew=0) for _, color in entries]
    legend = axes.legend(
        handles,
        ["?"] * len(entries),  # set below: a label that starts with an underscore would be left out
        title="?",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        alignment="left",
        handletextpad=0.2,
        borderaxespad=0,
    )
    for text, (entry, _) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(entry)
    legend.get_title().set_text(_heading(column))
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    return [marks[value] for value in values]


def category_colors(values: Sequence[str | None]) -> dict[str | None, str]:
    """A colour for each value, the most frequent first; beyond twelve values the rarest share one, unknown is grey."""
    counts = Counter(value for value in values if value is not None)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    own = len(order) if len(order) <= _CATEGORIES else _CATEGORIES - 1
    marks: dict[str | None, str] = {value: _COLORS[k] if k < own else _OTHER for k, value in enumerate(order)}
    return {**marks, None: _UNKNOWN} if None in values else marks


def _entry(value: str | None, marks: dict[str | None, str]) -> str:
    if value is None:
        return "unknown"
    if marks[value] == _OTHER:
        return f"{sum(color == _OTHER for color in marks.values())} others"
    text = printable(value)
    return text if len(text) <= _CUT else f"{text[: _CUT // 2]}…{text[-_CUT // 2 :]}"


def _heading(column: Column) -> str:
    return printable(f"{column.title} ({column.unit})" if column.unit else column.title)


def _colorbar(figure: Figure, axes: Axes, column: Column) -> list[Any]:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    values = np.array([_number(value) for value in column.values])
    known = values[~np.isnan(values)]
    low, high = _limits(known)
    norm = LogNorm(low, high) if column.log and low > 0 else Normalize(low, high)
    shades = ScalarMappable(norm, _viridis())
    place = axes.get_position()
    inch = 1 / figure.get_figheight()
    height = min(2.2 * inch, place.height - 0.25 * inch)
    bar_axes = figure.add_axes((place.x1 + 0.02, place.y1 - 0.22 * inch - height, 0.016, height))
    outside = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = outside.get((bool((known < low).any()), bool((known > high).any())), "neither")
    bar = figure.colorbar(shades, cax=bar_axes, extend=extend)
    bar.outline.set_visible(False)
    bar_axes.tick_params(which="both", color="#9a9a9a", width=0.6, length=2.5)
    if column.kind == "date":
        days = np.linspace(low, high, 5).round() if known.size and known.min() < known.max() else known[:1]
        bar.set_ticks(list(days), labels=[_day(day, high - low) for day in days])
    top = place.y1 - 0.02 * inch
    figure.text(place.x1 + 0.02, top, _heading(column), va="top", parse_math=False)
    return [_UNKNOWN if np.isnan(value) else shades.to_rgba(value) for value in values]


def _number(value: str | float | None) -> float:
    """A number, or the days of a date since year 1."""
    if value is None:
        return np.nan
    return float(date.fromisoformat(value).toordinal()) if isinstance(value, str) else value


def _day(days: float, span: float) -> str:
    return date.fromordinal(int(days)).strftime("%Y-%m" if span > 150 else "%Y-%m-%d")


def _limits(known: NDArray[np.float64]) -> tuple[float, float]:
    """From the 1st to the 99th percentile: one odd model does not take the colours from all others."""
    if not known.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(known, [0.01, 0.99], method="nearest"))
    return (low, high) if low < high else (low - 0.5 * abs(low or 1), low + 0.5 * abs(low or 1))


def _viridis() -> Any:
    """Viridis without its palest end, which would vanish on paper."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.94, 256)))
