"""What a picture shows: its ground and its objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from lab.judge.colours import cut, find_ground
from lab.judge.pixel_boxes import Box, bounding_box
from lab.judge.shapes import name_shape
from lab.scenes.layout import SIDE

LEAST_SHARE = 0.005
"""Patches below this share of a square picture's area are specks, not objects.

The smallest object that is drawn, a small star, has three times as much.
"""


@dataclass(frozen=True)
class JudgedObject:
    """One object that the judge sees. All measures are in pixels of the picture.

    Attributes:
        colour: a colour of the language, or `"unclear"`.
        shape: a shape of the language, or `"unclear"`.
        x, y: centre of its box, to the right and down.
        box: the box around it.
        area: pixels that it covers.
        confidence: 0 to 1: IoU with the outline of its shape.
    """

    colour: str
    shape: str
    x: float
    y: float
    box: Box
    area: float
    confidence: float

    @property
    def kind(self) -> tuple[str, str]:
        """`(colour, shape)`."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Judgement:
    """What a picture shows: the name of its ground, and its objects, the largest first."""

    ground: str
    objects: tuple[JudgedObject, ...]


def judge_picture(image: Image.Image) -> Judgement:
    """The ground and the objects of a picture, from its pixels alone.

    Two touching objects of one colour are seen as one, mostly of an unclear shape.

    Args:
        image: a picture of any size; it is looked at with a shorter side of 128 pixels.
    """
    factor = min(image.size) / SIDE
    width, height = (max(1, round(each / factor)) for each in image.size)
    picture = image.convert("RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(picture, dtype=np.float32)
    ground, ground_colour = find_ground(pixels)
    seen = []
    for patch in cut(pixels, ground_colour, round(LEAST_SHARE * SIDE**2)):
        box = bounding_box(patch.mask)
        assert box is not None  # a patch has pixels
        shape, confidence = name_shape(patch.mask)
        seen.append(
            JudgedObject(
                colour=patch.colour,
                shape=shape,
                x=factor * (box.left + box.right) / 2,
                y=factor * (box.top + box.bottom) / 2,
                box=Box(*(round(factor * edge) for edge in box)),
                area=factor**2 * float(patch.mask.sum()),
                confidence=confidence,
            )
        )
    return Judgement(ground, tuple(sorted(seen, key=lambda each: -each.area)))
