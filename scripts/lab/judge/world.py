"""What a picture of the world shows: its place, its light, its style and its things."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.judge.pieces import single_things
from lab.judge.pixel_boxes import Box, bounding_box
from lab.judge.pixel_maps import NONE, STYLES, Numbers, PixelMaps
from lab.judge.segmenter import Segmenter, load_segmenter, segment
from lab.judge.sizes import said_sizes
from lab.scenes.layout import SIDE
from lab.scenes.world import class_names, world_language
from lab.scenes.world.owners import PARTS

SEEN = 0.03
"""Share of a picture that a part of a place fills at least where it is the place's own."""

CLEAR = 0.75
"""Share of a thing's pixels that has its colour. A thing of two colours has neither."""

LANDMARKS = (
    "skyline", "village", "harbour", "farm", "street", "forest", "mountains", "hills", "snow",
)  # fmt: skip
"""Parts that only one place has; the other places are told by sky, sand, water and grass."""


@dataclass(frozen=True)
class SeenThing:
    """One thing that the judge sees, in pixels of the picture.

    Attributes:
        kind: a kind of the world's things.
        colour: the colour that nearly all of its pixels are said to have (`CLEAR`), or None.
        style: None, `"old"` or `"futuristic"`.
        size: `"small"`, `"medium"` or `"large"`, of what fits beside the other things.
        x, y: centre of its box, to the right and down.
        box: the box around what is seen of it.
        area: pixels that are seen of it.
    """

    kind: str
    colour: str | None
    style: str | None
    size: str
    x: float
    y: float
    box: Box
    area: float


@dataclass(frozen=True)
class WorldJudgement:
    """What a picture shows; `style` is that of its place, things are the largest first."""

    place: str
    light: str
    style: str | None
    things: tuple[SeenThing, ...]

    def counts(self) -> Counter[tuple[str, str | None]]:
        """How many things there are of each `(kind, colour)`."""
        return Counter((each.kind, each.colour) for each in self.things)


def judge_world(image: Image.Image, segmenter: Segmenter | None = None) -> WorldJudgement:
    """What a picture shows, as the network sees it.

    Args:
        image: a square picture of any size; it is looked at with 128 pixels a side.
        segmenter: the network; the one in the package if None.

    Raises:
        UserError: the package holds no trained network.
    """
    network = load_segmenter() if segmenter is None else segmenter
    side = min(image.size)
    return read_maps(segment(network, image), side / SIDE)


def read_maps(maps: PixelMaps, factor: float = 1.0) -> WorldJudgement:
    """What maps of 128 pixels a side show; measures are given `factor` times as large."""
    maps = without_what_is_never_said(maps)
    names = class_names()
    shares = np.bincount(maps.classes.ravel(), minlength=len(names)) / maps.classes.size
    place = _place(dict(zip(names, shares, strict=True)))
    styled = [names.index(part) for part in world_language().places[place].styled]
    lights = list(world_language().lights)
    light = _vote(maps.lights, np.ones(maps.lights.shape, dtype=bool))
    style = _vote(maps.styles, np.isin(maps.classes, styled))
    return WorldJudgement(
        place=place,
        light=lights[light or 0],
        style=STYLES[style or 0],
        things=_things(maps, place, factor),
    )


def without_what_is_never_said(maps: PixelMaps) -> PixelMaps:
    """A network gives every pixel a colour and a style, a cat a style and the sun a colour, too."""
    kinds = world_language().things.values()
    parts = np.zeros(len(PARTS), dtype=bool)
    coloured = np.append(parts, [bool(kind.colours) for kind in kinds])
    styled = np.append(~parts, [bool(kind.styles) for kind in kinds])
    return replace(
        maps,
        colours=np.where(coloured[maps.classes], maps.colours, NONE),
        styles=np.where(styled[maps.classes], maps.styles, NONE),
    )


def _place(shares: dict[str, float]) -> str:
    """The place, from the share of the picture that each of its possible parts fills."""
    best = max(LANDMARKS, key=lambda part: shares[part])
    if shares[best] > SEEN:
        return {"skyline": "city"}.get(best, best)
    if shares["sky"] < SEEN:
        return "reef"
    ground = max(("grass", "sand", "water"), key=lambda part: shares[part])
    if ground == "grass":
        return "meadow"
    if shares["sand"] > SEEN:
        return "beach" if shares["water"] > SEEN else "desert"
    return "sea"


def _vote(numbers: Numbers, where: NDArray[np.bool_], least: float = 0.0) -> int | None:
    """The number that most of these pixels tell; None where none tells any, or too few that one.

    ``least`` is the share of those that tell one.
    """
    told = numbers[where & (numbers != NONE)]
    counts = np.bincount(told)
    return int(counts.argmax()) if told.size and counts.max() >= least * told.size else None


def _things(maps: PixelMaps, place: str, factor: float) -> tuple[SeenThing, ...]:
    colours = list(world_language().colours)
    found: list[tuple[str, str | None, str | None, Box, int]] = []
    for number, kind in enumerate(class_names()[len(PARTS) :], start=len(PARTS)):
        for mask in single_things(maps.classes == number):
            colour, style = _vote(maps.colours, mask, CLEAR), _vote(maps.styles, mask)
            box = bounding_box(mask)
            assert box is not None  # a thing has pixels
            named = None if colour is None else colours[colour]
            found.append((kind, named, STYLES[style or 0], box, int(mask.sum())))
    found.sort(key=lambda each: -each[-1])
    sizes = said_sizes(place, [(kind, style, box) for kind, _, style, box, _ in found])
    return tuple(
        SeenThing(
            kind=kind,
            colour=colour,
            style=style,
            size=size,
            x=factor * (box.left + box.right) / 2,
            y=factor * (box.top + box.bottom) / 2,
            box=Box(*(round(factor * edge) for edge in box)),
            area=factor**2 * area,
        )
        for (kind, colour, style, box, area), size in zip(found, sizes, strict=True)
    )
