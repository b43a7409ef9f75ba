"""What words do to a picture, on one sheet: where attention is, and where the effect is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from t2i_xattn.models.vocabulary import UnknownWord
from t2i_xattn.showing.colours import common_scale, is_nearly_flat
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
    "doubt, or nothing where the word does nothing; its effect then has the scale of the largest."
)


def effect_sheet(
    found: Explanation,
    picture: ExplainedPicture,
    *,
    unknown: Sequence[UnknownWord] = (),
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
    folded = {each.word.casefold() for each in unknown}
    cells = [Cell(tile, [("the picture", text, INK)])]
    effects = {
        each.word: picture.effects[each.word][each.evidence.found_by or next(iter(each.sizes))]
        for each in found.words
    }
    strongest = common_scale([effect.array for effect in effects.values()])
    for each in found.words:
        effect, attention = effects[each.word], picture.attention(each.word)
        others = [other or "nothing" for other in each.others]
        by_text = effect.intervention == "text"
        way = f"with {' or '.join(others)} in its place" if by_text else f"by {effect.intervention}"
        # A word that does nothing has places where it does most, too, which are no news.
        nothing = each.grade == "nothing"
        pair = [
            overlay(
                tile,
                heat,
                colormap,
                scale=scale,
                outline=0 if quiet or is_nearly_flat(heat.array) else measures.of(1),
            )
            for heat, scale, quiet in (
                (attention, None, False),
                (effect, strongest if nothing else None, nothing),
            )
        ]
        told = f"attention {percent(attention.share)} | effect {percent(effect.size)}, {way}"
        label = [(f"{each.word}: {each.grade}", text, INK), (told, small, PALE_INK)]
        if not folded.isdisjoint(each.word.casefold().split()):
            label.append(("never taught to this model", small, WARNING))
        cells.append(Cell(beside(*pair, gap=gap), label))
    foot = partial(legend, colormap=colormap, scale=None, told=TOLD, measures=measures)
    return grid(cells, measures, heading(found.prompt, unknown, measures), [foot])
