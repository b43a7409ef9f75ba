"""Stable Diffusion with words in boxes: layout guidance (arXiv 2304.03373) or BoxDiff (2307.10816).

Load it over any Stable Diffusion model, the one in the box included::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder,
        custom_pipeline="pipelines/stable_diffusion_layout.py",
        trust_remote_code=True,
    )
    boxes = {"circle": (0.3, 0.0, 0.7, 0.5), "star": (0.3, 0.5, 0.7, 1.0)}
    image = pipe("a red circle and a blue star", boxes=boxes).images[0]

It needs the package ``t2i-xattn``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

import t2i_xattn


class StableDiffusionLayoutPipeline(StableDiffusionPipeline):
    """The stock pipeline under :func:`t2i_xattn.guide` with `Layout` or `BoxDiff`."""

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
        boxes: Mapping[str, Sequence[float]] | None = None,
        box_method: str = "layout",
        box_scale: float | None = None,
    ) -> StableDiffusionPipelineOutput | tuple[Any, ...]:
        """Arguments as for ``StableDiffusionPipeline``, and:

        Args:
            boxes: for each word or phrase, a box (top, left, bottom, right) in fractions of the
                picture; without them the picture is the stock pipeline's.
            box_method: ``"layout"`` or ``"boxdiff"``.
            box_scale: how far the latents are moved; by default the method's own.

        Returns:
            The stock output.

        Raises:
            UserError: for another method, a box outside the picture, a word that is not there.
        """
        kinds = {"layout": t2i_xattn.losses.Layout, "boxdiff": t2i_xattn.losses.BoxDiff}
        if box_method not in kinds:
            raise t2i_xattn.UserError(
                f"expected box_method of {', '.join(kinds)}, but came {box_method!r}"
            )
        losses = []
        if boxes is not None:
            scale: dict[str, Any] = {} if box_scale is None else {"scale": box_scale}
            losses.append(kinds[box_method](boxes, **scale))
        with t2i_xattn.guide(self, *losses) if losses else nullcontext():
            return super().__call__(
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
