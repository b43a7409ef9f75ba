"""Stable Diffusion that edits a picture by its prompt: prompt-to-prompt (arXiv 2208.01626).

Load it over any Stable Diffusion model, the one in the box included::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder,
        custom_pipeline="pipelines/stable_diffusion_prompt_to_prompt.py",
        trust_remote_code=True,
    )
    prompts = ["a red circle left of a blue square", "a red star left of a blue square"]
    circle, star = pipe(prompts, swaps={"circle": "star"}).images

It needs the package ``t2i-xattn``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils.torch_utils import randn_tensor

import t2i_xattn
from t2i_xattn.edits import LocalBlend, Refine, Replace, Reweight, SelfReplace


class StableDiffusionPromptToPromptPipeline(StableDiffusionPipeline):
    """The stock pipeline under :func:`t2i_xattn.edit`; the first prompt is the source."""

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
        refine: bool = False,
        swaps: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        blend: tuple[str, str] | None = None,
        cross_replace_steps: float = 0.8,
        self_replace_steps: float = 0.4,
    ) -> StableDiffusionPipelineOutput | tuple[Any, ...]:
        """Arguments as for ``StableDiffusionPipeline``, and:

        Args:
            prompt: the source and one or more targets. The n-th picture of each starts from the
                same noise, unless ``latents`` or a list of generators says otherwise, and the
                targets' look at the source's. One prompt alone is painted by the stock pipeline.
            refine: whether words were added; else they were swapped, one for one or as ``swaps``
                says.
            swaps: words or phrases of the source and what stands for each in the targets.
            weights: of words in the targets; 1 changes nothing.
            blend: a word of the source and one of the targets; outside of where they act, the
                targets keep the source's latents.
            cross_replace_steps: the part of the run in which the targets have the source's maps,
                rounded down to whole steps; 0 for none.
            self_replace_steps: the part in which they have its self-attention.

        Returns:
            The stock output, the source's pictures first.

        Raises:
            UserError: for prompts that cannot be aligned, words that are not there; for swaps,
                weights or a blend without a target; for a blend beside a callback.
        """
        prompts, pictures = _count(prompt, prompt_embeds), num_images_per_prompt or 1
        if prompts == 1 and (swaps or weights or blend):
            raise t2i_xattn.UserError(
                "expected prompt=[source, target, …] for swaps, weights or blend, but came "
                f"{prompt!r}; give the source first"
            )
        if blend is not None and callback_on_step_end is not None:
            raise t2i_xattn.UserError(
                "expected blend or callback_on_step_end, but came both; call "
                "t2i_xattn.edits.LocalBlend in a callback of your own"
            )
        edits: list[Any] = []
        if prompts > 1:
            if latents is None and not isinstance(generator, list):
                latents = self._same_noise(prompts, pictures, height, width, generator)
            # A part of the run that is less than one step would be refused.
            least = 1 / max(1, len(timesteps or sigmas or ()) or num_inference_steps)
            if cross_replace_steps >= least:
                steps = (0, float(cross_replace_steps))
                edits.append(Refine(steps=steps) if refine else Replace(swaps, steps=steps))
            if self_replace_steps >= least:
                edits.append(SelfReplace(steps=(0, float(self_replace_steps))))
            targets = range(pictures, prompts * pictures)
            edits += [
                Reweight(word, each, images=targets) for word, each in (weights or {}).items()
            ]
        with ExitStack() as stack:
            if edits:
                stack.enter_context(t2i_xattn.edit(self, *edits))
            if blend is not None:
                trace = stack.enter_context(t2i_xattn.record(self))
                callback_on_step_end = _blending(trace, blend, prompts, pictures)
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

    def _same_noise(
        self, prompts: int, pictures: int, height: int | None, width: int | None, generator: Any
    ) -> torch.Tensor:
        """The stock pipeline's noise for one prompt, for each of them."""
        factor = self.vae_scale_factor
        side = self.unet.config.sample_size * factor
        shape = (
            pictures,
            self.unet.config.in_channels,
            int(height or side) // factor,
            int(width or side) // factor,
        )
        noise = randn_tensor(
            shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype
        )
        return noise.repeat(prompts, 1, 1, 1)


def _count(prompt: str | list[str] | None, embeds: torch.Tensor | None) -> int:
    """How many prompts there are; what is none is left to the stock pipeline to refuse."""
    if isinstance(prompt, list):
        return len(prompt)
    return 1 if prompt is not None or embeds is None else len(embeds)


def _blending(
    trace: t2i_xattn.Trace, words: tuple[str, str], prompts: int, pictures: int
) -> Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]:
    """A callback that blends each picture of the targets with the source's of the same number."""
    blends = [
        LocalBlend(trace, *words, source=each, images=range(each, prompts * pictures, pictures))
        for each in range(pictures)
    ]

    def blended(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        for each in blends:
            tensors = tensors | each(pipe, step, timestep, tensors)
        return tensors

    return blended
