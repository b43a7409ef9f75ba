"""The app in a real browser: it generates, changes, explains and downloads, for two at once."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import make_pipeline
from t2i_xattn.asking.request import Request

pytest.importorskip("gradio", reason="no Gradio: pip install '.[app]'")
pytest.importorskip("selenium", reason="no selenium: pip install '.[dev]'")

from app_page import CHROMIUM, DRIVER, Page, browser
from browser import violations
from t2i_xattn.app.bounds import Bounds
from t2i_xattn.app.lit import picture_uri
from t2i_xattn.app.serving import served
from t2i_xattn.app.studio import Studio
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.traces.trace import Trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium to look with: apt-get install chromium chromium-driver",
    ),
]

# `<b>` without the space would be asked for as an embedding.
PROMPT = 'a red <b >circle</b> ${alert(1)} {{7}} "blue" <script >b</script> עגול'
WORDS = ["a", "red", "b", "circle", "b", "alert", "1", "7", "blue", "script", "b", "script", "עגול"]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(make_pipeline(), bounds=Bounds(side=128, steps=100, upload=100_000))


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    with served(studio) as address:
        yield address


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    with browser(tmp_path) as driver:
        yield driver


def download(page: Page, name: str, folder: Path) -> Path:
    """A file that a button of the page gives."""
    (button,) = [
        each for each in page.all("a, button") if each.text == name and each.is_displayed()
    ]
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    page.wait((folder / name).is_file)
    return folder / name


def shown(page: Page, where: str) -> str:
    """The address that holds the picture which is shown."""
    return str(page.one(f"{where} .whole").get_attribute("src"))


def test_it_generates_changes_explains_and_downloads(
    driver: Any, studio: Studio, address: str, tmp_path: Path
) -> None:
    page = Page(driver, address)
    page.fill("prompt", PROMPT)
    page.fill("steps", "2")
    page.fill("seed", "5")
    page.say("paint", "#picture .word")
    expected = studio.paint(Request(PROMPT, seed=5, steps=2))
    assert shown(page, "#picture") == picture_uri(expected.image)
    assert page.one("#picture .prompt").get_attribute("textContent") == PROMPT
    assert [each.text for each in page.all("#picture .word")] == WORDS

    # Hovering and keys light a word's region, a tap pins it.
    lights = "return getComputedStyle(document.querySelector('#picture .lights')).maskImage"
    assert driver.execute_script(lights) == "none"
    page.hover(page.word("circle"))
    circle = driver.execute_script(lights)
    assert np.ptp(_mask(circle)) > 0
    page.hover(page.one("#prompt"))
    assert driver.execute_script(lights) == "none"
    driver.execute_script("arguments[0].focus()", page.word("red"))
    assert driver.execute_script(lights) not in (circle, "none")
    page.word("circle").click()
    page.hover(page.one("#prompt"))
    assert driver.execute_script(lights) == circle
    share = expected.trace.heatmap("circle").share
    assert f"“circle”: {share * 100:.1f} % of the attention" in page.text("#picture .said")
    page.screenshot(tmp_path / "painted.png")

    picture = download(page, "picture.png", tmp_path)
    assert Image.open(picture).tobytes() == expected.image.tobytes()
    assert made_of(picture).options["prompt"] == PROMPT
    trace = Trace.load(download(page, "trace.safetensors", tmp_path))
    np.testing.assert_array_equal(trace.heatmap("red").array, expected.trace.heatmap("red").array)

    page.tab("Change words")
    page.draw((0.25, 0.1), (0.75, 0.6))
    page.wait(lambda: page.value("boxes"))
    word, _, sides = page.value("boxes").partition("=")
    assert word == "circle"
    np.testing.assert_allclose(
        [float(each) for each in sides.split(",")], (0.25, 0.1, 0.75, 0.6), atol=0.01
    )
    page.say("change", "#after .word")
    boxed = shown(page, "#after")
    assert shown(page, "#before") == shown(page, "#picture") != boxed

    page.fill("boxes", "")
    page.fill("other-3", "star")  # of "circle"
    page.fill("weight-1", "2")  # of "red"
    page.click("#change")
    page.wait(lambda: [e for e in page.all("#after .word") if e.text == "star"])
    assert shown(page, "#before") == shown(page, "#picture")
    assert "--replace=circle=star --weight=red=2.0" in page.value("change-command")
    page.screenshot(tmp_path / "changed.png")

    driver.execute_script("window.scrollTo(0, 0)")
    page.tab("Explain")
    page.say("explain", "#explanation .tile")
    rows = [each.text for each in page.all("#explanation th[scope=row]")]
    assert rows[:4] == ["a", "red", "b", "circle"]
    assert "'circle', " in page.text("#explanation")
    download(page, "explanation.json", tmp_path)
    page.screenshot(tmp_path / "explained.png")

    assert page.complaints() == []
    assert [each for each in page.asked() if not each.startswith(address)] == []


def _mask(css: str) -> np.ndarray:
    data = css.partition("base64,")[2].rstrip('")')
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).getchannel("A"))


def test_two_at_once_get_their_own(driver: Any, studio: Studio, address: str) -> None:
    pages = [Page(driver, address) for _ in range(2)]
    for seed, page in enumerate(pages):
        page.focus().fill("steps", "20")
        page.fill("seed", str(seed))
    for page in pages:
        page.focus().click("#paint")
    prompt = pages[0].value("prompt")
    for seed, page in enumerate(pages):
        page.focus()
        page.one("#picture .word")
        expected = studio.paint(Request(prompt, seed=seed, steps=20))
        assert shown(page, "#picture") == picture_uri(expected.image)


def test_beyond_the_bounds_is_a_sentence(driver: Any, address: str) -> None:
    page = Page(driver, address)
    page.fill("steps", "2")
    page.say("paint", "#picture .word")
    before = shown(page, "#picture")
    page.fill("steps", "101")
    page.click("#paint")
    assert "expected at most 100 steps, but came 101; take fewer" in page.warning()
    assert shown(page, "#picture") == before
    assert page.word("red").is_displayed()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_anybody_can_read_it(driver: Any, address: str, dark: bool, tmp_path: Path) -> None:
    """axe-core finds nothing serious in any part of it."""
    media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.set_script_timeout(120)
    page = Page(driver, address, media=media)
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(each) for each in paper.partition("(")[2].rstrip(")").split(",")[:3]) / 3
    assert (light < 60) if dark else (light > 200)
    page.fill("steps", "2")
    page.say("paint", "#picture .word")
    page.hover(page.word("red"))
    assert violations(driver) == []
    page.word("red").click()
    for tab, button, done in (
        ("Change words", "change", "#after .word"),
        ("Explain", "explain", "#explanation .tile"),
        ("A picture of your own", None, None),
    ):
        driver.execute_script("window.scrollTo(0, 0)")
        page.tab(tab)
        if tab == "Change words":
            page.fill("weight-1", "2")
        if button is not None and done is not None:
            page.say(button, done)
        assert violations(driver) == [], tab
    page.screenshot(tmp_path / "app.png")


def test_a_full_queue_is_a_sentence(driver: Any, studio: Studio) -> None:
    few = Studio(studio.pipe, bounds=Bounds(side=128, steps=100, queue=1))
    with served(few) as address:
        pages = [Page(driver, address) for _ in range(3)]
        with few._one_at_a_time:  # one runs for as long as that, one waits, one is refused
            for page in pages:
                page.focus().click("#paint")
                time.sleep(1)
            assert "expected at most 1 requests that wait" in page.warning()


def test_a_file_beyond_the_limit_is_a_sentence(driver: Any, address: str, tmp_path: Path) -> None:
    """Of Gradio's: its page looks at the file before anything is sent."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    page = Page(driver, address)
    page.tab("A picture of your own")
    field = page.driver.find_element("css selector", "#upload input[type=file]")
    field.send_keys(str(tmp_path / "large.png"))
    assert "exceed the maximum allowed size of 97.7 Kb" in page.warning()


