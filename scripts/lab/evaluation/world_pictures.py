"""Paint the fixed prompts of the world, judge the pictures, and count."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from PIL import Image

from lab.evaluation.figures import Share
from lab.evaluation.pictures import judged
from lab.evaluation.world_prompts import WorldPrompt
from lab.judge.segmenter import Segmenter
from lab.judge.world import judge_world
from lab.judge.world_verdict import WorldVerdict, world_verdict

KeepWorld = Callable[[int, WorldPrompt, Image.Image, WorldVerdict], None]
"""What is called with the index in the group, the prompt, its picture and the verdict on it."""


def judge_world_prompts(
    pipe: Any,
    prompts: Sequence[WorldPrompt],
    segmenter: Segmenter,
    *,
    group: str = "",
    keep: KeepWorld | None = None,
    **settings: Any,
) -> list[WorldVerdict]:
    """The verdict on the picture of each prompt, in order.

    Args:
        pipe, prompts, settings: see `lab.evaluation.pictures.paint`.
        segmenter: the judge's network.
        group: name shown with the progress bar.
        keep: called with each picture, such as to save it.
    """
    return judged(
        pipe,
        prompts,
        lambda prompt, picture: world_verdict(judge_world(picture, segmenter), prompt.asked),
        group=group,
        keep=keep,
        **settings,
    )


def seconds_of_a_picture(pipe: Any, prompt: str, pictures: int = 3, **settings: Any) -> float:
    """The median time of one picture at a time, after a first one that is not counted.

    Args:
        pipe: the model, loaded.
        prompt: what to paint.
        pictures: how many are timed.
        settings: of the pipeline's call.
    """
    times = []
    for _ in range(pictures + 1):
        began = time.perf_counter()
        pipe(prompt, **settings)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def world_figures(verdicts: Sequence[WorldVerdict]) -> dict[str, Share]:
    """The figures of a group of prompts, by name; what no prompt asks for has none.

    - `things right`: as many of each thing as asked for are there, in their colours;
    - `kinds right`: the same, in whatever colours;
    - `relation right`: they stand as asked;
    - `light and place right`, where a prompt asks for both; `style right`; `size right`;
    - `all right`: everything that was asked for, sizes aside.
    """
    figures = {}
    asking = [each for each in verdicts if each.things]
    if asking:
        figures["things right"] = Share.of(all(each.things) and all(each.counts) for each in asking)
        figures["kinds right"] = Share.of(all(each.kinds) for each in asking)
    outcomes = {
        "relation right": [each.relation for each in verdicts],
        "light and place right": [
            None if None in (each.light, each.place) else each.light and each.place
            for each in verdicts
        ],
        "style right": [each.style for each in verdicts],
        "size right": [each.size for each in verdicts],
    }
    for name, every in outcomes.items():
        told = [bool(each) for each in every if each is not None]
        if told:
            figures[name] = Share.of(told)
    figures["all right"] = Share.of(each.all_right for each in verdicts)
    return figures
