"""`invert`: the noise, and whatever else it takes, that makes a pipeline paint a given picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.inversion.checks import (
    Method,
    check_arguments,
    check_parts,
    check_sizes,
    sequence_of,
)
from t2i_xattn.inversion.ddim import schedule_of
from t2i_xattn.inversion.diffusion import diffusion_trajectory, encoded_pictures
from t2i_xattn.inversion.flow import check_sampler, flow_trajectory, guidance_of, is_of_flow
from t2i_xattn.inversion.null_text import null_texts
from t2i_xattn.pictures import read_picture

REFINEMENTS = 5
"""Fixed-point iterations at each step back; each calls the denoiser once more."""

MAX_PIXELS = 2048 * 2048
"""Of a picture: four times what the largest of the usual models paint. An autoencoder takes about
250 bytes a pixel, attention more the more there are."""

Picture = Image.Image | str | PathLike[str]
"""A picture, or the path of a picture file."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """Pictures taken back to noise.

    Attributes:
        prompts: of the pictures.
        trajectory: fp32 `(steps + 1, images, channels, height, width)`, from the noise to the
            pictures' own latents; of FLUX and its kin, `(steps + 1, images, places, channels)`.
        guidance_scale: with which the pictures are to be painted again.
        method: how they are held to their trajectory, see `invert`.
        null_texts: for `"null-text"`, `(steps, images, tokens, channels)`: the unconditional
            embeddings of each step; else None.
        negative_prompt: of the unconditional half; None where there is none.
        guided_by: the pipeline's argument that `guidance_scale` is for.
        size: `height` and `width` in pixels, of pipelines that do not see them by the latents.
    """

    prompts: tuple[str, ...]
    trajectory: Tensor
    guidance_scale: float
    method: Method
    null_texts: Tensor | None = None
    negative_prompt: str | None = ""
    guided_by: str = "guidance_scale"
    size: Mapping[str, int] = field(default_factory=dict)

    def arguments(self, prompt: str | Sequence[str] | None = None) -> dict[str, Any]:
        """What to call the pipeline with: `pipe(**inversion.arguments())` paints the pictures.

        Args:
            prompt: other words for the picture, to paint what they would have made of it. For one
                inverted picture a list may be given, and its first prompt is taken for the
                picture's own, so that edits which look from one prompt to another find both in one
                batch. By default the prompts of the pictures.

        Returns:
            `prompt`, `latents`, `num_inference_steps`, `guidance_scale` (or `true_cfg_scale`),
            `negative_prompt` and a `callback_on_step_end`, which must not be replaced; for
            transformers `height` and `width` as well.

        Raises:
            UserError: if there are several pictures, and not as many prompts.
        """
        given = list(self.prompts) if prompt is None else prompt
        given = [given] if isinstance(given, str) else list(given)
        images = len(self.prompts)
        if images not in (1, len(given)):
            raise UserError(
                f"expected {images} prompts, one for each inverted picture, but came {len(given)}"
            )
        rows = [min(index, images - 1) for index in range(len(given))]
        arguments: dict[str, Any] = {
            **self.size,
            "prompt": given,
            "latents": self.trajectory[0, rows],
            "num_inference_steps": len(self.trajectory) - 1,
            self.guided_by: self.guidance_scale,
            "callback_on_step_end": _StepEnd(self, rows, self._own_rows(given)),
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }
        if self.null_texts is not None:
            return arguments | {"negative_prompt_embeds": self.null_texts[0, rows]}
        if self.negative_prompt is None:
            return arguments
        return arguments | {"negative_prompt": [self.negative_prompt] * len(given)}

    def _own_rows(self, prompts: Sequence[str]) -> list[int]:
        """The rows of the pictures themselves, not of other words for them."""
        if len(self.prompts) > 1:
            return [
                row for row, (a, b) in enumerate(zip(prompts, self.prompts, strict=True)) if a == b
            ]
        return [0] if prompts[0] == self.prompts[0] else []


@dataclass(frozen=True)
class _StepEnd:
    """A diffusers `callback_on_step_end` that keeps a run to its inversion."""

    inversion: Inversion
    rows: Sequence[int]
    own: Sequence[int]

    def __call__(
        self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        latents, embeddings = tensors["latents"], tensors["prompt_embeds"]
        inversion = self.inversion
        if inversion.method == "direct" and self.own:
            latents = latents.clone()
            held = [self.rows[row] for row in self.own]
            latents[list(self.own)] = inversion.trajectory[step + 1, held].to(latents)
        texts = inversion.null_texts
        if texts is not None and step + 1 < len(texts):
            # The unconditional rows come first.
            embeddings = embeddings.clone()
            embeddings[: len(self.rows)] = texts[step + 1, list(self.rows)].to(embeddings)
        return {"latents": latents, "prompt_embeds": embeddings}


def invert(
    pipe: Any,
    images: Picture | Sequence[Picture],
    prompts: str | Sequence[str],
    *,
    method: Method = "direct",
    num_inference_steps: int = 50,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    iterations: int = 10,
    max_pixels: int | None = MAX_PIXELS,
) -> Inversion:
    """Takes pictures back to the noise that a pipeline paints them from.

    DDIM inversion runs the deterministic sampler backwards (Dhariwal and Nichol, arXiv 2105.05233,
    appendix F). What the denoiser says of the noisier latents is taken from the cleaner ones, so
    the way back differs from the way there; and guidance pulls the run off it again. So all methods
    but `"ddim"` solve every step back by fixed-point iteration, which makes the step there lead to
    the same latents (Pan et al., "Effective Real Image Editing with Accelerated Iterative Diffusion
    Inversion", arXiv 2309.04907, without its acceleration). They call the denoiser
    1 + `REFINEMENTS` times a step on the way back, where `"ddim"` calls it once. And they deal with
    the guidance in their ways:

    - `"direct"`: the way is taken without guidance, and when painting, the picture's own row is set
      back on it at every step (Ju et al., "Direct Inversion", arXiv 2310.01506). Exact up to the
      autoencoder; the painting takes no further call. For edits that look from one prompt to
      another, see `Inversion.arguments`.
    - `"fixed-point"`: the way is taken with guidance, so the calls are of twice the rows. The noise
      alone then holds the picture. Strong guidance may keep it from converging.
    - `"null-text"`: the way is taken without guidance, and at every step the unconditional
      embedding is optimised until the guided step lands on it (Mokady et al., arXiv 2211.09794,
      eq. 3). So the picture is held by the conditioning. It adds at most `iterations` training
      steps of the denoiser, and two calls, at each step.
    - `"ddim"`: nothing; the reconstruction drifts, the more the stronger the guidance.

    Flow matching (Lipman et al., arXiv 2210.02747) is taken back by `"direct"` and `"fixed-point"`
    in the same way, its sampler being Euler's method. Guidance that is embedded, as in FLUX.1-dev,
    is part of the way of both. The pipeline itself is run backwards, with its own defaults for all
    that is not said here.

    It may be called inside of `torch.inference_mode()`.

    Args:
        pipe: a pipeline of Stable Diffusion's parts (`vae`, `text_encoder`, `tokenizer`, `unet`),
            with a `DDIMScheduler`; or one of flow matching with a
            `FlowMatchEulerDiscreteScheduler`: of SD3, FLUX.1, Chroma, Qwen-Image, Ovis-Image,
            Lumina 2, Z-Image, Krea 2. It is left as it is.
        images: one or more pictures or paths of picture files, whose size the model can take;
            `t2i_xattn.pictures.fitted` brings any to it. Files are read by
            `t2i_xattn.pictures.read_picture`.
        prompts: what is in each.
        method: see above.
        num_inference_steps: of the run that is inverted; its painting takes as many.
        guidance_scale: with which the pictures are to be painted again; 1 or less is without. By
            default as the pipeline's own call. For pipelines with a `true_cfg_scale`, that, unless
            their denoiser has the guidance embedded.
        negative_prompt: of the unconditional half.
        iterations: of the optimisation at each step, for `"null-text"`.
        max_pixels: width × height that a picture may have at most; None: any.

    Raises:
        UserError: a pipeline of other parts, such as SDXL with its two text encoders, or with an
            IP-Adapter; pictures that cannot be read, are without a prompt each, or of differing,
            impossible or too large a size; an unknown method, or one that is not for the pipeline;
            `"null-text"` without guidance or with a pipeline that was loaded in inference mode; a
            sampler whose steps cannot be taken back.

    Example:
        >>> inversion = invert(pipe, picture, "a red circle")
        >>> with record(pipe) as trace:
        ...     again = pipe(**inversion.arguments()).images[0]
    """
    given = (
        [images]
        if isinstance(images, (Image.Image, str, PathLike))
        else sequence_of(images, "pictures")
    )
    texts = [prompts] if isinstance(prompts, str) else sequence_of(prompts, "prompts")
    scale = guidance_of(pipe).default if guidance_scale is None else guidance_scale
    check_parts(pipe)
    check_arguments(pipe, given, texts, method, scale)
    pictures = [
        each if isinstance(each, Image.Image) else read_picture(each, max_pixels) for each in given
    ]
    check_sizes(pipe, pictures, max_pixels)
    for name, value in (("num_inference_steps", num_inference_steps), ("iterations", iterations)):
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, but came {value}")
    # Tensors of inference mode take part in no gradient.
    with torch.inference_mode(False):
        if is_of_flow(pipe):
            return _of_flow(
                pipe, pictures, texts, method, num_inference_steps, scale, negative_prompt
            )
        schedule = schedule_of(pipe, num_inference_steps)
        with torch.no_grad():
            conditional, unconditional = pipe.encode_prompt(
                texts, pipe.device, 1, True, negative_prompt=[negative_prompt] * len(texts)
            )
            clean = encoded_pictures(pipe, pictures)
            guided = (unconditional, scale) if method == "fixed-point" else None
            refinements = 0 if method == "ddim" else REFINEMENTS
            trajectory = diffusion_trajectory(
                pipe, schedule, clean, conditional, guided, refinements
            )
        inversion = Inversion(tuple(texts), trajectory, scale, method, None, negative_prompt)
        if method != "null-text":
            return inversion
        found = null_texts(
            pipe, schedule, trajectory, conditional, unconditional, scale, iterations
        )
        return replace(inversion, null_texts=found)


def _of_flow(
    pipe: Any,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    method: Method,
    steps: int,
    scale: float,
    negative_prompt: str,
) -> Inversion:
    """The inversion of flow matching; the arguments are those of `invert`.

    Raises:
        UserError: if the pipeline's sampler cannot be taken back.
    """
    check_sampler(pipe.scheduler)
    guidance, (width, height) = guidance_of(pipe), pictures[0].size
    size = {"height": height, "width": width}
    options = size | {"prompt": list(prompts), "num_inference_steps": steps}
    options[guidance.argument] = scale
    negative = negative_prompt if negative_prompt or not guidance.embedded else None
    if method == "fixed-point" and negative is not None:
        options["negative_prompt"] = [negative] * len(prompts)
    elif not guidance.embedded:
        options[guidance.argument] = guidance.none
    trajectory = flow_trajectory(pipe, pictures, options, REFINEMENTS)
    return Inversion(
        tuple(prompts), trajectory, scale, method, None, negative, guidance.argument, size
    )
