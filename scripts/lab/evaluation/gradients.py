"""Attention weighted by gradients: what the denoiser's answer owes to a word's attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.aggregation import SiteMaps, mean_over_sites
from t2i_xattn.editing.edit import edit
from t2i_xattn.edits.edit import EditContext
from t2i_xattn.edits.function import EditFunction


def gradient_weighted(
    pipe: Any,
    answered: Callable[[], Tensor],
    columns: Sequence[Sequence[int]],
    latent_size: tuple[int, int],
    picture_size: tuple[int, int],
) -> list[NDArray[np.float32]]:
    """Maps of words, `(height, width)` each: mean over sites and heads of max(0, P ∘ ∂L/∂P).

    Chefer et al., "Generic Attention-model Explainability" (arXiv 2103.15679), eq. 5, whose L is
    the score of a class; a denoiser has none, and L is half the squared length of its answer's
    difference from that for the empty prompt, which is what guidance adds.

    Args:
        pipe: a pipeline of Stable Diffusion's kind.
        answered: calls the denoiser, with one picture, and gives that difference.
        columns: of each word.
        latent_size, picture_size: height and width of the latent and of the picture.
    """
    factors: dict[str, tuple[Tensor, tuple[int, ...]]] = {}

    def watched(probs: Tensor, context: EditContext) -> Tensor:
        # At 1 + z the gradient to z is P ∘ ∂L/∂P, and at z = 0 nothing changes.
        z = torch.zeros_like(probs, requires_grad=True)
        factors[context.site.name] = z, (context.height, context.width)
        return probs * (1 + z)

    with edit(pipe, EditFunction(watched)), torch.enable_grad():
        (0.5 * answered().square().sum()).backward()
    maps = []
    for z, size in factors.values():
        assert z.grad is not None, "the answer depends on every site"
        maps.append(z.grad[0].clamp(min=0).unflatten(1, size).numpy())
    return [
        mean_over_sites(SiteMaps(maps, list(each), latent_size, picture_size)) for each in columns
    ]
