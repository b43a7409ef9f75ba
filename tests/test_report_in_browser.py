"""The report in a real browser: what lights up is where the words are, by mouse, touch and keys."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

import t2i_xattn as tx
from browser import complaints, needs_chromium, requests, violations
from lab.benchmark.recorded import drawn_picture, drawn_trace
from lab.browser import chromium, settle, show
from t2i_xattn.models.default import WORLD
from t2i_xattn.traces.trace import Trace

pytestmark = needs_chromium

PROMPT = "a lighthouse by the wide sea under tall clouds"
HOSTILE = "<script>document.title = 'run'</script> \"it's\" 🦊 שלום עולם café & <b>red</b>"


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def trace() -> Trace:
    return drawn_trace(PROMPT, 20, 256, steps=6, sides=(32, 16))


@pytest.fixture(scope="module")
def page(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a folder with spaces") / "run é.html"
    tx.report(trace, drawn_picture(256)).save(path)
    return path


def word(driver: Chrome, text: str) -> WebElement:
    found = driver.find_elements(By.CSS_SELECTOR, ".word")
    return next(each for each in found if each.text == text and each.is_displayed())


def attribute(element: WebElement, name: str) -> str:
    return element.get_attribute(name) or ""


def point_at(driver: Chrome, element: WebElement, by: tuple[int, int] = (0, 0)) -> None:
    ActionChains(driver).move_to_element_with_offset(element, *by).perform()
    settle(driver)


def shown(driver: Chrome, stage: int = 0) -> np.ndarray:
    """What is drawn on a picture, (height, width, 3)."""
    url: str = driver.execute_script(
        "return document.querySelectorAll('canvas')[arguments[0]].toDataURL()", stage
    )
    data = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)


def at_peak(trace: Trace, text: str, picture: np.ndarray) -> float:
    """The mean of a picture around the peak of a word's map."""
    row, column = trace.heatmap(text).peak()
    side = len(picture)
    y, x = (round((each + 0.5) / 256 * side) for each in (row, column))
    return float(picture[max(0, y - 6) : y + 6, max(0, x - 6) : x + 6].mean())


def test_a_word_that_is_pointed_at_lights_its_region(
    driver: Chrome, page: Path, trace: Trace
) -> None:
    show(driver, page)
    before = shown(driver)
    for text, other in (("lighthouse", "sea"), ("sea", "clouds")):
        point_at(driver, word(driver, text))
        lit = shown(driver)
        assert at_peak(trace, text, lit) > 0.8 * at_peak(trace, text, before)
        assert at_peak(trace, other, lit) < 0.75 * at_peak(trace, other, before)
        assert text in driver.find_element(By.ID, "card").text
    point_at(driver, driver.find_element(By.CSS_SELECTOR, "h1"))
    assert np.array_equal(shown(driver), before)


def test_pinned_words_stay_in_colours_of_their_own(
    driver: Chrome, page: Path, trace: Trace
) -> None:
    show(driver, page, "#view=heat")
    for text in ("lighthouse", "sea"):
        word(driver, text).click()
    point_at(driver, driver.find_element(By.CSS_SELECTOR, "h1"))
    pinned = [word(driver, text) for text in ("lighthouse", "sea")]
    assert [each.get_attribute("aria-pressed") for each in pinned] == ["true", "true"]
    shadows = {each.value_of_css_property("box-shadow") for each in pinned}
    assert len(shadows) == 2
    card = driver.find_element(By.ID, "card").text
    assert "lighthouse" in card
    assert "sea" in card
    picture = shown(driver)
    for text, red in (("lighthouse", True), ("sea", False)):  # yellow and blue
        row, column = trace.heatmap(text).peak()
        side = len(picture)
        pixel = picture[int(row / 256 * side), int(column / 256 * side)]
        assert (pixel[0] > pixel[2]) == red, (text, pixel)
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
    settle(driver)
    assert word(driver, "sea").get_attribute("aria-pressed") == "false"


def test_a_spot_ranks_the_words_that_hold_it(driver: Chrome, page: Path, trace: Trace) -> None:
    show(driver, page)
    stage = driver.find_element(By.CSS_SELECTOR, ".stage")
    for text in ("lighthouse", "clouds", "tall"):
        row, column = trace.heatmap(text).peak()
        x, y = ((each + 0.5) / 256 - 0.5 for each in (column, row))
        point_at(driver, stage, (round(x * stage.size["width"]), round(y * stage.size["height"])))
        first = driver.find_element(By.CSS_SELECTOR, ".rank li").text
        assert first.startswith(text), first
        assert "holds" in attribute(word(driver, text), "class")


