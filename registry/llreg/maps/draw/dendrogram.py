"""Figures of trees, through matplotlib, and the files that a tree is written to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import check_output, write_output
from llreg.maps.draw.drawing import FIGURE_ENDINGS, save, style
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.tree.tree import Method, Tree
    from llreg.geometry.view.view import AnyView
    from llreg.store.contents import Contents

NEWICK_ENDINGS = (".nwk", ".newick", ".tree")
_WIDTH, _DPI, _MOST_PIXELS = 7.5, 200, 60_000  # inches, dots an inch, and what a raster may measure in either direction
_LABEL = 80  # characters of a name that are shown
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7a5195", "#9aa500", "#7f2a2a")
_GREY, _INK = "#9a9a9a", "#222222"
_MARKERS = "osD^v"  # with as many colours: 50 kinds of marks
_METHODS = {"average": "average linkage of KL", "ward": "Ward linkage", "nj": "neighbour joining of KL, midpoint root"}


@dataclass(frozen=True)
class Categories:
    """What leaves are coloured by.

    Attributes
    ----------
    title : str
    values : sequence of (str or None)
        One a leaf; None where unknown. Untrusted text.
    """

    title: str
    values: Sequence[str | None]


def save_tree(
    registry: Contents,
    paths: Sequence[Path],
    models: Sequence[str] | None = None,
    *,
    view: AnyView = "default",
    method: Method = "average",
    bootstrap: int = 0,
    seed: int = 42,
    color: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tree:
    """Make a tree of rows and write it to files.

    Parameters
    ----------
    registry : Contents
    paths : sequence of Path
        .nwk, .newick and .tree are Newick, .png, .svg and .pdf figures; may be empty.
    models : sequence of str, optional
        Which rows, as in `Contents.find`; by default all that have a distance.
    view : View, mapping, path or "default"
        As in `llreg.geometry.view.view.view_of`.
    method, bootstrap, seed, progress
        As in `llreg.geometry.tree.tree.make_tree`.
    color : str, optional
        Field of the rows' metadata by which a figure marks its leaves, as in `categories`.

    Raises
    ------
    InputError
        If a file's ending is not known, no row has the field, or there are too few rows.
    NotFoundError, MissingExtraError, StorageError
    """
    from llreg.geometry.kl.rows import load_rows, with_distances
    from llreg.geometry.tree.tree import make_tree
    from llreg.geometry.view.view import view_of

    check_endings(paths)
    rows = load_rows(registry, models, view_of(registry, view))
    if models is None:
        rows = with_distances(rows)  # a row that was named and has no distance is an error
    marks = categories(rows, color) if color else None
    tree = make_tree(rows, method=method, bootstrap=bootstrap, seed=seed, progress=progress)
    for path in paths:
        write_tree(tree, path, color=marks)
    return tree


def categories(rows: Rows, field: str) -> Categories:
    """Values of a field of the rows' records: declared metadata such as "architecture", or a part of the identity.

    Raises
    ------
    InputError
        If no row has such a field.
    """
    fields = [{**vars(record.identity), **record.declared} for record in rows.records]
    values = [found.get(field) for found in fields]
    if all(value is None for value in values):
        known = sorted({name for found in fields for name, value in found.items() if isinstance(value, str)})
        raise InputError(f"no row has the field {field!r}; there is: {', '.join(known)}")
    shown = [", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for value in values]
    return Categories(field, [None if value in (None, "") else str(value) for value in shown])


def check_endings(paths: Sequence[Path]) -> None:
    """Find out before a long computation that a file's ending is not known, or that it cannot be written.

    Raises
    ------
    InputError, StorageError
    """
    for path in paths:
        if path.suffix.lower() not in NEWICK_ENDINGS + FIGURE_ENDINGS:
            raise InputError(
                f"{path}: a tree is written as Newick ({', '.join(NEWICK_ENDINGS)}) "
                f"or as a figure ({', '.join(FIGURE_ENDINGS)})"
            )
        check_output(path)


def write_tree(tree: Tree, path: str | Path, *, color: Categories | None = None) -> None:
    """Write a tree to a file: Newick or a figure, as its ending says.

    Raises
    ------
    InputError
        If the ending is not known.
    MissingExtraError, StorageError
    """
    path = Path(path)
    check_endings([path])
    if path.suffix.lower() in NEWICK_ENDINGS:
        write_output(path, tree.newick().encode("utf-8"))
    else:
        draw_tree(tree, path, color=color)


def draw_tree(tree: Tree, path: str | Path, *, color: Categories | None = None) -> None:
    """Draw a tree from left to right with its branch lengths; an unrooted one is rooted at its midpoint.

    Numbers beside inner nodes are bootstrap support in percent, where it is below 100.

    Parameters
    ----------
    tree : Tree
    path : str or Path
        Ends in .png, .svg or .pdf. The height grows with the number of leaves.
    color : Categories, optional
        Marks at the leaves, with a legend.

    Raises
    ------
    InputError
        If the ending is another.
    MissingExtraError
        If matplotlib is not installed.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FIGURE_ENDINGS:
        raise InputError(f"{path}: a figure is written as {', '.join(FIGURE_ENDINGS)}")
    with style():
        figure = _figure(tree.midpoint(), color)
        dots = min(_DPI, _MOST_PIXELS / figure.get_figheight())
        save(figure, path, dpi=dots, bbox_inches="tight", pad_inches=0.12)


