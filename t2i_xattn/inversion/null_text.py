"""Null-text inversion: unconditional embeddings that keep a guided run on a given path.

Mokady et al., "Null-text Inversion for Editing Real Images using Guided Diffusion Models", arXiv
2211.09794, algorithm 1.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.frozen import frozen
from t2i_xattn.inversion.ddim import Schedule, moved
from t2i_xattn.progress import counted

RATE = 1e-2
"""Adam's learning rate at the first step; it falls to half over 50, as in the paper's code."""

CLOSE, CLOSER = 1e-5, 2e-5
"""Mean squared error that ends a step's search, and what is added for each step, as there."""


def null_texts(
    pipe: Any,
    schedule: Schedule,
    trajectory: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    iterations: int,
) -> Tensor:
    """For each step the embedding ∅ₜ that brings the guided step closest to the path.

    min over ∅ₜ of ‖z*ₜ₋₁ − zₜ₋₁(z̄ₜ, ∅ₜ, C)‖² (eq. 3), beginning with the last step's ∅, and going
    on from z̄ₜ₋₁, where the run has really come to.

    Args:
        pipe: the pipeline; the weights of its denoiser take no part.
        schedule: the steps.
        trajectory: the path, `(steps + 1, images, channels, height, width)`.
        conditional: embeddings of the prompts, `(images, tokens, channels)`.
        unconditional: where the search begins, the same shape.
        guidance_scale: of the run.
        iterations: at most so many at each step; fewer where a picture is close enough.

    Returns:
        `(steps, images, tokens, channels)`, in the type of `unconditional`.
    """
    unet, steps = pipe.unet, len(schedule.timesteps)
    latents = trajectory[0].to(unconditional)
    text = unconditional.float()
    found = []
    with frozen(unet):
        for step in counted(pipe, range(steps), "null-text inversion"):
            with torch.no_grad():
                toward = _denoised(unet, schedule, latents, step, conditional)
            wanted = trajectory[step + 1].to(latents.device)
            arrived = partial(_arrived, unet, schedule, latents, step, toward, guidance_scale)
            text = text.detach().clone().requires_grad_(True)
            optimizer = torch.optim.Adam([text], lr=RATE * (1 - step / 100))
            with torch.enable_grad():
                for _ in range(iterations):
                    errors = (arrived(text) - wanted).square().flatten(1).mean(dim=1)
                    optimizer.zero_grad()
                    errors.sum().backward()
                    optimizer.step()
                    if errors.max().item() < CLOSE + step * CLOSER:
                        break
            found.append(text.detach().to(unconditional))
            with torch.no_grad():
                latents = arrived(found[-1]).to(latents)
    return torch.stack(found)


def _denoised(unet: Any, schedule: Schedule, latents: Tensor, step: int, text: Tensor) -> Tensor:
    timestep = schedule.timesteps[step].to(latents.device)
    output: Tensor = unet(latents, timestep, encoder_hidden_states=text.to(latents.dtype)).sample
    return output.float()


def _arrived(
    unet: Any,
    schedule: Schedule,
    latents: Tensor,
    step: int,
    toward: Tensor,
    guidance_scale: float,
    text: Tensor,
) -> Tensor:
    """Where the guided step leads with an unconditional embedding, fp32."""
    away = _denoised(unet, schedule, latents, step, text)
    output = away + guidance_scale * (toward - away)
    return moved(schedule, output, latents.float(), step, step + 1)
