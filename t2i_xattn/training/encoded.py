"""Drawn scenes as latents: drawn and encoded once, in blocks, and used a few times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from torch import Tensor

from t2i_xattn.training.loop import seed_for
from t2i_xattn.training.recipe import PaintingSchedule, Recipe
from t2i_xattn.training.sources import SceneSource, drawn_scenes, pictures

BLOCK = 2048
"""Scenes of a block, which are shuffled anew each time that it is used."""


def block_scenes(recipe: Recipe, source: SceneSource[Any], number: int) -> list[Any]:
    """The scenes of a block, in the order of their drawing."""
    return drawn_scenes(source, seed_for(recipe.seed, "denoiser", number), BLOCK)[0]


def blocks(schedule: PaintingSchedule) -> int:
    """How many blocks a stage sees in all its steps."""
    return -(-schedule.steps // (BLOCK // schedule.batch * schedule.passes))


def all_blocks(recipe: Recipe) -> int:
    """How many blocks the denoiser sees in all its stages."""
    return blocks(recipe.denoiser) + (blocks(recipe.half_size) if recipe.half_size else 0)


class EncodedScenes:
    """The scenes of a step and their latents, a function of the seed and the step alone.

    Drawing and encoding take a third of a training step, so each block of scenes serves
    ``passes`` times, with other noise and other words each time, before the next is drawn.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: str,
        first_block: int,
        source: SceneSource[Any],
        autoencoder: AutoencoderTiny,
        accelerator: Accelerator,
    ) -> None:
        self.source = source
        self.recipe = recipe
        self.order = f"{stage} order"
        schedule: PaintingSchedule = getattr(recipe, stage)
        self.batch, self.passes = schedule.batch, schedule.passes
        self.first_block = first_block
        self.device = accelerator.device
        self.autoencoder = autoencoder.to(self.device, memory_format=torch.channels_last)
        self.number = -1
        self.scenes: list[Any] = []
        self.latents = torch.empty(0)
        self.labelled = stage == "denoiser" and recipe.denoiser.segmentation_loss > 0
        self.labels = torch.empty(0)

    def at(self, step: int) -> tuple[list[Any], Tensor, Tensor | None]:
        """A step's scenes, float latents ``(batch, channels, height, width)``, and labels of
        their pixels ``(batch, labels, height, width)`` where the recipe has a use for them."""
        use, index = divmod(step, BLOCK // self.batch)
        number = self.first_block + use // self.passes
        if number != self.number:
            self._draw(number)
        rng = np.random.default_rng(seed_for(self.recipe.seed, self.order, use))
        order = rng.permutation(len(self.scenes))
        chosen = order[index * self.batch : (index + 1) * self.batch]
        rows = torch.from_numpy(chosen)
        labels = self.labels[rows] if self.labelled else None
        return [self.scenes[each] for each in chosen], self.latents[rows], labels

    def _draw(self, number: int) -> None:
        scenes = block_scenes(self.recipe, self.source, number)
        encoded = []
        with torch.no_grad():
            for start in range(0, len(scenes), self.batch):
                images = pictures(self.source, scenes[start : start + self.batch])
                images = images.to(self.device, memory_format=torch.channels_last)
                encoded.append(self.autoencoder.encoder(images).float())
        self.number, self.scenes = number, scenes
        self.latents = torch.cat(encoded) * self.autoencoder.config.scaling_factor
        if self.labelled:
            side = self.latents.shape[-1]
            labels = np.stack([self.source.pixel_labels(scene, side) for scene in scenes])
            self.labels = torch.from_numpy(labels).to(self.device)