def test_sliders_and_switches_change_what_is_shown(driver: Chrome, page: Path) -> None:
    show(driver, page, "#view=mask&pins=1")
    pictures = [shown(driver)]
    for keys, field in ((Keys.ARROW_LEFT * 20, "threshold"), (Keys.ARROW_RIGHT * 3, "from")):
        driver.find_element(By.ID, field).send_keys(keys)
        settle(driver)
        pictures.append(shown(driver))
    assert "steps 4–6" in driver.find_element(By.ID, "steps").text
    driver.find_element(By.CSS_SELECTOR, "#layers button").click()
    for view in ("light", "heat", "outline"):
        driver.find_element(By.CSS_SELECTOR, f"[data-name={view}]").click()
        settle(driver)
        pictures.append(shown(driver))
    differ = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert min(differ) > 0.05, differ
    state = driver.execute_script("return location.hash")
    for each in ("pins=1", "view=outline", "steps=3.5", "without=0", "threshold="):
        assert each in state
    # The link holds all of it.
    last = shown(driver)
    show(driver, page, state)
    assert np.array_equal(shown(driver), last)


def test_a_link_that_makes_no_sense_is_passed_over(driver: Chrome, page: Path) -> None:
    wrong = "#pins=99.-1.x&view=no&scale=__proto__&map=constructor&text=toString&steps=9.1"
    show(driver, page, f"{wrong}&threshold=NaN&without=0.1.2.3.4.5.6.7")
    assert complaints(driver) == []
    assert driver.execute_script("return location.hash") in ("", "#")


def test_a_flat_map_looks_flat_on_one_scale_and_is_marked(driver: Chrome, tmp_path: Path) -> None:
    trace = drawn_trace("red blue", 6, 64, sides=(16,), seed=1)
    for array in trace.run.maps["text"].values():
        array[..., 1] = 0.2 + array[..., 1] / 50
    tx.report(trace, drawn_picture(64)).save(tmp_path / "a.html")
    for scale, flat in (("own", False), ("one", True)):
        show(driver, tmp_path / "a.html", f"#view=heat&scale={scale}")
        point_at(driver, word(driver, "red"))
        assert (shown(driver).std(axis=(0, 1)).max() < 25) == flat
        assert "Nearly flat" in driver.find_element(By.ID, "card").text
    point_at(driver, word(driver, "blue"))
    assert "Nearly flat" not in driver.find_element(By.ID, "card").text


def test_by_keys_alone(driver: Chrome, page: Path, trace: Trace) -> None:
    show(driver, page)
    active = driver.switch_to
    ActionChains(driver).send_keys(Keys.TAB).perform()  # the picture
    settle(driver)
    assert active.active_element.get_attribute("role") == "application"
    ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
    settle(driver)
    first = driver.find_element(By.CSS_SELECTOR, ".rank button").text
    ActionChains(driver).send_keys(Keys.ENTER).perform()
    settle(driver)
    assert word(driver, first).get_attribute("aria-pressed") == "true"
    ActionChains(driver).send_keys(Keys.ESCAPE, Keys.TAB, Keys.ARROW_RIGHT).perform()
    settle(driver)
    assert active.active_element.text == "lighthouse"
    card = driver.find_element(By.ID, "card")
    assert card.get_attribute("role") == "status"
    assert "lighthouse" in card.text
    ActionChains(driver).send_keys(" ").perform()
    settle(driver)
    assert word(driver, "lighthouse").get_attribute("aria-pressed") == "true"


def test_small_maps_of_steps_and_layers(driver: Chrome, page: Path) -> None:
    show(driver, page, "#pins=1")
    driver.find_element(By.CSS_SELECTOR, "#multiples summary").click()
    settle(driver)
    named = driver.find_elements(By.CSS_SELECTOR, "#multiples canvas")
    assert len(named) == 6 * 2
    assert "step 1:" in attribute(named[0], "aria-label")
    assert violations(driver) == []


DOWNLOADS = """
const done = arguments[arguments.length - 1];
const kept = URL.createObjectURL;
HTMLAnchorElement.prototype.click = () => {};
URL.createObjectURL = (blob) => {
  URL.createObjectURL = kept;
  const reader = new FileReader();
  reader.onload = () => done([blob.type, reader.result.split(",")[1]]);
  reader.readAsDataURL(blob);
  return kept(blob);
};
document.getElementById(arguments[0]).dispatchEvent(new MouseEvent("click"));
"""
"""Gives what would be saved."""


