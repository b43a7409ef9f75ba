"""Sheets of scenes to look at: pictures over their prompts, and the pixels of each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_xattn.render import wrapped
from t2i_xattn.scenes.world import RenderedWorld

MARK = np.array([255, 40, 150])
"""The colour laid over the pixels that a word names; all others lose theirs."""

GAP, TEXT, LINES = 6, 12, 3


def _sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Pictures of one size in rows, each over its caption."""
    font = ImageFont.load_default(size=TEXT)
    width, height = pictures[0][0].size
    step_x, step_y = width + GAP, height + LINES * (TEXT + 2) + GAP
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(pictures):
        x, y = GAP + index % columns * step_x, GAP + index // columns * step_y
        sheet.paste(picture, (x, y))
        for line, text in enumerate(wrapped(caption, font, width)[:LINES]):
            pen.text((x, y + height + 2 + line * (TEXT + 2)), text, font=font, fill="black")
    return sheet


def scene_sheet(drawn: Sequence[RenderedWorld], columns: int = 6) -> Image.Image:
    """Each picture over its prompt."""
    return _sheet([(each.image, each.prompt) for each in drawn], columns)


def word_sheet(drawn: Sequence[RenderedWorld]) -> Image.Image:
    """A row for each scene: its picture, then each word that names pixels, with them marked."""
    rows = []
    for each in drawn:
        grey = np.asarray(each.image.convert("L"), dtype=float)[..., None] * 0.6 + 80
        row = [(each.image, each.prompt)]
        for word, mask in zip(each.description.words, each.masks, strict=True):
            if word.kind != "other":
                marked = np.where(mask[..., None], grey * 0.4 + MARK * 0.6, grey)
                shown = Image.fromarray(np.broadcast_to(marked, (*mask.shape, 3)).astype(np.uint8))
                row.append((shown, f"{word.text} ({word.kind})"))
        rows.append(row)
    columns = max(len(row) for row in rows)
    blank = (Image.new("RGB", drawn[0].image.size, "white"), "")
    return _sheet([cell for row in rows for cell in row + [blank] * (columns - len(row))], columns)
