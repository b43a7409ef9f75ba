"""Before the denoiser: its inner blocks learn alone, on latents of half the size.

What stands where, in which colour and light, shows at half the size, and there a picture costs a
third. So the blocks below the outermost ones are trained first, as the inner network of Matryoshka
diffusion is (Gu et al. 2023, arXiv 2310.15111, section 3.3). Noised latents are averaged two by
two, noise and all, so that the inner blocks see at each timestep what the outer ones, which begin
by doing just that, will hand to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from t2i_xattn.training.denoiser import NoisedScenes
from t2i_xattn.training.loop import LossFunction


class HalfSizeEnds(nn.Module):
    """A way into a denoiser's inner blocks and out of them, for latents of half the size.

    Args:
        unet: whose blocks these are.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        outer, inner = unet.config.block_out_channels[:2]
        self.enter = nn.Conv2d(unet.config.in_channels, outer, 3, padding=1)
        self.norm = nn.GroupNorm(unet.config.norm_num_groups, inner)
        self.leave = nn.Conv2d(inner, unet.config.out_channels, 3, padding=1)

    def forward(
        self, unet: UNet2DConditionModel, sample: Tensor, timesteps: Tensor, embeddings: Tensor
    ) -> Tensor:
        """The velocity of averaged latents, both ``(batch, channels, height, width)``."""
        time = unet.time_embedding(unet.time_proj(timesteps))
        hidden = self.enter(sample)
        kept = [hidden]
        for block in unet.down_blocks[1:]:
            reads = {"encoder_hidden_states": embeddings} if hasattr(block, "attentions") else {}
            hidden, states = block(hidden, time, **reads)
            kept += states
        hidden = unet.mid_block(hidden, time, encoder_hidden_states=embeddings)
        inner = unet.up_blocks[:-1]
        # Not by calling the blocks, as the last of them ends with making its output larger.
        for block in inner:
            for index, resnet in enumerate(block.resnets):
                hidden = resnet(torch.cat([hidden, kept.pop()], dim=1), time)
                if hasattr(block, "attentions"):
                    attention = block.attentions[index]
                    hidden = attention(hidden, encoder_hidden_states=embeddings).sample
            if block is not inner[-1]:
                hidden = block.upsamplers[0](hidden)
        told: Tensor = self.leave(functional.silu(self.norm(hidden)))
        return told


def outer_parameters(unet: UNet2DConditionModel) -> list[nn.Parameter]:
    """Those that the half-size stage has no use for."""
    outer = [
        unet.conv_in, unet.down_blocks[0], unet.up_blocks[-2].upsamplers, unet.up_blocks[-1],
        unet.conv_norm_out, unet.conv_out,
    ]  # fmt: skip
    return [parameter for module in outer for parameter in module.parameters()]


def half_size_loss(questions: Callable[[int], NoisedScenes]) -> LossFunction:
    """Mean squared error of the averaged velocity."""

    def loss(module: Any, step: int) -> Tensor:
        asked = questions(step)
        with torch.no_grad():
            embeddings = module.text_encoder(asked.ids).last_hidden_state
        noisy = functional.avg_pool2d(asked.noisy, 2)
        told = module.ends(module.unet, noisy, asked.timesteps, embeddings)
        return functional.mse_loss(told.float(), functional.avg_pool2d(asked.velocity, 2))

    return loss


@torch.no_grad()
def grow(unet: UNet2DConditionModel, ends: HalfSizeEnds) -> None:
    """Let the outer blocks begin as a mean two by two on the way in, as a copy on the way out."""
    unet.conv_in.load_state_dict(ends.enter.state_dict())
    first = unet.down_blocks[0]
    for last in (
        *(each.conv2 for each in first.resnets),
        *(each.proj_out for each in first.attentions),
    ):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    down, up = first.downsamplers[0].conv, unet.up_blocks[-2].upsamplers[0].conv
    for convolution in (down, up):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    channels = torch.arange(len(down.weight))
    down.weight[channels, channels, 1:, 1:] = 0.25
    channels = torch.arange(len(up.weight))
    up.weight[channels, channels, 1, 1] = 1.0
