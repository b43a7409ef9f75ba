"""Denoisers of known models' configuration with random weights, in a plain sampling loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from lab.benchmark.transformers import TRANSFORMERS, TransformerLoop, make_transformer_loop
from t2i_xattn.denoisers.sites import find_sites

_SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
_SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_TINY: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}

_SD15_FEW: dict[str, Any] = _SD15 | {
    "block_out_channels": (320, 640),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
_SDXL_FEW: dict[str, Any] = _SDXL | {
    "block_out_channels": (320, 640),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (5, 10),
}

UNETS = {
    "sd15": _SD15,
    "sdxl": _SDXL,
    "sd15-few": _SD15_FEW,
    "sdxl-few": _SDXL_FEW,
    "tiny": _TINY,
}
"""Configurations of `UNet2DConditionModel`: Stable Diffusion 1.5's, SDXL's, few blocks of each at
their widths, and a tiny one to try the benchmark with."""

DENOISERS = (*UNETS, *TRANSFORMERS)
"""The names of what can be measured."""


@dataclass(eq=False)
class Loop:
    """A denoiser in a guided DDIM loop, which is all of a pipeline that recording touches.

    It stands in the place of a pipeline: `record(loop)`.

    Attributes:
        unet: the denoiser.
        scheduler: takes the steps.
        size: height and width of the latent.
        tokens: length of the text sequence.
    """

    unet: Any
    scheduler: Any
    size: tuple[int, int]
    tokens: int

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet

    @denoiser.setter
    def denoiser(self, other: Any) -> None:
        self.unet = other

    do_classifier_free_guidance: ClassVar[bool] = True
    guidance_scale: ClassVar[float] = 7.5

    def encode_prompt(
        self, prompt: str, do_classifier_free_guidance: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random embeddings of the prompt and of none, `(1, tokens, channels)` each."""
        shape = (2, 1, self.tokens, self.unet.config.cross_attention_dim)
        texts = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        conditional, unconditional = texts.to(self.unet.device, self.unet.dtype)
        return conditional, unconditional

    @torch.no_grad()
    def run(self, steps: int) -> torch.Tensor:
        """The latent after so many steps, from the same noise each time."""
        unet, scheduler = self.unet, self.scheduler
        config = unet.config
        device, dtype = unet.device, unet.dtype
        noise = torch.Generator().manual_seed(0)
        latent = torch.randn(1, 4, *self.size, generator=noise).to(device, dtype)
        conditional, unconditional = self.encode_prompt("a word")
        text = torch.cat([unconditional, conditional])
        added = None
        if config.addition_embed_type == "text_time":
            width = (
                config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            )
            added = {
                "text_embeds": torch.zeros(2, width, device=device, dtype=dtype),
                "time_ids": torch.zeros(2, 6, device=device, dtype=dtype),
            }
        scheduler.set_timesteps(steps)
        self._num_timesteps = steps  # as diffusers' pipelines say it
        for timestep in scheduler.timesteps:
            both = torch.cat([latent, latent])
            noises = unet(both, timestep, text, added_cond_kwargs=added, return_dict=False)[0]
            away, toward = noises.chunk(2)
            guided = away + self.guidance_scale * (toward - away)
            latent = scheduler.step(guided, timestep, latent, return_dict=False)[0]
        return latent

    @property
    def kept_bytes(self) -> int:
        """Of the maps of a recorded run, whatever its steps: fp32, one for each place and token."""
        total = 0
        for site in find_sites(self.unet):
            height, width = self.size
            for _ in range(site.level or 0):
                height, width = -(-height // 2), -(-width // 2)
            total += 4 * height * width * self.tokens
        return total


def make_loop(
    denoiser: str,
    *,
    pixels: int | None = None,
    tokens: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> Loop | TransformerLoop:
    """A loop around one of `DENOISERS`, with random weights.

    Args:
        denoiser: its name.
        pixels: side of the picture; by default what the UNet was made for, and 512 for others.
        tokens: length of the text sequence; by default the model's own.
        dtype: of weights and activations.
        device: where it runs.
    """
    if denoiser in TRANSFORMERS:
        return make_transformer_loop(
            denoiser, pixels=pixels, tokens=tokens, dtype=dtype, device=device
        )
    config = UNETS[denoiser]
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    # Made where they stay and in their type: SDXL's would take 10 GB in fp32.
    unet = unet.to(dtype).to_empty(device=device).eval()
    with torch.no_grad():
        for name, each in unet.named_parameters():
            # Biases 0, norms 1, and matrices that keep the size of what they are given.
            if each.dim() == 1:
                each.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                each.normal_(std=each[0].numel() ** -0.5)
    side = config["sample_size"] if pixels is None else pixels // 8
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    return Loop(unet, scheduler, (side, side), tokens or 77)
