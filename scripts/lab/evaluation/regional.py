"""Whether each region of a regional prompt holds its own object."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from PIL import Image
from tqdm import tqdm

from lab.evaluation.boxes import BOXES, Box
from lab.evaluation.figures import Mean, Share
from lab.evaluation.painting import Painting, article, conjoined
from lab.evaluation.prompts import Prompt
from lab.judge import judge_picture
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.regional import RegionalPrompts
from t2i_xattn.guidance.guide import guide
from t2i_xattn.losses import Layout

HALVES: tuple[tuple[Box, Box], ...] = (
    ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
    ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
    ((0.0, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5)),
    ((0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)),
)
"""The regions of the two objects of a prompt, by turns: left and right, above and below, and the
other way round, as `BOXES`."""


def evaluate_regions(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, Share | Mean]:
    """Regional prompts: the first object's text in one half of the picture, the second's in the
    other, alone and with layout guidance to a box in each half.

    The prompt names both and does not say where. A region holds its own object where one of that
    colour and shape has its centre there, and none of the other's has.
    """
    figures: dict[str, Share | Mean] = {}
    pairs = [conjoined(prompt) for prompt in prompts]
    for name in ("plain", "regions", "regions and boxes"):
        own, both = [], []
        for number, each in enumerate(tqdm(pairs, f"regions, {name}", disable=None)):
            halves = HALVES[number % len(HALVES)]
            with ExitStack() as around:
                if name != "plain":
                    said = [f"{article(colour)} {colour} {shape}" for colour, shape in each.objects]
                    regions = RegionalPrompts(dict(zip(said, halves, strict=True)))
                    around.enter_context(edit(painting.pipe, regions))
                if name == "regions and boxes":
                    shapes = [shape for _, shape in each.objects]
                    boxes = dict(zip(shapes, BOXES[number % len(BOXES)], strict=True))
                    around.enter_context(guide(painting.pipe, Layout(boxes)))
                picture = painting.one(each)
            found = own_objects(picture, each.objects, halves)
            own += found
            both.append(all(found))
        figures[f"{name}: a region holds its own object"] = Share.of(own)
        figures[f"{name}: both do"] = Share.of(both)
    return figures


def own_objects(
    picture: Image.Image, objects: Sequence[tuple[str, str]], regions: Sequence[Box]
) -> list[bool]:
    """For each region, whether it holds its own object and none of the others'."""
    outcomes = []
    for own, (top, left, bottom, right) in zip(objects, regions, strict=True):
        inside = [
            each.kind
            for each in judge_picture(picture).objects
            if left <= each.x / picture.width < right and top <= each.y / picture.height < bottom
        ]
        outcomes.append(own in inside and not set(inside) & (set(objects) - {own}))
    return outcomes
