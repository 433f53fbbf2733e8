"""The map page as a file: its bytes, its size, what its data hold, and its colours."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.maps.draw.pages import SIGHTS, linear, make_scene, oklab

from llreg.maps.draw.onefile import packed, printable, script_json
from llreg.maps.draw.page import page_html, scene_payload, write_page
from llreg.maps.scene import Column
from llreg_schemas.errors import InputError, MissingExtraError

pytest.importorskip("bokeh")


def test_the_same_scene_gives_the_same_bytes() -> None:
    from bokeh.plotting import figure

    first = page_html(make_scene())
    figure().scatter([1], [2])
    assert page_html(make_scene()) == first


def test_the_page_of_a_thousand_models_is_little_more_than_bokeh(tmp_path: Path) -> None:
    from bokeh.resources import Resources

    write_page(make_scene(1000), tmp_path / "map.html")
    bokeh = sum(len(script) for script in Resources(mode="inline", components=["bokeh"]).js_raw)
    assert (tmp_path / "map.html").stat().st_size < bokeh + 400_000


def test_an_unknown_column_to_colour_by_is_refused() -> None:
    with pytest.raises(
        InputError, match="no column 'size' to colour by; there are: type, num_parameters, mean, created"
    ):
        page_html(make_scene(), color="size")
    with pytest.raises(InputError, match="there are: none"):
        page_html(make_scene(columns=()), color="size")


def test_a_missing_bokeh_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    with pytest.raises(MissingExtraError, match=r'pip install "llreg\[map\]"'):
        page_html(make_scene())


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        write_page(make_scene(), tmp_path / "missing" / "map.html")
    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_json_in_the_page_is_ascii_without_markup_and_reads_back(text: str) -> None:
    encoded = script_json({"name": text})
    assert encoded.isascii()
    assert not set(encoded) & set("<>&")
    assert json.loads(encoded) == {"name": text}


@given(st.text())
def test_printable_text_keeps_its_length_and_holds_no_control(text: str) -> None:
    clean = printable(text)
    assert len(clean) == len(text)
    assert clean.isprintable() or "\N{REPLACEMENT CHARACTER}" in clean
    assert all(a in (b, "\N{REPLACEMENT CHARACTER}") for a, b in zip(clean, text, strict=True))


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_packed_arrays_read_back(values: list[float]) -> None:
    import base64

    document = packed(values, "f4")
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(document["data"]), "<f4"), np.array(values, "f4"))


def test_categories_are_coded_most_frequent_first() -> None:
    column = Column("c", "c", "category", ["b", "a", None, "c", "b", math.nan, "", "c", "b"])
    document = scene_payload(make_scene(9, columns=(column,)))["columns"][0]
    assert document["levels"] == ["b", "c", "a"]
    assert document["codes"] == packed([1, 3, 0, 2, 1, 0, 0, 2, 1], "u1")


def test_category_colours_stay_apart_for_colour_blind_eyes() -> None:
    from importlib import resources

    script = resources.files("llreg.maps.draw").joinpath("page_color.js").read_text()
    found = re.findall(r'"(#[0-9a-f]{6})"', script[: script.index("];")])
    assert len(found) == 12
    rgb = linear(np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in found]))
    for name in SIGHTS:
        lab = oklab(rgb, name)
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(12, dtype=bool)]
        assert distance.min() > (0.12 if name == "normal" else 0.06), name
