"""Figures for print, through matplotlib (PNG, SVG, PDF): what all figures share, and the figure of a map."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import output_file
from llreg.maps.draw.labels import match_labels, place_labels
from llreg.maps.scene import find_column
from llreg.printable import printable
from llreg_schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llreg.maps.scene import Column, Scene

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
LABEL_ALL = 30  # models up to which every one is named

# No dates and no random ids: the same rows give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_COMMON_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llreg",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}

# The figure of a map.
_WIDTH, _DPI = 7.0, 300  # inches, the text width of most papers; dots an inch
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.12, 1.75, 0.32, 0.12  # inches kept free beside the plot; at the right the legend
_FOR_AXES = 0.45  # inches more at the left and below for ticks and labels
_SHAPES = 0.44, 1.05  # height / width of a plot, at least and at most
_CATEGORIES = 12  # colours that eyes keep apart; the page has the same
_COLORS = (
    "#305fc8", "#f6b015", "#9e2f22", "#c75884", "#069af1", "#937226",
    "#f58271", "#74e78b", "#803594", "#e5a3ff", "#65a624", "#8877b8",
)  # fmt: skip
_OTHER, _UNKNOWN, _INK, _SOFT, _LINE = "#7d8590", "#c4c9d0", "#222222", "#666666", "#9a9a9a"
_LEGEND_LETTERS = 28  # of a name in the legend
_STYLE: dict[str, Any] = {"font.size": 7.5, "axes.linewidth": 0.6, "axes.unicode_minus": True}


@contextmanager
def figure_style(**more: Any) -> Iterator[None]:
    """Matplotlib's settings inside the block: ours and nothing of the user's that would change a figure.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "map") from error
    with matplotlib.rc_context(_COMMON_STYLE | more), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)  # a box is drawn
        yield


def save_figure(figure: Figure, path: Path, *, dpi: float, **options: Any) -> None:
    """Write a figure whole or not at all; its format is the path's ending.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    ending = path.suffix.lower()
    with output_file(path) as temp:
        figure.savefig(temp, format=ending[1:], dpi=dpi, metadata=_METADATA[ending], **options)


def draw_legend(
    axes: Axes, title: str, entries: Sequence[tuple[str, str, str]], *, markersize: float, **options: Any
) -> None:
    """A legend of markers beside untrusted names.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    title : str
    entries : sequence of (str, str, str)
        Name, colour and marker.
    markersize : float
        Typographic points.
    options
        Of `matplotlib.axes.Axes.legend`.
    """
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=markersize, mew=0)
        for _, color, marker in entries
    ]
    # Names are set afterwards: matplotlib would leave out a label that starts with an underscore, and typeset $x$.
    legend = axes.legend(handles, ["?"] * len(entries), title="?", frameon=False, alignment="left", **options)
    texts = [legend.get_title(), *legend.get_texts()]
    for text, name in zip(texts, [title, *(name for name, _, _ in entries)], strict=True):
        text.set_text(name)
        text.set_parse_math(False)


def shorten(name: str, length: int) -> str:
    """A name as it is drawn: escaped, and cut in the middle if it is longer."""
    text = printable(name)
    return text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}"


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
    if labels is not None:
        labelled = match_labels(scene.row_ids, scene.names, labels)
    else:
        labelled = list(range(len(scene.names))) if len(scene.names) <= LABEL_ALL else []
    with figure_style(**_STYLE):
        save_figure(_figure(scene, column, labelled), path, dpi=_DPI)


def _figure(scene: Scene, column: Column | None, labelled: Sequence[int]) -> Figure:
    figure, axes = _canvas(scene)
    if column is None:
        colors: list[Any] = [_COLORS[0]] * len(scene.names)
    elif column.kind == "category":
        colors = _draw_categories(axes, column)
    else:
        colors = _draw_colorbar(figure, axes, column)
    size = float(np.clip(6.5 * (100 / len(scene.names)) ** 0.25, 1.6, 6.5))  # points across
    if scene.ellipses is not None:
        _draw_ellipses(axes, scene, colors)

    # Points; those that were placed into the map have another marker.
    placed = np.zeros(len(scene.names), dtype=bool) if scene.placed is None else scene.placed
    for marker, mask in (("o", ~placed), ("D", placed)):
        rows = np.flatnonzero(mask)
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

    # What the figure shows, small, under it.
    facts = dict(scene.facts)
    lines = [f"{scene.title}: {scene.subtitle}"] + ([f"view: {facts['view']}"] if "view" in facts else [])
    caption = printable("; ".join(lines))
    position = _LEFT / _WIDTH, 0.1 / figure.get_figheight()
    figure.text(*position, caption, fontsize=6, color=_SOFT, va="bottom", parse_math=False)

    place_labels(axes, scene.xy, {k: printable(scene.names[k]) for k in labelled}, size, ink=_INK)
    return figure


def _canvas(scene: Scene) -> tuple[Figure, Axes]:
    """A figure as high as the map needs, and its empty plot."""
    from matplotlib.figure import Figure

    more = _FOR_AXES if any(scene.axes) else 0.0
    width = _WIDTH - _LEFT - _RIGHT - more
    x_range, y_range = np.ptp(scene.xy, axis=0)
    height = width * float(np.clip(y_range / x_range if x_range else 1.0, *_SHAPES))
    whole = height + _BELOW + _ABOVE + more
    figure = Figure(figsize=(_WIDTH, whole))
    axes = figure.add_axes(((_LEFT + more) / _WIDTH, (_BELOW + more) / whole, width / _WIDTH, height / whole))

    axes.set_aspect("equal", adjustable="datalim")  # distances mean the same in all directions
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    if any(scene.axes):
        axes.set_xlabel(printable(scene.axes[0]), parse_math=False)
        axes.set_ylabel(printable(scene.axes[1]), parse_math=False)
        axes.tick_params(color=_LINE, width=0.6, length=2.5)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.margins(0.08)
    return figure, axes


def _draw_ellipses(axes: Axes, scene: Scene, colors: Sequence[Any]) -> None:
    """Ellipses of one standard deviation: axes 2 sqrt(eigenvalue), as Oyama et al. 2025b (arXiv 2505.15428) draw them."""
    from matplotlib.patches import Ellipse

    assert scene.ellipses is not None
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


def _draw_categories(axes: Axes, column: Column) -> list[Any]:
    """A legend of the categories; the colour of each point."""
    values = [None if value is None else str(value) for value in column.values]
    colors = category_colors(values)
    rest = f"{sum(color == _OTHER for color in colors.values())} others"
    entries = dict.fromkeys(  # the rarest, of one colour, are one entry
        ("unknown" if value is None else rest if color == _OTHER else shorten(value, _LEGEND_LETTERS), color, "o")
        for value, color in colors.items()
    )
    draw_legend(
        axes,
        _heading(column),
        list(entries),
        markersize=5,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        handletextpad=0.2,
        borderaxespad=0,
    )
    return [colors[value] for value in values]


def category_colors(values: Sequence[str | None]) -> dict[str | None, str]:
    """A colour for each value, the most frequent first; beyond twelve values the rarest share one, unknown is grey."""
    counts = Counter(value for value in values if value is not None)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    own = len(order) if len(order) <= _CATEGORIES else _CATEGORIES - 1
    marks: dict[str | None, str] = {value: _COLORS[k] if k < own else _OTHER for k, value in enumerate(order)}
    return {**marks, None: _UNKNOWN} if None in values else marks


def _draw_colorbar(figure: Figure, axes: Axes, column: Column) -> list[Any]:
    """A colour bar of numbers or dates; the colour of each point."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    # Dates are days since year 1.
    values = np.array(
        [
            np.nan if value is None else date.fromisoformat(value).toordinal() if isinstance(value, str) else value
            for value in column.values
        ],
        dtype=np.float64,
    )
    known = values[~np.isnan(values)]
    low, high = 0.0, 1.0
    if known.size:
        # From the 1st to the 99th percentile: one odd model does not take the colours from all others.
        low, high = (float(value) for value in np.quantile(known, [0.01, 0.99], method="nearest"))
        if low >= high:
            low, high = low - 0.5 * abs(low or 1), low + 0.5 * abs(low or 1)
    norm = LogNorm(low, high) if column.log and low > 0 else Normalize(low, high)
    viridis = ListedColormap(colormaps["viridis"](np.linspace(0, 0.94, 256)))  # its palest end would vanish on paper
    shades = ScalarMappable(norm, viridis)

    # At the right of the plot, its heading above it.
    plot, inch = axes.get_position(), 1 / figure.get_figheight()
    height = min(2.2 * inch, plot.height - 0.25 * inch)
    bar_axes = figure.add_axes((plot.x1 + 0.02, plot.y1 - 0.22 * inch - height, 0.016, height))
    below, above = bool((known < low).any()), bool((known > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = figure.colorbar(shades, cax=bar_axes, extend=extend)
    bar.outline.set_visible(False)
    bar_axes.tick_params(which="both", color=_LINE, width=0.6, length=2.5)
    if column.kind == "date":
        days = np.linspace(low, high, 5).round() if known.size and known.min() < known.max() else known[:1]
        pattern = "%Y-%m" if high - low > 150 else "%Y-%m-%d"
        bar.set_ticks(list(days), labels=[date.fromordinal(int(day)).strftime(pattern) for day in days])
    figure.text(plot.x1 + 0.02, plot.y1 - 0.02 * inch, _heading(column), va="top", parse_math=False)
    return [_UNKNOWN if np.isnan(value) else shades.to_rgba(value) for value in values]


def _heading(column: Column) -> str:
    return printable(f"{column.title} ({column.unit})" if column.unit else column.title)