def test_downloads(driver: Chrome, page: Path, trace: Trace) -> None:
    show(driver, page, "#pins=1.4")
    found: dict[str, Any] = {}
    for name in ("png", "svg", "json"):
        kind, data = driver.execute_async_script(DOWNLOADS, name)
        assert name in kind
        found[name] = base64.b64decode(data)
    assert Image.open(io.BytesIO(found["png"])).size == (1024, 1024)
    assert json.loads(found["json"]) == tx.report(trace, drawn_picture(256)).data
    from xml.etree import ElementTree

    svg = ElementTree.fromstring(found["svg"])
    space = "{http://www.w3.org/2000/svg}"
    assert [each.text for each in svg.iter(f"{space}text")] == ["lighthouse", "wide"]
    assert len(list(svg.iter(f"{space}path"))) == 2
    assert svg.findtext(f"{space}title") == PROMPT


SCREENS = {
    "light": ((1280, 900), False),
    "dark": ((1280, 900), True),
    "phone": ((390, 844), False),
}


@pytest.mark.parametrize(("size", "dark"), SCREENS.values(), ids=SCREENS)
def test_light_dark_and_phone(
    driver: Chrome, page: Path, size: tuple[int, int], dark: bool, tmp_path: Path
) -> None:
    show(driver, page, "#pins=1.5", size=size, dark=dark)
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert driver.execute_script(wide), "it scrolls sideways"
    paper = driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    light = sum(int(each) for each in paper.partition("(")[2].rstrip(")").split(",")[:3]) / 3
    assert (light < 60) if dark else (light > 200)
    picture = driver.find_element(By.CSS_SELECTOR, ".stage").size
    assert picture["width"] >= 0.9 * min(size[0] - 32, 390)
    for details in driver.find_elements(By.TAG_NAME, "summary"):
        details.click()
    settle(driver)
    assert violations(driver) == []
    assert complaints(driver) == []
    assert set(requests(driver)) == {page.resolve().as_uri()}
    driver.save_screenshot(str(tmp_path / "page.png"))


def test_a_tap_lights_and_another_pins(driver: Chrome, page: Path) -> None:
    show(driver, page, size=(390, 844))
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        for pressed in ("false", "true"):
            box = word(driver, "sea").rect
            scrolled = driver.execute_script("return window.scrollY")
            at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 3 - scrolled}
            for kind, points in (("touchStart", [at]), ("touchEnd", [])):
                touch = {"type": kind, "touchPoints": points}
                driver.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
            settle(driver)
            assert "lit" in attribute(word(driver, "sea"), "class").split()
            assert word(driver, "sea").get_attribute("aria-pressed") == pressed
    finally:
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE + " word" * 300])
def test_whatever_is_typed_is_shown_and_runs_nothing(
    driver: Chrome, text: str, tmp_path: Path
) -> None:
    trace = drawn_trace(text, 310, 64, sides=(8,))
    trace.run.settings["arguments"] = {"negative_prompt": text}
    tx.report(trace, drawn_picture(64), words=["café"]).save(tmp_path / "a.html")
    show(driver, tmp_path / "a.html")
    assert driver.find_element(By.CSS_SELECTOR, ".prompt").get_property("textContent") == text
    assert driver.title != "run"
    for each in driver.find_elements(By.CSS_SELECTOR, ".word")[:12]:
        point_at(driver, each)
        assert each.text in driver.find_element(By.ID, "card").text
    _, svg = driver.execute_async_script(DOWNLOADS, "svg")
    assert "<script" not in base64.b64decode(svg).decode()
    assert complaints(driver) == []
    assert driver.execute_script("return document.querySelectorAll('script').length") == 3


