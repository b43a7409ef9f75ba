"""A picture whose words light their regions, as HTML of its own; what users typed is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from t2i_xattn.models.vocabulary import UnknownWord, never_taught

if TYPE_CHECKING:
    from t2i_xattn.prompts.words import Word
    from t2i_xattn.traces.heat_map import HeatMap

SIDE = 96
"""Pixels along the longer side of a map, which the page enlarges; sites are coarser."""

CURVE = 3
"""Power of a value as a part of the highest: how much light it gets. Maps of words begin high above
0, and eyes see little of what lies between a half and the whole."""

QUALITY = 90
"""Of pictures as they are shown; what is downloaded is PNG."""

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Lit:
    """A word's map as the page has it.

    Attributes:
        name: the word.
        mask: the map as a PNG, clear for 0 and opaque for its own highest value (see `CURVE`).
        share: its mean.
        top: the light of its highest value, where the highest of all maps beside it has 1.
    """

    name: str
    mask: str
    share: float
    top: float


def lit_maps(maps: Sequence[HeatMap], curve: int = CURVE) -> list[Lit]:
    """Maps as the page has them, quantised once. A map that is nearly the same everywhere looks so,
    since what is clear is 0 and not its lowest value.

    Args:
        maps: of words.
        curve: see `CURVE`.
    """
    tops = [max(0.0, float(each.array.max())) for each in maps]
    highest = max(tops, default=0.0) or 1.0
    return [
        Lit(each.word, _mask(each, top, curve), each.share, (top / highest) ** curve)
        for each, top in zip(maps, tops, strict=True)
    ]


def lit_picture(
    picture: Image.Image,
    prompt: str,
    words: Sequence[Word],
    maps: Sequence[HeatMap],
    caption: str,
    draws: bool = False,
    unknown: Sequence[UnknownWord] | None = None,
) -> str:
    """The picture with its prompt below; a word that is hovered over, tapped or focused lights
    where it acted.

    Args:
        picture: it.
        prompt: its prompt as typed.
        words: of the prompt, in their order.
        maps: of some of them, by the word as typed.
        caption: what the picture is.
        draws: whether boxes can be drawn on it.
        unknown: words that the model was never taught, which are marked and named; None where that
            is not known.
    """
    folded = {each.word.casefold() for each in unknown or ()}
    numbers = {each.word.casefold(): number for number, each in enumerate(maps)}
    pieces: list[tuple[str, int | None]] = []
    end = 0
    for word in words:
        number = numbers.get(word.text.casefold())
        typed = prompt[word.start : word.stop] == word.text
        if word.start < end or number is None or not typed:
            continue
        pieces += [(prompt[end : word.start], None), (word.text, number)]
        end = word.stop
    pieces.append((prompt[end:], None))
    return rendered(
        "lit.html",
        picture=picture_uri(picture),
        size=picture.size,
        pieces=pieces,
        maps=lit_maps(maps),
        caption=caption,
        draws=draws,
        unknown={each.text for each in words if each.text.casefold() in folded},
        never=never_taught(unknown) if unknown else "",
    )


def rendered(template: str, **values: Any) -> str:
    """A template of `page/`, in which every value is escaped."""
    return str(_environment().get_template(template).render(**values))


@cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture_uri(picture: Image.Image) -> str:
    """A picture as an address that holds it."""
    return _uri(picture.convert("RGB"), "webp", quality=QUALITY)


def _mask(heat: HeatMap, top: float, curve: int) -> str:
    part = heat.array.clip(min=0) * np.float32(1 / top if top else 0)
    alpha = Image.fromarray(np.rint(255 * part**curve).astype(np.uint8))
    alpha.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    white = Image.new("L", alpha.size, 255)
    return _uri(Image.merge("LA", (white, alpha)), "png", optimize=True)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
