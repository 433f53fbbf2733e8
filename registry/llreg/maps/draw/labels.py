"""Names beside points of a figure, laid out so that they cover each other as little as may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SIZE = 6.0  # points
_PASSES = 4  # times that every name may choose again, knowing where the others are
_DIRECTIONS = 12  # from a point
_REACHES = (0.0, 6.0, 12.0, 20.0, 30.0, 42.0)  # distances, points; from the second on, a line leads to the point


@dataclass(frozen=True)
class _Spots:
    """Where the name of one point may stand, the nearest spots first; lengths are typographic points.

    Attributes
    ----------
    middle : float64 array of shape (n_spots, 2)
        Of the name, as seen from the point.
    reach : float64 array of shape (n_spots,)
        How far off the name is; above 0 a line leads to the point.
    half : float64 array of shape (2,)
        Half the width and height of the name.
    boxes : float64 array of shape (n_spots, 4)
        What the name would cover: x0, y0, x1, y1 in the figure.
    """

    middle: NDArray[np.float64]
    reach: NDArray[np.float64]
    half: NDArray[np.float64]
    boxes: NDArray[np.float64]


def place_labels(axes: Axes, xy: NDArray[np.float64], names: Mapping[int, str], size: float, *, ink: str) -> None:
    """Write names beside points.

    Each name takes the spot, of twelve directions and six distances, where it covers least of other names and of
    points; then each may choose again, a few times over.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        With all points drawn.
    xy : float64 array of shape (n_models, 2)
    names : mapping of int to str
        Harmless text for some of the points.
    size : float
        Diameter of a point, in typographic points.
    ink : str
    """
    if not names:
        return
    # A renderer that knows how large text is, whatever the figure is saved as later.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # lays out: the limits of the data depend on the shape of the axes
    renderer = canvas.get_renderer()
    dot = renderer.points_to_pixels(1.0)  # pixels a typographic point
    points = axes.transData.transform(xy) / dot  # all lengths from here on are typographic points
    marks = np.column_stack([points - size / 2, points + size / 2])  # (n_models, 4)
    frame = axes.get_window_extent(renderer).extents / dot

    spots = {}
    for k, name in names.items():
        text = axes.text(0, 0, name, fontsize=_SIZE, parse_math=False)
        extent = text.get_window_extent(renderer)
        text.remove()
        spots[k] = _spots(points[k], float(extent.width) / dot, float(extent.height) / dot, gap=size / 2 + 1.5)
    for k, spot in _choose(spots, marks, frame).items():
        _write(axes, xy[k], names[k], spots[k], spot, ink)


def _spots(point: NDArray[np.float64], width: float, height: float, gap: float) -> _Spots:
    """Spots around a point for a name of some size."""
    reach = np.repeat(_REACHES, _DIRECTIONS)
    angles = np.tile(2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS, len(_REACHES))
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    half = np.array([width, height]) / 2
    # A name ends at the side of the point that it is on, or is centred where it is straight above or beside it.
    sides = np.where(np.abs(directions) < 0.1, 0.0, np.sign(directions))
    middle = directions * (gap + reach)[:, None] + sides * half
    return _Spots(middle, reach, half, np.column_stack([point + middle - half, point + middle + half]))


def _choose(spots: Mapping[int, _Spots], marks: NDArray[np.float64], frame: NDArray[np.float64]) -> dict[int, int]:
    """The position of the chosen spot of each name."""
    # What a spot costs whatever the other names do: points covered, leaving the frame, the line to the point.
    fixed = {}
    for k, around in spots.items():
        boxes = around.boxes
        outside = np.maximum(frame[:2] - boxes[:, :2], 0).sum(axis=1) + np.maximum(boxes[:, 2:] - frame[2:], 0).sum(
            axis=1
        )
        line = np.where(around.reach == 0, 0.0, 5 + around.reach)
        fixed[k] = 2 * _overlaps(boxes, marks) + 50 * outside + line  # (n_spots,)
    chosen: dict[int, int] = {}
    for _ in range(_PASSES):
        previous = dict(chosen)
        for k in spots:
            other_names = np.array([spots[j].boxes[spot] for j, spot in chosen.items() if j != k]).reshape(-1, 4)
            chosen[k] = int(np.argmin(fixed[k] + 6 * _overlaps(spots[k].boxes, other_names)))
        if chosen == previous:
            break
    return chosen


def _overlaps(boxes: NDArray[np.float64], covers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of each box that other boxes cover, in sum, float64 array of shape (n_boxes,)."""
    low = np.maximum(boxes[:, None, :2], covers[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], covers[None, :, 2:])  # (n_boxes, n_covers, 2)
    return np.asarray(np.maximum(high - low, 0).prod(axis=2).sum(axis=1))


def _write(axes: Axes, point: NDArray[np.float64], name: str, spots: _Spots, spot: int, ink: str) -> None:
    offset: dict[str, Any] = {
        "xy": (float(point[0]), float(point[1])),
        "textcoords": "offset points",
        "annotation_clip": False,
        "parse_math": False,
    }
    middle = spots.middle[spot]
    if spots.reach[spot] > 0:
        end = np.clip(0.0, middle - spots.half, middle + spots.half)  # on the edge that faces the point
        line = {"arrowstyle": "-", "color": "#9a9a9a", "lw": 0.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xytext=(float(end[0]), float(end[1])), arrowprops=line, **offset)
    position = float(middle[0]), float(middle[1])
    axes.annotate(name, xytext=position, ha="center", va="center", fontsize=_SIZE, color=ink, zorder=4, **offset)


def match_labels(row_ids: Sequence[str], names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Positions of the rows that labels name: by row id, model name or shown name; each once.

    Raises
    ------
    InputError
        If a label names none.
    """
    names_of = [{row_id, row_id.rpartition("@")[0], name} for row_id, name in zip(row_ids, names, strict=True)]
    positions: list[int] = []
    for label in labels:
        matches = [k for k, row_names in enumerate(names_of) if label in row_names]
        if not matches:
            raise InputError(f"no model {label} on the map; names as in: llreg ls")
        positions += matches
    return list(dict.fromkeys(positions))
