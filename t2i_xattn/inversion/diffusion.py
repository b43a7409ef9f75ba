"""Stable Diffusion taken back: its deterministic sampler, step by step from pictures to noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i_xattn.inversion.ddim import Schedule, come_from, moved
from t2i_xattn.inversion.latents import encoded
from t2i_xattn.progress import counted


def encoded_pictures(pipe: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents of pictures as the denoiser takes them."""
    pixels = pipe.image_processor.preprocess([picture.convert("RGB") for picture in pictures])
    return encoded(pipe.vae, pixels) * pipe.vae.config.scaling_factor


def diffusion_trajectory(
    pipe: Any,
    schedule: Schedule,
    clean: Tensor,
    conditional: Tensor,
    guided: tuple[Tensor, float] | None,
    refinements: int,
) -> Tensor:
    """The trajectory of `Inversion`.

    Args:
        pipe: the pipeline.
        schedule: the steps.
        clean: latents of the pictures.
        conditional: embeddings of the prompts.
        guided: the unconditional embeddings and the guidance scale; None: without guidance.
        refinements: fixed-point iterations at each step.
    """
    dtype = pipe.unet.dtype

    def output(latents: Tensor, at: int) -> Tensor:
        timestep, noisy = schedule.timesteps[at].to(latents.device), latents.to(dtype)
        if guided is None or guided[1] <= 1:
            said: Tensor = pipe.unet(noisy, timestep, encoder_hidden_states=conditional).sample
            return said.float()
        text = torch.cat([guided[0], conditional])
        both = pipe.unet(torch.cat([noisy, noisy]), timestep, encoder_hidden_states=text).sample
        away, toward = both.float().chunk(2)
        return away + guided[1] * (toward - away)

    latents = clean.float()
    path = [latents]
    steps = len(schedule.timesteps)
    for to in counted(pipe, range(steps, 0, -1), "inversion"):
        # The denoiser is asked for the noisier end of the step, as it will be on the way there.
        arrived, at = latents, to - 1
        latents = moved(schedule, output(arrived, at), arrived, to, at)
        for _ in range(refinements):
            latents = come_from(schedule, output(latents, at), arrived, at, to)
        path.append(latents)
    return torch.stack(path[::-1])
