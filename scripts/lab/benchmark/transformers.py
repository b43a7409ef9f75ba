"""Transformers at known models' widths, with few blocks and random weights, in a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from torch import Tensor

from t2i_xattn.denoisers.sites import find_sites


@dataclass(frozen=True)
class Known:
    """A model's width.

    Attributes:
        kind: its class.
        config: of it.
        tokens: of its text.
        channels: of its text.
        guided: `"one batch"`, `"two calls"`, or `"distilled"`.
        arguments: from noise `(1, channels, height, width)`, texts and timestep to the arguments of
            a call.
    """

    kind: Any
    config: dict[str, Any]
    tokens: int
    channels: int
    guided: str
    arguments: Callable[[Tensor, Tensor, Tensor], dict[str, Any]]


def _of_sd3(latents: Tensor, texts: Tensor, timestep: Tensor) -> dict[str, Any]:
    pooled = texts.new_zeros(len(texts), 2048)
    return {
        "hidden_states": latents,
        "encoder_hidden_states": texts,
        "pooled_projections": pooled,
        "timestep": timestep.expand(len(texts)),
    }


def _of_pixart(latents: Tensor, texts: Tensor, timestep: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": latents,
        "encoder_hidden_states": texts,
        "timestep": timestep.expand(len(texts)),
        "encoder_attention_mask": torch.ones(texts.shape[:2], device=texts.device),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _packed(latents: Tensor) -> Tensor:
    """`(rows, channels, height, width)` as places of 2 × 2 latents, `(rows, places, channels)`."""
    parts = latents.unfold(2, 2, 2).unfold(3, 2, 2)
    return parts.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _of_flux(latents: Tensor, texts: Tensor, timestep: Tensor) -> dict[str, Any]:
    height, width = (side // 2 for side in latents.shape[-2:])
    grid = torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width))
    return {
        "hidden_states": _packed(latents),
        "encoder_hidden_states": texts,
        "pooled_projections": texts.new_zeros(len(texts), 768),
        "timestep": timestep.expand(len(texts)),
        "img_ids": grid.to(latents),
        "txt_ids": texts.new_zeros(texts.shape[1], 3),
        "guidance": texts.new_full((len(texts),), 3.5),
    }


def _of_qwen(latents: Tensor, texts: Tensor, timestep: Tensor) -> dict[str, Any]:
    height, width = (side // 2 for side in latents.shape[-2:])
    return {
        "hidden_states": _packed(latents),
        "encoder_hidden_states": texts,
        "timestep": timestep.expand(len(texts)),
        "img_shapes": [[(1, height, width)]] * len(texts),
    }


_SD3: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 4,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
_FLUX: dict[str, Any] = {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True}
_QWEN: dict[str, Any] = {"num_layers": 2}
_PIXART: dict[str, Any] = {"sample_size": 128, "num_layers": 4, "out_channels": 8}
_PIXART |= {"caption_channels": 4096, "use_additional_conditions": False}

TRANSFORMERS = {
    "sd3": Known(SD3Transformer2DModel, _SD3, 333, 4096, "one batch", _of_sd3),
    "flux": Known(FluxTransformer2DModel, _FLUX, 512, 4096, "distilled", _of_flux),
    "qwen": Known(QwenImageTransformer2DModel, _QWEN, 256, 3584, "two calls", _of_qwen),
    "pixart": Known(PixArtTransformer2DModel, _PIXART, 300, 4096, "one batch", _of_pixart),
}
"""Stable Diffusion 3 (4 blocks), FLUX.1 (one double and two single blocks), Qwen-Image (2 blocks)
and PixArt (4 blocks), each block as wide as the model's own."""


@dataclass(eq=False)
class TransformerLoop:
    """A transformer in a plain Euler loop, which is all of a pipeline that recording touches.

    Attributes:
        transformer: the denoiser.
        known: which it is.
        size: height and width of the latent.
        tokens: length of the text sequence.
    """

    transformer: Any
    known: Known
    size: tuple[int, int]
    tokens: int

    vae_scale_factor = 8
    guidance_scale = 4.0

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.transformer

    @denoiser.setter
    def denoiser(self, other: Any) -> None:
        self.transformer = other

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether it is guided by a second text."""
        return self.known.guided != "distilled"

    def encode_prompt(
        self, prompt: str, do_classifier_free_guidance: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Random embeddings of the prompt and of none, `(1, tokens, channels)` each."""
        shape = (2, 1, self.tokens, self.known.channels)
        texts = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        conditional, unconditional = texts.to(self.transformer.device, self.transformer.dtype)
        return conditional, unconditional

    @torch.no_grad()
    def run(self, steps: int) -> Tensor:
        """What the transformer gave, added up over so many steps; from the same noise each time."""
        model = self.transformer
        noise = torch.Generator().manual_seed(0)
        channels = 4 if self.known.kind is PixArtTransformer2DModel else 16
        latents = torch.randn(1, channels, *self.size, generator=noise)
        latents = latents.to(model.device, model.dtype)
        conditional, unconditional = self.encode_prompt("a word")
        self._num_timesteps = steps  # as diffusers' pipelines say it
        total = torch.zeros(())
        for level in torch.linspace(1, 1 / steps, steps, device=model.device).to(model.dtype):
            for texts in self._calls(conditional, unconditional):
                rows = latents.expand(len(texts), -1, -1, -1)
                given = self.known.arguments(rows, texts, level)
                total = total + model(**given, return_dict=False)[0].float().mean(dim=0)
        return total

    def _calls(self, conditional: Tensor, unconditional: Tensor) -> Sequence[Tensor]:
        """The texts of each call in a step."""
        if self.known.guided == "one batch":
            return [torch.cat([unconditional, conditional])]
        return [conditional, unconditional] if self.known.guided == "two calls" else [conditional]

    @property
    def kept_bytes(self) -> int:
        """Of the maps of a recorded run, whatever its steps: fp32, one for each place and token."""
        places = (self.size[0] // 2) * (self.size[1] // 2)
        return 4 * places * self.tokens * len(find_sites(self.transformer))


def make_transformer_loop(
    name: str,
    *,
    pixels: int | None = None,
    tokens: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> TransformerLoop:
    """A loop around one of `TRANSFORMERS`, with random weights.

    Args:
        name: its name.
        pixels: side of the picture; 512 by default.
        tokens: length of the text sequence; by default the model's own.
        dtype: of weights and activations.
        device: where it runs.
    """
    known = TRANSFORMERS[name]
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = known.kind(**known.config).eval().to(device)
    finally:
        torch.set_default_dtype(before)
    side = (pixels or 512) // 8
    return TransformerLoop(model, known, (side, side), tokens or known.tokens)