def test_what_was_typed_runs_nothing_in_a_sentence(driver: Any, address: str) -> None:
    page = Page(driver, address)
    page.fill("steps", "2")
    page.say("paint", "#picture .word")
    page.tab("Change words")
    page.fill("boxes", "<img src=x onerror=alert(1)>=0,0,1")
    page.click("#change")
    assert "expected box '<img src'=top,left" in page.warning()
    assert page.all(".toast-body img") == []


def test_a_run_is_stopped(driver: Any, studio: Studio, address: str) -> None:
    page = Page(driver, address)
    page.fill("steps", "100")
    page.click("#paint")
    page.wait(lambda: studio._stops)
    page.click("#stop")
    page.wait(lambda: not studio._stops, 10)
    page.fill("steps", "1")
    page.say("paint", "#picture .word")


def test_a_picture_of_one_s_own(driver: Any, address: str, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (64, 64), "red").save(own)
    page = Page(driver, address)
    page.fill("steps", "2")
    page.tab("A picture of your own")
    page.click("#read")
    assert "upload a file first" in page.warning()
    field = page.driver.find_element("css selector", "#upload input[type=file]")
    field.send_keys(str(own))
    page.wait(lambda: "own.png" in page.text("#upload").replace("\n", ""))
    page.say("read", "#picture .word")
    assert "Your picture" in page.text("#picture")


def test_on_a_phone(driver: Any, address: str, tmp_path: Path) -> None:
    page = Page(driver, address, (390, 844))
    page.fill("steps", "1")
    page.say("paint", "#picture .word")
    wide = "return document.documentElement.scrollWidth"
    assert driver.execute_script(wide) <= 390
    page.screenshot(tmp_path / "phone.png")
