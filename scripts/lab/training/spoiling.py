"""Pictures made softer, blurred, tinted and noisy, as those that a model paints are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

REACH = 3
"""Pixels to each side that a blur looks at."""


STRENGTHS = 8
"""By how many different shares the pictures of a batch are made smaller, at most."""


def soften(images: Tensor, strongest: float, rng: np.random.Generator) -> Tensor:
    """Every other picture made smaller, by up to ``strongest``, and large again."""
    softened = images.clone()
    for first in range(0, min(2 * STRENGTHS, len(images)), 2):
        some = images[first :: 2 * STRENGTHS]
        side = max(1, round(some.shape[-1] / float(rng.uniform(1, strongest))))
        small = functional.interpolate(some, size=side, mode="area")
        large = functional.interpolate(small, size=some.shape[-2:], mode="bicubic")
        softened[first :: 2 * STRENGTHS] = large
    return softened


def blur(images: Tensor, strongest: float, rng: np.random.Generator) -> Tensor:
    """A Gaussian blur of each picture, with a deviation of up to ``strongest`` pixels."""
    batch, bands = images.shape[:2]
    deviations = torch.from_numpy(rng.uniform(0.05, max(strongest, 0.05), batch)).to(images)
    offsets = torch.arange(-REACH, REACH + 1).to(images)
    weights = torch.exp(-0.5 * (offsets / deviations[:, None]).square())
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(bands, dim=0)
    # One group of a grouped convolution for each band of each picture.
    flat = functional.pad(images, (REACH,) * 4, mode="replicate").flatten(0, 1)[None]
    flat = functional.conv2d(flat, weights[:, None, None], groups=batch * bands)
    flat = functional.conv2d(flat, weights[:, None, :, None], groups=batch * bands)
    return flat.view_as(images)


def tint(images: Tensor, strongest: float, rng: np.random.Generator) -> Tensor:
    """Each band of each picture stronger or weaker, brighter or darker."""
    shape = (*images.shape[:2], 1, 1)
    gain, lift = (torch.from_numpy(rng.uniform(-1, 1, shape)).to(images) for _ in range(2))
    return images * (1 + strongest * gain) + 2 * strongest * lift


def add_noise(images: Tensor, strongest: float, rng: np.random.Generator) -> Tensor:
    """Gaussian noise on each picture, with a deviation of up to ``strongest`` of the range."""
    deviations = torch.from_numpy(rng.uniform(0, 2 * strongest, (len(images), 1, 1, 1))).to(images)
    random = torch.Generator(images.device).manual_seed(int(rng.integers(2**31)))
    noise = torch.randn(images.shape, generator=random, device=images.device)
    return images + deviations * noise
