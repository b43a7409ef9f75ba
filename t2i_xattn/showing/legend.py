"""The colour bar of a sheet, and what its colours mean."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from t2i_xattn.showing.colours import Scale, coloured
from t2i_xattn.showing.grid import INK, PALE_INK, PAPER, Measures, text_block
from t2i_xattn.showing.percent import percent

OWN = (
    "Colours say how far a place stands above the word's lowest place, in per cent of the word's "
    "highest: what is nearly flat stays dark."
)
COMMON = "All words have the same scale."


def legend(
    width: int, colormap: str, scale: Scale | None, told: str, measures: Measures
) -> Image.Image:
    """The colour bar with the values at its ends, over a text.

    Args:
        width: in pixels.
        colormap: its name.
        scale: what the ends mean; None: a map's own range, see `colours.placed`.
        told: what stands below.
        measures: of lengths and letters.
    """
    text = measures.small_text
    ends = ("0%", "100%") if scale is None else (percent(scale[0]), percent(scale[1]))
    bar_height, bar_width, gap = measures.of(14), measures.of(200), measures.of(8)
    below = text_block([(told, text, PALE_INK)], width)
    top = max(bar_height, text.line) + gap
    result = Image.new("RGB", (width, top + below.height), PAPER)
    draw = ImageDraw.Draw(result)
    left = round(text.width(ends[0])) + gap
    ramp = np.linspace(0, 1, bar_width, dtype=np.float32)[None].repeat(bar_height, axis=0)
    text.write(draw, (0, 0), [ends[0]], INK)
    result.paste(Image.fromarray(coloured(ramp, colormap)), (left, 1))
    text.write(draw, (left + bar_width + gap, 0), [ends[1]], INK)
    result.paste(below, (0, top))
    return result
