"""Pictures for the measurements of edits and guidance, and the prompts that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lab.evaluation.prompts import Prompt
from lab.judge import judge_picture, verdict


@dataclass(frozen=True)
class Painting:
    """How pictures are painted here.

    Attributes:
        pipe: a Stable Diffusion pipeline.
        steps, guidance: of the sampler.
        batch: pictures at once, about; where some are edited together, whole groups of them.
    """

    pipe: Any
    steps: int = 25
    guidance: float = 5.0
    batch: int = 12

    def one(self, prompt: Prompt, around: AbstractContextManager[Any] | None = None) -> Image.Image:
        """The picture of one prompt, under a context."""
        with around or nullcontext():
            return self.batch_of([prompt.prompt], [prompt.seed])[0]

    def batch_of(
        self, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        """Pictures of one batch, each from the noise of its seed; options as of the pipeline."""
        images: list[Image.Image] = self.pipe(
            list(prompts),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **options,
        ).images
        return images


def right(picture: Image.Image, prompt: Prompt) -> bool:
    """Whether every object of the prompt is there, in its colour and shape."""
    return verdict(judge_picture(picture), prompt.objects).all_objects


def distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose words name one object each: all colours and shapes differ, also from the
    ground."""
    found = []
    for prompt in prompts:
        words = words_of(prompt)
        shapes = {shape for _, shape in prompt.objects}
        once = all(words.count(colour) == 1 for colour, _ in prompt.objects)
        if once and len(shapes) == len(prompt.objects):
            found.append(prompt)
    return found


def conjoined(prompt: Prompt) -> Prompt:
    """The same objects, without saying where they stand or on what ground."""
    each = [f"{article(colour)} {colour} {shape}" for colour, shape in prompt.objects]
    text = " and ".join(part for part in (", ".join(each[:-1]), each[-1]) if part)
    return Prompt(text, prompt.objects, None, prompt.seed)


def words_of(prompt: Prompt) -> list[str]:
    """The words of a prompt, in small letters, without commas and full stops."""
    return prompt.prompt.lower().replace(",", " ").replace(".", " ").split()


def article(word: str) -> str:
    """`a` or `an`, as the word asks for."""
    return "an" if word[0] in "aeiou" else "a"
