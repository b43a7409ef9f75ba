"""The app's page in a headless browser, and the app itself on a port of this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@contextmanager
def browser(downloads: Path) -> Iterator[Chrome]:
    """A browser that logs what pages say and what they ask the network for."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    # In a container there is no sandbox of the browser's own, and little shared memory.
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(each)
    driver = Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The app's page in one window of a browser.

    Attributes:
        driver: the browser.
        window: its window.
    """

    def __init__(
        self,
        driver: Chrome,
        address: str,
        size: tuple[int, int] = (1280, 1200),
        media: Sequence[dict[str, str]] = (),
    ) -> None:
        driver.switch_to.new_window("tab")
        self.driver, self.window = driver, driver.current_window_handle
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": list(media)})
        driver.get(address)
        self.wait(lambda: self.all("#paint"))
        time.sleep(1)  # until its fields are alive

    def focus(self) -> Page:
        """The page with its window in front."""
        self.driver.switch_to.window(self.window)
        return self

    def wait(self, done: Callable[[], Any], seconds: float = 120) -> Any:
        return WebDriverWait(self.driver, seconds).until(lambda _: done())

    def all(self, where: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, where)

    def one(self, where: str) -> Any:
        return self.wait(lambda: self.all(where), 60)[0]

    def text(self, where: str) -> str:
        return str(self.one(where).text)

    def value(self, where: str) -> str:
        return str(self.one(f"#{where} textarea, #{where} input").get_attribute("value"))

    def click(self, where: str) -> None:
        element = self.one(where)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def tab(self, name: str) -> None:
        """Opens a tab of the form by its name."""
        (tab,) = [each for each in self.all("button[role=tab]") if each.text == name]
        tab.click()
        time.sleep(0.5)

    def fill(self, name: str, text: str) -> None:
        """Types a text in the place of what stands in a field."""
        field = self.one(f"#{name} textarea, #{name} input:not([type=range])")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text, Keys.TAB)

    def say(self, name: str, done: str) -> None:
        """Clicks a button and waits until what it gives is there."""
        self.click(f"#{name}")
        self.wait(lambda: self.all(done))

    def word(self, text: str, within: str = "#picture") -> Any:
        """A word of a picture's prompt."""
        return next(each for each in self.all(f"{within} .word") if each.text == text)

    def hover(self, element: Any) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()
        time.sleep(0.2)

    def draw(self, top_left: tuple[float, float], bottom_right: tuple[float, float]) -> None:
        """Drags over the picture, from place to place in fractions of it."""
        picture = self.one("#picture .picture")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        width, height = picture.size["width"], picture.size["height"]
        (top, left), (bottom, right) = top_left, bottom_right
        chain = ActionChains(self.driver)
        chain.move_to_element_with_offset(
            picture, round((left - 0.5) * width), round((top - 0.5) * height)
        )
        chain.click_and_hold()
        chain.move_by_offset(round((right - left) * width), round((bottom - top) * height))
        chain.release().perform()

    def warning(self) -> str:
        """The sentence that is shown over the page."""
        return str(self.wait(lambda: [e.text for e in self.all(".toast-body") if e.text])[0])

    def screenshot(self, path: Path) -> None:
        time.sleep(0.3)
        self.driver.execute_script("window.scrollTo(0, 0)")
        self.driver.save_screenshot(str(path))

    def complaints(self) -> list[str]:
        """What the page logged."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def asked(self) -> list[str]:
        """The addresses that any window asked for, but those within a page."""
        messages = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        urls = [
            each["params"]["request"]["url"]
            for each in messages
            if each["method"] == "Network.requestWillBeSent"
        ]
        return [each for each in urls if not each.startswith(("data:", "blob:", "about:"))]
