"""Knowing what is where, as a second task of the denoiser (off unless the recipe has it).

Representation alignment (REPA, Yu et al. 2024, arXiv 2410.06940) pulls a denoiser's inner features
to those of a network that knows pictures. Here it is known what each pixel shows, so a small head
tells it from the features of the last block but one; it is thrown away afterwards. The head sees
features, not attention maps, but it may well shape these too: a model card says that it was used.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from lab.training.recipe import DenoiserRecipe
from lab.training.sources import NOTHING


class SegmentationHead(nn.Module):
    """Scores of every label of :meth:`SceneSource.pixel_labels`, from features of the denoiser.

    Args:
        settings: of the denoiser.
        values: how many values each label has.
    """

    def __init__(self, settings: DenoiserRecipe, values: tuple[int, ...]) -> None:
        super().__init__()
        self.values = list(values)
        width = settings.channels[1]
        self.norm = nn.GroupNorm(settings.norm_groups, width)
        self.tell = nn.Conv2d(width, sum(values), 1)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """``(batch, width, height, width)`` to ``(batch, values, height, width)`` by label."""
        scores: Tensor = self.tell(functional.silu(self.norm(features)))
        return scores.float().split(self.values, dim=1)


def _keep_output(block: nn.Module, _args: Any, output: Tensor) -> None:
    # An attribute of the module and not a list: so a compiled forward stays one graph.
    block.last_output = output


class LateFeatures:
    """What the last block but one of a denoiser hands on, at the latents' size, with gradients.

    Args:
        unet: watched from now on. Where it is compiled, it has not been called yet.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.block = unet.up_blocks[-2]
        self.block.register_forward_hook(_keep_output)

    def taken(self) -> Tensor:
        """The features of the last call ``(batch, width, height, width)``, which are let go."""
        features: Tensor = self.block.last_output
        self.block.last_output = None
        return features


def segmentation_loss(head: SegmentationHead, features: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over the pixels that have a label, summed over labels.

    Args:
        features: of :class:`LateFeatures`.
        labels: uint8 ``(batch, labels, height, width)``.
    """
    terms = []
    for scores, each in zip(head(features), labels.long().unbind(1), strict=True):
        total = functional.cross_entropy(scores, each, ignore_index=NOTHING, reduction="sum")
        terms.append(total / (each != NOTHING).sum().clamp(min=1))
    return torch.stack(terms).sum()
