"""Paint the fixed prompts, judge the pictures, and count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.evaluation.prompts import Prompt
from lab.evaluation.world_prompts import WorldPrompt
from lab.judge import Verdict, judge_picture, verdict
from t2i_xattn.errors import UserError

P = TypeVar("P", bound=Prompt | WorldPrompt)
V = TypeVar("V")

Keep = Callable[[int, Prompt, Image.Image, Verdict], None]
"""What is called with the index in the group, the prompt, its picture and the verdict on it."""


def paint(
    pipe: Any,
    prompts: Sequence[Prompt | WorldPrompt],
    *,
    steps: int = 25,
    guidance: float = 5.0,
    batch: int = 16,
) -> Iterator[Image.Image]:
    """One picture a prompt, in order.

    Each has a generator of its own, so what it shows does not depend on the batch it came in
    (values may differ by rounding, as batched kernels add up in another order).

    Args:
        pipe: any pipeline that is called as `StableDiffusionPipeline` is.
        prompts: what to paint, with the seeds.
        steps, guidance: of the sampler.
        batch: pictures painted at once.

    Raises:
        UserError: if `steps` or `batch` is not positive.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, but came {value}")
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        yield from pipe(
            [each.prompt for each in part],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(each.seed) for each in part],
        ).images


def judge_prompts(
    pipe: Any,
    prompts: Sequence[Prompt],
    *,
    group: str = "",
    keep: Keep | None = None,
    **settings: Any,
) -> list[Verdict]:
    """The verdict on the picture of each prompt, in order.

    Args:
        pipe, prompts, settings: see `paint`.
        group: name shown with the progress bar.
        keep: called with each picture, such as to save it.
    """
    return judged(
        pipe,
        prompts,
        lambda prompt, picture: verdict(judge_picture(picture), prompt.objects, prompt.relation),
        group=group,
        keep=keep,
        **settings,
    )


def judged(
    pipe: Any,
    prompts: Sequence[P],
    judge: Callable[[P, Image.Image], V],
    *,
    group: str = "",
    keep: Callable[[int, P, Image.Image, V], None] | None = None,
    **settings: Any,
) -> list[V]:
    """What a judge says of the picture of each prompt, in order; see `judge_prompts`."""
    verdicts = []
    pictures = paint(pipe, prompts, **settings)
    label = f"painting {group}".strip()
    with tqdm(total=len(prompts), desc=label, unit="picture", disable=None) as bar:
        for index, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
            found = judge(prompt, picture)
            verdicts.append(found)
            if keep is not None:
                keep(index, prompt, picture, found)
            bar.update()
    return verdicts


def picture_figures(verdicts: Sequence[Verdict]) -> dict[str, Share]:
    """The figures of a group of prompts, by name.

    - `objects right`: every object of the prompt is there in its colour and shape;
    - `each object right`: the same, counted by object;
    - `shapes right`: every shape is there, in whatever colours;
    - `nothing extra`: no more objects are there than asked for;
    - and, where a relation is stated: `relation right`, of all the prompts: both objects are there
      and stand as asked; `relation right where both are there`: of those with both objects.
    """
    figures = {
        "objects right": Share.of(each.all_objects for each in verdicts),
        "each object right": Share.of(here for each in verdicts for here in each.objects),
        "shapes right": Share.of(all(each.shapes) for each in verdicts),
        "nothing extra": Share.of(each.extra == 0 for each in verdicts),
    }
    related = [each for each in verdicts if each.relation is not None]
    if related:
        figures["relation right"] = Share.of(bool(each.relation) for each in related)
        figures["relation right where both are there"] = Share.of(
            bool(each.relation) for each in related if each.all_objects
        )
    return figures
