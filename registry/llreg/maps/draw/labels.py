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
_AROUND = 12  # directions from a point
_REACHES = (0.0, 6.0, 12.0, 20.0, 30.0, 42.0)  # distances, points; from the second on, a line leads to the point


@dataclass(frozen=True)
class _Spot:
    """A place for a name: its middle as seen from the point, and how far off it is, in typographic points."""

    across: float
    up: float
    reach: float


def place_labels(axes: Axes, xy: NDArray[np.float64], names: Mapping[int, str], size: float, *, ink: str) -> None:
    """Write names beside points.

    Each name takes the place, of twelve directions and six distances, where it covers least of other names and of
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
    renderer = _renderer(axes)
    dot = renderer.points_to_pixels(1.0)  # pixels a typographic point
    pixels = axes.transData.transform(xy) / dot  # all lengths from here on are typographic points
    marks = np.column_stack([pixels - size / 2, pixels + size / 2])
    frame = axes.get_window_extent(renderer).extents / dot
    sizes = {k: _measure(axes, name, renderer, dot) for k, name in names.items()}
    spots = {k: _spots(*box, size / 2 + 1.5) for k, box in sizes.items()}
    boxes = {k: _boxes(pixels[k], spots[k], *box) for k, box in sizes.items()}
    for k, spot in _choose(list(names), spots, boxes, marks, frame).items():
        _write(axes, xy[k], names[k], spots[k][spot], sizes[k], ink)


def _renderer(axes: Axes) -> Any:
    """A renderer that knows how large text is, whatever the figure is saved as later."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # lays out: the limits of the data depend on the shape of the axes
    return canvas.get_renderer()


def _measure(axes: Axes, name: str, renderer: Any, dot: float) -> tuple[float, float]:
    text = axes.text(0, 0, name, fontsize=_SIZE, parse_math=False)
    extent = text.get_window_extent(renderer)
    text.remove()
    return float(extent.width) / dot, float(extent.height) / dot


def _spots(width: float, height: float, gap: float) -> list[_Spot]:
    """Places around a point for a name of some size, the nearest first."""
    angles = 2 * np.pi * np.arange(_AROUND) / _AROUND
    return [
        _Spot(
            float(np.cos(angle) * (gap + reach) + _side(np.cos(angle)) * width / 2),
            float(np.sin(angle) * (gap + reach) + _side(np.sin(angle)) * height / 2),
            reach,
        )
        for reach in _REACHES
        for angle in angles
    ]


def _side(part: float) -> float:
    """-1, 0 or 1: on which side of the point a name ends, or that it is centred."""
    return 0.0 if abs(part) < 0.1 else float(np.sign(part))


def _boxes(at: NDArray[np.float64], spots: list[_Spot], width: float, height: float) -> NDArray[np.float64]:
    """Where a name would be: x0, y0, x1, y1 for each spot."""
    middles = at + np.array([[spot.across, spot.up] for spot in spots])
    half = np.array([width, height]) / 2
    return np.column_stack([middles - half, middles + half])


def _choose(
    order: list[int],
    spots: Mapping[int, list[_Spot]],
    boxes: Mapping[int, NDArray[np.float64]],
    marks: NDArray[np.float64],
    frame: NDArray[np.float64],
) -> dict[int, int]:
    """The spot of each name."""
    fixed = {
        k: 2 * _overlaps(boxes[k], marks)
        + 50 * _outside(boxes[k], frame)
        + np.array([0.0 if spot.reach == 0 else 5 + spot.reach for spot in spots[k]])
        for k in order
    }
    chosen: dict[int, int] = {}
    for _ in range(_PASSES):
        before = dict(chosen)
        for k in order:
            others = np.array([boxes[other][spot] for other, spot in chosen.items() if other != k]).reshape(-1, 4)
            chosen[k] = int(np.argmin(fixed[k] + 6 * _overlaps(boxes[k], others)))
        if chosen == before:
            break
    return chosen


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of each box that others cover, in sum, float64 array of shape (n_boxes,)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(axis=2).sum(axis=1))


def _outside(boxes: NDArray[np.float64], frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each box leaves the frame."""
    return np.asarray(
        np.maximum(frame[:2] - boxes[:, :2], 0).sum(axis=1) + np.maximum(boxes[:, 2:] - frame[2:], 0).sum(axis=1)
    )


def _write(axes: Axes, at: NDArray[np.float64], name: str, spot: _Spot, box: tuple[float, float], ink: str) -> None:
    """A name whose middle, as its size, is given in typographic points."""
    offset: dict[str, Any] = {
        "xy": (float(at[0]), float(at[1])),
        "textcoords": "offset points",
        "annotation_clip": False,
        "parse_math": False,
    }
    if spot.reach > 0:
        half = np.array(box) / 2
        middle = np.array([spot.across, spot.up])
        end = np.clip(0.0, middle - half, middle + half)  # on the edge that faces the point
        line = {"arrowstyle": "-", "color": "#9a9a9a", "lw": 0.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xytext=(float(end[0]), float(end[1])), arrowprops=line, **offset)
    axes.annotate(
        name, xytext=(spot.across, spot.up), ha="center", va="center", fontsize=_SIZE, color=ink, zorder=4, **offset
    )


def matching(row_ids: Sequence[str], names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Positions of the rows that labels name: by row id, model name or shown name; each once.

    Raises
    ------
    InputError
        If a label names none.
    """
    known = [{row_id, row_id.rpartition("@")[0], name} for row_id, name in zip(row_ids, names, strict=True)]
    found: list[int] = []
    for label in labels:
        matches = [k for k, shown in enumerate(known) if label in shown]
        if not matches:
            raise InputError(f"no model {label} on the map; names as in: llreg ls")
        found += matches
    return list(dict.fromkeys(found))
