"""The judge of the world learns what each pixel is, from drawn scenes and their true maps."""

from __future__ import annotations

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
from t2i_xattn.training.loop import LossFunction, seed_for, train_stage
from t2i_xattn.training.recipe import Schedule, build, read_toml
from t2i_xattn.training.spoiling import add_noise, blur, soften, tint


@dataclass(frozen=True, kw_only=True)
class JudgeStage(Schedule):
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


def judge_loss(recipe: JudgeRecipe, accelerator: Accelerator) -> LossFunction:
    """Cross-entropy of each map, over the pixels where it tells something.

    Scenes with what is held out from the training of models are seen too: the judge has to know
    what it judges.
    """
    settings = recipe.judge

    def loss(module: Any, step: int) -> Tensor:
        rng = np.random.default_rng(seed_for(recipe.seed, "judge", step))
        scenes = [sample_world(rng, "any") for _ in range(settings.batch)]
        images = spoiled(drawn(scenes), settings, rng).to(accelerator.device)
        scores = module.segmenter(images)
        maps = [true_maps(scene) for scene in scenes]
        terms = []
        for name in kinds_of_maps():
            numbers = np.stack([getattr(each, name) for each in maps]).astype(np.int64)
            truth = torch.from_numpy(numbers).to(accelerator.device)
            total = functional.cross_entropy(
                scores[name], truth, ignore_index=NONE, reduction="sum"
            )
            # Of a batch of bare places no pixel has a colour.
            terms.append(total / (truth != NONE).sum().clamp(min=1))
        return torch.stack(terms).sum()

    return loss


def drawn(scenes: list[WorldScene]) -> Tensor:
    """Float ``(scenes, 3, side, side)`` from -1 to 1."""
    pixels = np.stack([np.asarray(draw_world(scene)) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def spoiled(images: Tensor, settings: JudgeStage, rng: np.random.Generator) -> Tensor:
    """Pictures as a model may paint them."""
    images = soften(images, settings.softness, rng)
    images = blur(images, settings.blur, rng)
    images = tint(images, settings.tint, rng)
    return add_noise(images, settings.noise, rng).clamp(-1, 1)


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
    module.segmenter = Segmenter(recipe.judge.channels)
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
