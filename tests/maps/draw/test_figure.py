"""Figures: what is drawn, names that are only text, the same bytes, and what cannot be drawn."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.maps.draw.figure import category_colors, write_figure
from llreg.maps.make import make_map
from llreg.maps.scene import Column, Scene, make_scene
from llreg.registry import Registry
from llreg_schemas.errors import InputError, MissingExtraError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def scene(groups: Registry) -> Scene:
    """A PCA map of all rows."""
    return make_scene(make_map(groups, method="pca"))


@pytest.fixture(scope="module")
def few(groups: Registry) -> Scene:
    """A map of ten rows with ellipses."""
    names = [record.identity.model for record in groups.records()][:10]
    return make_scene(make_map(groups, names, method="pca", ellipses=4))


def _texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ET.parse(path).iter(f"{SVG}text")]


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_same_map_same_bytes(few: Scene, tmp_path: Path, ending: str, magic: bytes) -> None:
    path = tmp_path / f"map{ending}"
    found = []
    for _ in range(2):
        write_figure(few, path)
        found.append(path.read_bytes())
    assert found[0] == found[1]
    assert found[0].startswith(magic)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_png_is_as_wide_as_a_page(scene: Scene, tmp_path: Path) -> None:
    write_figure(scene, tmp_path / "map.png")
    data = (tmp_path / "map.png").read_bytes()
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    assert width == 2100  # 7 inches of 300 dots
    assert 0.4 < height / width < 1.1


def test_few_models_are_named_and_many_are_not(few: Scene, scene: Scene, tmp_path: Path) -> None:
    write_figure(few, tmp_path / "few.svg")
    assert set(few.names) <= set(_texts(tmp_path / "few.svg"))
    write_figure(scene, tmp_path / "many.svg")
    assert not set(scene.names) & set(_texts(tmp_path / "many.svg"))
    write_figure(scene, tmp_path / "some.svg", labels=["g1/g1-m3", scene.row_ids[0]])
    assert set(_texts(tmp_path / "some.svg")) & set(scene.names) == {"g1/g1-m3", scene.names[0]}


def test_legend_axes_and_caption(scene: Scene, tmp_path: Path) -> None:
    write_figure(scene, tmp_path / "map.svg", color="architecture")
    texts = _texts(tmp_path / "map.svg")
    assert {"architecture", *(f"Arch{k}ForCausalLM" for k in range(5)), *scene.axes} <= set(texts)
    assert any(dict(scene.facts)["version"] in text for text in texts)


@pytest.mark.parametrize(
    ("color", "expected"), [("num_parameters", "parameters"), ("created", "created"), ("created", "2025-12")]
)
def test_colour_bars(scene: Scene, tmp_path: Path, color: str, expected: str) -> None:
    write_figure(scene, tmp_path / "map.svg", color=color)
    assert expected in _texts(tmp_path / "map.svg")


def test_every_point_is_drawn_in_its_colour(few: Scene, tmp_path: Path) -> None:
    column = Column("kind", "kind", "category", ["a"] * 5 + ["b"] * 4 + [None])
    write_figure(replace(few, columns=[column], ellipses=None), tmp_path / "map.svg", labels=[few.names[0]])
    colors = category_colors(column.values)  # type: ignore[arg-type]
    style = [node.get("style", "") for node in ET.parse(tmp_path / "map.svg").iter(f"{SVG}use")]
    for value, count in (("a", 5), ("b", 4), (None, 1)):
        assert sum(f"fill: {colors[value]}; stroke: #ffffff" in text for text in style) == count


def test_rare_categories_share_a_colour() -> None:
    values = [f"c{k:02d}" for k in range(20) for _ in range(20 - k)]
    colors = category_colors(values)
    assert len(set(colors.values())) == 12
    assert len({colors[f"c{k:02d}"] for k in range(11, 20)}) == 1
    assert len(set(category_colors([f"c{k}" for k in range(12)]).values())) == 12


def test_others_are_counted_in_the_legend(scene: Scene, tmp_path: Path) -> None:
    column = Column("kind", "kind", "category", [f"c{k % 20:02d}" for k in range(60)])
    write_figure(replace(scene, columns=[column]), tmp_path / "map.svg")
    texts = _texts(tmp_path / "map.svg")
    assert "9 others" in texts
    assert "c10" in texts
    assert "c11" not in texts


HOSTILE = [
    "$\\frac{1}{0}$ and $$x$$",
    "</text><script>alert(1)</script>",
    "_starts_with_underscore",
    "right\u202eto left",
    "bell\x07 and\nline",
    "日本語の名前",
    "x" * 500,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_text(few: Scene, tmp_path: Path, name: str) -> None:
    column = Column("kind", name, "category", [name] * 4 + ["plain"] * 6)
    hostile = replace(few, names=[name] * 10, columns=[column], title=name, axes=(name, name))
    for ending in (".svg", ".png"):
        write_figure(hostile, tmp_path / f"map{ending}")
    tree = ET.parse(tmp_path / "map.svg")  # still XML
    assert {node.tag for node in tree.iter()}.isdisjoint({f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject"})
    text = "".join(_texts(tmp_path / "map.svg"))
    assert "\u202e" not in text
    assert "\x07" not in text


def test_labels_keep_apart(groups: Registry, tmp_path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation

    from llreg.maps.draw.figure import _STYLE, _figure
    from llreg.maps.draw.figure import figure_style as style

    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    names = [f"organisation/model-{k:02d}-instruct" for k in range(24)]
    scene = Scene("t", "s", names, names, np.column_stack([np.cos(angle), np.sin(angle)]))
    with style(**_STYLE):
        figure = _figure(scene, None, range(24))
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [
            child.get_bbox_patch() or child.get_window_extent(renderer)
            for child in figure.axes[0].get_children()
            if isinstance(child, Annotation) and child.get_text()
        ]
    extents = np.array([box.extents for box in boxes])
    assert len(extents) == 24
    for k, one in enumerate(extents):
        for other in extents[k + 1 :]:
            width = min(one[2], other[2]) - max(one[0], other[0])
            height = min(one[3], other[3]) - max(one[1], other[1])
            assert min(width, height) < 1


@pytest.mark.parametrize("column", [
    Column("n", "n", "number", [None] * 10),
    Column("n", "n", "number", [5.0] * 10),
    Column("n", "n", "number", [0.0] * 10),
    Column("n", "n", "number", [1e-3, 1e12, *[None] * 8], log=True),
    Column("d", "d", "date", ["2025-01-01"] * 10),
    Column("d", "d", "date", [None] * 9 + ["2024-02-29"]),
    Column("c", "c", "category", [None] * 10),
])  # fmt: skip
def test_columns_with_little_to_say(few: Scene, tmp_path: Path, column: Column) -> None:
    write_figure(replace(few, columns=[column]), tmp_path / "map.svg")
    assert column.title in _texts(tmp_path / "map.svg")


@pytest.mark.parametrize("xy", [np.zeros((10, 2)), np.column_stack([np.arange(10.0), np.zeros(10)])])
def test_points_on_a_spot_or_a_line(few: Scene, tmp_path: Path, xy: Any) -> None:
    write_figure(replace(few, xy=xy, axes=("", "")), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_what_cannot_be_drawn(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no column 'colour'; there are: family, architecture"):
        write_figure(scene, tmp_path / "map.png", color="colour")
    with pytest.raises(InputError, match=r"no model no/such on the map"):
        write_figure(scene, tmp_path / "map.png", labels=["no/such"])
    with pytest.raises(InputError, match="there is no directory"):
        write_figure(scene, tmp_path / "nowhere" / "map.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llreg\[map\]"'):
        write_figure(scene, tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []
