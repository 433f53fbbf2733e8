"""The map page in a real browser, from disk: what it shows, what it does, and what names in it cannot do."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llreg.maps.draw.page import packed, page_html, printable, scene_payload, script_json, write_page
from llreg.maps.scene import Column, Scene
from llreg_schemas.errors import InputError, MissingExtraError

pytest.importorskip("bokeh")

KINDS = ("base", "chat", "instruct", "merge")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1300,850",
)


def make_scene(size: int = 40, **changes: Any) -> Scene:
    """Models in four clusters far apart, neighbours by distance on the map."""
    rng = np.random.default_rng(7)
    kind = np.arange(size) % 4
    xy = np.array([[0, 0], [40, 0], [0, 40], [40, 40]])[kind] + rng.normal(size=(size, 2)) * 4
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    neighbors = np.argsort(distance, axis=1, kind="stable")[:, 1:11]
    kl = np.take_along_axis(distance, neighbors, axis=1) / 100
    names = [f"org{i % 3}/model-{i:03d}-{KINDS[k]}" for i, k in enumerate(kind)]
    scene = Scene(
        title="Test map",
        subtitle="of models",
        row_ids=[f"row-{i:03d}" for i in range(size)],
        names=names,
        xy=xy,
        columns=(
            Column("type", "model type", "category", [KINDS[k] if i else None for i, k in enumerate(kind)]),
            Column(
                "num_parameters", "parameters", "number", [1e6 * 1.5**i if i else None for i in range(size)], log=True
            ),
            Column("mean", "mean log-likelihood", "number", [-900.0 + i for i in range(size)], unit="nat/text"),
            Column("created", "created", "date", [f"2023-{1 + i % 12:02d}-01" if i > 1 else None for i in range(size)]),
        ),
        neighbors=neighbors,
        kl=kl,
        kl_se=kl / 10,
        links=[f"https://huggingface.co/{name}" for name in names],
        facts=[("registry", "test"), ("seed", "0")],
    )
    return replace(scene, **changes)


class Page:
    """One page in the browser, driven as a person would and asked as a script would."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def js(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(f"return {script}", *values)

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def source(self, name: str) -> dict[str, list[Any]]:
        script = """const columns = Bokeh.documents[0].get_model_by_name(arguments[0]).data;
            const entries = columns instanceof Map ? [...columns] : Object.entries(columns);
            return Object.fromEntries(entries.map(([name, values]) => [name, Array.from(values)]))"""
        return dict(self.browser.execute_script(script, name))

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (value := condition()):
            assert time.monotonic() < deadline, "the page did not come to show it"
            time.sleep(0.03)
        return value

    def pointer(self, row: int) -> tuple[int, int]:
        """Where the row's point is in the window."""
        box = self.js("document.getElementById('plot').getBoundingClientRect().toJSON()")
        at = self.js("llregMap.screenOf(arguments[0])", row)
        return round(box["x"] + at["sx"]), round(box["y"] + at["sy"])

    def mouse(self, *steps: tuple[str, int, int]) -> None:
        from selenium.webdriver.common.action_chains import ActionBuilder

        actions = ActionBuilder(self.browser, duration=20)
        pointer: Any = actions.pointer_action
        for step, x, y in steps:
            pointer.move_to_location(x, y)
            if step != "move":
                getattr(pointer, step)()
        actions.perform()

    def pixel(self, x: int, y: int) -> np.ndarray:
        """Red, green and blue of a place in the window."""
        from PIL import Image

        picture = Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        return np.array(picture.getpixel((x, y)))

    def click_point(self, row: int) -> None:
        x, y = self.pointer(row)
        self.mouse(("move", x, y), ("click", x, y))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> set[str]:
        """Schemes of everything that the browser asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {url.split(":")[0] for url in sent}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a scene's page, open it from disk and wait for the map; no test may end with an error in the console."""
    page = Page(browser)

    def open_scene(scene: Scene, *, first: str = "", **options: Any) -> Page:
        before = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": first})
        write_page(scene, tmp_path / "map.html", **options)
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get((tmp_path / "map.html").as_uri())
        page.until(lambda: page.js("Boolean(window.llregMap)"))
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", before)
        return page

    yield open_scene
    assert page.errors() == []


# --- the file


