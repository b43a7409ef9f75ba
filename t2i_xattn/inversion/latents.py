"""Pictures as an autoencoder's latents, whichever of diffusers' autoencoders it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Latents `(pictures, channels, height, width)`, not scaled yet.

    Args:
        vae: an `AutoencoderKL` or `AutoencoderTiny` of diffusers.
        pixels: `(pictures, 3, height, width)` from -1 to 1.
    """
    found = vae.encode(pixels.to(vae.device, vae.dtype))
    # AutoencoderTiny gives latents, AutoencoderKL a distribution.
    latents: Tensor = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
    return latents
