"""A scene, and the browser in which its page is looked at."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.maps.scene import Column, Scene

KINDS = ("base", "chat", "instruct", "merge")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--in-process-gpu",  # a process less to talk to: a page opens in two thirds of the processor time
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

    def start_over(self) -> None:
        """Put back what tests change of a page: picked, chosen and hidden models, colour, size, search, tool, view, pointer."""
        self.browser.execute_script(
            """const change = (id, value, event) => {
              document.getElementById(id).value = value;
              document.getElementById(id).dispatchEvent(new Event(event));
            };
            change("query", "", "input");
            change("size", "-1", "change");
            llregMap.clear();
            llregMap.colorBy(llregMap.data.columns[0].name);
            document.querySelector("[aria-label='Move']").click();
            document.getElementById("plot").dispatchEvent(new KeyboardEvent("keydown", { key: "0" }));
            document.activeElement.blur();"""
        )
        self.mouse(("move", 1, 1))


def start_browser(profile: Path) -> Any:
    """A Chromium without a window; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def luminance(rgb: list[float] | list[int]) -> float:
    return float(np.dot(linear(np.array(rgb) / 255), [0.2126, 0.7152, 0.0722]))


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# How eyes see linear RGB: Machado, Oliveira & Fernandes 2009, severity 1.
SIGHTS = {
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
# Oklab (Ottosson 2020).
_TO_CONE = np.array(
    [
        [0.41222147, 0.53633254, 0.05144599],
        [0.21190350, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
)
_TO_LAB = np.array(
    [
        [0.21045426, 0.79361778, -0.00407205],
        [1.97799850, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
)


def oklab(rgb: np.ndarray, sight: str) -> np.ndarray:
    """Linear RGB, (n_colors, 3), as an eye of that sight sees it, in a space in which distances are what one sees."""
    return np.asarray(np.cbrt(np.clip(rgb @ np.array(SIGHTS[sight]).T, 0, 1) @ _TO_CONE.T) @ _TO_LAB.T)
