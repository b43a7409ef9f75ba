"""Drawn scenes as latents: drawn and encoded once, in blocks, and used a few times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from torch import Tensor

from t2i_xattn.training.loop import seed_for
from t2i_xattn.training.recipe import Recipe
from t2i_xattn.training.sources import SceneSource, drawn_scenes, pictures

BLOCK = 64
"""Batches of a block. Its scenes are shuffled anew each time that it is used."""


def denoiser_scenes(recipe: Recipe, source: SceneSource[Any], number: int) -> list[Any]:
    """The scenes of a block, in the order of their drawing."""
    seed = seed_for(recipe.seed, "denoiser", number)
    return drawn_scenes(source, seed, BLOCK * recipe.denoiser.batch)[0]


def blocks(recipe: Recipe) -> int:
    """How many blocks the denoiser sees in all its steps."""
    return -(-recipe.denoiser.steps // (BLOCK * recipe.denoiser.passes))


class EncodedScenes:
    """The scenes of a step and their latents, a function of the seed and the step alone.

    Drawing and encoding take a third of a training step, so each block of scenes serves
    ``passes`` times, with other noise and other words each time, before the next is drawn.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: SceneSource[Any],
        autoencoder: AutoencoderTiny,
        accelerator: Accelerator,
    ) -> None:
        self.source = source
        self.recipe, self.seed, self.batch = recipe, recipe.seed, recipe.denoiser.batch
        self.passes = recipe.denoiser.passes
        self.device = accelerator.device
        self.autoencoder = autoencoder.to(self.device, memory_format=torch.channels_last)
        self.number = -1
        self.scenes: list[Any] = []
        self.latents = torch.empty(0)
        self.labelled = recipe.denoiser.segmentation_loss > 0
        self.labels = torch.empty(0)

    def at(self, step: int) -> tuple[list[Any], Tensor, Tensor | None]:
        """A step's scenes, float latents ``(batch, channels, height, width)``, and labels of
        their pixels ``(batch, labels, height, width)`` where the recipe has a use for them."""
        use, index = divmod(step, BLOCK)
        if use // self.passes != self.number:
            self._draw(use // self.passes)
        order = np.random.default_rng(seed_for(self.seed, "order", use)).permutation(
            len(self.scenes)
        )
        chosen = order[index * self.batch : (index + 1) * self.batch]
        rows = torch.from_numpy(chosen)
        labels = self.labels[rows] if self.labelled else None
        return [self.scenes[each] for each in chosen], self.latents[rows], labels

    def _draw(self, number: int) -> None:
        scenes = denoiser_scenes(self.recipe, self.source, number)
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
