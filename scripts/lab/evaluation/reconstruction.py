"""How much of a drawn picture a model's autoencoder keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.evaluation.inversions import psnr
from lab.scenes.world import sample_world
from lab.training.sources import SceneSource, WorldScenes, pictures
from t2i_xattn.inversion.latents import encoded

SEED = 70_000_000
"""Far from the seeds of training."""


@dataclass(frozen=True)
class Reconstruction:
    """Pictures encoded and decoded again, at 8 bits a value.

    Attributes:
        psnr: mean over the pictures of their peak signal-to-noise ratio, in dB.
        least: of the worst of them.
        colourfulness: mean distance of a pixel's colour from its grey, of the decoded pictures as a
            share of that of the drawn ones: below 1 colours are washed out.
        n: pictures.
    """

    psnr: float
    least: float
    colourfulness: float
    n: int


def _colourfulness(images: Tensor) -> float:
    return float((images - images.mean(dim=1, keepdim=True)).abs().mean())


@torch.no_grad()
def evaluate_autoencoder(vae: Any, scenes: int = 200, batch: int = 20) -> Reconstruction:
    """Encode and decode scenes of the world that no training saw.

    Args:
        vae: an autoencoder of diffusers.
        scenes: how many.
        batch: at once.
    """
    source: SceneSource[Any] = WorldScenes()
    ratios: list[float] = []
    colours: list[tuple[float, float]] = []
    for start in range(0, scenes, batch):
        drawn = [
            sample_world(SEED + index, "any") for index in range(start, min(start + batch, scenes))
        ]
        images = pictures(source, drawn)
        decoded = vae.decode(encoded(vae, images)).sample.float().cpu().clamp(-1, 1)
        decoded = ((decoded + 1) * 127.5).round() / 127.5 - 1
        ratios += psnr(decoded.numpy() / 2, images.numpy() / 2).tolist()
        colours.append((_colourfulness(decoded), _colourfulness(images)))
    own, true = np.mean(colours, axis=0)
    return Reconstruction(float(np.mean(ratios)), min(ratios), float(own / true), len(ratios))
