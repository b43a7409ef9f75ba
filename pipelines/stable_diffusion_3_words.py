"""SD3 that returns, beside each picture, where every word of its prompt acted.

Load it over any SD3 model::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline="pipelines/stable_diffusion_3_words.py", trust_remote_code=True
    )
    output = pipe("a red circle left of a blue square", num_inference_steps=28)
    output.trace.heatmap("red circle").overlay(output.images[0])

It needs the package ``t2i-xattn``. The pictures are those of the stock pipeline, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion_3 import StableDiffusion3PipelineOutput

import t2i_xattn


@dataclass
class StableDiffusion3WordsOutput(StableDiffusion3PipelineOutput):
    """The stock output and the trace of its run; see :class:`t2i_xattn.Trace`."""

    trace: t2i_xattn.Trace | None = None


class StableDiffusion3WordsPipeline(StableDiffusion3Pipeline):
    """The stock pipeline under :func:`t2i_xattn.record`."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        prompt_3: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.0,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        negative_prompt_3: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: torch.Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        joint_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]
        | PipelineCallback
        | MultiPipelineCallbacks
        | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  as diffusers
        max_sequence_length: int = 256,
        skip_guidance_layers: list[int] | None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_stop: float = 0.2,
        skip_layer_guidance_start: float = 0.01,
        mu: float | None = None,
    ) -> StableDiffusion3WordsOutput | tuple[Any, ...]:
        """Arguments as for ``StableDiffusion3Pipeline``.

        Returns:
            The stock output with ``trace``; with ``return_dict=False`` the stock tuple with the
            trace as its last entry.
        """
        with t2i_xattn.record(self) as trace:
            output = super().__call__(
                prompt=prompt,
                prompt_2=prompt_2,
                prompt_3=prompt_3,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                sigmas=sigmas,
                guidance_scale=guidance_scale,
                negative_prompt=negative_prompt,
                negative_prompt_2=negative_prompt_2,
                negative_prompt_3=negative_prompt_3,
                num_images_per_prompt=num_images_per_prompt,
                generator=generator,
                latents=latents,
                prompt_embeds=prompt_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                pooled_prompt_embeds=pooled_prompt_embeds,
                negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
                ip_adapter_image=ip_adapter_image,
                ip_adapter_image_embeds=ip_adapter_image_embeds,
                output_type=output_type,
                return_dict=return_dict,
                joint_attention_kwargs=joint_attention_kwargs,
                clip_skip=clip_skip,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                max_sequence_length=max_sequence_length,
                skip_guidance_layers=skip_guidance_layers,
                skip_layer_guidance_scale=skip_layer_guidance_scale,
                skip_layer_guidance_stop=skip_layer_guidance_stop,
                skip_layer_guidance_start=skip_layer_guidance_start,
                mu=mu,
            )
        if not return_dict:
            return (*output, trace)
        return StableDiffusion3WordsOutput(output.images, trace)
