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
from llreg.geometry.kl.rows import Rows, load_rows, with_distances
from llreg.geometry.tree.make import make_tree
from llreg.geometry.view.view import view_of
from llreg.maps.draw.figure import FIGURE_ENDINGS, draw_legend, figure_style, save_figure, shorten
from llreg.printable import printable
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llreg.geometry.tree.make import Method
    from llreg.geometry.tree.tree import Tree
    from llreg.geometry.view.view import AnyView
    from llreg.store.contents import Contents

NEWICK_ENDINGS = (".nwk", ".newick", ".tree")
_WIDTH, _DPI, _MOST_PIXELS = 7.5, 200, 60_000  # inches, dots an inch, and what a raster may measure in either direction
_NAME_LETTERS = 80  # of a name
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7a5195", "#9aa500", "#7f2a2a")
_GREY, _INK, _SOFT, _RED = "#9a9a9a", "#222222", "#666666", "#b3261e"
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
        As in `Registry.tree`.
    color : str, optional
        Field of the rows' metadata by which a figure marks its leaves, as in `categories`.

    Raises
    ------
    InputError
        If a file's ending is not known, no row has the field, or there are too few rows.
    NotFoundError, MissingExtraError, StorageError
    """
    check_endings(paths)
    rows = load_rows(registry, models, view_of(registry, view), common=True)
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
    metadata = [{**vars(record.identity), **record.declared} for record in rows.records]
    values = [entry.get(field) for entry in metadata]
    if all(value is None for value in values):
        fields = sorted({name for entry in metadata for name, value in entry.items() if isinstance(value, str)})
        raise InputError(f"no row has the field {field!r}; there is: {', '.join(fields)}")
    texts = [", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for value in values]
    return Categories(field, [None if value in (None, "") else str(value) for value in texts])


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
    if path.suffix.lower() not in FIGURE_ENDINGS:
        raise InputError(f"{path}: a figure is written as {', '.join(FIGURE_ENDINGS)}")
    with figure_style():
        figure = _figure(tree.midpoint(), color)
        dpi = min(_DPI, _MOST_PIXELS / figure.get_figheight())
        save_figure(figure, path, dpi=dpi, bbox_inches="tight", pad_inches=0.12)


def _figure(tree: Tree, color: Categories | None) -> Figure:
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    count = len(tree)
    spacing = min(max(0.2 * (60 / count) ** 0.35, 0.085), 0.2)  # inches a leaf
    size = min(spacing * 72 * 0.62, 8.0)  # of names, typographic points
    figure = Figure(figsize=(_WIDTH, spacing * (count + 1)))
    axes = figure.add_axes((0, 0, 0.62, 1))
    axes.set_axis_off()
    axes.set_ylim(count - 0.5, -0.5)  # leaves at whole numbers, from the top down
    longest = float(tree.depths.max()) or 1.0
    axes.set_xlim(-0.01 * longest, longest)

    # Branches: inner nodes amid their children, a vertical line across them, a horizontal one to each.
    heights = [float(start) for start in tree.starts[:count]]
    lines = []
    for node, children in enumerate(tree.children, start=count):
        ends = [heights[child] for child in children]
        heights.append((min(ends) + max(ends)) / 2)
        depth = tree.depths[node]
        lines.append([(depth, min(ends)), (depth, max(ends))])
        lines += [[(depth, heights[child]), (tree.depths[child], heights[child])] for child in children]
    width = min(max(size / 8, 0.4), 1.0)
    branches = LineCollection(lines, colors=_INK, linewidths=width, capstyle="projecting", clip_on=False)
    axes.add_collection(branches, autolim=False)

    _draw_leaves(axes, tree, heights, size, color)

    # Support of inner nodes; NaN is not below 1.
    for node in range(count, len(tree.lengths)):
        if tree.support[node] < 1:
            percent = f"{min(round(100 * tree.support[node]), 99)}"
            options = {"ha": "right", "va": "bottom", "fontsize": 0.72 * size, "color": _RED}
            _annotate(axes, percent, tree.depths[node], heights[node], (-1.5, 1.0), **options)

    # Under the tree a bar of a round length, and what the figure shows.
    bar = round_length(0.2 * longest)
    unit = "√(bit/byte)" if tree.unit.startswith("sqrt") else tree.unit
    below = count - 0.5 + 0.12 / spacing
    axes.plot([0, bar], [below, below], color=_INK, linewidth=1.2, clip_on=False, solid_capstyle="butt")
    _annotate(axes, f"{bar:g} {unit}", bar, below, (4, 0), va="center_baseline", fontsize=7.5, color=_INK)
    _annotate(axes, _caption(tree), 0, below, (0, -6), va="top", fontsize=6.5, color=_SOFT)
    return figure


def _draw_leaves(axes: Axes, tree: Tree, heights: Sequence[float], size: float, color: Categories | None) -> None:
    """Names of the leaves; if they are coloured, with marks and a legend."""
    if color:
        marks = _marks(color)
        for value, (ink, marker) in marks.items():
            leaves = [leaf for leaf in range(len(tree)) if color.values[leaf] == value]
            x, y = tree.depths[leaves], np.array(heights)[leaves]
            axes.plot(x, y, marker, color=ink, markersize=0.62 * size, markeredgewidth=0, clip_on=False)
        names = ["unknown" if value is None else shorten(value, _NAME_LETTERS) for value in marks]
        entries = [(name, *mark) for name, mark in zip(names, marks.values(), strict=True)]
        options = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": min(len(marks), 3), "borderpad": 0}
        options |= {"fontsize": 7.5, "title_fontsize": 7.5, "handletextpad": 0.1}
        draw_legend(axes, shorten(color.title, _NAME_LETTERS), entries, markersize=6, **options)
    gap = 2.0 + 0.62 * size if color else 3.0
    for leaf, label in enumerate(tree.labels):
        name, point = shorten(label, _NAME_LETTERS), (tree.depths[leaf], heights[leaf])
        _annotate(axes, name, *point, (gap, 0), va="center_baseline", fontsize=size, color=_INK)


def _annotate(axes: Axes, text: str, x: float, y: float, shift: tuple[float, float], **options: Any) -> None:
    """Untrusted text beside a point, shifted by typographic points."""
    options |= {"xytext": shift, "textcoords": "offset points", "parse_math": False, "annotation_clip": False}
    axes.annotate(text, (x, y), **options)


def _caption(tree: Tree) -> str:
    attrs = tree.attrs
    if not attrs:
        return f"{len(tree)} models"
    lines = [f"{_METHODS[attrs['method']]}; {attrs['view_description']}"]
    if attrs["bootstrap"]:
        lines.append(f"support below 100 % in red, of {attrs['bootstrap']} resamples of the texts")
    lines.append(f"{attrs['registry']}, version {attrs['version'][:12]}, {len(tree)} models")
    return "\n".join(printable(line) for line in lines)


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
