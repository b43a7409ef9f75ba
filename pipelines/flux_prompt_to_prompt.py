"""FLUX that edits a picture by its prompt: prompt-to-prompt (arXiv 2208.01626).

Load it over any FLUX model::

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        folder,
        custom_pipeline="pipelines/flux_prompt_to_prompt.py",
        trust_remote_code=True,
    )
    prompts = ["a red circle left of a blue square", "a red star left of a blue square"]
    circle, star = pipe(prompts, swaps={"circle": "star"}).images

It needs the package ``t2i-xattn``. In joint attention the maps that are exchanged are what the
picture's places give to the text, of all that they give. There is no ``self_replace_steps``: the
picture's attention to itself is part of the same softmax, at up to 64 × 64 places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.flux import FluxPipelineOutput

import t2i_xattn
from t2i_xattn.edits import Refine, Replace, Reweight


class FluxPromptToPromptPipeline(FluxPipeline):
    """The stock pipeline under :func:`t2i_xattn.edit`; the first prompt is the source."""

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
        refine: bool = False,
        swaps: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        cross_replace_steps: float = 0.8,
    ) -> FluxPipelineOutput | tuple[Any, ...]:
        """Arguments as for ``FluxPipeline``, and:

        Args:
            prompt: the source and one or more targets. The n-th picture of each starts from the
                same noise, unless ``latents`` or a list of generators says otherwise, and the
                targets' look at the source's. One prompt alone is painted by the stock pipeline.
            refine: whether words were added; else they were swapped, one for one or as ``swaps``
                says.
            swaps: words or phrases of the source and what stands for each in the targets.
            weights: of words in the targets; 1 changes nothing.
            cross_replace_steps: the part of the run in which the targets have the source's maps,
                rounded down to whole steps; 0 for none.

        Returns:
            The stock output, the source's pictures first.

        Raises:
            UserError: for prompts that cannot be aligned, words that are not there; for swaps or
                weights without a target.
        """
        prompts, pictures = _count(prompt, prompt_embeds), num_images_per_prompt or 1
        if prompts == 1 and (swaps or weights):
            raise t2i_xattn.UserError(
                "expected prompt=[source, target, …] for swaps or weights, but came "
                f"{prompt!r}; give the source first"
            )
        edits: list[Any] = []
        if prompts > 1:
            if latents is None and not isinstance(generator, list):
                latents = self._same_noise(prompts, pictures, height, width, generator)
            # A part of the run that is less than one step would be refused.
            count = len(sigmas or ()) or num_inference_steps
            if cross_replace_steps >= 1 / max(1, count):
                steps = (0, float(cross_replace_steps))
                edits.append(Refine(steps=steps) if refine else Replace(swaps, steps=steps))
            targets = range(pictures, prompts * pictures)
            edits += [
                Reweight(word, each, images=targets) for word, each in (weights or {}).items()
            ]
        with ExitStack() as stack:
            if edits:
                stack.enter_context(t2i_xattn.edit(self, *edits))
            return super().__call__(
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

    def _same_noise(
        self, prompts: int, pictures: int, height: int | None, width: int | None, generator: Any
    ) -> torch.Tensor:
        """The stock pipeline's noise for one prompt, for each of them."""
        side = self.default_sample_size * self.vae_scale_factor
        noise = self.prepare_latents(
            pictures,
            self.transformer.config.in_channels // 4,
            height or side,
            width or side,
            self.transformer.dtype,
            self._execution_device,
            generator,
        )[0]
        return noise.repeat(prompts, 1, 1)


def _count(prompt: str | list[str] | None, embeds: torch.Tensor | None) -> int:
    """How many prompts there are; what is none is left to the stock pipeline to refuse."""
    if isinstance(prompt, list):
        return len(prompt)
    return 1 if prompt is not None or embeds is None else len(embeds)
