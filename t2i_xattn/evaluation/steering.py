"""Whether edits and guidance do what they say: judged on the pictures, against those without."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from t2i_xattn.editing import edit
from t2i_xattn.edits.local_blend import LocalBlend
from t2i_xattn.edits.prompt_to_prompt import Replace, SelfReplace
from t2i_xattn.evaluation.figures import Share
from t2i_xattn.evaluation.inversions import psnr
from t2i_xattn.evaluation.prompts import Prompt
from t2i_xattn.guidance import AttendAndExcite, Layout, guide
from t2i_xattn.judge import judge_picture, verdict
from t2i_xattn.recording import record
from t2i_xattn.scenes import language

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


def distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose words name one object each: all colours and shapes differ, also from the
    ground."""
    found = []
    for prompt in prompts:
        words = prompt.prompt.lower().replace(",", " ").replace(".", " ").split()
        shapes = {shape for _, shape in prompt.objects}
        once = all(words.count(colour) == 1 for colour, _ in prompt.objects)
        if once and len(shapes) == len(prompt.objects):
            found.append(prompt)
    return found


def conjoined(prompt: Prompt) -> Prompt:
    """The same objects, without saying where they stand or on what ground."""
    each = [f"{_article(colour)} {colour} {shape}" for colour, shape in prompt.objects]
    return Prompt(" and ".join(each), prompt.objects, None, prompt.seed)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Painting:
    """How pictures are painted here.

    Attributes:
        pipe: a Stable Diffusion pipeline.
        steps, guidance: of the sampler.
    """

    pipe: Any
    steps: int = 25
    guidance: float = 5.0

    def one(self, prompt: Prompt, around: AbstractContextManager[Any] | None = None) -> Image.Image:
        """The picture of one prompt, under a context."""
        with around or nullcontext():
            return self._run([prompt.prompt], prompt.seed)[0]

    def pair(self, source: Prompt, target: str, **options: Any) -> list[Image.Image]:
        """Source and target from the same noise, in one batch."""
        return self._run([source.prompt, target], source.seed, **options)

    def _run(self, prompts: list[str], seed: int, **options: Any) -> list[Image.Image]:
        images: list[Image.Image] = self.pipe(
            prompts,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for _ in prompts],
            **options,
        ).images
        return images


def right(picture: Image.Image, prompt: Prompt) -> bool:
    """Whether every object of the prompt is there, in its colour and shape."""
    return verdict(judge_picture(picture), prompt.objects).all_objects


def evaluate_excite(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, Share]:
    """Attend-and-Excite: how many pictures that lack an object are mended, and how many of the
    others are broken."""
    mended: list[bool] = []
    broken: list[bool] = []
    for each in _shown([conjoined(prompt) for prompt in prompts], "Attend-and-Excite"):
        plain = right(painting.one(each), each)
        loss = AttendAndExcite([shape for _, shape in each.objects])
        after = right(painting.one(each, guide(painting.pipe, loss)), each)
        (broken if plain else mended).append(after != plain)
    return {"lacking an object, mended": Share.of(mended), "right, broken": Share.of(broken)}


def evaluate_boxes(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Layout guidance: objects whose centre is in their box, and the mean IoU with it.

    The prompts do not say where the two objects stand; by turns, the first gets a box on the left,
    on the right, above and below. An object that is not there counts as outside, with an IoU of 0.
    """
    figures: dict[str, Any] = {}
    for name in ("plain", "guided"):
        inside, overlaps = [], []
        pairs = [conjoined(prompt) for prompt in prompts]
        for number, each in enumerate(_shown(pairs, f"boxes, {name}")):
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
        figures[f"{name}: IoU with the box"] = float(np.mean(overlaps))
    return figures


def evaluate_replace(painting: Painting, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Prompt-to-prompt with local blend: another colour for the first object.

    Of the prompts whose picture is right: how often the change is there and all else as asked, and
    how much the pixels outside of the object differ from the source's, in dB of PSNR, against
    painting the new prompt from the same noise.
    """
    colours = list(language().colours)
    changed, kept, plainly, gains = [], [], [], []
    for number, each in enumerate(_shown(prompts, "replace")):
        if not right(painting.one(each), each):
            continue
        old, shape = each.objects[0]
        used = {colour for colour, _ in each.objects}
        free = [colour for colour in colours if colour not in used]
        new = free[number % len(free)]
        text = re.sub(rf"\b(an?) {old}\b", f"{_article(new)} {new}", each.prompt)
        text = re.sub(rf"\b{old}\b", new, text)
        target = Prompt(text, ((new, shape), *each.objects[1:]), each.relation, each.seed)
        with ExitStack() as stack:
            stack.enter_context(
                edit(painting.pipe, Replace(steps=(0, 0.8)), SelfReplace(steps=(0, 0.4)))
            )
            trace = stack.enter_context(record(painting.pipe))
            blend = LocalBlend(trace, old, new)
            source, edited = painting.pair(each, text, callback_on_step_end=blend)
        _, again = painting.pair(each, text)
        changed.append(right(edited, target))
        outside = _outside(source, each.objects[0])
        values = [_outside_psnr(picture, source, outside) for picture in (edited, again)]
        kept.append(values[0])
        plainly.append(values[1])
        gains.append(values[0] - values[1])
    return {
        "the change is there": Share.of(changed),
        "outside, dB": float(np.mean(kept)) if kept else float("nan"),
        "outside without the edit, dB": float(np.mean(plainly)) if plainly else float("nan"),
        "gain, dB": float(np.mean(gains)) if gains else float("nan"),
    }


def _shown(prompts: Sequence[Prompt], name: str) -> Iterator[Prompt]:
    yield from tqdm(prompts, desc=name, unit="prompt", disable=None)


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


def _outside(picture: Image.Image, kind: tuple[str, str]) -> np.ndarray:
    """bool `(height, width)`: not in the object's box, with a margin of 6 pixels."""
    outside = np.ones((picture.height, picture.width), dtype=bool)
    for each in judge_picture(picture).objects:
        if each.kind == kind:
            top, left = max(0, each.box.top - 6), max(0, each.box.left - 6)
            outside[top : each.box.bottom + 6, left : each.box.right + 6] = False
    return outside


def _outside_psnr(picture: Image.Image, source: Image.Image, outside: np.ndarray) -> float:
    one, other = (np.asarray(each, dtype=np.float64) / 255 for each in (picture, source))
    return float(min(60.0, psnr(one[outside][None, :, None], other[outside][None, :, None])[0]))
