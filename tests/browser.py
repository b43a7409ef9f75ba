"""What a page in the browser logs and asks the network for, and what axe-core finds in it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from selenium.webdriver import Chrome

from lab.browser import CHROMIUM, DRIVER, INSTALL

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason=f"no Chromium to look with: {INSTALL}"
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
