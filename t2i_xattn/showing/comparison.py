"""Two pictures held against each other: before and after an edit, or two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from t2i_xattn.models.vocabulary import UnknownWord
from t2i_xattn.showing.colours import Scale, Scaling, coloured, common_scale, is_nearly_flat
from t2i_xattn.showing.grid import (
    INK,
    PALE_INK,
    SCREEN,
    Cell,
    Measures,
    beside,
    fitted,
    grid,
)
from t2i_xattn.showing.legend import legend
from t2i_xattn.showing.percent import percent, percent_range
from t2i_xattn.showing.render import overlay
from t2i_xattn.showing.sheet import heading, locked_scale, side_of

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.regions import Box


def comparison(
    before: Image.Image,
    after: Image.Image,
    prompts: tuple[str, str],
    colormap: str = "inferno",
    *,
    edit: str = "",
    boxes: Sequence[tuple[str, Box]] = (),
    unknown: Sequence[UnknownWord] = (),
    dpi: int = SCREEN,
) -> Image.Image:
    """Two pictures side by side, and where they differ.

    Args:
        before, after: pictures of one size.
        prompts: of each, written below.
        colormap: of the difference: the mean over the colours, black where there is none, at its
            brightest where it is half of the range or more.
        edit: what was done, written on top.
        boxes: that it was done in, drawn over the picture after, each with its text.
        unknown: words of either prompt that the model was never taught, see `contact_sheet`.
        dpi: dots per inch, see `contact_sheet`.

    Returns:
        An RGB picture.
    """
    measures = Measures(dpi)
    one, other = (np.asarray(each.convert("RGB"), dtype=np.float32) for each in (before, after))
    change = np.abs(one - other).mean(axis=2) / 255
    colours = Image.fromarray(coloured(np.clip(change * 2, 0, 1), colormap))
    tiles = [fitted(each, measures.of(208)) for each in (before, after, colours)]
    tiles[1] = boxed(tiles[1], boxes, measures)
    mean, highest = (percent(float(each)) for each in (change.mean(), change.max()))
    texts = (*prompts, f"mean {mean} of the range, highest {highest}")
    names = ("before", "after", "difference")
    cells = [
        Cell(tile, [(name, measures.text, INK), (text, measures.small_text, PALE_INK)])
        for tile, name, text in zip(tiles, names, texts, strict=True)
    ]
    return grid(cells, measures, heading(edit, unknown, measures), columns=3)


def boxed(
    picture: Image.Image, boxes: Sequence[tuple[str, Box]], measures: Measures
) -> Image.Image:
    """A copy of a picture with boxes drawn over it, each with its text inside."""
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    text, line = measures.small_text, measures.of(2)
    written: list[tuple[int, int, int, int]] = []
    for told, box in boxes:
        left, right = round(box.left * picture.width), round(box.right * picture.width) - 1
        top, bottom = round(box.top * picture.height), round(box.bottom * picture.height) - 1
        draw.rectangle((left, top, right, bottom), outline=(20, 20, 20), width=line + 2)
        inner = (left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1))
        draw.rectangle(inner, outline=(255, 255, 255), width=line)
        lines = text.wrapped(told, max(measures.of(48), right - left - 4 * line))
        width = max(round(text.width(each)) for each in lines) + 2 * line
        x = max(0, min(left + 2 * line, picture.width - width))
        y = min(top + 2 * line, max(0, picture.height - len(lines) * text.line))
        # Boxes that begin at one place have their texts below each other.
        while any(a < x + width and x < c and b <= y < d for a, b, c, d in written):
            y += text.line
        area = (x, y, x + width, y + len(lines) * text.line)
        written.append(area)
        draw.rectangle(area, fill=(20, 20, 20))
        text.write(draw, (x + line, y), lines, (255, 255, 255))
    return result


def pair_sheet(
    pictures: tuple[Image.Image, Image.Image],
    words: Sequence[tuple[HeatMap | None, HeatMap | None]],
    titles: tuple[str, str],
    colormap: str = "inferno",
    alpha: float = 0.7,
    *,
    scale: Scaling = "each",
    unknown: Sequence[UnknownWord] = (),
    dpi: int = SCREEN,
) -> Image.Image:
    """The maps of two runs side by side, each pair of one word with one scale.

    Args:
        pictures: of the two runs, of one shape.
        words: the maps of each word in both; None where a run does not have it.
        titles: what each run was, written on top.
        colormap, alpha: as for `overlay`.
        scale: `"each"`: a word has one scale for both runs, from the lowest place of both by as
            much as their highest; `"all"`: one from 0 to the highest value of all words.
        unknown: words of either run that the model was never taught, see `contact_sheet`.
        dpi: dots per inch, see `contact_sheet`.

    Returns:
        An RGB picture.

    Raises:
        UserError: see `overlay` and `contact_sheet`.
    """
    measures = Measures(dpi)
    text, small, gap = measures.text, measures.small_text, measures.of(4)
    every = [heat.array for pair in words for heat in pair if heat is not None]
    locked = locked_scale(scale, every)
    tiles = [fitted(each, measures.of(side_of(2 * len(words)))) for each in pictures]
    cells = [Cell(beside(*tiles, gap=gap), [("the pictures", text, INK)])]
    for pair in words:
        found = [heat for heat in pair if heat is not None]
        own = locked or _both(found)
        laid = [
            tile
            if heat is None
            else overlay(
                tile,
                heat,
                colormap,
                alpha,
                scale=own,
                outline=0 if is_nearly_flat(heat.array) else measures.of(1),
            )
            for tile, heat in zip(tiles, pair, strict=True)
        ]
        told = " | ".join("not there" if heat is None else _numbers(heat) for heat in pair)
        name = " | ".join(dict.fromkeys(heat.word for heat in found))
        cells.append(Cell(beside(*laid, gap=gap), [(name, text, INK), (told, small, PALE_INK)]))
    what = (
        "Both pictures of a word have one scale: how far a place stands above the lowest of both, "
        "in per cent of the highest of both. "
        if locked is None
        else "All words have the same scale, in both pictures. "
    )
    told = f"{what}The line is half way from a map's lowest place to its highest."
    foot = partial(legend, colormap=colormap, scale=locked, told=told, measures=measures)
    head = [(f"left: {titles[0]}", text, INK), (f"right: {titles[1]}", text, INK)]
    return grid(cells, measures, [*head, *heading(None, unknown, measures)], [foot])


def paired(
    one: Sequence[HeatMap], other: Sequence[HeatMap], instead: Mapping[str, str] | None = None
) -> list[tuple[HeatMap | None, HeatMap | None]]:
    """The maps of two runs by their words, in the order of the first run.

    Args:
        one, other: the maps.
        instead: which word of the other run stands in the place of one of the first.
    """
    new = {old.casefold(): word.casefold() for old, word in (instead or {}).items()}
    left = {heat.word.casefold(): heat for heat in other}
    pairs: list[tuple[HeatMap | None, HeatMap | None]] = []
    for heat in one:
        word = heat.word.casefold()
        pairs.append((heat, left.pop(new.get(word, word), None)))
    return [*pairs, *((None, heat) for heat in left.values())]


def _both(found: Sequence[HeatMap]) -> Scale:
    """How far a place stands above the lowest of some maps, as a part of their highest."""
    lowest = min(float(heat.array.min()) for heat in found)
    highest = common_scale([heat.array for heat in found])[1]
    return lowest, lowest + max(highest, highest - lowest)


def _numbers(heat: HeatMap) -> str:
    return f"mean {percent(heat.share)}, {percent_range(heat.array)}"
