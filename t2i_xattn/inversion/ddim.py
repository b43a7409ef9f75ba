"""The deterministic sampler in both directions, as plain functions of latents.

Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12 with σ = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from t2i_xattn.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """The steps of a run, in the order of sampling.

    Attributes:
        timesteps: int64 `(steps,)`, falling.
        alphas: fp32 `(steps + 1,)`: ᾱ at each timestep, and after the last.
        prediction: what the denoiser gives: `"epsilon"`, `"v_prediction"` or `"sample"`.
    """

    timesteps: Tensor
    alphas: Tensor
    prediction: str


def schedule_of(pipe: Any, steps: int) -> Schedule:
    """The schedule of a pipeline's sampler.

    Raises:
        UserError: if the sampler is not DDIM, or clips or thresholds what it predicts.
    """
    scheduler = pipe.scheduler
    if not isinstance(scheduler, DDIMScheduler):
        raise UserError(
            f"expected a DDIMScheduler, whose steps can be taken back, but the pipeline has "
            f"{type(scheduler).__name__}; set pipe.scheduler = "
            "DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    if scheduler.config.clip_sample or scheduler.config.thresholding:
        raise UserError(
            "expected a DDIMScheduler that does not clip, since what was clipped cannot be taken "
            "back; make it with clip_sample=False and thresholding=False"
        )
    scheduler = DDIMScheduler.from_config(scheduler.config)  # the pipeline's own stays as it is
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    before = timesteps - scheduler.config.num_train_timesteps // steps
    final = torch.as_tensor(scheduler.final_alpha_cumprod)
    last = final if before[-1] < 0 else scheduler.alphas_cumprod[before[-1]]
    alphas = torch.cat([scheduler.alphas_cumprod[timesteps], last.reshape(1)]).float()
    return Schedule(timesteps, alphas, scheduler.config.prediction_type)


def coefficients(schedule: Schedule, at: int, to: int) -> tuple[float, float]:
    """The numbers a and b of z' = a z + b · output, which moves latents from one noise level to
    another.

    z' = √ᾱ' x̂₀ + √(1 − ᾱ') ε̂, with x̂₀ and ε̂ read off the denoiser's output: the sampler's step for
    `to` = `at` + 1, a step back for `to` = `at` − 1.

    Args:
        schedule: the steps.
        at: place in `schedule.alphas`.
        to: place in `schedule.alphas`.
    """
    here, there = (float(schedule.alphas[place]) for place in (at, to))
    signal, noise = here**0.5, (1 - here) ** 0.5
    new_signal, new_noise = there**0.5, (1 - there) ** 0.5
    if schedule.prediction == "epsilon":
        return new_signal / signal, new_noise - new_signal * noise / signal
    if schedule.prediction == "v_prediction":
        return new_signal * signal + new_noise * noise, new_noise * signal - new_signal * noise
    return new_noise / noise, new_signal - new_noise * signal / noise


def moved(schedule: Schedule, output: Tensor, latents: Tensor, at: int, to: int) -> Tensor:
    """Latents at one noise level, moved to another along what the denoiser said of them."""
    a, b = coefficients(schedule, at, to)
    return a * latents + b * output


def come_from(schedule: Schedule, output: Tensor, latents: Tensor, at: int, to: int) -> Tensor:
    """Latents that `moved` from `at` to `to` brings to these, if the output is theirs."""
    a, b = coefficients(schedule, at, to)
    return (latents - b * output) / a