def test_the_page_is_one_file_that_loads_nothing(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    assert page.js("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert page.requests() <= {"file", "data", "blob"}
    loading = "script[src], link[href], img, iframe, object, embed, source, video, audio, form, base"
    assert page.all(loading) == []


def test_the_policy_forbids_scripts_and_connections_that_are_not_the_pages(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    page.browser.execute_script(
        """const script = document.createElement("script");
        script.textContent = "window.pwned = 1";
        document.body.append(script);
        const picture = document.createElement("div");
        picture.innerHTML = "<img src='data:,' onerror='window.pwned = 2'>";
        document.body.append(picture);
        fetch("https://example.org/").catch((error) => { window.refused = error.message; });"""
    )
    assert page.until(lambda: page.js("window.refused")) == "Failed to fetch"
    assert page.js("window.pwned") is None
    assert any("Content Security Policy" in message for message in page.errors())


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


def test_title_and_facts_are_escaped_text(show: Callable[..., Page]) -> None:
    page = show(
        make_scene(
            title="<b>A</b> & {{data}}",
            subtitle="</title><script>window.pwned = 1</script>",
            facts=[("<i>", "a\u202eb")],
        )
    )
    assert page.browser.title == "<b>A</b> & {{data}}"
    assert page.find("h1").text == "<b>A</b> & {{data}}"
    assert page.texts("footer dt") == ["<i>"]
    assert page.texts("footer dd") == ["a\ufffdb"]
    assert page.js("window.pwned") is None


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


def test_a_page_of_twenty_thousand_asks_for_webgl_and_answers(show: Callable[..., Page]) -> None:
    scene = make_scene(40)
    many = 20_000
    rng = np.random.default_rng(0)
    big = Scene(
        title="big", subtitle="", row_ids=[f"r{i}" for i in range(many)], names=[f"m{i}" for i in range(many)],
        xy=rng.normal(size=(many, 2)), columns=(Column("v", "v", "number", list(range(many))),),
        neighbors=rng.integers(0, many, (many, 10)), kl=rng.random((many, 10)), kl_se=rng.random((many, 10)),
    )  # fmt: skip
    text = page_html(big)
    assert '"output_backend":"webgl"' in text
    assert len(text) < 25e6
    assert '"output_backend":"webgl"' not in page_html(scene)
    assert "'unsafe-eval'" not in page_html(scene)
    page = show(big)
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


@pytest.mark.parametrize("axes", [("", ""), ("PC 1", "$$PC 2$$")])
def test_axes_are_drawn_only_where_they_mean_something(show: Callable[..., Page], axes: tuple[str, str]) -> None:
    page = show(make_scene(axes=axes))
    drawn = page.js("[...llregMap.plot.figure.below, ...llregMap.plot.figure.left].map((axis) => axis.visible)")
    assert drawn == [any(axes)] * 2
    assert ("no meaning of their own" in page.find("footer p").text) is not any(axes)
    assert page.requests() <= {"file", "data", "blob"}  # a label with $$ must not fetch MathJax
    page.click_point(5)
    assert page.find("#model h2").text == "org2/model-005-chat"


# --- finding and picking


def test_search_finds_by_part_of_the_name_and_enter_goes_there(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    page.find("body").send_keys("/")
    box = page.browser.switch_to.active_element
    assert box.get_attribute("id") == "query"
    box.send_keys("MODEL-01")
    assert page.texts("#results [role=option]") == [f"org{i % 3}/model-{i:03d}-{KINDS[i % 4]}" for i in range(10, 20)]
    box.send_keys("\ue015\ue007")  # arrow down, enter
    assert page.find("#model h2").text == "org2/model-011-merge"
    assert page.js("llregMap.state.picked") == 11
    center = page.js(
        "[llregMap.plot.figure.x_range, llregMap.plot.figure.y_range].map(({start, end}) => (start + end) / 2)"
    )
    np.testing.assert_allclose(center, make_scene().xy[11], rtol=1e-4)
    assert not page.find("#found").is_displayed()
    box.send_keys("\ue00c")  # escape
    assert box.get_attribute("value") == ""
    box.send_keys("nothing like it")
    assert page.find("#found-count").text == "No model of that name"


def test_all_that_search_finds_can_be_selected(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    page.find("#query").send_keys("chat")
    page.find("#select-found").click()
    assert page.js("llregMap.selection()") == list(range(1, 40, 4))
    assert page.find("#selection-count").text == "10 models of 40 selected"


def test_a_click_on_a_point_shows_its_neighbours_as_list_and_lines(show: Callable[..., Page]) -> None:
    scene = make_scene()
    page = show(scene)
    page.click_point(17)
    assert page.find("#model h2").text == scene.names[17]
    listed = page.texts("#model .neighbors .name")
    assert listed == [scene.names[row] for row in scene.neighbors[17]]
    for text, kl, se in zip(page.texts("#model .neighbors .kl"), scene.kl[17], scene.kl_se[17], strict=True):
        value, error = map(float, text.split(" ± "))
        assert value == pytest.approx(kl, abs=se / 10)
        assert error == pytest.approx(se, rel=0.05)
    lines = page.source("links")
    np.testing.assert_allclose(np.column_stack([lines["x0"], lines["y0"]]), np.tile(scene.xy[17], (10, 1)), rtol=1e-5)
    np.testing.assert_allclose(np.column_stack([lines["x1"], lines["y1"]]), scene.xy[scene.neighbors[17]], rtol=1e-5)
    assert page.find("#model a").get_attribute("href") == scene.links[17]
    assert page.find("#model a").get_attribute("rel") == "noopener noreferrer"
    assert page.find("#model code").text == "row-017"
    values = dict(zip(page.texts("#model .values dt"), page.texts("#model .values dd"), strict=True))
    assert values["mean log-likelihood"] == "\N{MINUS SIGN}883 nat/text"
    assert values["created"] == "2023-06-01"


def test_a_neighbour_that_is_clicked_becomes_the_picked_one(show: Callable[..., Page]) -> None:
    scene = make_scene()
    page = show(scene)
    page.click_point(17)
    page.all("#model .neighbors .row")[3].click()
    after = int(scene.neighbors[17, 3])
    assert page.find("#model h2").text == scene.names[after]
    assert page.source("links")["x0"] == pytest.approx([scene.xy[after, 0]] * 10, rel=1e-5)
    page.find("#model [aria-label=Close]").click()
    assert not page.find("#model").is_displayed()
    assert page.source("links")["x0"] == []


def test_the_card_under_the_pointer_names_the_model_and_its_nearest(show: Callable[..., Page]) -> None:
    scene = make_scene()
    page = show(scene)
    x, y = page.pointer(9)
    page.mouse(("move", x - 30, y - 30), ("move", x, y))
    page.until(lambda: page.find("#card").is_displayed())
    text = page.find("#card").text
    assert text.startswith(scene.names[9])
    assert f"nearest {scene.names[scene.neighbors[9, 0]]}" in text.replace("\n", " ")
    assert re.search(r"0\.\d+ ± 0\.\d+ bit/byte", text)


def test_keys_move_and_zoom_the_map(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    span = "(({start, end}) => [start, end])(llregMap.plot.figure.x_range)"
    start, end = page.js(span)
    page.find("#plot").send_keys("+")
    nearer = page.js(span)
    assert nearer[1] - nearer[0] == pytest.approx((end - start) / 1.5)
    page.find("#plot").send_keys("\ue014")  # arrow right
    assert page.js(span)[0] == pytest.approx(nearer[0] + 0.1 * (nearer[1] - nearer[0]))
    page.find("#plot").send_keys("0")
    assert page.js(span) == pytest.approx([start, end])


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


# --- colours


def test_a_category_column_has_a_legend_of_counts(show: Callable[..., Page]) -> None:
    scene = make_scene()
    page = show(scene)
    counts = Counter(value for value in scene.columns[0].values if value)
    expected = [f"{kind}\n{count}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    assert page.texts("#legend .entry") == [*expected, "unknown\n1"]
    colors = page.source("points")["color"]
    of_kind = {
        kind: {colors[i] for i, value in enumerate(scene.columns[0].values) if value == kind} for kind in (*KINDS, None)
    }
    assert all(len(found) == 1 for found in of_kind.values())
    assert len(set.union(*of_kind.values())) == 5


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


@pytest.mark.parametrize("name", ["num_parameters", "mean", "created"])
def test_numbers_and_dates_have_a_colour_bar(show: Callable[..., Page], name: str) -> None:
    from bokeh.palettes import Viridis256

    scene = make_scene()
    page = show(scene)
    page.find(f"#color option[value='{[column.name for column in scene.columns].index(name)}']").click()
    column = next(column for column in scene.columns if column.name == name)
    values = np.array([np.nan if value is None else as_number(value) for value in column.values])
    low, high = np.nanpercentile(values, [1, 99])
    scaled = np.log([values, np.full_like(values, low), np.full_like(values, high)]) if column.log else np.array(
        [values, np.full_like(values, low), np.full_like(values, high)]
    )  # fmt: skip
    share = np.clip((scaled[0] - scaled[1]) / (scaled[2] - scaled[1]), 0, 1)
    palette = [color.lower() for color in (*Viridis256[::4], Viridis256[-1])]
    colors = page.source("points")["color"]
    known = ~np.isnan(values)
    found = np.array([palette.index(color) for color, is_known in zip(colors, known, strict=True) if is_known])
    np.testing.assert_allclose(found / (len(palette) - 1), 0.94 * share[known], atol=0.6 / (len(palette) - 1))
    assert not {color for color, is_known in zip(colors, known, strict=True) if not is_known} & set(palette)
    assert len(page.texts("#legend .ticks span")) >= 2
    assert page.find("#legend figcaption").text.startswith(column.title)
    unknown = int((~known).sum())
    assert (f"unknown: {unknown}" in page.find("#legend").text) is bool(unknown)


def as_number(value: str | float) -> float:
    return float(np.datetime64(value, "D").astype(int)) if isinstance(value, str) else value


def test_the_first_colour_can_be_chosen(show: Callable[..., Page]) -> None:
    page = show(make_scene(), color="mean")
    assert page.find("#legend figcaption").text == "mean log-likelihood (nat/text)"


def test_columns_without_any_value_and_no_columns_at_all(show: Callable[..., Page]) -> None:
    nothing = (Column("n", "n", "number", [None] * 40), Column("d", "d", "date", [None, "soon"] * 20))
    page = show(make_scene(columns=nothing))
    assert page.find("#legend").text == "No model here has a known n."
    page.js("llregMap.colorBy('d')")
    assert page.find("#legend").text == "No model here has a known d."
    page = show(make_scene(columns=()))
    assert not page.find("#color-choice").is_displayed()
    assert len(set(page.source("points")["color"])) == 1


def test_points_can_be_sized_by_a_number(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    assert len(set(page.source("points")["size"])) == 1
    page.find("#size option[value='2']").click()
    sizes = page.source("points")["size"]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


def test_the_legend_narrows_the_map(show: Callable[..., Page]) -> None:
    scene = make_scene()
    page = show(scene)
    kinds = list(scene.columns[0].values)
    page.all("#legend .entry")[0].click()
    only = [i for i, kind in enumerate(kinds) if kind == "chat"]
    assert page.js("llregMap.selection()") == only
    alpha = page.source("points")["alpha"]
    assert {alpha[i] > 0.8 for i in only} == {True}
    assert {alpha[i] > 0.8 for i in range(40) if i not in only} == {False}
    page.all("#legend .entry")[1].click()
    assert page.js("llregMap.selection()") == [i for i, kind in enumerate(kinds) if kind in ("chat", "instruct")]
    page.click_point(only[1])
    assert page.js("llregMap.state.picked") == only[1]
    page.click_point(4)  # hidden: it cannot be hit
    assert page.js("llregMap.state.picked") != 4
    page.all("#legend .entry")[1].click()
    page.all("#legend .entry")[0].click()
    assert min(page.source("points")["alpha"]) > 0.8


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


def luminance(rgb: list[float] | list[int]) -> float:
    return float(np.dot(linear(np.array(rgb) / 255), [0.2126, 0.7152, 0.0722]))


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def test_category_colours_stay_apart_for_colour_blind_eyes() -> None:
    # Machado, Oliveira & Fernandes 2009, severity 1; Oklab (Ottosson 2020).
    views = {
        "normal": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }
    to_cone = np.array(
        [
            [0.41222147, 0.53633254, 0.05144599],
            [0.21190350, 0.68069955, 0.10739696],
            [0.08830246, 0.28171884, 0.62997870],
        ]
    )
    to_lab = np.array(
        [
            [0.21045426, 0.79361778, -0.00407205],
            [1.97799850, -2.42859221, 0.45059371],
            [0.02590404, 0.78277177, -0.80867577],
        ]
    )
    from importlib import resources

    script = resources.files("llreg.maps.draw").joinpath("page_color.js").read_text()
    found = re.findall(r'"(#[0-9a-f]{6})"', script[: script.index("];")])
    assert len(found) == 12
    rgb = linear(np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in found]))
    for name, view in views.items():
        lab = np.cbrt(np.clip(rgb @ np.array(view).T, 0, 1) @ to_cone.T) @ to_lab.T
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[~np.eye(12, dtype=bool)]
        assert distance.min() > (0.12 if name == "normal" else 0.06), name


# --- layers


def test_layers_that_the_scene_lacks_are_not_offered(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    assert not page.find("#layers").is_displayed()
    assert page.all(".markers") == []


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


# --- selection and CSV


def test_a_box_on_the_map_selects(show: Callable[..., Page]) -> None:
    page = show(make_scene())
    page.find("[aria-label='Select in a box']").click()
    at = {row: page.pointer(row) for row in range(40)}
    cluster = [at[row] for row in range(1, 40, 4)]
    (x0, y0), (x1, y1) = np.min(cluster, axis=0) - 12, np.max(cluster, axis=0) + 12
    page.mouse(("click_and_hold", int(x0), int(y0)), ("move", int(x1) - 5, int(y1)), ("release", int(x1), int(y1)))
    inside = [row for row, (x, y) in at.items() if x0 < x < x1 and y0 < y < y1]
    page.until(lambda: sorted(page.js("llregMap.selection()")) == inside)
    assert len(inside) >= 10
    page.find("#clear").click()
    assert page.js("llregMap.selection()") == []
    assert not page.find("#save").is_enabled()


def test_the_selection_is_saved_as_csv(show: Callable[..., Page], tmp_path: Path) -> None:
    scene = make_scene()
    page = show(scene)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.all("#legend .entry")[0].click()
    page.find("#save").click()
    saved = tmp_path / "models.csv"
    page.until(saved.exists)
    page.until(lambda: saved.read_bytes().endswith(b"\r\n"))
    with saved.open(newline="", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    rows = [i for i, kind in enumerate(scene.columns[0].values) if kind == "chat"]
    assert header == ["row_id", "name", "x", "y", "type", "num_parameters", "mean", "created"]
    assert [line[0] for line in lines] == [scene.row_ids[i] for i in rows]
    assert [line[1] for line in lines] == [scene.names[i] for i in rows]
    np.testing.assert_allclose([[float(v) for v in line[2:4]] for line in lines], scene.xy[rows], rtol=1e-6)
    assert [float(line[5]) for line in lines] == [scene.columns[1].values[i] for i in rows]
    assert [line[7] for line in lines] == [scene.columns[3].values[i] or "" for i in rows]


def test_cells_of_the_csv_are_quoted_and_run_no_formula(show: Callable[..., Page]) -> None:
    names = ['=HYPERLINK("x")', "+1", "-1.5e3", "@SUM(A1)", "\tx", "-x", 'a,"b"', "a\r\nb", "ünï"]
    page = show(make_scene(9, names=names, columns=()))
    page.js("llregMap.choose(llregMap.data.names.keys())")
    text = page.js("llregMap.selectionCsv()")
    cells = [line[1] for line in csv.reader(io.StringIO(text, newline=""))][1:]
    assert cells == ['\'=HYPERLINK("x")', "+1", "-1.5e3", "'@SUM(A1)", "'\tx", "'-x", 'a,"b"', "a\r\nb", "ünï"]


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


def test_names_are_text_and_nothing_else(show: Callable[..., Page]) -> None:
    plain = show(make_scene(10, **hostile(["plain"] * 10)))
    tags = "[...document.querySelectorAll('*')].map((node) => node.tagName).sort()"
    script = "llregMap.pick(arguments[0])"
    plain.js(script, 0)
    expected = Counter(plain.js(tags))
    page = show(make_scene(10, **hostile(HOSTILE)))
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
