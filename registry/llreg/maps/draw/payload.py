"""A scene as compact JSON for the page: arrays as base64, categories as codes."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.maps.scene import Column, Scene

_EPOCH = date(1970, 1, 1)


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
    return {
        "ids": list(scene.row_ids),
        "names": list(scene.names),
        "links": [_safe_link(link) for link in scene.links] if any(scene.links) else [],
        "xy": packed(scene.xy, "f4"),
        "free": not any(scene.axes),
        "columns": [_column(column) for column in scene.columns],
        "neighbors": _neighbors(scene),
        "edges": _edges(scene),
        "trajectories": [{"name": name, "rows": [int(row) for row in rows]} for name, rows in scene.trajectories],
        "ellipses": None if scene.ellipses is None else packed(scene.ellipses, "f4"),
        "placed": None if scene.placed is None else packed(scene.placed, "u1"),
        "palette": _palette(),
    }


def packed(values: Any, kind: str) -> dict[str, str]:
    """A flat array as ``{"type", "data"}``; `kind` is a NumPy type without byte order, as "f4"."""
    array = np.ascontiguousarray(np.asarray(values).astype("<" + kind))
    return {"type": kind, "data": base64.b64encode(array.tobytes()).decode("ascii")}


def _packed_indices(values: Any) -> dict[str, str]:
    """Non-negative integers in the narrowest type that holds them."""
    array: NDArray[np.int64] = np.asarray(values, dtype=np.int64)
    largest = int(array.max(initial=0))
    return packed(array, "u1" if largest < 1 << 8 else "u2" if largest < 1 << 16 else "u4")


def _safe_link(link: str | None) -> str | None:
    return link if link and link.startswith("https://") else None


def _column(column: Column) -> dict[str, Any]:
    head = {"name": column.name, "title": column.title, "kind": column.kind, "unit": column.unit, "log": column.log}
    if column.kind == "category":
        return head | _categories(column.values)
    convert = _day if column.kind == "date" else _number
    return head | {"values": packed([convert(value) for value in column.values], "f8")}


def _categories(values: Sequence[str | float | None]) -> dict[str, Any]:
    """Levels, most frequent first and then by name; codes count from 1, and 0 is unknown."""
    texts = [None if _is_unknown(value) else str(value) for value in values]
    counts = Counter(text for text in texts if text is not None)
    levels = sorted(counts, key=lambda level: (-counts[level], level))
    code = {level: i for i, level in enumerate(levels, 1)}
    return {"levels": levels, "codes": _packed_indices([0 if text is None else code[text] for text in texts])}


def _is_unknown(value: str | float | None) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: str | float | None) -> float:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _day(value: str | float | None) -> float:
    """Days since 1970; NaN where unknown, also for text that is no date, as cards hold it."""
    try:
        return float((date.fromisoformat(str(value)[:10]) - _EPOCH).days)
    except ValueError:
        return math.nan


def _neighbors(scene: Scene) -> dict[str, Any]:
    index = np.asarray(scene.neighbors)
    k = index.shape[1] if index.ndim == 2 and len(index) == len(scene.names) else 0
    return {
        "k": k,
        "rows": _packed_indices(index[:, :k] + 1),  # 0: none
        "kl": packed(scene.kl[:, :k], "f4"),
        "se": packed(scene.kl_se[:, :k], "f4"),
    }


def _edges(scene: Scene) -> dict[str, Any]:
    relations = sorted({relation for _, _, relation in scene.edges})
    code = {relation: i for i, relation in enumerate(relations)}
    return {
        "parent": _packed_indices([parent for parent, _, _ in scene.edges]),
        "child": _packed_indices([child for _, child, _ in scene.edges]),
        "relation": _packed_indices([code[relation] for _, _, relation in scene.edges]),
        "relations": relations,
    }


def _palette() -> list[str]:
    """Viridis: perceptually uniform, also for colour-blind eyes."""
    from bokeh.palettes import Viridis256

    return [str(color).lower() for color in Viridis256[::4]] + [str(Viridis256[-1]).lower()]
