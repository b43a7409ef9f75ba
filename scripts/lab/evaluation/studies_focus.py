"""Too much focus: temperature, guidance and a word's weight, against what pictures show and how
much they differ between seeds. Where they no longer differ, outputs are rigid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Estimate, Share
from lab.evaluation.painted_regions import nouns
from lab.evaluation.studies_diversity import Diversity, clipped, diversity, saturation
from lab.evaluation.world_prompts import WorldPrompt, world_prompts
from lab.judge.segmenter import Segmenter
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from t2i_xattn import edits
from t2i_xattn.editing.edit import edit
from t2i_xattn.errors import UserError

USUAL = "usual"
GUIDANCE = 5.0
STEPS = 15


@dataclass(frozen=True)
class Setting:
    """One thing that is changed, at every step: `temperature` of the cross-attention of the
    conditional branch, `guidance`, or the `weight` of the first thing's noun there; or `USUAL`:
    none, with `GUIDANCE`."""

    what: str
    value: float

    @property
    def guidance(self) -> float:
        return self.value if self.what == "guidance" else GUIDANCE

    def context(self, pipe: Any, noun: str) -> Any:
        """The edit, if it is one."""
        if self.what == "temperature":
            return edit(pipe, edits.Temperature(self.value))
        if self.what == "weight":
            return edit(pipe, edits.Reweight(noun, self.value))
        return nullcontext()


SETTINGS = (
    Setting(USUAL, GUIDANCE),
    *(Setting("temperature", value) for value in (0.25, 0.5, 2.0, 4.0)),
    *(Setting("guidance", value) for value in (1.0, 2.5, 10.0, 15.0)),
    *(Setting("weight", value) for value in (0.0, 2.0, 4.0)),
)


@dataclass(frozen=True)
class FocusFigure:
    """What one setting does.

    Attributes:
        setting: what is changed.
        right: pictures that show all that was asked for, as the judge sees it.
        features, layout, pixels: see `Diversity`; means over the prompts.
        against_usual: `features` over that of the same prompt as usual, mean over the prompts.
        saturation, clipped: of the pictures, see `studies_diversity`.
    """

    setting: Setting
    right: Share
    features: Estimate
    layout: Estimate
    pixels: Estimate
    against_usual: Estimate
    saturation: Estimate
    clipped: Estimate

    @property
    def rigid(self) -> bool:
        """Whether pictures differ less than usual: the interval, of two prompts or more, lies
        below 1."""
        return self.against_usual.n > 1 and self.against_usual.high < 1

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        names = ("features", "layout", "pixels", "against_usual", "saturation", "clipped")
        return {
            "what": self.setting.what,
            "value": self.setting.value,
            "right": self.right.as_json(),
            "rigid": self.rigid,
            **{name: getattr(self, name).as_json() for name in names},
        }


def focus_prompts(count: int) -> list[tuple[WorldPrompt, str]]:
    """The first prompts of two things whose first thing's noun stands once, and that noun."""
    found = []
    for prompt in world_prompts()["pairs"]:
        words = prompt.prompt.replace(",", " ").replace(".", " ").split()
        known = dict(nouns(prompt, words))
        noun = known.get(prompt.asked.things[0].kind)
        if noun is not None:
            found.append((prompt, noun))
    return found[:count]


def evaluate_focus(
    pipe: Any,
    segmenter: Segmenter,
    prompts: int = 6,
    *,
    seeds: int = 4,
    steps: int = STEPS,
    settings: Sequence[Setting] = SETTINGS,
) -> list[FocusFigure]:
    """The figures of every setting.

    Args:
        pipe: a Stable Diffusion pipeline, of the world.
        segmenter: the judge's network.
        prompts: how many of the fixed ones.
        seeds: pictures of each prompt, at least two; the same seeds in every setting.
        steps: of the sampler.
        settings: `USUAL` among them.

    Raises:
        UserError: fewer than two seeds.
    """
    if seeds < 2:
        raise UserError(f"expected two seeds or more, whose pictures can differ, but came {seeds}")
    asked = focus_prompts(prompts)
    usual: list[Diversity] = []
    figures = []
    total = len(settings) * len(asked) * seeds
    with tqdm(total=total, desc="focus", unit="picture", disable=None) as bar:
        for setting in sorted(settings, key=lambda each: each.what != USUAL):
            found = list(_painted(pipe, asked, setting, seeds, steps, bar))
            several = [diversity(pictures, segmenter) for pictures in found]
            usual = usual or several
            verdicts = [
                world_verdict(judge_world(picture, segmenter), prompt.asked).all_right
                for (prompt, _), pictures in zip(asked, found, strict=True)
                for picture in pictures
            ]
            ratios = [
                each.features / before.features for each, before in zip(several, usual, strict=True)
            ]
            figures.append(
                FocusFigure(
                    setting,
                    Share.of(verdicts),
                    features=Estimate.of([[each.features] for each in several]),
                    layout=Estimate.of([[each.layout] for each in several]),
                    pixels=Estimate.of([[each.pixels] for each in several]),
                    against_usual=Estimate.of([[ratio] for ratio in ratios]),
                    saturation=Estimate.of([[saturation(p) for p in each] for each in found]),
                    clipped=Estimate.of([[clipped(p) for p in each] for each in found]),
                )
            )
    return figures


def _painted(
    pipe: Any,
    asked: Sequence[tuple[WorldPrompt, str]],
    setting: Setting,
    seeds: int,
    steps: int,
    bar: Any,
) -> Iterator[list[Image.Image]]:
    """The pictures of each prompt."""
    for prompt, noun in asked:
        with setting.context(pipe, noun):
            yield pipe(
                [prompt.prompt] * seeds,
                num_inference_steps=steps,
                guidance_scale=setting.guidance,
                generator=[torch.Generator().manual_seed(prompt.seed + k) for k in range(seeds)],
            ).images
        bar.update(seeds)
