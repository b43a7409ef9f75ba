"""What words do to a picture, on one sheet: where attention is, and where the effect is."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from t2i_xattn.showing.colours import is_nearly_flat
from t2i_xattn.showing.grid import (
    INK,
    PALE_INK,
    SCREEN,
    WARNING,
    Cell,
    Measures,
    beside,
    fitted,
    grid,
)
from t2i_xattn.showing.legend import OWN, legend
from t2i_xattn.showing.percent import percent
from t2i_xattn.showing.render import overlay
from t2i_xattn.showing.sheet import heading, side_of

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.explaining.explanation import ExplainedPicture, Explanation

TOLD = (
    "Left: the word's share of attention; right: how much the picture's making changes without the "
    f"word. {OWN} The line is half way from a map's lowest place to its highest. Grades: trust, "
    "doubt, or nothing where the word does nothing."
)


def effect_sheet(
    found: Explanation,
    picture: ExplainedPicture,
    *,
    unknown: Collection[str] = (),
    colormap: str = "inferno",
    dpi: int = SCREEN,
) -> Image.Image:
    """The picture, and for each word its attention map and its effect map, laid over it.

    Args:
        found: what was explained.
        picture: one of its pictures.
        unknown: words that the model was never taught.
        colormap: name of a colour map of the package `cmap`.
        dpi: dots per inch, see `contact_sheet`.

    Raises:
        UserError: see `overlay` and `contact_sheet`.
    """
    measures = Measures(dpi)
    text, small, gap = measures.text, measures.small_text, measures.of(4)
    tile = fitted(picture.image, measures.of(side_of(2 * len(found.words))))
    folded = {word.casefold() for word in unknown}
    cells = [Cell(tile, [("the picture", text, INK)])]
    for each in found.words:
        name = each.evidence.found_by or next(iter(each.sizes))
        effect, attention = picture.effects[each.word][name], picture.attention(each.word)
        others = [other or "nothing" for other in each.others]
        way = f"with {' or '.join(others)} in its place" if name == "text" else f"by {name}"
        pair = [
            overlay(
                tile,
                heat,
                colormap,
                outline=0 if is_nearly_flat(heat.array) else measures.of(1),
            )
            for heat in (attention, effect)
        ]
        told = f"attention {percent(attention.share)} | effect {percent(effect.size)}, {way}"
        label = [(f"{each.word}: {each.grade}", text, INK), (told, small, PALE_INK)]
        if not folded.isdisjoint(each.word.casefold().split()):
            label.append(("never taught to this model", small, WARNING))
        cells.append(Cell(beside(*pair, gap=gap), label))
    foot = partial(legend, colormap=colormap, scale=None, told=TOLD, measures=measures)
    return grid(cells, measures, heading(found.prompt, unknown, measures), [foot])
