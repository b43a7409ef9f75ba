"""A known picture in front of the denoiser: encoded, noised to a level, passed once, recorded.

So the picture is known, and only the attention is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from lab.evaluation.ways import Way
from t2i_xattn.errors import UserError
from t2i_xattn.inversion.latents import encoded
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace


def check_pipeline(pipe: Any) -> None:
    """
    Raises:
        UserError: if it is not of Stable Diffusion's kind, a UNet that is given one text.
    """
    unet = getattr(pipe, "unet", None)
    given = getattr(unet, "config", {}).get("addition_embed_type") if unet is not None else None
    if unet is None or given is not None or not hasattr(pipe, "encode_prompt"):
        raise UserError(
            "expected a pipeline whose UNet is given one text, such as StableDiffusionPipeline, "
            f"but came {type(pipe).__name__}; take a model of Stable Diffusion 1 or 2"
        )


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
    # Whatever sampler the pipeline has, it was trained with this noise.
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + timestep))
    level = torch.tensor([timestep], device=latents.device)
    noisy = scheduler.add_noise(latents, noise.to(latents), level)
    walk = max(way.walk for way in ways.values())
    with ExitStack() as stack:
        # Of one pass: recordings nest.
        traces = {
            auto: stack.enter_context(record(pipe, heads="auto" if auto else "mean", walk=walk))
            for auto in {way.auto for way in ways.values()}
        }
        text, _ = pipe.encode_prompt(list(prompts), latents.device, 1, False)
        pipe.unet(noisy.to(pipe.unet.dtype), level[0], encoder_hidden_states=text)
    return {name: traces[way.auto] for name, way in ways.items()}
