"""Whether prompt-to-prompt changes what it is to change, and leaves the rest of the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Mean, Share
from lab.evaluation.inversions import psnr
from lab.evaluation.painting import Painting, article, right, words_of
from lab.evaluation.prompts import Prompt
from lab.judge import judge_picture
from lab.scenes import language
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import Edit
from t2i_xattn.edits.local_blend import LocalBlend
from t2i_xattn.edits.prompt_to_prompt import Replace, SelfReplace
from t2i_xattn.recording.record import record

Kind = Literal["colour", "object"]

KEPT: dict[Kind, tuple[float, float]] = {"colour": (0.8, 0.4), "object": (0.2, 0.2)}
"""The parts of the run in which the target has the source's cross- and self-attention. Another
object is to have another outline, so it is held for less long (arXiv 2208.01626, section 3)."""

THRESHOLD = 0.4
"""Of the local blend."""

MARGIN = 6
"""Pixels around the box of an object that count to it."""


@dataclass(frozen=True)
class Replacement:
    """One case: the first object of a prompt gets another colour, or another shape.

    Attributes:
        kind: which of the two.
        source, target: the prompts before and after.
        nouns: what names the object in each.
    """

    kind: Kind
    source: Prompt
    target: Prompt
    nouns: tuple[str, str]


def replacement(prompt: Prompt, kind: Kind, number: int) -> Replacement:
    """A case of a prompt whose words name one object each.

    Args:
        prompt: the source.
        kind: what is replaced.
        number: which of the colours or shapes that the prompt does not have comes in.
    """
    colour, shape = prompt.objects[0]
    words = words_of(prompt)
    noun = next(name for name in language().shapes[shape] if name in words)
    used = {word for each in prompt.objects for word in each}
    every = language().colours if kind == "colour" else language().shapes
    free = [name for name in every if name not in used]
    new = free[number % len(free)]
    if kind == "colour":
        old, first, nouns = colour, (new, shape), (noun, noun)
    else:
        old, first, nouns = noun, (colour, new), (noun, new)
    text = re.sub(rf"\b(an?) {old}\b", f"{article(new)} {new}", prompt.prompt)
    text = re.sub(rf"\b{old}\b", new, text)
    target = Prompt(text, (first, *prompt.objects[1:]), prompt.relation, prompt.seed)
    return Replacement(kind, prompt, target, nouns)


def evaluate_replace(
    painting: Painting, prompts: Sequence[Prompt], cases: int = 100
) -> dict[str, dict[str, Share | Mean]]:
    """Prompt-to-prompt with local blend by the noun: another colour or object for the first one.

    Half of the cases get another colour, half another object; only prompts whose picture is right
    are cases. Of these: how often the change is there and all else as asked; and the PSNR of the
    other pixels against the source's, beside that of painting the new prompt from the same noise.
    Other pixels are those outside of the first object's box, with a margin of 6 pixels, in the
    source and in the picture that is compared with it. At most 60 dB are counted a picture.

    Args:
        painting: how pictures are painted.
        prompts: the sources, see `distinct`.
        cases: how many are looked for; fewer where the prompts do not suffice.
    """
    wanted: dict[Kind, int] = {"colour": (cases + 1) // 2, "object": cases // 2}
    found: dict[Kind, list[_Outcome]] = {"colour": [], "object": []}
    at_once = max(1, painting.batch // 3)
    by_turns: list[Kind] = ["colour", "object"]
    every = [
        replacement(each, by_turns[number % 2], number // 2) for number, each in enumerate(prompts)
    ]
    with tqdm(total=cases, desc="replace", unit="case", disable=None) as bar:
        while every:
            every = [each for each in every if len(found[each.kind]) < wanted[each.kind]]
            part, every = every[:at_once], every[at_once:]
            for case, pictures in zip(part, _painted(painting, part), strict=True):
                enough = len(found[case.kind]) == wanted[case.kind]
                if not enough and right(pictures[0], case.source):
                    found[case.kind].append(_outcome(case, *pictures))
                    bar.update()
    both = found["colour"] + found["object"]
    return {
        "replace a colour": _figures(found["colour"]),
        "replace an object": _figures(found["object"]),
        "replace, both": _figures(both),
    }


@dataclass(frozen=True)
class _Outcome:
    changed: bool
    edited: float
    plain: float


def _figures(outcomes: Sequence[_Outcome]) -> dict[str, Share | Mean]:
    return {
        "the change is there": Share.of(each.changed for each in outcomes),
        "outside, dB": Mean.of(each.edited for each in outcomes),
        "outside without the edit, dB": Mean.of(each.plain for each in outcomes),
        "gain, dB": Mean.of(each.edited - each.plain for each in outcomes),
    }


def _painted(painting: Painting, cases: Sequence[Replacement]) -> list[list[Image.Image]]:
    """Of each case the source, the target edited, and the target plainly; all in one batch."""
    if not cases:
        return []
    texts: list[str] = []
    seeds: list[int] = []
    edits: list[Edit] = []
    for case in cases:
        cross, own = KEPT[case.kind]
        row = len(texts)
        edits.append(Replace(steps=(0, cross), source=row, images=[row + 1]))
        edits.append(SelfReplace(steps=(0, own), source=row, images=[row + 1]))
        texts += [case.source.prompt, case.target.prompt, case.target.prompt]
        seeds += 3 * [case.source.seed]
    with ExitStack() as stack:
        stack.enter_context(edit(painting.pipe, *edits))
        trace = stack.enter_context(record(painting.pipe))
        blends = [
            LocalBlend(trace, *case.nouns, THRESHOLD, source=3 * row, images=[3 * row + 1])
            for row, case in enumerate(cases)
        ]

        def blend(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            for each in blends:
                tensors = tensors | each(pipe, step, timestep, tensors)
            return tensors

        pictures = painting.batch_of(texts, seeds, callback_on_step_end=blend)
    return [pictures[start : start + 3] for start in range(0, len(pictures), 3)]


def _outcome(
    case: Replacement, source: Image.Image, edited: Image.Image, plain: Image.Image
) -> _Outcome:
    before = outside(source, case.source.objects[0])
    values = []
    for picture in (edited, plain):
        kept = before & outside(picture, case.target.objects[0])
        one, other = (np.asarray(each, dtype=np.float64) / 255 for each in (picture, source))
        decibels = psnr(one[kept][None, :, None], other[kept][None, :, None])[0]
        values.append(min(60.0, float(decibels)))
    return _Outcome(right(edited, case.target), *values)


def outside(picture: Image.Image, kind: tuple[str, str]) -> np.ndarray:
    """bool `(height, width)`: not in the box of an object of this colour and shape, nor within
    `MARGIN` pixels of it."""
    found = np.ones((picture.height, picture.width), dtype=bool)
    for each in judge_picture(picture).objects:
        if each.kind == kind:
            top, left = max(0, each.box.top - MARGIN), max(0, each.box.left - MARGIN)
            found[top : each.box.bottom + MARGIN, left : each.box.right + MARGIN] = False
    return found
