"""A model with weights set at random: what its maps show comes from their making, not from it."""

from __future__ import annotations

from typing import Any

import torch


def with_random_weights(pipe: Any, seed: int = 0) -> Any:
    """The pipeline with a fresh denoiser and text encoder of the same build; in place.

    Adebayo et al., "Sanity Checks for Saliency Maps" (arXiv 1810.03292): an explanation that stays
    as it was says nothing of what the model has learned. The autoencoder stays, since it only says
    what the denoiser is shown.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    for name in ("unet", "text_encoder"):
        old = getattr(pipe, name)
        build = type(old).from_config if name == "unet" else type(old)
        fresh = build(old.config).to(old.device, old.dtype).eval()
        setattr(pipe, name, fresh)
    torch.set_rng_state(state)
    return pipe
