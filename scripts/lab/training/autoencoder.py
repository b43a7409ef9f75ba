"""Stage one: pictures to latents and back (diffusers' AutoencoderTiny, no norms, so fast)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn
from torch.nn import functional

from lab.training import blocks
from lab.training.drawing import Arrays, Drawers
from lab.training.loop import LossFunction, generator_for, seed_for
from lab.training.recipe import Recipe
from lab.training.sources import (
    SceneSource,
    drawn_scenes,
    pictures,
    pixels,
    source_named,
)


def new_autoencoder(recipe: Recipe) -> AutoencoderTiny:
    """Fresh weights: 8 × 8 pixels become one latent position."""
    settings = recipe.autoencoder
    channels = (settings.channels,) * 4
    model = AutoencoderTiny(
        latent_channels=settings.latent_channels,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=tuple(settings.encoder_blocks),
        num_decoder_blocks=tuple(settings.decoder_blocks),
    )
    # Without norms the start decides: keep the signal's size, begin each block as the identity.
    for each in model.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
            if each.bias is not None:
                nn.init.zeros_(each.bias)
    for each in model.modules():
        if isinstance(each, AutoencoderTinyBlock):
            nn.init.zeros_(each.conv[-1].weight)
    nn.init.xavier_normal_(model.encoder.layers[-1].weight)
    nn.init.xavier_normal_(model.decoder.layers[-1].weight, gain=0.3)
    nn.init.constant_(model.decoder.layers[-1].bias, 0.5)  # mid grey
    return model


def _crops(images: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    limit = images.shape[-1] - side + 1
    corners = rng.integers(0, limit, size=(len(images), 2))
    return torch.stack(
        [
            image[:, y : y + side, x : x + side]
            for image, (y, x) in zip(images, corners, strict=True)
        ]
    )


def drawn_part(recipe: Recipe, stage: str, rows: int, number: int, part: int) -> Arrays:
    """Pictures of a part of a block: ``pixels``, uint8 ``(rows, 3, side, side)``."""
    source = source_named(recipe.scenes)
    scenes, _ = drawn_scenes(source, [*seed_for(recipe.seed, stage, number), part], rows)
    return {"pixels": pixels(source, scenes)}


class _Views:
    """Two random crops of each picture of a step; at every fourth step whole pictures.

    Borders are so seen as they are in use.
    """

    def __init__(
        self, recipe: Recipe, stage: str, accelerator: Accelerator, drawers: Drawers
    ) -> None:
        self.recipe, self.stage, self.device = recipe, stage, accelerator.device
        draw, schedule = partial(drawn_part, recipe, stage), getattr(recipe, stage)
        self.blocks = blocks.SteppedBlocks(
            recipe.seed, stage, schedule, drawers, draw, self._pixels
        )

    def _pixels(self, drawn: Arrays) -> Tensor:
        return torch.from_numpy(drawn["pixels"]).to(self.device)

    def at(self, step: int) -> Tensor:
        """Float ``(views, 3, side, side)`` from -1 to 1, on the accelerator."""
        block, _, rows = self.blocks.at(step)
        images = block[torch.from_numpy(rows).to(self.device)].float() / 127.5 - 1
        if step % 4:
            rng = np.random.default_rng(seed_for(self.recipe.seed, f"{self.stage} crops", step))
            images = torch.cat([_crops(images, self.recipe.autoencoder.crop, rng) for _ in "ab"])
        else:
            images = images[: max(1, len(images) // 2)]
        return images.contiguous(memory_format=torch.channels_last)


def _error(decoded: Tensor, images: Tensor) -> Tensor:
    difference = decoded.float() - images
    return difference.abs().mean() + 2 * difference.square().mean()


def autoencoder_loss(recipe: Recipe, accelerator: Accelerator, drawers: Drawers) -> LossFunction:
    """Error of the picture, and latents that a denoiser learns easily.

    Their mean and deviation are kept near 0 and 1. Noise on them while training makes near latents
    mean near pictures, so that small errors of the denoiser stay small in the picture. Latents
    averaged two by two have to give the picture averaged two by two (scale equivariance, EQ-VAE,
    arXiv 2502.09509): so latents are like a small picture, whose shapes are seen in them, and not
    a code for each patch.
    """
    settings = recipe.autoencoder
    views = _Views(recipe, "autoencoder", accelerator, drawers)

    def loss(module: Any, step: int) -> Tensor:
        images = views.at(step)
        model = module.model
        latents = model.encoder(images).float()
        random = generator_for(recipe.seed, "autoencoder", step, latents.device)
        noise = torch.randn(latents.shape, generator=random, device=latents.device)
        decoded = model.decoder(latents + settings.latent_noise * noise)
        some = slice(len(images) // 2)
        halved = functional.avg_pool2d(latents[some], 2)
        equivariance = _error(model.decoder(halved), functional.avg_pool2d(images[some], 2))
        mean = latents.mean(dim=(0, 2, 3))
        deviation = latents.std(dim=(0, 2, 3))
        unit = mean.square().mean() + (deviation - 1).square().mean()
        return _error(decoded, images) + settings.scale_equivariance * equivariance + 0.01 * unit

    return loss


def decoder_loss(
    recipe: Recipe, autoencoder: AutoencoderTiny, accelerator: Accelerator, drawers: Drawers
) -> LossFunction:
    """Error of the picture alone: the decoder goes on where the latents are as they will stay.

    It draws outlines sharper than one that has to please a denoiser's latents too.
    """
    encoder = autoencoder.encoder.to(accelerator.device)
    views = _Views(recipe, "decoder", accelerator, drawers)

    def loss(module: Any, step: int) -> Tensor:
        images = views.at(step)
        with torch.no_grad():
            latents = encoder(images).float()
        random = generator_for(recipe.seed, "decoder", step, latents.device)
        noise = torch.randn(latents.shape, generator=random, device=latents.device)
        return _error(module.decoder(latents + recipe.decoder.latent_noise * noise), images)

    return loss


def finish_autoencoder(
    model: AutoencoderTiny, recipe: Recipe, source: SceneSource[Any], accelerator: Accelerator
) -> AutoencoderTiny:
    """Measure the latents' deviation on drawn scenes and store it as the scaling factor."""
    scenes, _ = drawn_scenes(source, seed_for(recipe.seed, "scaling", 0), 64)
    with torch.no_grad(), accelerator.autocast():
        latents = model.encoder(pictures(source, scenes).to(accelerator.device)).float()
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return model.eval()
