"""Pictures in rows, each over its label, with text above and below: what all sheets are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from t2i_xattn.errors import UserError, shown
from t2i_xattn.showing.lettering import Colour, Lettering

PAPER, INK, PALE_INK, WARNING = (255, 255, 255), (20, 20, 20), (95, 95, 95), (170, 30, 20)

SCREEN = 96
"""Dots per inch of screens, for which lengths are given."""

_SHEET_WIDTH = 1180  # pixels: a sheet is this wide at most (one column at least)

Text = tuple[str, Lettering, Colour]


@dataclass(frozen=True)
class Measures:
    """The lengths on a sheet, in pixels, for a number of dots per inch."""

    dpi: int = SCREEN

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: unless the dots are a whole number from 24 to 1200.
        """
        dpi: Any = self.dpi
        if isinstance(dpi, bool) or not isinstance(dpi, int) or not 24 <= dpi <= 1200:
            raise UserError(
                f"expected dots per inch from 24 to 1200, but came {shown(dpi)}; {SCREEN} is for "
                "screens, 300 for print"
            )

    def of(self, pixels: float) -> int:
        """What is so many pixels on a screen."""
        return max(1, round(pixels * self.dpi / SCREEN))

    @property
    def text(self) -> Lettering:
        """The letters of what is read first."""
        return Lettering(self.of(16))

    @property
    def small_text(self) -> Lettering:
        """The letters of what is read next."""
        return Lettering(self.of(13))

    @property
    def margin(self) -> int:
        """Between all things, and around them."""
        return self.of(12)


class Cell(NamedTuple):
    """A picture and what stands below it."""

    picture: Image.Image
    label: Sequence[Text]


def grid(
    cells: Sequence[Cell],
    measures: Measures,
    head: Sequence[Text] = (),
    feet: Sequence[Callable[[int], Image.Image]] = (),
    columns: int | None = None,
    narrowest: int = 132,
) -> Image.Image:
    """Pictures in rows.

    Args:
        cells: the pictures and their labels, of which none is cut: a row is as high as its longest.
        measures: of lengths and letters.
        head: what stands above them.
        feet: makes what stands below them, for a width in pixels.
        columns: pictures in a row; by default as many as fit, in rows of equal length.
        narrowest: the width of a label in pixels of a screen, where pictures are narrower.

    Returns:
        An RGB picture.
    """
    margin, gap = measures.margin, measures.of(4)
    widest = max(cell.picture.width for cell in cells)
    width = max(widest, measures.of(narrowest))
    if columns is None:
        columns = max(1, (measures.of(_SHEET_WIDTH) - margin) // (width + margin))
        # Rows of equal length look better than one full row and one picture beneath it.
        columns = -(-len(cells) // -(-len(cells) // columns))
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    whole = max(margin + columns * (width + margin), measures.of(420))
    blocks = [text_block(head, whole - 2 * margin)]
    places = [margin]
    below = margin + (blocks[0].height + margin if head else 0)
    labels = [[text_block(cell.label, width) for cell in row] for row in rows]
    tops = []
    for row, texts in zip(rows, labels, strict=True):
        tops.append(below)
        tallest = max(cell.picture.height for cell in row)
        below += tallest + gap + max(each.height for each in texts) + margin
    for foot in feet:
        blocks.append(foot(whole - 2 * margin))
        places.append(below)
        below += blocks[-1].height + measures.of(8)
    sheet = Image.new("RGB", (whole, below + (measures.of(4) if feet else 0)), PAPER)
    for block, top in zip(blocks, places, strict=True):
        sheet.paste(block, (margin, top))
    for row, texts, top in zip(rows, labels, tops, strict=True):
        for column, (cell, label) in enumerate(zip(row, texts, strict=True)):
            left = margin + column * (width + margin)
            sheet.paste(cell.picture, (left, top))
            sheet.paste(label, (left, top + cell.picture.height + gap))
    return sheet


def text_block(texts: Sequence[Text], width: int) -> Image.Image:
    """Texts below each other on paper, wrapped to a width; one pixel high where there are none."""
    wrapped = [(each.wrapped(text, width), each, colour) for text, each, colour in texts]
    height = sum(len(lines) * each.line for lines, each, _ in wrapped)
    block = Image.new("RGB", (width, max(1, height)), PAPER)
    draw, y = ImageDraw.Draw(block), 0
    for lines, each, colour in wrapped:
        y = each.write(draw, (0, y), lines, colour)
    return block


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its longer side at so many pixels, as RGB."""
    factor = side / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def beside(*pictures: Image.Image, gap: int) -> Image.Image:
    """Pictures of one size in one, from left to right."""
    width, height = pictures[0].size
    tile = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), PAPER)
    for number, each in enumerate(pictures):
        tile.paste(each, (number * (width + gap), 0))
    return tile
