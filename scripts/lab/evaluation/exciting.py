"""Whether Attend-and-Excite mends pictures that lack an object, and leaves the others right."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from lab.evaluation.figures import Mean, Share
from lab.evaluation.painting import Painting, conjoined, right
from lab.evaluation.pictures import paint
from lab.evaluation.prompts import Prompt
from t2i_xattn.guidance.guide import guide
from t2i_xattn.losses import AttendAndExcite, GuidanceLoss, Segregation

CHECKS = (0.16, 0.24, 0.32)
"""The parts of the run after which it is looked whether an object is lacking."""

SHARES, OVERLAPS = (0.35, 0.4, 0.42), (0.225, 0.2, 0.165)
"""The share of attention that the weakest word is to have there, and the overlap of two words that
is let pass."""


def losses_for(prompt: Prompt) -> list[GuidanceLoss]:
    """What a prompt is guided by. Of a phrase such as "red circle" its last word is looked at.

    Attend-and-Excite with the shares themselves, since the words of the model in the box get so
    much attention that the softmax is 1 for all of them; and segregation, since what is lacking
    there mostly has its place taken by another object. Both act only where a word is weak, or two
    words stand on one place, when the objects have settled.
    """
    words = [f"{colour} {shape}" for colour, shape in prompt.objects]
    excite = tuple(zip(CHECKS, (1 - share for share in SHARES), strict=True))
    apart = tuple(zip(CHECKS, OVERLAPS, strict=True))
    return [
        AttendAndExcite(words, softmax=False, scale=40.0, iterations=0, checks=excite),
        Segregation(words, scale=80.0, iterations=0, checks=apart),
    ]


def evaluate_excite(
    painting: Painting, prompts: Sequence[Prompt], name: str = "two objects"
) -> dict[str, Share | Mean]:
    """How many pictures in which an object is missing, or of a wrong colour or shape, are mended,
    and how many of the others are broken.

    The prompts only say which objects there are (`conjoined`). Prompts that name one object twice
    are left out.

    Args:
        painting: how pictures are painted.
        prompts: with the objects.
        name: shown with the progress bar.
    """
    asked = [conjoined(each) for each in prompts if len(set(each.objects)) == len(each.objects)]
    plain = paint(
        painting.pipe,
        asked,
        steps=painting.steps,
        guidance=painting.guidance,
        batch=painting.batch,
    )
    mended: list[bool] = []
    broken: list[bool] = []
    shown = tqdm(asked, f"Attend-and-Excite, {name}", unit="prompt", disable=None)
    for each, picture in zip(shown, plain, strict=True):
        before = right(picture, each)
        after = right(painting.one(each, guide(painting.pipe, *losses_for(each))), each)
        (broken if before else mended).append(after != before)
    return {
        "right without": Share(len(broken), len(asked)),
        "right with": Share(len(broken) - sum(broken) + sum(mended), len(asked)),
        "lacking an object, mended": Share.of(mended),
        "right, broken": Share.of(broken),
    }