def _figure(tree: Tree, color: Categories | None) -> Figure:
    from matplotlib.figure import Figure

    spacing = min(max(0.2 * (60 / len(tree)) ** 0.35, 0.085), 0.2)  # inches a leaf
    size = min(spacing * 72 * 0.62, 8.0)  # points
    figure = Figure(figsize=(_WIDTH, spacing * (len(tree) + 1)))
    axes = figure.add_axes((0, 0, 0.62, 1))
    axes.set_axis_off()
    axes.set_ylim(len(tree) - 0.5, -0.5)
    longest = float(tree.depths.max()) or 1.0
    axes.set_xlim(-0.01 * longest, longest)
    heights = _heights(tree)
    _branches(axes, tree, heights, width=min(max(size / 8, 0.4), 1.0))
    _names(axes, tree, heights, size, color)
    _supports(axes, tree, heights, 0.72 * size)
    _scale(axes, tree, longest, spacing)
    if color:
        _legend(axes, color, spacing)
    return figure


def _heights(tree: Tree) -> list[float]:
    """Vertical position of each node: leaves at whole numbers, inner nodes amid their children."""
    heights = [float(place) for place in tree.starts[: len(tree)]]
    for children in tree.children:
        places = [heights[child] for child in children]
        heights.append((min(places) + max(places)) / 2)
    return heights


def _branches(axes: Axes, tree: Tree, heights: list[float], width: float) -> None:
    from matplotlib.collections import LineCollection

    lines = []
    for node, children in enumerate(tree.children, start=len(tree)):
        at, places = tree.depths[node], [heights[child] for child in children]
        lines.append([(at, min(places)), (at, max(places))])
        lines += [[(at, heights[child]), (tree.depths[child], heights[child])] for child in children]
    collection = LineCollection(lines, colors=_INK, linewidths=width, capstyle="projecting", clip_on=False)
    axes.add_collection(collection, autolim=False)


