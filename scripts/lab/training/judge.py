"""The judge of the world learns what each pixel is, from drawn scenes and their true maps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from lab.judge.pixel_maps import NONE, kinds_of_maps, true_maps
from lab.judge.segmenter import Segmenter, load_segmenter
from lab.scenes.world import WorldScene, sample_world
from lab.scenes.world.owners import PARTS
from lab.training import blocks
from lab.training.drawing import Arrays, Drawers
from lab.training.grown import go_on_judging
from lab.training.jaccard_loss import jaccard_loss
from lab.training.loop import LossFunction, new_accelerator, seed_for, train_stage
from lab.training.recipe import DrawnSchedule, build, read_toml
from lab.training.sources import WorldScenes, pixels
from lab.training.spoiling import add_noise, blur, soften, tint
from t2i_xattn.errors import UserError


@dataclass(frozen=True, kw_only=True)
class JudgeStage(DrawnSchedule):
    patch: int
    thing_weight: float
    jaccard: float = 0.0
    clean: float
    channels: list[int]
    fine: int
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


def mapped_part(seed: int, rows: int, number: int, part: int) -> Arrays:
    """A part of a block: ``pixels``, uint8 ``(rows, 3, side, side)``, and the true maps by name.

    Scenes with what is held out from the training of models are seen too: the judge has to know
    what it judges.
    """
    rng = np.random.default_rng([*seed_for(seed, "judge", number), part])
    scenes: list[WorldScene] = []
    seen: Counter[str] = Counter()
    for _ in range(rows):
        scene = _of_rarest_things([sample_world(rng, "any") for _ in range(3)], seen)
        seen.update(thing.kind for thing in scene.things)
        scenes.append(scene)
    true = [true_maps(each) for each in scenes]
    return {
        "pixels": pixels(WorldScenes(), scenes),
        # NONE, the least of the numbers, and all the others fit in a byte.
        **{
            name: np.stack([getattr(each, name).astype(np.int8) for each in true])
            for name in kinds_of_maps()
        },
    }


class MappedScenes:
    """The pictures and the true maps of a step, a function of the seed and the step alone.

    They are drawn in blocks, as drawing takes a fourth of a step.
    """

    def __init__(self, recipe: JudgeRecipe, accelerator: Accelerator, drawers: Drawers) -> None:
        self.device = accelerator.device
        draw = partial(mapped_part, recipe.seed)
        self.blocks = blocks.SteppedBlocks(
            recipe.seed, "judge", recipe.judge, drawers, draw, self._tensors
        )

    def _tensors(self, drawn: Arrays) -> dict[str, Tensor]:
        return {name: torch.from_numpy(each).to(self.device) for name, each in drawn.items()}

    def at(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Float ``(batch, 3, side, side)`` from -1 to 1, and of each map ``(batch, side, side)``
        numbers."""
        block, _, rows = self.blocks.at(step)
        chosen = torch.from_numpy(rows).to(self.device)
        maps = {name: block[name][chosen].long() for name in kinds_of_maps()}
        return block["pixels"][chosen].float() / 127.5 - 1, maps


def _of_rarest_things(scenes: list[WorldScene], seen: Counter[str]) -> WorldScene:
    """The one with the most, and the least seen, things: some kinds stand in few places only."""
    return max(scenes, key=lambda scene: sum(1 / (1 + seen[each.kind]) for each in scene.things))


def judge_loss(recipe: JudgeRecipe, accelerator: Accelerator, drawers: Drawers) -> LossFunction:
    """Cross-entropy of each map, over the pixels where it tells something.

    Things are small: without a greater weight of their pixels the network learns skies first and
    what stands in them last. With ``jaccard`` in the recipe, what the measure counts is added.
    """
    settings = recipe.judge
    mapped = MappedScenes(recipe, accelerator, drawers)

    def loss(module: Any, step: int) -> Tensor:
        images, maps = mapped.at(step)
        rng = np.random.default_rng(seed_for(recipe.seed, "spoiling", step))
        # A blur in the precision of autocast would be noise.
        with torch.autocast(images.device.type, enabled=False):
            seen = spoiled(images, settings, rng)
        scores = module.segmenter(seen.contiguous(memory_format=torch.channels_last))
        things = maps["classes"] >= len(PARTS)
        terms = []
        for name, truth in maps.items():
            each = functional.cross_entropy(
                scores[name], truth, ignore_index=NONE, reduction="none"
            )
            weights = (1 + (settings.thing_weight - 1) * things) * (truth != NONE)
            # Of a batch of bare places no pixel has a colour.
            terms.append((weights * each).sum() / weights.sum().clamp(min=1))
        if settings.jaccard:
            terms.append(settings.jaccard * jaccard_loss(scores["classes"], maps["classes"]))
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
    recipe: JudgeRecipe,
    folder: Path,
    *,
    init: Path | None = None,
    max_steps: int | None = None,
    workers: int = 0,
) -> Segmenter | None:
    """Train the judge, going on where the last call with this folder stopped.

    Args:
        recipe: the settings.
        folder: for the checkpoint.
        init: folder of a network to begin with, of the recipe's form. It may come from a smaller
            world: what it tells is taken over by name.
        max_steps: train at most this many steps in this call.
        workers: processes that draw ahead; with 0 this one draws. What is drawn is the same.

    Returns:
        The network of the averaged weights, or ``None`` where ``max_steps`` came before the end.

    Raises:
        UserError: ``init`` holds no network of the recipe's form.
    """
    accelerator = new_accelerator(recipe.mixed_precision)
    torch.manual_seed(recipe.seed)
    module = nn.Module()
    settings = recipe.judge
    module.segmenter = Segmenter(settings.channels, settings.patch, settings.fine)
    if init is not None:
        begun = load_segmenter(init, any_world=True)
        form, wanted = begun.form(), module.segmenter.form()
        if form != wanted:
            raise UserError(
                f"expected a network of the recipe's form {wanted} in {init}, but came {form}; "
                "begin with one that this recipe made"
            )
        go_on_judging(module.segmenter, begun)
        favour_things(module.segmenter, settings.thing_weight)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with Drawers(workers) as drawers:
        result = train_stage(
            "judge",
            module,
            judge_loss(recipe, accelerator, drawers),
            recipe.judge,
            folder,
            rates={"segmenter": recipe.judge.learning_rate},
            matrix_rates={"segmenter": recipe.judge.matrix_learning_rate},
            accelerator=accelerator,
            max_steps=max_steps,
        )
    if not result.finished:
        return None
    segmenter: Segmenter = result.averaged.segmenter.eval()
    favour_things(segmenter, 1 / settings.thing_weight)
    return segmenter


@torch.no_grad()
def favour_things(segmenter: Segmenter, weight: float) -> None:
    """Let a network hold things for ``weight`` times as likely as it did.

    A loss that weighs the pixels of things more teaches it to see too many of them: of two
    classes the better one at a weighted error is that of which ``weight · p`` is greater. After
    training it is given back what the loss took: IoU of the classes 0.944 before, 0.964 after
    (150 scenes, a weight of 8).
    """
    things = slice(len(PARTS), kinds_of_maps()["classes"])
    bias = segmenter.tell.bias
    assert bias is not None
    assert next(iter(kinds_of_maps())) == "classes"
    bias[things] += math.log(weight)
