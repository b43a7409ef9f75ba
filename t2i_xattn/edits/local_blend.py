"""Local blend: outside of the edited word's region the pictures keep the source's latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from t2i_xattn.arguments import check_fields
from t2i_xattn.errors import UserError
from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True, eq=False)
class LocalBlend:
    """A `callback_on_step_end` for pictures made in one batch with their source.

    Hertz et al., "Prompt-to-Prompt", arXiv 2208.01626, section 3, "Local Editing": after each step
    z_target ← (1 − α) z_source + α z_target, where α is 1 at places whose maps of the word, summed
    over the steps so far, reach `threshold` of their highest value in the source or in the target,
    after a 3 × 3 maximum.

    Attributes:
        trace: of a `record` context around the run.
        source_word: a word or phrase of the source's prompt. For another colour too, take the
            noun, where nouns stand on their objects and adjectives do not.
        target_word: what stands for it in the other prompts.
        threshold: 0 to 1; 0.3 as in the authors' code.
        start: the part of the run after which it begins.
        source: the image of the batch that is the source.
        images: those that are blended with it; by default all others.

    Example:
        >>> with tx.edit(pipe, edits.Replace()), tx.record(pipe) as trace:
        ...     blend = edits.LocalBlend(trace, "cat", "tiger")
        ...     cat, tiger = pipe(prompts, generator=noise, callback_on_step_end=blend).images
    """

    trace: Trace
    source_word: str
    target_word: str
    threshold: float = 0.3
    start: float = 0.2
    source: int = 0
    images: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not (0 < self.threshold < 1 and 0 <= self.start < 1):
            raise UserError(
                "expected a threshold between 0 and 1 and a start from 0 to below 1, but came "
                f"{self.threshold} and {self.start}"
            )

    def __call__(
        self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        latents = tensors["latents"]
        images = self._targets(len(latents))
        if step + 1 < math.ceil(self.start * pipe.num_timesteps):
            return {"latents": latents}
        source = self._mask(self.source_word, self.source, latents)
        blended = latents.clone()
        for image in images:
            alpha = torch.maximum(source, self._mask(self.target_word, image, latents))
            blended[image] = torch.where(alpha, latents[image], latents[self.source])
        return {"latents": blended}

    def _targets(self, count: int) -> list[int]:
        chosen = range(count) if self.images is None else self.images
        images = [image for image in chosen if image != self.source]
        if not images or not all(0 <= image < count for image in (self.source, *images)):
            raise UserError(
                "expected a source and other images in one batch to blend, but came "
                f"{count} with source={self.source} and images={self.images}; run "
                "pipe([source prompt, target prompt])"
            )
        return images

    def _mask(self, word: str, image: int, latents: Tensor) -> Tensor:
        """bool `(height, width)` of the latents."""
        heat = torch.from_numpy(self.trace.heatmap(word, image=image).array.copy())[None, None]
        # At the latents' size first, where a maximum of 3 × 3 means what it means in the paper.
        small = functional.interpolate(heat, tuple(latents.shape[-2:]), mode="area")
        grown = functional.max_pool2d(small, 3, stride=1, padding=1)[0, 0]
        return (grown >= self.threshold * grown.max()).to(latents.device)