def _names(axes: Axes, tree: Tree, heights: list[float], size: float, color: Categories | None) -> None:
    if color:
        _leaf_marks(axes, tree, heights, size, color)
    for leaf, label in enumerate(tree.labels):
        axes.annotate(
            _shown(label),
            (tree.depths[leaf], heights[leaf]),
            xytext=(2.0 + 0.62 * size if color else 3.0, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=size,
            color=_INK,
            parse_math=False,
            annotation_clip=False,
        )


def _leaf_marks(axes: Axes, tree: Tree, heights: list[float], size: float, color: Categories) -> None:
    for value, (ink, marker) in _marks(color).items():
        leaves = [leaf for leaf in range(len(tree)) if color.values[leaf] == value]
        x, y = tree.depths[leaves], np.array(heights)[leaves]
        axes.plot(x, y, marker, color=ink, markersize=0.62 * size, markeredgewidth=0, clip_on=False)


def _supports(axes: Axes, tree: Tree, heights: list[float], size: float) -> None:
    for node in range(len(tree), len(tree.lengths)):
        if tree.support[node] < 1:  # NaN is not
            axes.annotate(
                f"{min(round(100 * tree.support[node]), 99)}",
                (tree.depths[node], heights[node]),
                xytext=(-1.5, 1.0),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=size,
                color="#b3261e",
            )


def _scale(axes: Axes, tree: Tree, longest: float, spacing: float) -> None:
    """A bar of a round length, and what the figure shows, under the tree."""
    bar = round_length(0.2 * longest)
    unit = "√(bit/byte)" if tree.unit.startswith("sqrt") else tree.unit
    below = len(tree) - 0.5 + 0.12 / spacing
    axes.plot([0, bar], [below, below], color=_INK, linewidth=1.2, clip_on=False, solid_capstyle="butt")
    _note(axes, (bar, below), f"{bar:g} {unit}", (4, 0), "center_baseline", 7.5, _INK)
    _note(axes, (0, below), "\n".join(_caption(tree)), (0, -6), "top", 6.5, "#666666")


def _note(
    axes: Axes, at: tuple[float, float], text: str, shift: tuple[float, float], va: Any, size: float, ink: str
) -> None:
    axes.annotate(
        text,
        at,
        xytext=shift,
        textcoords="offset points",
        va=va,
        fontsize=size,
        color=ink,
        parse_math=False,
        annotation_clip=False,
    )


def _caption(tree: Tree) -> list[str]:
    attrs = tree.attrs
    if not attrs:
        return [f"{len(tree)} models"]
    lines = [
        f"{_METHODS[attrs['method']]}; {attrs['view_description']}",
        f"{attrs['registry']}, version {attrs['version'][:12]}, {len(tree)} models",
    ]
    if attrs["bootstrap"]:
        lines.insert(1, f"support below 100 % in red, of {attrs['bootstrap']} resamples of the texts")
    return [printable(line) for line in lines]


def _legend(axes: Axes, color: Categories, spacing: float) -> None:
    from matplotlib.lines import Line2D

    marks = _marks(color)
    handles = [Line2D([], [], color=ink, marker=marker, linestyle="none", mew=0) for ink, marker in marks.values()]
    legend = axes.legend(
        handles,
        ["?"] * len(marks),  # set below: a label that starts with an underscore would be left out
        title=_shown(color.title),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(len(marks), 3),
        fontsize=7.5,
        title_fontsize=7.5,
        frameon=False,
        alignment="left",
        handletextpad=0.1,
        borderpad=0,
    )
    for text, value in zip(legend.get_texts(), marks, strict=True):
        text.set_text("unknown" if value is None else _shown(value))
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)


def _marks(color: Categories) -> dict[str | None, tuple[str, str]]:
    """Colour and marker of each value, the most frequent first; grey where unknown."""
    counts = Counter(value for value in color.values if value is not None)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    marks: dict[str | None, tuple[str, str]] = {
        value: (_COLORS[k % len(_COLORS)], _MARKERS[k // len(_COLORS) % len(_MARKERS)]) for k, value in enumerate(order)
    }
    return {**marks, None: (_GREY, "o")} if None in color.values else marks


def round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above a length."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step == 1 or step * power <= length * (1 + 1e-9))


def _shown(name: str) -> str:
    """A name as it is drawn: escaped, and cut in the middle if it is very long."""
    text = printable(name)
    return text if len(text) <= _LABEL else f"{text[: _LABEL // 2]}…{text[-_LABEL // 2 :]}"
