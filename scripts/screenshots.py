"""Take the pictures of the report that stand in the README, with the model in the box."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

import t2i_xattn as tx
from lab.browser import chromium, show
from t2i_xattn.commands.one_sentence import mistakes_told

PROMPT = "a small house beside a tall tree under a yellow moon"
SEED = 3
SCREENS = {
    "report-light.png": ("#pins=2", False),
    "report-dark.png": ("#pins=2.9.6", True),
}
"""By name, what is pinned, and whether the colours are dark."""


def main(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("docs"),
) -> None:
    """Take the pictures of the report that stand in the README."""
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
            taken = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            # In 256 colours of its own, so that the file stays small; Pillow dithers only to a
            # palette that is given.
            taken.quantize(palette=taken.quantize(256)).save(out / name, optimize=True)
            typer.echo(out / name)


if __name__ == "__main__":
    with mistakes_told():
        typer.run(main)
