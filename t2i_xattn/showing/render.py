"""Heat maps for the eye: laid over their picture, and all words of a prompt on one sheet.

For show, every map is stretched from its own lowest to its own highest value. So colours compare
places within one map and not words with each other; the labels give the range in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.regions import is_number

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap

_PAPER, _INK, _PALE_INK = (255, 255, 255), (20, 20, 20), (95, 95, 95)
_TEXT, _SMALL_TEXT = 16, 13  # pixels
_MARGIN = 12
_CELL = 208  # pixels: the longer side of a picture on the sheet
_SHEET_WIDTH = 1180  # pixels: a sheet is this wide at most (one column at least)


def overlay(
    image: Image.Image, heat: HeatMap, colormap: str = "inferno", alpha: float = 0.6
) -> Image.Image:
    """A heat map in colours over its picture, stretched to its own range for show.

    Args:
        image: the picture; if it was enlarged or reduced, the map follows.
        heat: the map of a word.
        colormap: name of a colour map of the package `cmap`.
        alpha: how much the colours cover the picture, 0 to 1.

    Returns:
        An RGB picture of the size of `image`.

    Raises:
        UserError: if `image` is not a PIL picture or has another shape than the map, if there is no
            such colour map, or if `alpha` is out of range.
    """
    if not isinstance(image, Image.Image) or not min(image.size):
        came = shown(image.size) if isinstance(image, Image.Image) else type(image).__name__
        raise UserError(
            f"expected a PIL picture, but came {came}; run the pipeline with "
            "output_type='pil' or use PIL.Image.fromarray"
        )
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise UserError(f"expected alpha from 0 to 1, but came {shown(alpha)}; 0.6 suits most maps")
    height, width = heat.array.shape
    # Half a pixel of rounding is fine, a map of another run is not.
    if abs(image.height * width - image.width * height) > max(image.size):
        raise UserError(
            f"expected a picture of {width} × {height} pixels or in that proportion, but came "
            f"{image.width} × {image.height}; lay the map over the picture of its own run"
        )
    laid = Image.fromarray(stretched(heat.array)).resize(image.size, Image.Resampling.BILINEAR)
    colours = coloured(np.asarray(laid), colormap)
    return Image.blend(image.convert("RGB"), Image.fromarray(colours), alpha)


def contact_sheet(
    image: Image.Image,
    heatmaps: Sequence[HeatMap],
    prompt: str | None = None,
    colormap: str = "inferno",
    alpha: float = 0.6,
) -> Image.Image:
    """The picture and the overlays of all words, each labelled, with a colour bar.

    Under each word stand its share of attention (mean over the picture) and the range of its map,
    both in per cent: colours alone do not compare words.

    Args:
        image: the picture.
        heatmaps: the maps of its words, in the order to show them.
        prompt: written on top, in as many lines as it takes.
        colormap, alpha: as for `overlay`.

    Returns:
        An RGB picture. Its size follows from the shape of the picture and the number of words.
    """
    tiles = [_fitted(image.convert("RGB"))]
    tiles += [_fitted(overlay(image, heat, colormap, alpha)) for heat in heatmaps]
    labels = [("the picture", "")]
    labels += [(heat.word, _range_text(heat)) for heat in heatmaps]

    cell_width = max(tiles[0].width, 150)
    columns = max(1, (_SHEET_WIDTH - _MARGIN) // (cell_width + _MARGIN))
    # Rows of equal length look better than one full row and one word beneath it.
    rows = -(-len(tiles) // columns)
    columns = -(-len(tiles) // rows)
    width = max(_MARGIN + columns * (cell_width + _MARGIN), 420)

    prompt_lines = wrapped(prompt, _font(_TEXT), width - 2 * _MARGIN) if prompt else []
    names = [wrapped(name, _font(_TEXT), cell_width) for name, _ in labels]
    details = [wrapped(detail, _font(_SMALL_TEXT), cell_width) for _, detail in labels]
    text_height = max(
        len(name) * _line(_TEXT) + len(detail) * _line(_SMALL_TEXT)
        for name, detail in zip(names, details, strict=True)
    )
    cell_height = tiles[0].height + 4 + text_height + _MARGIN
    legend = _legend(width - 2 * _MARGIN, colormap)
    top = _MARGIN + len(prompt_lines) * _line(_TEXT) + (_MARGIN if prompt_lines else 0)

    sheet = Image.new("RGB", (width, top + rows * cell_height + legend.height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), prompt_lines, _TEXT, _INK)
    for index, tile in enumerate(tiles):
        x = _MARGIN + index % columns * (cell_width + _MARGIN)
        y = top + index // columns * cell_height
        sheet.paste(tile, (x, y))
        below = _write(draw, (x, y + tile.height + 4), names[index], _TEXT, _INK)
        _write(draw, (x, below), details[index], _SMALL_TEXT, _PALE_INK)
    sheet.paste(legend, (_MARGIN, top + rows * cell_height))
    return sheet


def comparison(
    before: Image.Image, after: Image.Image, prompts: tuple[str, str], colormap: str = "inferno"
) -> Image.Image:
    """Two pictures side by side, and where they differ.

    Args:
        before, after: pictures of one size.
        prompts: of each, written below.
        colormap: of the difference: the mean over the colours, black where there is none, at its
            brightest where it is half of the range or more.

    Returns:
        An RGB picture.
    """
    one, other = (np.asarray(each.convert("RGB"), dtype=np.float32) for each in (before, after))
    change = np.abs(one - other).mean(axis=2) / 255
    colours = Image.fromarray(coloured(np.clip(change * 2, 0, 1), colormap))
    tiles = [_fitted(each.convert("RGB")) for each in (before, after, colours)]
    width = max(tiles[0].width, 150)
    names = ["before", "after", "difference"]
    mean, highest = (_percent(float(each)) for each in (change.mean(), change.max()))
    inside = f"mean {mean} of the range, highest {highest}"
    texts = [wrapped(text, _font(_SMALL_TEXT), width) for text in (*prompts, inside)]
    height = _line(_TEXT) + max(len(text) for text in texts) * _line(_SMALL_TEXT)
    sheet = Image.new(
        "RGB",
        (_MARGIN + 3 * (width + _MARGIN), 2 * _MARGIN + tiles[0].height + 4 + height),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for index, (tile, name, text) in enumerate(zip(tiles, names, texts, strict=True)):
        x = _MARGIN + index * (width + _MARGIN)
        sheet.paste(tile, (x, _MARGIN))
        below = _write(draw, (x, _MARGIN + tile.height + 4), [name], _TEXT, _INK)
        _write(draw, (x, below), text, _SMALL_TEXT, _PALE_INK)
    return sheet


def captioned_sheet(
    pictures: Sequence[tuple[Image.Image, str]], columns: int, lines: int = 3
) -> Image.Image:
    """Pictures of one size in rows, each over its caption.

    Args:
        pictures: pictures and captions; a caption is cut where it takes more lines than there are.
        columns: pictures in a row.
        lines: of a caption.

    Returns:
        An RGB picture.
    """
    gap, (width, height) = 6, pictures[0][0].size
    step_x, step_y = width + gap, height + lines * _line(_SMALL_TEXT) + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(pictures):
        x, y = gap + index % columns * step_x, gap + index // columns * step_y
        sheet.paste(picture, (x, y))
        text = wrapped(caption, _font(_SMALL_TEXT), width)[:lines]
        _write(draw, (x, y + height + 2), text, _SMALL_TEXT, _INK)
    return sheet


def stretched(array: NDArray[Any]) -> NDArray[np.float32]:
    """A map with its lowest value at 0 and its highest at 1: for show only, the unit is gone.

    A map that is the same everywhere becomes 0.
    """
    lowest, highest = float(array.min()), float(array.max())
    result = (array - lowest) / (highest - lowest) if highest > lowest else np.zeros(array.shape)
    return np.asarray(result, dtype=np.float32)


def wrapped(text: str, font: Any, width: float) -> list[str]:
    """Text in lines no wider than `width` pixels; a word too long for a line is broken."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def coloured(values: NDArray[np.float32], colormap: str) -> NDArray[np.uint8]:
    """Values from 0 to 1 as RGB, `(height, width, 3)`."""
    # Here: reading a catalogue of colour maps is for those who draw.
    import cmap

    try:
        if not isinstance(colormap, str):
            raise TypeError(f"no name: {type(colormap).__name__}")
        colours = np.asarray(cmap.Colormap(colormap).lut())[:, :3]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"expected the name of a colour map of the package cmap, but came {shown(colormap)}; "
            "try 'inferno' or 'viridis'"
        ) from error
    # Looked up in bytes: as fractions, the colours of a large picture would fill the memory.
    places = (values * np.float32(len(colours))).clip(0, len(colours) - 1).astype(np.uint16)
    table: NDArray[np.uint8] = np.round(colours * 255).astype(np.uint8)
    return table[places]


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture with its longer side at the size of a cell."""
    factor = _CELL / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _range_text(heat: HeatMap) -> str:
    lowest, highest = float(heat.array.min()), float(heat.array.max())
    return f"mean {_percent(heat.share)}, {_percent(lowest)} to {_percent(highest)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


def _legend(width: int, colormap: str) -> Image.Image:
    """The colour bar, between the words for its ends, and what the numbers mean."""
    lines = wrapped(
        "Colours run from each map's own lowest to its own highest value. Under each word: its "
        "share of attention, mean over the picture and range.",
        _font(_SMALL_TEXT),
        width,
    )
    bar_height, ends = 14, ("lowest", "highest")
    legend = Image.new("RGB", (width, bar_height + 8 + len(lines) * _line(_SMALL_TEXT)), _PAPER)
    draw = ImageDraw.Draw(legend)
    left = round(_font(_SMALL_TEXT).getlength(ends[0])) + 8
    bar_width = 200
    ramp = np.linspace(0, 1, bar_width, dtype=np.float32)[None].repeat(bar_height, axis=0)
    _write(draw, (0, 0), [ends[0]], _SMALL_TEXT, _INK)
    legend.paste(Image.fromarray(coloured(ramp, colormap)), (left, 1))
    _write(draw, (left + bar_width + 8, 0), [ends[1]], _SMALL_TEXT, _INK)
    _write(draw, (0, bar_height + 8), lines, _SMALL_TEXT, _PALE_INK)
    return legend


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    size: int,
    colour: tuple[int, int, int],
) -> int:
    """Writes lines below each other; returns where the next one would begin."""
    x, y = at
    for line in lines:
        draw.text((x, y), line, font=_font(size), fill=colour)
        y += _line(size)
    return y


def _line(size: int) -> int:
    """Height of a line of text, in pixels."""
    return round(size * 1.3)


def text_font() -> Any:
    """The font of what stands under a picture."""
    return _font(_SMALL_TEXT)


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)
