"""Sheets of scenes to look at: pictures over their prompts, and the pixels of each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from lab.scenes.world import RenderedWorld
from t2i_xattn.showing.captions import captioned_sheet

MARK = np.array([255, 40, 150])
"""The colour laid over the pixels that a word names; all others lose theirs."""


def scene_sheet(drawn: Sequence[RenderedWorld], columns: int = 6) -> Image.Image:
    """Each picture over its prompt."""
    return captioned_sheet([(each.image, each.prompt) for each in drawn], columns)


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
    return captioned_sheet(
        [cell for row in rows for cell in row + [blank] * (columns - len(row))], columns
    )
