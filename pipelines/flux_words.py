"""FLUX that returns, beside each picture, where every word of its prompt acted.

Load it over any FLUX model::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline="pipelines/flux_words.py", trust_remote_code=True
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
from diffusers import FluxPipeline
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.flux import FluxPipelineOutput

import t2i_xattn


@dataclass
class FluxWordsOutput(FluxPipelineOutput):
    """The stock output and the trace of its run; see :class:`t2i_xattn.Trace`."""

    trace: t2i_xattn.Trace | None = None


class FluxWordsPipeline(FluxPipeline):
    """The stock pipeline under :func:`t2i_xattn.record`."""

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        true_cfg_scale: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.5,
        num_images_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        negative_ip_adapter_image: PipelineImageInput | None = None,
        negative_ip_adapter_image_embeds: list[torch.Tensor] | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]
        | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006  as diffusers
        max_sequence_length: int = 512,
    ) -> FluxWordsOutput | tuple[Any, ...]:
        """Arguments as for ``FluxPipeline``.

        Returns:
            The stock output with ``trace``; with ``return_dict=False`` the stock tuple with the
            trace as its last entry.
        """
        with t2i_xattn.record(self) as trace:
            output = super().__call__(
                prompt=prompt,
                prompt_2=prompt_2,
                negative_prompt=negative_prompt,
                negative_prompt_2=negative_prompt_2,
                true_cfg_scale=true_cfg_scale,
                height=height,
                width=width,
                num_inference_steps=num_inference_steps,
                sigmas=sigmas,
                guidance_scale=guidance_scale,
                num_images_per_prompt=num_images_per_prompt,
                generator=generator,
                latents=latents,
                prompt_embeds=prompt_embeds,
                pooled_prompt_embeds=pooled_prompt_embeds,
                ip_adapter_image=ip_adapter_image,
                ip_adapter_image_embeds=ip_adapter_image_embeds,
                negative_ip_adapter_image=negative_ip_adapter_image,
                negative_ip_adapter_image_embeds=negative_ip_adapter_image_embeds,
                negative_prompt_embeds=negative_prompt_embeds,
                negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
                output_type=output_type,
                return_dict=return_dict,
                joint_attention_kwargs=joint_attention_kwargs,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
                max_sequence_length=max_sequence_length,
            )
        if not return_dict:
            return (*output, trace)
        return FluxWordsOutput(output.images, trace)
