"""The judge of the world learns what each pixel is, from drawn scenes and their true maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from t2i_xattn.judge.pixel_maps import NONE, kinds_of_maps, true_maps
from t2i_xattn.judge.segmenter import Segmenter
from t2i_xattn.scenes.world import WorldScene, draw_world, sample_world
from t2i_xattn.scenes.world.owners import PARTS
from t2i_xattn.training import blocks
from t2i_xattn.training.loop import LossFunction, seed_for, train_stage
from t2i_xattn.training.recipe import DrawnSchedule, build, read_toml
from t2i_xattn.training.spoiling import add_noise, blur, soften, tint


@dataclass(frozen=True, kw_only=True)
class JudgeStage(DrawnSchedule):
    patch: int
    thing_weight: float
    clean: float
    channels: list[int]
    softness: float
    blur: float
    tint: float
    noise: float


@dataclass(frozen=True)
class JudgeRecipe:
    """The field names are those of the TOML file."""

    seed: int
    mixed_precision: str
    judge: JudgeStage


def load_judge_recipe(path: Path) -> JudgeRecipe:
    """Read a recipe.

    Raises:
        UserError: the file is not there, is not TOML, or has missing or unknown settings.
    """
    raw, example = read_toml(path), "judge.toml"
    stage = build(JudgeStage, raw.pop("judge", {}), "[judge]", example)
    return build(JudgeRecipe, raw | {"judge": stage}, "top level", example)


class MappedScenes:
    """The pictures and the true maps of a step, a function of the seed and the step alone.

    Scenes with what is held out from the training of models are seen too: the judge has to know
    what it judges. They are drawn in blocks, as drawing takes a fourth of a step.
    """

    def __init__(self, recipe: JudgeRecipe) -> None:
        self.seed, self.schedule = recipe.seed, recipe.judge
        self.number = -1
        self.images = torch.empty(0)
        self.maps: dict[str, Tensor] = {}

    def at(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Float ``(batch, 3, side, side)`` from -1 to 1, and of each map ``(batch, side, side)``
        numbers."""
        number, rows = blocks.block_and_rows(self.seed, "judge", self.schedule, step)
        if number != self.number:
            self._draw(number)
        maps = {name: each[rows].long() for name, each in self.maps.items()}
        return self.images[rows].float() / 127.5 - 1, maps

    def _draw(self, number: int) -> None:
        rng = np.random.default_rng(seed_for(self.seed, "judge", number))
        scenes: list[WorldScene] = []
        seen: Counter[str] = Counter()
        for _ in range(blocks.BLOCK):
            scene = _of_rarest_things([sample_world(rng, "any") for _ in range(3)], seen)
            seen.update(thing.kind for thing in scene.things)
            scenes.append(scene)
        pixels = torch.from_numpy(np.stack([np.asarray(draw_world(each)) for each in scenes]))
        self.number, self.images = number, pixels.permute(0, 3, 1, 2).contiguous()
        true = [true_maps(each) for each in scenes]
        # NONE, the least of the numbers, and all the others fit in a byte.
        self.maps = {
            name: torch.from_numpy(np.stack([getattr(each, name).astype(np.int8) for each in true]))
            for name in kinds_of_maps()
        }


def _of_rarest_things(scenes: list[WorldScene], seen: Counter[str]) -> WorldScene:
    """The one with the most, and the least seen, things: some kinds stand in few places only."""
    return max(scenes, key=lambda scene: sum(1 / (1 + seen[each.kind]) for each in scene.things))


def judge_loss(recipe: JudgeRecipe, accelerator: Accelerator) -> LossFunction:
    """Cross-entropy of each map, over the pixels where it tells something.

    Things are small: without a greater weight of their pixels the network learns skies first and
    what stands in them last.
    """
    settings = recipe.judge
    mapped = MappedScenes(recipe)

    def loss(module: Any, step: int) -> Tensor:
        images, maps = mapped.at(step)
        rng = np.random.default_rng(seed_for(recipe.seed, "spoiling", step))
        scores = module.segmenter(spoiled(images, settings, rng).to(accelerator.device))
        maps = {name: each.to(accelerator.device) for name, each in maps.items()}
        things = maps["classes"] >= len(PARTS)
        terms = []
        for name, truth in maps.items():
            each = functional.cross_entropy(
                scores[name], truth, ignore_index=NONE, reduction="none"
            )
            weights = (1 + (settings.thing_weight - 1) * things) * (truth != NONE)
            # Of a batch of bare places no pixel has a colour.
            terms.append((weights * each).sum() / weights.sum().clamp(min=1))
        return torch.stack(terms).sum()

    return loss


def spoiled(images: Tensor, settings: JudgeStage, rng: np.random.Generator) -> Tensor:
    """Pictures as a model may paint them; a share of them stays as it was drawn."""
    soft = soften(images, settings.softness, rng)
    soft = tint(blur(soft, settings.blur, rng), settings.tint, rng)
    soft = add_noise(soft, settings.noise, rng).clamp(-1, 1)
    clean = torch.from_numpy(rng.random(len(images)) < settings.clean).to(images.device)
    return torch.where(clean[:, None, None, None], images, soft)


def train_judge(
    recipe: JudgeRecipe, folder: Path, *, max_steps: int | None = None
) -> Segmenter | None:
    """Train the judge, going on where the last call with this folder stopped.

    Returns:
        The network of the averaged weights, or ``None`` where ``max_steps`` came before the end.
    """
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
    torch.manual_seed(recipe.seed)
    module = nn.Module()
    module.segmenter = Segmenter(recipe.judge.channels, recipe.judge.patch)
    result = train_stage(
        "judge",
        module,
        judge_loss(recipe, accelerator),
        recipe.judge,
        folder,
        rates={"segmenter": recipe.judge.learning_rate},
        matrix_rates={"segmenter": recipe.judge.matrix_learning_rate},
        accelerator=accelerator,
        max_steps=max_steps,
    )
    return result.averaged.segmenter.eval() if result.finished else None
