"""Headless Chromium that opens pages from files: for tests, figures and screenshots of reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
INSTALL = "apt-get install chromium chromium-driver"


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser that logs what pages say and what they ask the network for.

    Raises:
        UserError: if there is none.
    """
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    if CHROMIUM is None or DRIVER is None:
        raise UserError(f"expected Chromium and its driver, but they are not there; {INSTALL}")
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for each in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(each)
    if getattr(os, "geteuid", lambda: 1)() == 0:
        options.add_argument("--no-sandbox")  # which root cannot have
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(120)
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
    """Opens a page at a width and height in pixels, and waits until its maps are there.

    Args:
        driver: what `chromium` gave.
        path: of the page.
        state: what stands behind the path, such as `"#pins=1"`.
        size: width and height of what is seen; less than 500 is a phone.
        dark: whether the system's colours are dark.
    """
    from selenium.webdriver.support.ui import WebDriverWait

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