def test_two_runs_light_together_on_one_scale(driver: Chrome, tmp_path: Path) -> None:
    one = drawn_trace("a lighthouse by the sea", 10, 128, sides=(16,))
    two = drawn_trace("a castle by the sea", 10, 128, sides=(16,), seed=2)
    other = tx.report(two, drawn_picture(128, seed=1), name="after: <b>&</b> " + "long " * 20)
    both = tx.report(one, drawn_picture(128), against=other, name="before")
    both.save(tmp_path / "a.html")
    show(driver, tmp_path / "a.html", size=(1500, 900))
    called = [each.text for each in driver.find_elements(By.CSS_SELECTOR, ".called")]
    assert called == ["before", "after: <b>&</b> " + " ".join(["long"] * 20)]
    stages = driver.find_elements(By.CSS_SELECTOR, ".stage")
    assert len({(each.rect["y"], each.rect["width"]) for each in stages}) == 1
    before = [shown(driver, stage) for stage in (0, 1)]
    point_at(driver, word(driver, "lighthouse"))
    assert "lighthouse → castle" in driver.find_element(By.ID, "card").text
    for stage, trace, text in ((0, one, "lighthouse"), (1, two, "castle")):
        now = shown(driver, stage)
        assert not np.array_equal(now, before[stage])
        row, column = trace.heatmap(text).peak()
        side = len(now)
        spot = [int((each + 0.5) / 128 * side) for each in (row, column)]
        assert now[spot[0], spot[1]].mean() > 0.6 * before[stage][spot[0], spot[1]].mean()
    ends = driver.find_elements(By.CSS_SELECTOR, ".ends span")
    low, high = (float(each.text.split()[0]) for each in ends)
    maps = [each.heatmap(text).array for each, text in ((one, "lighthouse"), (two, "castle"))]
    # The page's maps are smaller, each place the mean of four.
    assert low == pytest.approx(100 * min(each.min() for each in maps), rel=0.05)
    assert high == pytest.approx(100 * max(each.max() for each in maps), rel=0.05)
    assert violations(driver) == []
    assert complaints(driver) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_that_were_never_taught_are_told(driver: Chrome, tmp_path: Path, dark: bool) -> None:
    trace = drawn_trace("a red bear 🦊 by a tree", 10, 64, sides=(8,))
    trace.run.settings["model"] = str(WORLD)
    tx.report(trace, drawn_picture(64)).save(tmp_path / "a.html")
    show(driver, tmp_path / "a.html", dark=dark)
    told = driver.find_element(By.CSS_SELECTOR, ".never").text
    assert "in their place: bear (spelled alike: near), 🦊." in told
    hint = "Emoji and symbols have no map of their own: 🦊"
    assert hint in [each.text for each in driver.find_elements(By.CSS_SELECTOR, ".hint")]
    line = {}
    for text in ("bear", "red"):
        point_at(driver, word(driver, text))
        card = driver.find_element(By.ID, "card").text
        assert ("Never taught to this model" in card) == (text == "bear")
        line[text] = word(driver, text).value_of_css_property("text-decoration-style")
    assert line == {"bear": "wavy", "red": "solid"}
    assert violations(driver) == []
    assert complaints(driver) == []


def test_tabs_by_keys(driver: Chrome, tmp_path: Path) -> None:
    from test_report import PROMPT as TYPED
    from test_report import painted

    trace, (image,) = painted(
        branches=["conditional", "unconditional"], negative_prompt="blue of circle"
    )
    tx.report(trace, image).save(tmp_path / "a.html")
    show(driver, tmp_path / "a.html")
    prompts = driver.find_elements(By.CSS_SELECTOR, ".prompt")
    assert [each.text for each in prompts] == [TYPED, ""]
    driver.find_element(By.CSS_SELECTOR, "[role=tab]").send_keys(Keys.ARROW_RIGHT)
    settle(driver)
    assert [each.text for each in prompts] == ["", "blue of circle"]
    point_at(driver, word(driver, "circle"))
    assert "circle" in driver.find_element(By.ID, "card").text
    assert "text=unconditional" in driver.execute_script("return location.hash")
    assert violations(driver) == []


def test_a_text_that_one_of_two_runs_has(driver: Chrome, tmp_path: Path) -> None:
    from test_report import painted

    one, (image,) = painted("a red circle")
    two, (picture,) = painted(
        "a red circle", branches=["conditional", "unconditional"], negative_prompt="of blue"
    )
    both = tx.report(one, image, against=tx.report(two, picture))
    both.save(tmp_path / "a.html")
    show(driver, tmp_path / "a.html", "#text=unconditional&pins=1")
    prompts = driver.find_elements(By.CSS_SELECTOR, ".prompt")
    assert [each.text for each in prompts if each.text] == ["of blue"]
    assert "blue" in driver.find_element(By.ID, "card").text
    before = shown(driver, 1)
    point_at(driver, word(driver, "of"))
    assert not np.array_equal(shown(driver, 1), before)
    driver.find_element(By.CSS_SELECTOR, "[role=tab]").click()
    settle(driver)
    assert [each.text for each in prompts if each.text] == ["a red circle"] * 2
    assert complaints(driver) == []
