"""Drawn scenes that the denoiser is shown under their own prompts: the picture is known, and only
the attention is the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler

from lab.evaluation.one_pass import encoded_pictures
from lab.evaluation.ways import Way, recorded
from lab.scenes import RenderedScene, render_scene
from lab.scenes.world import RenderedWorld, render_world
from t2i_xattn.errors import UserError, nearest
from t2i_xattn.traces.trace import Trace

FIRST_SEED = 20_000_000
"""Far from the seeds of training and of the judge."""

TUNING_SEED = 21_000_000
"""Of the scenes on which ways were tried and chosen, which are others than those of the figures."""

TIMESTEPS = (200, 500, 800)
"""Noise levels; a recording is the mean over them, as that of a run is over its steps."""

Drawn = RenderedScene | RenderedWorld

SOURCES: Mapping[str, Callable[..., Drawn]] = {"shapes": render_scene, "world": render_world}
"""By name: plain shapes on plain grounds, and the world."""


def checked_source(name: str) -> str:
    """Raises `UserError` unless such scenes can be drawn."""
    if name not in SOURCES:
        raise UserError(
            f"expected scenes of {', '.join(SOURCES)}, but came {name!r}{nearest(name, SOURCES)}"
        )
    return name


def draw(source: str, seeds: Sequence[int], size: int) -> list[Drawn]:
    """Scenes of these seeds, any combination of things, in `size` × `size` pixels."""
    return [SOURCES[source](seed, size=size, split="any") for seed in seeds]


@torch.no_grad()
def recorded_scenes(
    pipe: Any,
    scenes: Sequence[Drawn],
    seed: int,
    ways: Mapping[str, Way],
    timesteps: Sequence[int] = TIMESTEPS,
) -> dict[str, Trace]:
    """For each way, the trace of passes of the denoiser over the noised pictures of some scenes.

    Args:
        pipe: a pipeline with `vae`, `unet`, `scheduler` and `encode_prompt`. Guidance is off.
        scenes: of one size.
        seed: of the noise.
        ways: how maps are made.
        timesteps: one pass for each.
    """
    latents = encoded_pictures(pipe, [scene.image for scene in scenes])
    # Whatever sampler the pipeline has, it was trained with this noise.
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    with recorded(pipe, ways, walk_every=1) as traces:
        prompts = [scene.prompt for scene in scenes]
        text, _ = pipe.encode_prompt(prompts, latents.device, 1, False)
        for timestep in timesteps:
            generator = torch.Generator().manual_seed(seed + timestep)
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            level = torch.tensor([timestep], device=latents.device)
            noisy = scheduler.add_noise(latents, noise, level).to(pipe.unet.dtype)
            pipe.unet(noisy, level[0], encoder_hidden_states=text)
    return traces
