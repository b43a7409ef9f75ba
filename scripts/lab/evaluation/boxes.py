"""Whether guided objects stand in their boxes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Mean, Share
from lab.evaluation.painting import Painting, conjoined
from lab.evaluation.prompts import Prompt
from lab.judge import judge_picture
from t2i_xattn.guidance.guide import guide
from t2i_xattn.losses import Layout

Box = tuple[float, float, float, float]

_LEFT, _RIGHT = (0.25, 0.05, 0.75, 0.47), (0.25, 0.53, 0.75, 0.95)
_ABOVE, _BELOW = (0.05, 0.25, 0.47, 0.75), (0.53, 0.25, 0.95, 0.75)
BOXES: tuple[tuple[Box, Box], ...] = (
    (_LEFT, _RIGHT),
    (_ABOVE, _BELOW),
    (_RIGHT, _LEFT),
    (_BELOW, _ABOVE),
)
"""Where the two objects of a prompt are to stand, by turns."""


def evaluate_boxes(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, Share | Mean]:
    """Layout guidance: objects whose centre is in their box, and the mean IoU with it.

    The prompts do not say where the two objects stand; by turns, the first gets a box on the left,
    on the right, above and below. An object that is not there counts as outside, with an IoU of 0.
    """
    figures: dict[str, Share | Mean] = {}
    for name in ("plain", "guided"):
        inside, overlaps = [], []
        pairs = [conjoined(prompt) for prompt in prompts]
        for number, each in enumerate(tqdm(pairs, f"boxes, {name}", unit="prompt", disable=None)):
            boxes = BOXES[number % len(BOXES)]
            context = None
            if name == "guided":
                shapes = [shape for _, shape in each.objects]
                loss = Layout(dict(zip(shapes, boxes, strict=True)))
                context = guide(painting.pipe, loss)
            picture = painting.one(each, context)
            for kind, box in zip(each.objects, boxes, strict=True):
                hit, overlap = _in_box(picture, kind, box)
                inside.append(hit)
                overlaps.append(overlap)
        figures[f"{name}: centre in its box"] = Share.of(inside)
        figures[f"{name}: IoU with the box"] = Mean.of(overlaps)
    return figures


def _in_box(picture: Image.Image, kind: tuple[str, str], box: Box) -> tuple[bool, float]:
    """Whether the object's centre is in the box, and the IoU of its own box with it."""
    width, height = picture.size
    top, left, bottom, right_ = box[0] * height, box[1] * width, box[2] * height, box[3] * width
    best = (False, 0.0)
    for each in judge_picture(picture).objects:
        if each.kind != kind:
            continue
        inside = left <= each.x <= right_ and top <= each.y <= bottom
        rows = max(0.0, min(bottom, each.box.bottom) - max(top, each.box.top))
        columns = max(0.0, min(right_, each.box.right) - max(left, each.box.left))
        own = (each.box.bottom - each.box.top) * (each.box.right - each.box.left)
        union = own + (bottom - top) * (right_ - left) - rows * columns
        best = max(best, (inside, rows * columns / union))
    return best
