"""Stable Diffusion that returns, beside each picture, where every word of its prompt acted.

Load it over any Stable Diffusion model, the one in the box included::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline="pipelines/stable_diffusion_words.py", trust_remote_code=True
    )
    output = pipe("a red circle left of a blue square", num_inference_steps=25)
    output.trace.heatmap("red circle").overlay(output.images[0])

It needs the package ``t2i-xattn``. The pictures are those of the stock pipeline, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

import t2i_xattn


@dataclass
class StableDiffusionWordsOutput(StableDiffusionPipelineOutput):
    """The stock output and the trace of its run; see :class:`t2i_xattn.Trace`."""

    trace: t2i_xattn.Trace | None = None


class StableDiffusionWordsPipeline(StableDiffusionPipeline):
    """The stock pipeline under :func:`t2i_xattn.record`."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  as diffusers
    ) -> StableDiffusionWordsOutput | tuple[Any, ...]:
        """Arguments as for ``StableDiffusionPipeline``.

        Returns:
            The stock output with ``trace``; with ``return_dict=False`` the stock tuple with the
            trace as its last entry.
        """
        with t2i_xattn.record(self) as trace:
            output = super().__call__(
                prompt=prompt,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                timesteps=timesteps,
                sigmas=sigmas,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                num_images_per_prompt=num_images_per_prompt,
                eta=eta,
                generator=generator,
                latents=latents,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                ip_adapter_image=ip_adapter_image,
                ip_adapter_image_embeds=ip_adapter_image_embeds,
                output_type=output_type,
                return_dict=return_dict,
                cross_attention_kwargs=cross_attention_kwargs,
                guidance_rescale=guidance_rescale,
                clip_skip=clip_skip,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            )
        if not return_dict:
            return (*output, trace)
        return StableDiffusionWordsOutput(output.images, output.nsfw_content_detected, trace)
