"""Drawn scenes as latents, with their words: drawn and encoded once, in blocks, and used a few
times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor

from lab.training import blocks
from lab.training.drawing import Arrays, Drawers
from lab.training.loop import seed_for
from lab.training.recipe import Recipe
from lab.training.sources import (
    SceneSource,
    descriptions,
    drawn_scenes,
    pixels,
    source_named,
)
from lab.training.text import source_tokenizer, tokenize

STAGE = "denoiser"


def part_scenes(
    recipe: Recipe, source: SceneSource[Any], rows: int, number: int, part: int
) -> tuple[list[Any], np.random.Generator]:
    """The scenes of a part of a block, and the generator that drew them."""
    return drawn_scenes(source, [*seed_for(recipe.seed, STAGE, number), part], rows)


def block_scenes(recipe: Recipe, source: SceneSource[Any], number: int) -> list[Any]:
    """The scenes of a block, in the order of their drawing."""
    count, rows = blocks.parts()
    drawn = (part_scenes(recipe, source, rows, number, part)[0] for part in range(count))
    return [scene for part in drawn for scene in part]


def _objects(values: list[Any]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def told_part(recipe: Recipe, rows: int, number: int, part: int) -> Arrays:
    """A part of a block: pictures, a wording for each use as token ids, and what else is asked.

    ``pixels`` are uint8 ``(rows, 3, side, side)``, ``ids`` int16 ``(rows, uses, tokens)``; with
    the losses that need them ``labels`` of the pixels and the ``scenes`` with what was ``said``.
    """
    settings, source = recipe.denoiser, source_named(recipe.scenes)
    scenes, rng = part_scenes(recipe, source, rows, number, part)
    told = [descriptions(source, scenes, rng, recipe.stray_words) for _ in range(settings.passes)]
    tokenizer = source_tokenizer(recipe.scenes)
    ids = [tokenize(tokenizer, [each.prompt for each in said]).numpy() for said in told]
    drawn: Arrays = {
        "pixels": pixels(source, scenes),
        "ids": np.stack(ids, axis=1).astype(np.int16),
    }
    if settings.segmentation_loss:
        # AutoencoderTiny's latents have an eighth of the picture's size.
        side = drawn["pixels"].shape[-1] // 8
        drawn["labels"] = np.stack([source.pixel_labels(scene, side) for scene in scenes])
    if settings.mask_loss:
        drawn["scenes"] = _objects(scenes)
        drawn["said"] = np.stack([_objects(said) for said in told], axis=1)
    return drawn


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """The scenes of a step.

    Attributes:
        latents: float ``(batch, channels, height, width)``.
        ids: the prompts, ``(batch, tokens)``.
        labels: of the pixels, where the recipe has a use for them.
        scenes, said: what was drawn, and how it was described, likewise.
    """

    latents: Tensor
    ids: Tensor
    labels: Tensor | None
    scenes: list[Any]
    said: list[Any]


@dataclass(frozen=True, eq=False)
class _EncodedBlock:
    """A block as steps take rows of it: latents, and what was drawn, as tensors and as it is."""

    latents: Tensor
    tensors: dict[str, Tensor]
    drawn: Arrays


class EncodedScenes:
    """The scenes of a step and their latents, a function of the seed and the step alone.

    Drawing takes long, so each block of scenes serves ``passes`` times, with other noise and other
    words each time, before the next is drawn.
    """

    def __init__(
        self,
        recipe: Recipe,
        autoencoder: AutoencoderTiny,
        accelerator: Accelerator,
        drawers: Drawers,
    ) -> None:
        self.batch, self.device = recipe.denoiser.batch, accelerator.device
        self.autoencoder = autoencoder.to(self.device, memory_format=torch.channels_last)
        draw = partial(told_part, recipe)
        self.blocks = blocks.SteppedBlocks(
            recipe.seed, STAGE, recipe.denoiser, drawers, draw, self._encoded
        )

    def at(self, step: int) -> EncodedBatch:
        """What a step sees."""
        block, turn, rows = self.blocks.at(step)
        chosen = torch.from_numpy(rows).to(self.device)
        labels = block.tensors.get("labels")
        kept = "scenes" in block.drawn
        return EncodedBatch(
            latents=block.latents[chosen],
            ids=block.tensors["ids"][chosen, turn].long(),
            labels=None if labels is None else labels[chosen],
            scenes=list(block.drawn["scenes"][rows]) if kept else [],
            said=list(block.drawn["said"][rows, turn]) if kept else [],
        )

    def _encoded(self, drawn: Arrays) -> _EncodedBlock:
        pictures = torch.from_numpy(drawn.pop("pixels"))
        encoded = []
        with torch.no_grad():
            for part in pictures.split(self.batch):
                images = part.to(self.device).float() / 127.5 - 1
                images = images.contiguous(memory_format=torch.channels_last)
                encoded.append(self.autoencoder.encoder(images).float())
        latents = torch.cat(encoded) * self.autoencoder.config.scaling_factor
        tensors = {
            name: torch.from_numpy(each).to(self.device)
            for name, each in drawn.items()
            if each.dtype != object
        }
        return _EncodedBlock(latents, tensors, drawn)
