"""Drawn scenes as latents: drawn and encoded once, in blocks, and used a few times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from torch import Tensor

from t2i_xattn.training import blocks
from t2i_xattn.training.loop import seed_for
from t2i_xattn.training.recipe import DrawnSchedule, Recipe
from t2i_xattn.training.sources import SceneSource, drawn_scenes, pictures


def block_scenes(recipe: Recipe, source: SceneSource[Any], number: int) -> list[Any]:
    """The scenes of a block, in the order of their drawing."""
    return drawn_scenes(source, seed_for(recipe.seed, "denoiser", number), blocks.BLOCK)[0]


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
        self.recipe, self.stage = recipe, stage
        self.schedule: DrawnSchedule = getattr(recipe, stage)
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
        number, rows = blocks.block_and_rows(self.recipe.seed, self.stage, self.schedule, step)
        if self.first_block + number != self.number:
            self._draw(self.first_block + number)
        labels = self.labels[rows] if self.labelled else None
        return [self.scenes[each] for each in rows], self.latents[rows], labels

    def _draw(self, number: int) -> None:
        scenes = block_scenes(self.recipe, self.source, number)
        encoded = []
        with torch.no_grad():
            for start in range(0, len(scenes), self.schedule.batch):
                images = pictures(self.source, scenes[start : start + self.schedule.batch])
                images = images.to(self.device, memory_format=torch.channels_last)
                encoded.append(self.autoencoder.encoder(images).float())
        self.number, self.scenes = number, scenes
        self.latents = torch.cat(encoded) * self.autoencoder.config.scaling_factor
        if self.labelled:
            side = self.latents.shape[-1]
            labels = np.stack([self.source.pixel_labels(scene, side) for scene in scenes])
            self.labels = torch.from_numpy(labels).to(self.device)
