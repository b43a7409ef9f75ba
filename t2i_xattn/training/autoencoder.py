"""Stage one: pictures to latents and back (diffusers' AutoencoderTiny, no norms, so fast)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from t2i_xattn.training.batches import pictures, training_scenes
from t2i_xattn.training.loop import LossFunction, generator_for, seed_for
from t2i_xattn.training.recipe import Recipe


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


def autoencoder_loss(recipe: Recipe, accelerator: Accelerator) -> LossFunction:
    """Absolute and squared error of the picture, and latents kept near a unit normal.

    Noise on the latents while training makes near latents mean near pictures, so that small
    errors of the denoiser stay small in the picture.
    """
    settings = recipe.autoencoder

    def loss(module: Any, step: int) -> Tensor:
        scenes, rng = training_scenes(seed_for(recipe.seed, "autoencoder", step), settings.batch)
        images = pictures(scenes)
        # Whole pictures now and then, so that borders are seen as they are in use.
        if step % 4:
            images = torch.cat([_crops(images, settings.crop, rng) for _ in range(2)])
        else:
            images = images[: max(1, settings.batch // 2)]
        images = images.to(accelerator.device, memory_format=torch.channels_last)
        model = module.model
        latents = model.encoder(images).float()
        random = generator_for(recipe.seed, "autoencoder", step)
        noise = torch.randn(latents.shape, generator=random).to(latents)
        decoded = model.decoder(latents + settings.latent_noise * noise).float()
        difference = decoded - images
        mean = latents.mean(dim=(0, 2, 3))
        deviation = latents.std(dim=(0, 2, 3))
        unit = mean.square().mean() + (deviation - 1).square().mean()
        return difference.abs().mean() + 2 * difference.square().mean() + 0.01 * unit

    return loss


def finish_autoencoder(
    model: AutoencoderTiny, recipe: Recipe, accelerator: Accelerator
) -> AutoencoderTiny:
    """Measure the latents' deviation on drawn scenes and store it as the scaling factor."""
    scenes, _ = training_scenes(seed_for(recipe.seed, "scaling", 0), 64)
    with torch.no_grad(), accelerator.autocast():
        latents = model.encoder(pictures(scenes).to(accelerator.device)).float()
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    return model.eval()
