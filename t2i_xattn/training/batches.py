"""Drawn scenes as tensors, a batch for a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from t2i_xattn.scenes import Description, Scene, describe, draw_scene, sample_scene
from t2i_xattn.scenes.layout import SIDE


def training_scenes(seed: list[int], count: int) -> tuple[list[Scene], np.random.Generator]:
    """``count`` scenes without held-out combinations, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, split="train") for _ in range(count)], rng


def pictures(scenes: list[Scene], size: int = SIDE) -> Tensor:
    """Float ``(scenes, 3, size, size)`` from -1 to 1."""
    drawn = np.stack([np.asarray(draw_scene(scene, size)) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def descriptions(scenes: list[Scene], rng: np.random.Generator, stray: float) -> list[Description]:
    """A wording for each scene."""
    return [describe(scene, rng, stray=stray) for scene in scenes]
