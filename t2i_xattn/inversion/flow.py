"""Flow matching taken back: the pipeline itself is run, with its sampler turned round.

So whatever a pipeline hands to its denoiser, packed latents, places of the picture, guidance that
is embedded, the shift of its noise levels, is its own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.inversion.latents import encoded
from t2i_xattn.progress import bar_options

PIPELINES = {
    "StableDiffusion3Pipeline": 1.0,
    "FluxPipeline": 1.0,
    "ChromaPipeline": 1.0,
    "QwenImagePipeline": 1.0,
    "OvisImagePipeline": 1.0,
    "Lumina2Pipeline": 1.0,
    "ZImagePipeline": 0.0,
    "Krea2Pipeline": 0.0,
}
"""The classes of diffusers that can be run backwards, and the guidance that is none to them."""


@dataclass(frozen=True)
class Guidance:
    """How a pipeline is guided.

    Attributes:
        argument: of its call, which says how strongly.
        default: of that argument.
        none: of that argument, without guidance.
        embedded: whether the denoiser is told, and there is no unconditional half.
    """

    argument: str
    default: float
    none: float = 1.0
    embedded: bool = False


def is_of_flow(pipe: Any) -> bool:
    """Whether a pipeline is, or comes from, one of `PIPELINES`."""
    return _class_of(pipe) is not None


def _class_of(pipe: Any) -> Any:
    known = [getattr(diffusers, name) for name in PIPELINES if hasattr(diffusers, name)]
    return next((each for each in known if isinstance(pipe, each)), None)


def guidance_of(pipe: Any) -> Guidance:
    """How a pipeline is guided; any that is none of flow matching, as Stable Diffusion is."""
    kind = _class_of(pipe)
    if kind is None:
        return Guidance("guidance_scale", 7.5)
    embedded = bool(_config(pipe.transformer, "guidance_embeds"))
    parameters = inspect.signature(kind.__call__).parameters
    true = "true_cfg_scale" in parameters and not embedded
    name = "true_cfg_scale" if true else "guidance_scale"
    return Guidance(name, parameters[name].default, PIPELINES[kind.__name__], embedded)


def check_sampler(scheduler: Any) -> None:
    """Raises `UserError` for a sampler whose steps cannot be taken back."""
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            "expected a FlowMatchEulerDiscreteScheduler, whose steps can be taken back, but the "
            f"pipeline has {type(scheduler).__name__}; set pipe.scheduler = "
            "FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)"
        )
    if scheduler.config.stochastic_sampling:
        raise UserError(
            "expected a FlowMatchEulerDiscreteScheduler without noise of its own, which cannot be "
            "taken back; make it with stochastic_sampling=False"
        )


def flow_trajectory(
    pipe: Any,
    pictures: Sequence[Image.Image],
    options: Mapping[str, Any],
    refinements: int,
) -> Tensor:
    """The trajectory of `Inversion`, in the shape that the pipeline's `latents` have.

    Args:
        pipe: a pipeline of `PIPELINES`.
        pictures: of one size.
        options: of the pipeline's call: prompts, steps, guidance.
        refinements: fixed-point iterations at each step.
    """
    with torch.no_grad():
        clean = _packed_latents(pipe, pictures)
    scheduler = Backwards.from_config(pipe.scheduler.config)
    scheduler.set_shift(pipe.scheduler.shift)
    scheduler.begin(clean, refinements)
    # The user's own stays as it is.
    runner = copy.copy(pipe)
    runner.scheduler = scheduler
    runner.set_progress_bar_config(**bar_options(pipe, "inversion"))
    _class_of(pipe).__call__(runner, latents=clean, output_type="latent", **options)
    return torch.stack(scheduler.path[::-1])


class Backwards(FlowMatchEulerDiscreteScheduler):
    """The sampler from pictures to noise: z_t = z_t' − (σ' − σ) v(z_t, t), solved by fixed-point
    iteration from z_t'.

    A pipeline that runs with it asks its denoiser for the noisier end of each step, as it will be
    on the way there.

    Attributes:
        path: fp32 latents, from the pictures to the noise.
    """

    path: list[Tensor]
    timesteps: Tensor

    def begin(self, clean: Tensor, refinements: int) -> None:
        """Says where the way begins, and how many iterations follow on the first at each step."""
        self.path = [clean.float()]
        self._calls, self._called = 1 + refinements, 0

    @wraps(FlowMatchEulerDiscreteScheduler.set_timesteps)  # pipelines look at its arguments
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.timesteps = self.timesteps.flip(0).repeat_interleave(self._calls)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """The latents that the next call is to be asked about."""
        arrived = self.path[-1].to(model_output.device)
        at = len(self.sigmas) - 1 - len(self.path)
        latents = arrived - (self.sigmas[at + 1] - self.sigmas[at]) * model_output.float()
        self._called += 1
        if self._called % self._calls == 0:
            self.path.append(latents)
        return (latents.to(model_output.dtype),)


def _packed_latents(pipe: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents of pictures as the pipeline takes them: what it undoes before it decodes, done."""
    pixels = pipe.image_processor.preprocess([picture.convert("RGB") for picture in pictures])
    videos = isinstance(pipe.vae, diffusers.AutoencoderKLQwenImage)
    latents = encoded(pipe.vae, pixels[:, :, None] if videos else pixels)
    mean, deviation = (_config(pipe.vae, name) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:
        mean, deviation = (
            torch.tensor(each).to(latents).view(1, -1, *[1] * (latents.ndim - 2))
            for each in (mean, deviation)
        )
        latents = (latents - mean) / deviation
    else:
        shift = _config(pipe.vae, "shift_factor") or 0
        latents = (latents - shift) * pipe.vae.config.scaling_factor
    if not hasattr(pipe, "_pack_latents"):
        return latents
    images, channels, *_, height, width = latents.shape
    packed: Tensor = pipe._pack_latents(latents, images, channels, height, width)
    return packed


def _config(part: Any, name: str) -> Any:
    return getattr(part.config, name, None)
