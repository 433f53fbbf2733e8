"""The map page in a real browser, from disk: what it shows, what it does, and what names in it cannot do."""

from __future__ import annotations

import csv
import io
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.maps.draw.pages import KINDS, Page, luminance, make_scene

from llreg.maps.draw.page import page_html
from llreg.maps.scene import Column, Scene

pytest.importorskip("bokeh")


# --- the page of forty models, shared


def test_the_page_is_one_file_that_loads_nothing(plain: Page) -> None:
    assert plain.js("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert plain.requests() <= {"file", "data", "blob"}
    loading = "script[src], link[href], img, iframe, object, embed, source, video, audio, form, base"
    assert plain.all(loading) == []


def test_search_finds_by_part_of_the_name_and_enter_goes_there(plain: Page) -> None:
    plain.find("body").send_keys("/")
    box = plain.browser.switch_to.active_element
    assert box.get_attribute("id") == "query"
    box.send_keys("MODEL-01")
    assert plain.texts("#results [role=option]") == [f"org{i % 3}/model-{i:03d}-{KINDS[i % 4]}" for i in range(10, 20)]
    box.send_keys("\ue015\ue007")  # arrow down, enter
    assert plain.find("#model h2").text == "org2/model-011-merge"
    assert plain.js("llregMap.state.picked") == 11
    center = plain.js(
        "[llregMap.plot.figure.x_range, llregMap.plot.figure.y_range].map(({start, end}) => (start + end) / 2)"
    )
    np.testing.assert_allclose(center, make_scene().xy[11], rtol=1e-4)
    assert not plain.find("#found").is_displayed()
    box.send_keys("\ue00c")  # escape
    assert box.get_attribute("value") == ""
    box.send_keys("nothing like it")
    assert plain.find("#found-count").text == "No model of that name"


def test_all_that_search_finds_can_be_selected(plain: Page) -> None:
    plain.find("#query").send_keys("chat")
    plain.find("#select-found").click()
    assert plain.js("llregMap.selection()") == list(range(1, 40, 4))
    assert plain.find("#selection-count").text == "10 models of 40 selected"


def test_a_click_on_a_point_shows_its_neighbours_as_list_and_lines(plain: Page) -> None:
    scene = make_scene()
    plain.click_point(17)
    assert plain.find("#model h2").text == scene.names[17]
    listed = plain.texts("#model .neighbors .name")
    assert listed == [scene.names[row] for row in scene.neighbors[17]]
    for text, kl, se in zip(plain.texts("#model .neighbors .kl"), scene.kl[17], scene.kl_se[17], strict=True):
        value, error = map(float, text.split(" ± "))
        assert value == pytest.approx(kl, abs=se / 10)
        assert error == pytest.approx(se, rel=0.05)
    lines = plain.source("links")
    np.testing.assert_allclose(np.column_stack([lines["x0"], lines["y0"]]), np.tile(scene.xy[17], (10, 1)), rtol=1e-5)
    np.testing.assert_allclose(np.column_stack([lines["x1"], lines["y1"]]), scene.xy[scene.neighbors[17]], rtol=1e-5)
    assert plain.find("#model a").get_attribute("href") == scene.links[17]
    assert plain.find("#model a").get_attribute("rel") == "noopener noreferrer"
    assert plain.find("#model code").text == "row-017"
    values = dict(zip(plain.texts("#model .values dt"), plain.texts("#model .values dd"), strict=True))
    assert values["mean log-likelihood"] == "\N{MINUS SIGN}883 nat/text"
    assert values["created"] == "2023-06-01"


def test_a_neighbour_that_is_clicked_becomes_the_picked_one(plain: Page) -> None:
    scene = make_scene()
    plain.click_point(17)
    plain.all("#model .neighbors .row")[3].click()
    after = int(scene.neighbors[17, 3])
    assert plain.find("#model h2").text == scene.names[after]
    assert plain.source("links")["x0"] == pytest.approx([scene.xy[after, 0]] * 10, rel=1e-5)
    plain.find("#model [aria-label=Close]").click()
    assert not plain.find("#model").is_displayed()
    assert plain.source("links")["x0"] == []


def test_the_card_under_the_pointer_names_the_model_and_its_nearest(plain: Page) -> None:
    scene = make_scene()
    x, y = plain.pointer(9)
    plain.mouse(("move", x - 30, y - 30), ("move", x, y))
    plain.until(lambda: plain.find("#card").is_displayed())
    text = plain.find("#card").text
    assert text.startswith(scene.names[9])
    assert f"nearest {scene.names[scene.neighbors[9, 0]]}" in text.replace("\n", " ")
    assert re.search(r"0\.\d+ ± 0\.\d+ bit/byte", text)


def test_keys_move_and_zoom_the_map(plain: Page) -> None:
    span = "(({start, end}) => [start, end])(llregMap.plot.figure.x_range)"
    start, end = plain.js(span)
    plain.find("#plot").send_keys("+")
    nearer = plain.js(span)
    assert nearer[1] - nearer[0] == pytest.approx((end - start) / 1.5)
    plain.find("#plot").send_keys("\ue014")  # arrow right
    assert plain.js(span)[0] == pytest.approx(nearer[0] + 0.1 * (nearer[1] - nearer[0]))
    plain.find("#plot").send_keys("0")
    assert plain.js(span) == pytest.approx([start, end])


def test_a_category_column_has_a_legend_of_counts(plain: Page) -> None:
    scene = make_scene()
    counts = Counter(value for value in scene.columns[0].values if value)
    expected = [f"{kind}\n{count}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    assert plain.texts("#legend .entry") == [*expected, "unknown\n1"]
    colors = plain.source("points")["color"]
    of_kind = {
        kind: {colors[i] for i, value in enumerate(scene.columns[0].values) if value == kind} for kind in (*KINDS, None)
    }
    assert all(len(found) == 1 for found in of_kind.values())
    assert len(set.union(*of_kind.values())) == 5


@pytest.mark.parametrize("name", ["num_parameters", "mean", "created"])
def test_numbers_and_dates_have_a_colour_bar(plain: Page, name: str) -> None:
    from bokeh.palettes import Viridis256

    scene = make_scene()
    plain.find(f"#color option[value='{[column.name for column in scene.columns].index(name)}']").click()
    column = next(column for column in scene.columns if column.name == name)
    values = np.array([np.nan if value is None else as_number(value) for value in column.values])
    low, high = np.nanpercentile(values, [1, 99])
    scaled = np.log([values, np.full_like(values, low), np.full_like(values, high)]) if column.log else np.array(
        [values, np.full_like(values, low), np.full_like(values, high)]
    )  # fmt: skip
    share = np.clip((scaled[0] - scaled[1]) / (scaled[2] - scaled[1]), 0, 1)
    palette = [color.lower() for color in (*Viridis256[::4], Viridis256[-1])]
    colors = plain.source("points")["color"]
    known = ~np.isnan(values)
    found = np.array([palette.index(color) for color, is_known in zip(colors, known, strict=True) if is_known])
    np.testing.assert_allclose(found / (len(palette) - 1), 0.94 * share[known], atol=0.6 / (len(palette) - 1))
    assert not {color for color, is_known in zip(colors, known, strict=True) if not is_known} & set(palette)
    assert len(plain.texts("#legend .ticks span")) >= 2
    assert plain.find("#legend figcaption").text.startswith(column.title)
    unknown = int((~known).sum())
    assert (f"unknown: {unknown}" in plain.find("#legend").text) is bool(unknown)


def as_number(value: str | float) -> float:
    return float(np.datetime64(value, "D").astype(int)) if isinstance(value, str) else value


def test_points_can_be_sized_by_a_number(plain: Page) -> None:
    assert len(set(plain.source("points")["size"])) == 1
    plain.find("#size option[value='2']").click()
    sizes = plain.source("points")["size"]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


def test_the_legend_narrows_the_map(plain: Page) -> None:
    scene = make_scene()
    kinds = list(scene.columns[0].values)
    plain.all("#legend .entry")[0].click()
    only = [i for i, kind in enumerate(kinds) if kind == "chat"]
    assert plain.js("llregMap.selection()") == only
    alpha = plain.source("points")["alpha"]
    assert {alpha[i] > 0.8 for i in only} == {True}
    assert {alpha[i] > 0.8 for i in range(40) if i not in only} == {False}
    plain.all("#legend .entry")[1].click()
    assert plain.js("llregMap.selection()") == [i for i, kind in enumerate(kinds) if kind in ("chat", "instruct")]
    plain.click_point(only[1])
    assert plain.js("llregMap.state.picked") == only[1]
    plain.click_point(4)  # hidden: it cannot be hit
    assert plain.js("llregMap.state.picked") != 4
    plain.all("#legend .entry")[1].click()
    plain.all("#legend .entry")[0].click()
    assert min(plain.source("points")["alpha"]) > 0.8


def test_layers_that_the_scene_lacks_are_not_offered(plain: Page) -> None:
    assert not plain.find("#layers").is_displayed()
    assert plain.all(".markers") == []


def test_a_box_on_the_map_selects(plain: Page) -> None:
    plain.find("[aria-label='Select in a box']").click()
    at = {row: plain.pointer(row) for row in range(40)}
    cluster = [at[row] for row in range(1, 40, 4)]
    (x0, y0), (x1, y1) = np.min(cluster, axis=0) - 12, np.max(cluster, axis=0) + 12
    plain.mouse(("click_and_hold", int(x0), int(y0)), ("move", int(x1) - 5, int(y1)), ("release", int(x1), int(y1)))
    inside = [row for row, (x, y) in at.items() if x0 < x < x1 and y0 < y < y1]
    plain.until(lambda: sorted(plain.js("llregMap.selection()")) == inside)
    assert len(inside) >= 10
    plain.find("#clear").click()
    assert plain.js("llregMap.selection()") == []
    assert not plain.find("#save").is_enabled()


def test_the_selection_is_saved_as_csv(plain: Page, tmp_path: Path) -> None:
    scene = make_scene()
    plain.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    plain.all("#legend .entry")[0].click()
    plain.find("#save").click()
    saved = tmp_path / "models.csv"
    plain.until(saved.exists)
    plain.until(lambda: saved.read_bytes().endswith(b"\r\n"))
    with saved.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    rows = [i for i, kind in enumerate(scene.columns[0].values) if kind == "chat"]
    assert header == ["row_id", "name", "x", "y", "type", "num_parameters", "mean", "created"]
    assert [line[0] for line in lines] == [scene.row_ids[i] for i in rows]
    assert [line[1] for line in lines] == [scene.names[i] for i in rows]
    np.testing.assert_allclose([[float(v) for v in line[2:4]] for line in lines], scene.xy[rows], rtol=1e-6)
    assert [float(line[5]) for line in lines] == [scene.columns[1].values[i] for i in rows]
    assert [line[7] for line in lines] == [scene.columns[3].values[i] or "" for i in rows]


def test_axes_that_mean_nothing_are_not_drawn(plain: Page) -> None:
    assert axes_drawn(plain) == [False] * 2
    assert "no meaning of their own" in plain.find("footer p").text


def test_the_policy_forbids_scripts_and_connections_that_are_not_the_pages(plain: Page) -> None:
    plain.browser.execute_script(
        """window.added = ["script", "div"].map((name) => document.createElement(name));
        document.body.append(...added);
        added[0].textContent = "window.pwned = 1";
        added[1].innerHTML = "<img src='data:,' onerror='window.pwned = 2'>";
        fetch("https://example.org/").catch((error) => { window.refused = error.message; });"""
    )
    assert plain.until(lambda: plain.js("window.refused")) == "Failed to fetch"
    assert plain.js("window.pwned") is None
    assert any("Content Security Policy" in message for message in plain.errors())
    plain.browser.execute_script("added.forEach((element) => element.remove())")


# --- hostile names


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>window.pwned=1</script>",
    "@{x} $index @$name{safe}",
    "evil\u202egpj.exe\u2066",
    "$$\\alpha$$ \\[x\\]",
    "x" * 3000,
    "<!--<script>",
    "\ud800 lone \x00 nul \u2028",
    "{{data}}",
    "javascript:alert(1)",
]


def test_names_titles_and_facts_are_text_and_nothing_else(plain: Page, show: Callable[..., Page]) -> None:
    tags = "[...document.querySelectorAll('*')].map((node) => node.tagName).sort()"
    script = "llregMap.pick(arguments[0])"
    plain.js(script, 0)
    expected = Counter(plain.js(tags))
    told = {
        "title": "<b>A</b> & {{data}}",
        "subtitle": "</title><script>window.pwned = 1</script>",
        "facts": [("<i>", "a\u202eb")],
    }
    page = show(make_scene(10, **hostile(HOSTILE), **told))
    assert page.browser.title == "<b>A</b> & {{data}}"
    assert page.find("h1").text == "<b>A</b> & {{data}}"
    assert page.texts("footer dt") == ["<i>"]
    assert page.texts("footer dd") == ["a\ufffdb"]
    for row in range(10):
        page.js(script, row)
        shown = page.js("document.querySelector('#model h2').textContent")
        assert shown == "".join(c if c.isprintable() else "\ufffd" for c in HOSTILE[row])
        assert Counter(page.js(tags))["SCRIPT"] == expected["SCRIPT"]
        assert page.all("img, #model script, #legend script") == []
    page.find("#query").send_keys("script>")
    assert page.texts("#results [role=option]") == [HOSTILE[1], HOSTILE[6]]
    x, y = page.pointer(0)
    page.mouse(("move", x - 40, y - 40), ("move", x, y))
    page.until(lambda: page.find("#card").is_displayed())
    assert page.find("#card strong").text in HOSTILE
    assert page.js("window.pwned") is None
    assert page.js("document.documentElement.scrollWidth <= window.innerWidth")


def hostile(names: list[str]) -> dict[str, Any]:
    """The names in every place where a scene holds text."""
    return {
        "names": names,
        "row_ids": [f"{name}{i}" for i, name in enumerate(names)],
        "columns": (
            Column(names[0], names[1], "category", names),
            Column("n", names[0], "number", range(10), unit=names[1]),
        ),
        "edges": [(0, 1, names[0]), (1, 2, names[1])],
        "trajectories": [(name, [0, 3]) for name in names[:3]],
        "axes": (names[4], names[0]),
    }


def test_only_https_links_are_kept(show: Callable[..., Page]) -> None:
    links = [
        "javascript:alert(1)",
        "http://example.org",
        'https://huggingface.co/a"><b>',
        None,
        " https://x",
        "data:text/html,x",
    ]
    page = show(make_scene(6, links=links))
    found = []
    for row in range(6):
        page.js("llregMap.pick(arguments[0])", row)
        found.append([a.get_attribute("href") for a in page.all("#model a")])
    assert [bool(hrefs) for hrefs in found] == [False, False, True, False, False, False]
    assert found[2][0].startswith("https://huggingface.co/a")


# --- drawing


def test_every_point_is_drawn_in_its_colour_at_equal_aspect(show: Callable[..., Page]) -> None:
    scene = make_scene(8)
    page = show(scene)
    points = page.source("points")
    np.testing.assert_allclose(np.column_stack([points["x"], points["y"]]), scene.xy, rtol=1e-6)
    at = np.array([page.pointer(row) for row in range(8)])
    spans = np.ptp(at, axis=0) / np.ptp(scene.xy, axis=0)
    assert spans[0] == pytest.approx(spans[1], rel=0.02)
    time.sleep(0.3)  # the canvas is painted at the next frame
    for row, (x, y) in enumerate(at):
        wanted = np.array([int(points["color"][row][i : i + 2], 16) for i in (1, 3, 5)])
        alpha = points["alpha"][row]
        np.testing.assert_allclose(page.pixel(int(x), int(y)), alpha * wanted + (1 - alpha) * 255, atol=12)


def test_a_page_of_twenty_thousand_asks_for_webgl_and_answers(show: Callable[..., Page], tmp_path: Path) -> None:
    many = 20_000
    rng = np.random.default_rng(0)
    big = Scene(
        title="big", subtitle="", row_ids=[f"r{i}" for i in range(many)], names=[f"m{i}" for i in range(many)],
        xy=rng.normal(size=(many, 2)), columns=(Column("v", "v", "number", list(range(many))),),
        neighbors=rng.integers(0, many, (many, 10)), kl=rng.random((many, 10)), kl_se=rng.random((many, 10)),
    )  # fmt: skip
    page = show(big)
    text = (tmp_path / "map.html").read_text("utf-8")
    assert '"output_backend":"webgl"' in text
    assert len(text) < 25e6
    few = page_html(make_scene(40))
    assert '"output_backend":"webgl"' not in few
    assert "'unsafe-eval'" not in few
    assert len(page.source("points")["x"]) == many
    page.click_point(11)
    assert page.until(lambda: len(page.texts("#model .neighbors .row"))) == 10


def test_webgl_draws_under_the_policy(show: Callable[..., Page]) -> None:
    size = 3000
    rng = np.random.default_rng(0)
    scene = Scene(
        title="many", subtitle="", row_ids=[f"r{i}" for i in range(size)], names=[f"m{i}" for i in range(size)],
        xy=np.vstack([[10.0, 10.0], rng.normal(size=(size - 1, 2))]), columns=(Column("v", "v", "category", ["a"] * size),),
    )  # fmt: skip
    disguise = """const ask = WebGLRenderingContext.prototype.getParameter;
        WebGLRenderingContext.prototype.getParameter = function (name) {
          const answer = ask.call(this, name);
          return typeof answer === "string" && /software|swiftshader/i.test(answer) ? "a card" : answer;
        };"""
    page = show(scene, first=disguise)
    if page.js("document.createElement('canvas').getContext('webgl') === null"):
        pytest.skip("this chromium has no WebGL at all")
    assert page.js("llregMap.plot.figure.output_backend") == "webgl"
    page.until(lambda: page.pixel(*page.pointer(0)).min() < 200)
    color = page.source("points")["color"][0]
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    np.testing.assert_allclose(page.pixel(*page.pointer(0)), 0.9 * wanted + 0.1 * 255, atol=12)


def axes_drawn(page: Page) -> list[bool]:
    return list(page.js("[...llregMap.plot.figure.below, ...llregMap.plot.figure.left].map((axis) => axis.visible)"))


def test_axes_with_names_and_the_first_colour(show: Callable[..., Page]) -> None:
    page = show(make_scene(axes=("PC 1", "$$PC 2$$")), color="mean")
    assert axes_drawn(page) == [True] * 2
    assert "no meaning of their own" not in page.find("footer p").text
    assert page.requests() <= {"file", "data", "blob"}  # a label with $$ must not fetch MathJax
    assert page.find("#legend figcaption").text == "mean log-likelihood (nat/text)"
    page.click_point(5)
    assert page.find("#model h2").text == "org2/model-005-chat"


# --- other scenes


def test_models_at_one_point_take_turns(show: Callable[..., Page]) -> None:
    page = show(make_scene(2, xy=np.zeros((2, 2))))
    page.click_point(0)
    assert page.js("llregMap.state.picked") == 0
    page.click_point(0)
    assert page.js("llregMap.state.picked") == 1


def test_a_map_of_one_model(show: Callable[..., Page]) -> None:
    page = show(make_scene(1))
    page.click_point(0)
    assert page.find("#model h2").text == "org0/model-000-base"
    assert page.all("#model .neighbors") == []


def test_categories_beyond_the_colours_are_other(show: Callable[..., Page]) -> None:
    page = show(
        make_scene(
            200, columns=(Column("c", "c", "category", [f"kind {min(i % 29, i % 31):02d}" for i in range(200)]),)
        )
    )
    assert len(page.texts("#legend > ul > li > .entry")) == 12
    assert page.texts("#legend > ul > li > .entry")[-1].startswith("other")
    page.find("#legend summary").click()
    assert len(page.texts("#legend details .entry")) == len(set(page.js("llregMap.data.columns[0].levels"))) - 11
    assert len(set(page.source("points")["color"])) == 12


def test_columns_without_any_value(show: Callable[..., Page]) -> None:
    nothing = (Column("n", "n", "number", [None] * 40), Column("d", "d", "date", [None, "soon"] * 20))
    page = show(make_scene(columns=nothing))
    assert page.find("#legend").text == "No model here has a known n."
    page.js("llregMap.colorBy('d')")
    assert page.find("#legend").text == "No model here has a known d."


def test_dark_colours_follow_the_system_and_the_button(show: Callable[..., Page]) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page = show(make_scene(axes=("a", "b")))
    light = background(page)
    assert light > 0.9
    page.find("#theme").click()
    assert background(page) < 0.1
    text = page.js("llregMap.plot.figure.below[0].major_label_text_color")
    assert luminance([int(text[i : i + 2], 16) for i in (1, 3, 5)]) > 0.3
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        page = show(make_scene())
        assert background(page) < 0.1
        page.find("#theme").click()
        assert background(page) == light
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def background(page: Page) -> float:
    color = page.js("getComputedStyle(document.getElementById('map')).backgroundColor")
    return luminance([float(value) for value in re.findall(r"[\d.]+", color)[:3]])


def test_declared_edges_trajectories_and_ellipses(show: Callable[..., Page]) -> None:
    scene = make_scene(
        edges=[(0, 4, "finetune"), (0, 8, "quantized"), (4, 12, "merge")],
        trajectories=[("steps", [1, 5, 9])],
        ellipses=np.tile([4.0, 0.0, 1.0], (40, 1)),
        placed=np.arange(40) == 3,
    )
    page = show(scene)
    assert page.texts("#layers label") == [
        "Declared parent → child",
        "Trajectories",
        "Uncertainty: 1 SD from resampled texts",
    ]
    assert page.source("edges")["x0"] == []
    for layer in ("edges", "ellipses"):
        page.find(f"#layer-{layer}").click()
    edges = page.source("edges")
    np.testing.assert_allclose(np.column_stack([edges["x0"], edges["y0"]]), scene.xy[[0, 0, 4]], rtol=1e-5)
    np.testing.assert_allclose(np.column_stack([edges["x1"], edges["y1"]]), scene.xy[[4, 8, 12]], rtol=1e-5)
    direction = scene.xy[4] - scene.xy[0]
    assert page.source("edges-arrows")["angle"][0] + math.pi / 2 == pytest.approx(
        math.atan2(*direction[::-1]), rel=1e-5
    )
    assert len(page.source("trajectories")["x0"]) == 2
    assert page.texts("#labels span") == ["steps"]
    ellipses = page.source("ellipses")
    assert {*ellipses["width"]} == {4.0}  # 2 SD across
    assert {*ellipses["height"]} == {2.0}
    assert [i for i, marker in enumerate(page.source("points")["marker"]) if marker == "diamond"] == [3]
    assert "placed into it later" in page.find(".markers").text
    page.js("llregMap.pick(4)")
    assert page.texts("#model .relatives") == ["org0/model-000-base\nfinetune", "org0/model-012-base\nmerge"]
    page.js("llregMap.pick(5)")
    page.find("#model .path button:last-child").click()
    assert page.js("llregMap.state.picked") == 9


def test_no_columns_at_all_and_cells_of_the_csv_that_are_quoted_and_run_no_formula(show: Callable[..., Page]) -> None:
    names = ['=HYPERLINK("x")', "+1", "-1.5e3", "@SUM(A1)", "\tx", "-x", 'a,"b"', "a\r\nb", "ünï"]
    page = show(make_scene(9, names=names, columns=()))
    assert not page.find("#color-choice").is_displayed()
    assert len(set(page.source("points")["color"])) == 1
    page.js("llregMap.choose(llregMap.data.names.keys())")
    text = page.js("llregMap.selectionCsv()")
    cells = [line[1] for line in csv.reader(io.StringIO(text, newline=""))][1:]
    assert cells == ['\'=HYPERLINK("x")', "+1", "-1.5e3", "'@SUM(A1)", "'\tx", "'-x", 'a,"b"', "a\r\nb", "ünï"]
