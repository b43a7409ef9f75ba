"""A known picture in front of the denoiser: encoded, noised to a level, passed once, recorded.

So the picture is known, and only the attention is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from lab.evaluation.ways import Way, recorded
from t2i_xattn.errors import UserError
from t2i_xattn.inversion.latents import encoded
from t2i_xattn.traces.trace import Trace

_SDXL = "text_time"


def check_pipeline(pipe: Any) -> None:
    """
    Raises:
        UserError: if it is not of Stable Diffusion's kind, or of SDXL's.
    """
    kind = _addition(pipe) if hasattr(pipe, "unet") and hasattr(pipe, "encode_prompt") else "other"
    if kind not in (None, _SDXL):
        raise UserError(
            "expected a pipeline of Stable Diffusion 1, 2 or XL, whose UNet is given a prompt, but "
            f"came {type(pipe).__name__}; take a StableDiffusionPipeline or "
            "StableDiffusionXLPipeline"
        )


def _addition(pipe: Any) -> str | None:
    """What the UNet is given beside the text's columns; None: nothing."""
    found: str | None = pipe.unet.config.get("addition_embed_type")
    return found


def own_size(pipe: Any) -> int:
    """Width and height, in pixels, of the pictures that a model was trained on."""
    return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)


@torch.no_grad()
def encoded_pictures(pipe: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents `(pictures, channels, height, width)` of RGB pictures of one size, as the denoiser
    knows them."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    scaled_pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
    scaled: Tensor = (encoded(pipe.vae, scaled_pixels) - shift) * pipe.vae.config.scaling_factor
    return scaled


@torch.no_grad()
def recorded_pass(
    pipe: Any,
    prompts: Sequence[str],
    latents: Tensor,
    timestep: int,
    seed: int,
    ways: Mapping[str, Way],
) -> dict[str, Trace]:
    """For each way, the trace of one pass of the denoiser over the noised latents.

    Args:
        pipe: see `check_pipeline`. Guidance is off.
        prompts: one a picture.
        latents: as `encoded_pictures` gives them.
        timestep: the noise level.
        seed: of the noise, with the level.
        ways: how maps will be made.
    """
    noisy = noised(pipe, latents, timestep, seed)
    with recorded(pipe, ways) as traces:
        answer(pipe, conditions(pipe, prompts, latents), noisy, timestep)
    return traces


@torch.no_grad()
def noised(pipe: Any, latents: Tensor, timestep: int, seed: int) -> Tensor:
    """Latents with the noise of a level added; `seed` is of the noise, with the level."""
    # Whatever sampler the pipeline has, it was trained with this noise.
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + timestep))
    level = torch.tensor([timestep], device=latents.device)
    noisy: Tensor = scheduler.add_noise(latents, noise.to(latents), level)
    return noisy


@torch.no_grad()
def answer(pipe: Any, given: Mapping[str, Any], noisy: Tensor, timestep: int) -> Tensor:
    """What the denoiser predicts of noised latents, without guidance.

    Args:
        pipe: see `check_pipeline`.
        given: beside the latents, as `conditions` gives it.
        noisy: as `noised` gives them.
        timestep: the noise level.
    """
    level = torch.tensor(timestep, device=noisy.device)
    predicted: Tensor = pipe.unet(noisy.to(pipe.unet.dtype), level, **given).sample
    return predicted


@torch.no_grad()
def conditions(pipe: Any, prompts: Sequence[str], latents: Tensor) -> dict[str, Any]:
    """What the UNet is given beside latents and level, as the pipeline itself gives it."""
    settings = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    told = pipe.encode_prompt(list(prompts), device=latents.device, **settings)
    if _addition(pipe) is None:
        return {"encoder_hidden_states": told[0]}
    text, _, pooled, _ = told
    # The size that the picture had and has, in which nothing was cut off.
    height, width = (int(side * pipe.vae_scale_factor) for side in latents.shape[2:])
    sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts))
    added = {"text_embeds": pooled, "time_ids": sizes.to(text)}
    return {"encoder_hidden_states": text, "added_cond_kwargs": added}
