"""A browser for the session, and pages in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.maps.draw.pages import Page, make_scene, start_browser

from llreg.maps.draw.page import write_page
from llreg.maps.scene import Scene


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = start_browser(tmp_path_factory.mktemp("chromium"))
    yield Page(browser)
    browser.quit()


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a scene's page, open it from disk and wait for the map; no test may end with an error in the console."""
    browser = page.browser

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


@pytest.fixture
def plain(page: Page, show: Callable[..., Page]) -> Page:
    """The page of `make_scene()` as it opens, which tests must leave able to `start_over`.

    Tests of it that follow each other share one: opening it takes longer than most of them.
    """
    if page.js("Boolean(window.isPlain)"):
        page.start_over()
    else:
        show(make_scene()).js("(window.isPlain = true)")
    return page
