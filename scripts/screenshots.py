"""Take the pictures of the report and the app that stand in the README and docs, with the model in
the box."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

import t2i_xattn as tx
from lab.browser import chromium, show
from t2i_xattn.app.serving import served
from t2i_xattn.app.studio import Studio
from t2i_xattn.commands.one_sentence import mistakes_told

PROMPT = "a small house left of a big tree under a yellow moon"
SEED = 7
SCREENS = {
    "report-light.png": ("#pins=2", False),
    "report-dark.png": ("#pins=2.11.7", True),
}
"""By name, what is pinned, and whether the colours are dark."""


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("docs"),
) -> None:
    """Take the pictures of the report and the app."""
    pipe = tx.load_default()
    with tx.record(pipe, walk=1, contributions=True) as trace:
        generator = torch.Generator().manual_seed(SEED)
        image = pipe(
            PROMPT, num_inference_steps=25, guidance_scale=5.0, generator=generator
        ).images[0]
    with tempfile.TemporaryDirectory() as folder, chromium() as driver:
        page = Path(folder) / "report.html"
        tx.report(trace, image).save(page)
        for name, (state, dark) in SCREENS.items():
            show(driver, page, state, size=(1120, 860), dark=dark)
            save(driver, out / name)
        take_the_app(driver, pipe, out / "app.png")


def take_the_app(driver: Chrome, pipe: Any, path: Path) -> None:
    """A picture that was painted in the app, the word "circle" pinned, and a slider for each."""
    pipe.set_progress_bar_config(disable=True)
    with served(Studio(pipe)) as address:
        metrics = {"width": 1280, "height": 860, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
        driver.get(address)
        for what in (
            "//button[@id='paint']",
            "//*[@id='picture']//button[text()='circle']",
            "//button[@role='tab'][text()='Change words']",
        ):
            found = WebDriverWait(driver, 180).until(
                expected_conditions.element_to_be_clickable((By.XPATH, what))
            )
            time.sleep(1)  # until it is alive
            found.click()
        time.sleep(2)
        driver.execute_script("window.scrollTo(0, 0)")
        save(driver, path)
        driver.get("about:blank")


def save(driver: Chrome, path: Path) -> None:
    """What the browser shows, in 256 colours of its own, so that the file stays small; Pillow
    dithers only to a palette that is given."""
    taken = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    taken.quantize(palette=taken.quantize(256)).save(path, optimize=True)
    typer.echo(path)


if __name__ == "__main__":
    with mistakes_told():
        typer.run(main)
