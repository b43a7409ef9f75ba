"""Two trained pipelines, weight by weight."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline


def assert_same_weights(
    expected: StableDiffusionPipeline | None, found: StableDiffusionPipeline | None
) -> None:
    """Both were trained to the end, and to the same bits."""
    assert expected is not None
    assert found is not None
    for part in ("vae", "text_encoder", "unet"):
        wanted, had = (getattr(pipe, part).state_dict() for pipe in (expected, found))
        assert all(torch.equal(wanted[key], had[key]) for key in wanted), part
