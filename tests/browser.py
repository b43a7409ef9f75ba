"""A headless browser that opens pages from files, notes what they log and asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium to look with: apt-get install chromium chromium-driver",
)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser that logs what pages say and what they ask the network for."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # In a container there is no sandbox of the browser's own, and little shared memory.
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(each)
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def show(
    driver: Chrome,
    path: Path,
    state: str = "",
    size: tuple[int, int] = (1280, 900),
    dark: bool = False,
) -> None:
    """Opens a page at a width and height in pixels, and waits until its maps are there."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    driver.get("about:blank")  # so that another hash of the same page loads it anew
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.resolve().as_uri() + state)
    ready = "return document.documentElement.dataset.ready === 'yes'"
    WebDriverWait(driver, 60).until(lambda each: each.execute_script(ready))
    settle(driver)


def settle(driver: Chrome) -> None:
    """Waits until what was asked for is drawn."""
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
    )


def complaints(driver: Chrome) -> list[str]:
    """What the page logged since it was opened."""
    return [each["message"] for each in driver.get_log("browser")]


def requests(driver: Chrome) -> list[str]:
    """The addresses that were asked for since the page was opened, but those within it."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [each for each in found if not each.startswith(("data:", "blob:", "about:"))]


def violations(driver: Chrome) -> list[str]:
    """What axe-core finds of serious or critical impact, with where it is."""
    driver.execute_script((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found: dict[str, Any] = driver.execute_async_script(
        "const done = arguments[0]; axe.run(document).then(done);"
    )
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
