"""How often the judge itself is right: on rendered scenes, whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from lab.evaluation.figures import Share
from lab.judge import judge_picture, verdict
from lab.scenes import RenderedScene, render_scene

FIRST_SEED = 10_000_000
"""Far from the seeds of training."""

Spoiling = Literal["clean", "blurred", "noisy"]
SPOILINGS: tuple[Spoiling, ...] = ("clean", "blurred", "noisy")


@dataclass(frozen=True)
class JudgeAccuracy:
    """The share of rendered scenes that are judged rightly in every respect.

    Attributes:
        spoiling: what was done to the pictures.
        by_objects: the share for scenes of one, two and three objects.
    """

    spoiling: Spoiling
    by_objects: dict[int, Share]

    @property
    def all(self) -> Share:
        """Over all the scenes."""
        every = self.by_objects.values()
        return Share(sum(each.right for each in every), sum(each.n for each in every))


def judge_accuracy(scenes: int = 600, spoiling: Spoiling = "clean") -> JudgeAccuracy:
    """Judge rendered scenes of one, two and three objects in turn.

    Every other group of three has a combination that is held out from training. A scene counts as
    judged rightly if the ground, every object's colour and shape and the relation that its prompt
    states were found, and nothing else.

    Args:
        scenes: how many.
        spoiling: `"clean"`; `"blurred"`: Gaussian, 0.8 pixels; `"noisy"`: each value up to 10
            levels off.
    """
    outcomes: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for index in tqdm(range(scenes), desc=f"judging {spoiling} scenes", leave=False, disable=None):
        count = index % 3 + 1
        scene = render_scene(
            FIRST_SEED + index,
            objects=count,
            split="held_out" if index // 3 % 2 else "any",
            relation=True,
        )
        picture = _SPOIL[spoiling](scene.image, np.random.default_rng(index))
        outcomes[count].append(judged_rightly(scene, picture))
    return JudgeAccuracy(
        spoiling, {count: Share.of(each) for count, each in outcomes.items() if each}
    )


def judged_rightly(scene: RenderedScene, picture: Image.Image | None = None) -> bool:
    """Whether the judge finds just what was drawn, in the scene's picture or in one made of it."""
    judgement = judge_picture(scene.image if picture is None else picture)
    kinds: Sequence[tuple[str, str]] = scene.scene.kinds()
    if Counter(each.kind for each in judgement.objects) != Counter(kinds):
        return False
    found = verdict(judgement, kinds, scene.description.relation)
    return judgement.ground == scene.scene.ground and found.relation is not False


def _noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture).astype(np.int16)
    pixels += rng.integers(-10, 11, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


_SPOIL: dict[Spoiling, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "clean": lambda picture, rng: picture,
    "blurred": lambda picture, rng: picture.filter(ImageFilter.GaussianBlur(0.8)),
    "noisy": _noisy,
}
