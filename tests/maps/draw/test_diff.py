"""The page of two models in a real browser, from disk: what it shows, and what texts in it cannot do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import MakeRow
from tests.maps.draw.pages import SIGHTS, Page, linear, luminance, oklab

from llreg.geometry.kl.spans import Spans, find_spans
from llreg.locate import init
from llreg.maps.draw.diff import diff_html, diff_payload, visible, write_diff
from llreg.store.rowfile import write_row

DASH = "\N{EN DASH}"
TEXTS = [
    ("The lighthouse keeper counted ships until the fog came.\n\n                                 Then he slept.", "prose"),
    ("<img src=x onerror='window.pwned=1'></script><script>window.pwned=2</script><!-- {{data}} &amp;", "<b>markup</b>"),
    ("evil \u202egpj.exe\u2066 \x1b[31m \u2028 and a tab\t\x00\r\nlast line of it", "<b>markup</b>"),
    ("Grüße aus Köln: es regnet, und niemand weiß warum. 数学は楽しい。明日も続ける。", "prose"),
    ("A secret text that a licence keeps from being copied, of some ninety bytes in all, or more.", "prose"),
]  # fmt: skip


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Spans:
    """Two rows on hostile texts; text 4 is not here."""
    folder = tmp_path_factory.mktemp("diff")
    lines = [json.dumps({"text": text, "subset": subset}) + "\n" for text, subset in TEXTS]
    (folder / "texts.jsonl").write_text("".join(lines))
    registry = init(folder / "registry", texts=folder / "texts.jsonl")
    for k, name in enumerate(("org/long-name-of-a-model-base", "org/long-name-of-a-model-int4")):
        write_row(registry.path, make_row(registry, name, k, fine=True))
    found = find_spans(registry, [record.row_id for record in registry.records()])
    return replace(found, passages=[*found.passages[:4], None])


@pytest.fixture
def shown(page: Page, spans: Spans, tmp_path: Path) -> Iterator[Page]:
    """The page in the browser; no test may end with an error in the console."""
    write_diff(spans, tmp_path / "diff.html")
    for log in ("browser", "performance"):
        page.browser.get_log(log)
    page.browser.get((tmp_path / "diff.html").as_uri())
    page.until(lambda: page.js("Boolean(window.llregDiff)"))
    yield page
    assert page.errors() == []


def test_the_page(shown: Page, spans: Spans) -> None:
    assert shown.js("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert shown.requests() <= {"file", "data", "chrome"}  # the browser's own first page
    assert shown.texts("h1 bdi") == spans.rows.labels
    # Every text as it is, by its share; markup is text and nothing else.
    order = [text["text"] for text in diff_texts(spans)]
    assert [int(title.split()[1]) for title in shown.texts("article h3 b")] == order
    bodies = shown.js("[...document.querySelectorAll('.text')].map((node) => node.textContent)")
    for text, body in zip(order, bodies, strict=True):
        if text == 4:
            assert re.fullmatch(rf"(\d+{DASH}\d+)+", body)
        else:
            assert re.sub(r"[↵·]", "", body).replace(" ", "") == visible(TEXTS[text][0]).replace(" ", "")
    assert shown.js("window.pwned") is None
    assert shown.all("article img, article script, #tabs b") == []
    assert shown.js("document.querySelectorAll('script').length") == 2

    # A segment says what it is under the pointer.
    for at, node in enumerate(shown.all(".text > span")[:3]):
        shown.browser.execute_script("arguments[0].click()", node)
        first, second = shown.js("[...document.querySelectorAll('#card dd')].map((node) => node.textContent)")[:2]
        segments = np.flatnonzero(spans.rows.texts[spans.text] == order[0])
        for shown_nats, nats in zip((first, second), spans.log_likelihood[:, segments[at]], strict=True):
            assert shown_nats == f"\N{MINUS SIGN}{-nats:.2f} nats"
        better = "first" if np.subtract(*spans.log_likelihood[:, segments[at]]) > 0 else "second"
        assert better in node.get_attribute("class").split()
    shown.find("h1").click()
    assert not shown.find("#card").is_displayed()

    # Subsets.
    assert sorted(shown.texts("#tabs .name")) == ["<b>markup</b>", "all", "prose"]
    shown.find("#tab-1").click()
    assert [int(title.split()[1]) for title in shown.texts("article h3 b")] == [
        text for text in order if TEXTS[text][1] == "<b>markup</b>"
    ]
    assert shown.find("#part").text.startswith("<b>markup</b>: ")
    # The widest span is found again, whatever is shown.
    widest = next(span for span in spans.spans if TEXTS[span["text"]][1] == "prose")
    shown.all("#widest button")[spans.spans.index(widest)].click()
    assert shown.find("#tab--1").get_attribute("aria-selected") == "true"
    assert shown.js("document.querySelector('.found').llreg.start") == widest["start"]
    assert f"Text {widest['text']}, bytes {widest['start']}{DASH}" in shown.find("#card").text

    # Without drift, in the order of the text set, by keys.
    shown.find("#mode option[value=deviation]").click()
    shown.find("#order option[value=index]").click()
    assert [int(title.split()[1]) for title in shown.texts("article h3 b")] == [0, 1, 2, 3, 4]
    classes = shown.js("[...document.querySelectorAll('.text > span')].map((node) => node.className)")
    assert [name == "first" for name in classes] == (spans.deviation > 0).tolist()
    shown.all(".text")[1].send_keys("\ue014\ue014")  # arrow right, twice
    assert shown.find("#card p").text.startswith("Text 1, bytes ")
    assert shown.js("document.querySelector('.current') === document.querySelectorAll('.text')[1].children[1]")

    # A phone is wide enough, and dark is dark.
    assert background(shown) > 0.9
    shown.find("#theme").click()
    assert background(shown) < 0.1
    device = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    shown.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    try:
        assert shown.js("[document.documentElement.scrollWidth, window.innerWidth]") == [360, 360]
        shown.browser.execute_script("document.querySelector('.text > span').click()")
        card = shown.js("document.getElementById('card').getBoundingClientRect().toJSON()")
        assert (card["left"], card["right"]) == (8, 352)
    finally:
        shown.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def background(page: Page) -> float:
    color = page.js("getComputedStyle(document.getElementById('panel')).backgroundColor")
    return luminance([float(value) for value in re.findall(r"[\d.]+", color)[:3]])


def diff_texts(spans: Spans) -> list[dict[str, Any]]:
    """Texts by their share, largest first."""
    shares = np.bincount(spans.text, spans.share)
    return [{"text": int(spans.rows.texts[text])} for text in np.argsort(-shares, kind="stable")]


def test_a_page_of_many_texts_keeps_those_that_carry_most(spans: Spans) -> None:
    payload = diff_payload(spans, 6)
    kept = len(payload["texts"]["pieces"])
    shares = np.sort(np.bincount(spans.text, spans.share))[::-1]
    assert 1 <= kept < len(TEXTS)
    assert payload["shownShare"] == pytest.approx(shares[:kept].sum())
    assert payload["numTexts"] == len(TEXTS)
    assert diff_html(spans) == diff_html(spans)


def test_colours_stay_apart_and_text_is_legible_on_them() -> None:
    sheets = [resources.files("llreg.maps.draw").joinpath(name).read_text() for name in ("base.css", "diff.css")]
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", "".join(sheets))
    for theme in (1, 2):
        colors = {pair[0]: np.array([int(pair[theme][i : i + 2], 16) for i in (1, 3, 5)]) for pair in pairs}
        light = {name: luminance(list(color)) for name, color in colors.items()}

        def contrast(a: str, b: str, light: dict[str, float] = light) -> float:
            low, high = sorted((light[a], light[b]))
            return (high + 0.05) / (low + 0.05)

        assert contrast("text", "first") > 4.5
        assert contrast("text", "second") > 4.5
        assert min(contrast(ink, "surface") for ink in ("first-ink", "second-ink", "soft")) > 4.5
        rgb = linear(np.array([colors[name] for name in ("first", "second", "surface")]) / 255)
        for sight in SIGHTS:
            distance = np.linalg.norm(np.diff(oklab(rgb, sight)[[0, 1, 2, 0]], axis=0), axis=1)
            assert distance.min() > 0.12, sight
