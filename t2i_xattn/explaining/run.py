"""A run of a pipeline that can be called again, with the same noise and one thing changed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.errors import UserError, nearest, shown

_REFUSED = {
    "generator": "give seed=… instead, so that the same noise can be drawn again",
    "num_images_per_prompt": "make a run for each seed",
    "return_dict": "leave it out",
    "callback_on_step_end": "leave it out, as it would be called in every repetition",
}
"""Arguments of a pipeline's call that a run cannot have, and what to do."""


class Run:
    """One picture of a pipeline, which can be made again: `run()` gives the same picture each time,
    `run(["another prompt", …])` pictures from the same noise with the same settings.

    Attributes:
        pipe: the pipeline.
        prompt: the run's prompt.
        seed: of its noise.
        settings: further arguments of the pipeline's call.

    Example:
        >>> run = Run(pipe, "a red circle", seed=3, num_inference_steps=25)
        >>> red, green = run(["a red circle", "a green circle"]).images
    """

    def __init__(self, pipe: Any, prompt: str, *, seed: int = 0, **settings: Any) -> None:
        """
        Raises:
            UserError: if the prompt is no text, the seed no whole number from 0 on, or an argument
                is none of the pipeline's or cannot be given again.
        """
        if not isinstance(prompt, str):
            raise UserError(
                f"expected one prompt as text, but came {shown(prompt)}; a run of several is a run "
                "for each, and embeddings do not say which word is left out"
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError(f"expected a seed from 0 to 2^63, but came {shown(seed)}")
        known = inspect.signature(pipe.__call__).parameters if callable(pipe) else {}
        if "prompt" not in known:
            raise UserError(
                f"expected a diffusers pipeline that paints a prompt, but {type(pipe).__name__} "
                "takes none; take a text-to-image pipeline"
            )
        for name, value in settings.items():
            if name in _REFUSED and not (name == "num_images_per_prompt" and value == 1):
                raise UserError(f"expected no {name}= for a run, but came one; {_REFUSED[name]}")
            if "embeds" in name and "prompt" in name and value is not None:
                raise UserError(
                    f"expected prompts as text, but came {name}=, whose words cannot be changed; "
                    "give the prompt that it was made of"
                )
            several = isinstance(value, list | tuple)
            if name.startswith(("prompt", "negative_prompt")) and several:
                raise UserError(
                    f"expected one text as {name} for a run of one picture, but came "
                    f"{shown(value)}; give it as a text"
                )
            # Those of diffusers pass over what they do not know.
            anything = any(each.kind == each.VAR_KEYWORD for each in known.values())
            theirs = type(pipe).__module__.startswith("diffusers.")
            if name not in known and (theirs or not anything):
                raise UserError(
                    f"expected arguments of {type(pipe).__name__}, but came {shown(name)}"
                    f"{nearest(name, known)}"
                )
        self.pipe, self.prompt, self.seed = pipe, prompt, seed
        self.settings = dict(settings)

    def __call__(self, prompts: Sequence[str] | None = None, **changed: Any) -> Any:
        """What the pipeline gives: for the run's own prompt, or for others.

        Args:
            prompts: one for each picture of a batch, all from the run's noise; None: the run's own
                alone.
            changed: arguments of the pipeline's call in the place of the run's.
        """
        return self.pipe(**self.arguments(prompts, **changed))

    def unpainted(self, prompts: Sequence[str]) -> None:
        """The same for its calls of the denoiser alone: no picture is decoded, where the pipeline
        can leave that out."""
        known = inspect.signature(self.pipe.__call__).parameters
        self(prompts, **({"output_type": "latent"} if "output_type" in known else {}))

    def arguments(self, prompts: Sequence[str] | None = None, **changed: Any) -> dict[str, Any]:
        """The arguments of the pipeline's call. Generators are drawn from, so they are new ones
        each time."""
        texts = [self.prompt] if prompts is None else list(prompts)
        given = self.settings | changed
        noise = [torch.Generator().manual_seed(self.seed) for _ in texts]
        if len(texts) == 1:  # some take no lists
            return {"prompt": texts[0], "generator": noise[0], **given}
        repeated = {name: _repeated(name, value, len(texts)) for name, value in given.items()}
        return {"prompt": texts, "generator": noise, **repeated}


def _repeated(name: str, value: Any, count: int) -> Any:
    """An argument for so many pictures: texts and latents are one a picture."""
    if name.startswith(("prompt", "negative_prompt")) and isinstance(value, str):
        return [value] * count
    if name == "latents" and isinstance(value, Tensor):
        return value.expand(count, *value.shape[1:]).clone()
    return value
