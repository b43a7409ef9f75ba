"""One layer of attention at one place, every step a picture on one sheet.

A step's values are small squares: its last axis from left to right, the others from top to bottom.
What has a sign runs from blue over white to red, the same distance from 0 in both; shares run from
black to yellow, from 0 to the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from t2i_xattn.showing.captions import captioned_sheet
from t2i_xattn.showing.colours import coloured, stretched
from t2i_xattn.showing.lettering import Lettering

if TYPE_CHECKING:
    from t2i_xattn.explaining.laid_open import LaidOpen, Told

TILE = 300, 176
"""Width and height of a step's picture, in pixels."""

_PAPER, _INK, _BAR = (255, 255, 255), (20, 20, 20), (214, 122, 48)


def steps_sheet(found: LaidOpen, picture: Image.Image, columns: int = 4) -> Image.Image:
    """The place in the picture, each step, the tokens that get the most, and the word's map.

    Args:
        found: the layer.
        picture: of its run.
        columns: pictures in a row.
    """
    tiles = [(_fitted(_marked(picture, found)), "the place")]
    for told in found.told():
        # Without the equation, whose letters the font has not.
        shape = " by ".join(str(length) for length in told.values.shape)
        caption = f"{told.name}: {told.meaning} ({told.axes}: {shape})"
        tiles.append((_squares(told), caption))
        if told.name == "probs":
            caption = f"the most get: mean of the heads; {found.word!r} gets {found.share:.1%}"
            tiles.append((_bars(found.most), caption))
    laid = Image.fromarray(stretched(found.map)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = Image.blend(
        picture.convert("RGB"), Image.fromarray(coloured(np.asarray(laid), "inferno")), 0.6
    )
    span = f"{found.map.min():.1%} to {found.map.max():.1%}"
    tiles.append((_fitted(heat), f"the share of {found.word!r} at every place: {span}"))
    return captioned_sheet(tiles, columns)


def _marked(picture: Image.Image, found: LaidOpen) -> Image.Image:
    """The picture with the place framed."""
    (row, column), (height, width) = found.place, found.size
    marked = picture.convert("RGB")
    x, y = picture.width / width, picture.height / height
    box = [column * x, row * y, (column + 1) * x - 1, (row + 1) * y - 1]
    draw = ImageDraw.Draw(marked)
    draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline=_INK)
    draw.rectangle(box, outline=_PAPER)
    return marked


def _fitted(picture: Image.Image) -> Image.Image:
    """A picture in the middle of a tile."""
    factor = min(TILE[0] / picture.width, TILE[1] / picture.height)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    tile = Image.new("RGB", TILE, _PAPER)
    left, top = ((outer - inner) // 2 for outer, inner in zip(TILE, size, strict=True))
    tile.paste(picture.resize(size, Image.Resampling.NEAREST), (left, top))
    return tile


def _squares(told: Told) -> Image.Image:
    """The values of a step as small squares."""
    values = told.values.reshape(-1, told.values.shape[-1])
    hidden = ~np.isfinite(values)
    values = np.where(hidden, 0, values)
    largest = float(np.abs(values).max()) or 1.0
    if told.name == "probs":
        colours = coloured((values / largest).astype(np.float32), "inferno")
    else:
        colours = coloured((values / largest / 2 + 0.5).astype(np.float32), "colorbrewer:RdBu_r")
    colours[hidden] = 128
    return Image.fromarray(_enlarged(colours))


def _enlarged(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Values as squares that fill a tile; of more than fit, every so-manieth."""
    rows, columns = (
        np.arange(length) * count // length
        for length, count in zip(TILE[::-1], colours.shape, strict=False)
    )
    enlarged: NDArray[np.uint8] = colours[rows][:, columns]
    return enlarged


def _bars(most: list[tuple[str, float]]) -> Image.Image:
    """Tokens with their shares, the largest first."""
    tile = Image.new("RGB", TILE, _PAPER)
    draw, text = ImageDraw.Draw(tile), Lettering(13)
    height, left, right = TILE[1] // max(1, len(most)), 118, 50
    for number, (token, share) in enumerate(most):
        top = number * height
        text.write(draw, (0, top + 2), [_cut(token, text, left - 6)], _INK)
        width = round((TILE[0] - left - right) * share / max(most[0][1], 1e-9))
        draw.rectangle([left, top + 3, left + width, top + height - 4], fill=_BAR)
        text.write(draw, (left + width + 4, top + 2), [f"{share:.1%}"], _INK)
    return tile


def _cut(text: str, letters: Lettering, width: float) -> str:
    """A text no wider than so many pixels."""
    if letters.width(text) <= width:
        return text
    while text and letters.width(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
