"""All words of a prompt on one sheet: the picture, and the map of each word laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.vocabulary import UnknownWord, never_taught
from t2i_xattn.prompts.words import symbol_places
from t2i_xattn.showing.colours import Scale, Scaling, checked_scale, common_scale, is_nearly_flat
from t2i_xattn.showing.grid import (
    INK,
    PALE_INK,
    SCREEN,
    WARNING,
    Cell,
    Measures,
    Text,
    fitted,
    grid,
    text_block,
)
from t2i_xattn.showing.legend import COMMON, OWN, legend
from t2i_xattn.showing.percent import percent, percent_range
from t2i_xattn.showing.render import overlay

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap

_CELLS = ((12, 208), (24, 168), (40, 136))
"""Up to so many tiles, the pixels of the longer side of each; more are as small as the last."""

UNDER_EACH = (
    "The line is half way from a word's lowest place to its highest. Under each word: its share of "
    "attention, mean over the picture and range."
)


def contact_sheet(
    image: Image.Image,
    heatmaps: Sequence[HeatMap],
    prompt: str | None = None,
    colormap: str = "inferno",
    alpha: float = 0.7,
    *,
    scale: Scaling | Scale = "each",
    quiet: Sequence[HeatMap] = (),
    unknown: Sequence[UnknownWord] = (),
    dpi: int = SCREEN,
) -> Image.Image:
    """The picture and the overlays of its words, each labelled, with a colour bar.

    Under each word stand its share of attention (mean over the picture) and the range of its map.

    Args:
        image: the picture.
        heatmaps: the maps of its words, in the order to show them.
        prompt: written on top, in as many lines as it takes; its emoji are told in a line.
        colormap, alpha: as for `overlay`.
        scale: `"each"`: colours say how far a place stands above the word's lowest, as a part of
            the word's highest, so that a map that is nearly flat looks it; `"all"`: one scale from
            0 to the highest value of all words; or (lowest, highest), such as that of another run.
        quiet: maps of words that name nothing by themselves, such as "of": told in a line.
        unknown: words that the model was never taught, as `Vocabulary.unknown` gives them; said on
            top, with words that are spelled alike, and under their maps.
        dpi: dots per inch: 96 for screens, 300 for print.

    Returns:
        An RGB picture. Its size follows from the shape of the picture and the number of words.

    Raises:
        UserError: see `overlay`; or `scale` or `dpi` is none of these.
    """
    measures = Measures(dpi)
    locked = locked_scale(scale, [heat.array for heat in heatmaps])
    picture = fitted(image, measures.of(side_of(len(heatmaps))))
    folded = {each.word.casefold() for each in unknown}
    cells = [Cell(picture, [("the picture", measures.text, INK)])]
    for heat in heatmaps:
        line = 0 if is_nearly_flat(heat.array) else measures.of(1)
        tile = overlay(picture, heat, colormap, alpha, scale=locked, outline=line)
        cells.append(Cell(tile, _label(heat, folded, measures)))
    told = f"{OWN if locked is None else COMMON} {UNDER_EACH}"
    feet = [
        partial(legend, colormap=colormap, scale=locked, told=told, measures=measures),
    ]
    text = prompt or ""
    if symbols := dict.fromkeys(text[at] for at in symbol_places(text)):
        told = f"Emoji and symbols have no map of their own: {' '.join(symbols)}"
        feet.insert(0, partial(text_block, [(told, measures.small_text, PALE_INK)]))
    if quiet:
        line_of = (_quiet_text(quiet), measures.small_text, PALE_INK)
        feet.insert(0, partial(text_block, [line_of]))
    return grid(cells, measures, heading(prompt, unknown, measures), feet)


def side_of(words: int) -> int:
    """The longer side of a tile among so many, in pixels of a screen."""
    return next((size for most, size in _CELLS if words < most), _CELLS[-1][1])


def heading(prompt: str | None, unknown: Sequence[UnknownWord], measures: Measures) -> list[Text]:
    """A prompt or another text, and which of its words the model was never taught."""
    texts = [(prompt, measures.text, INK)] if prompt else []
    if unknown:
        texts.append((never_taught(unknown), measures.small_text, WARNING))
    return texts


def locked_scale(scale: Scaling | Scale, arrays: Sequence[Any]) -> Scale | None:
    """The scale that all maps have in common; None where each has its own.

    Raises:
        UserError: if it is neither `"each"`, `"all"` nor two numbers.
    """
    if not isinstance(scale, str):
        return checked_scale(scale)
    if scale not in ("each", "all"):
        raise UserError(
            f"expected scale as 'each', 'all' or (lowest, highest), but came {shown(scale)}; "
            "'each' gives every word its own"
        )
    return common_scale(arrays) if scale == "all" and arrays else None


def _label(heat: HeatMap, unknown: set[str], measures: Measures) -> list[Text]:
    """What stands under a word."""
    flat = ", nearly flat" if is_nearly_flat(heat.array) else ""
    numbers = f"mean {percent(heat.share)}, {percent_range(heat.array)}{flat}"
    small = measures.small_text
    label = [(heat.word, measures.text, INK), (numbers, small, PALE_INK)]
    if not unknown.isdisjoint(heat.word.casefold().split()):
        label.append(("never taught to this model", small, WARNING))
    return label


def _quiet_text(quiet: Sequence[HeatMap]) -> str:
    told = (f"{heat.word} {percent(heat.share)} ({percent_range(heat.array)})" for heat in quiet)
    return f"Words that name nothing by themselves, mean and range: {'; '.join(told)}."
