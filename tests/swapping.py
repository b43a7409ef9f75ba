"""Processors to swap in, and what stands where."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from conftest import make_unet
from t2i_xattn.denoisers.sites import walk_sites
from t2i_xattn.processors import InterceptingProcessor


class Scaling(nn.Module):
    """A processor with a weight, which is part of the layer where it stands."""

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        out: Tensor = AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)
        return out * self.strength


def make_small_unet() -> Any:
    """Four cross-attention sites and four of self-attention."""
    return make_unet(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def halving() -> InterceptingProcessor:
    return InterceptingProcessor(lambda probs: probs / 2)


def standing(unet: Any) -> dict[str, Any]:
    """The processors by site's name."""
    return {site.name: layer.processor for site, layer in walk_sites(unet)}
