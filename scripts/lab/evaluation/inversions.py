"""How well rendered pictures come out again after inversion, by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lab.scenes import RenderedScene, render_scene
from t2i_xattn.errors import UserError
from t2i_xattn.inversion import Method, invert
from t2i_xattn.inversion.latents import encoded

FIRST_SEED = 30_000_000
"""Far from the seeds of training, of the judge and of the heat maps."""

METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class InversionFigure:
    """What one method gave.

    Attributes:
        method: of `invert`, or `"autoencoder"`: the picture encoded and decoded only.
        psnr: mean over the pictures of the peak signal-to-noise ratio, dB.
        behind: mean of the autoencoder's own minus the method's, dB.
        behind_worst: the largest such difference of a picture.
        n: how many pictures.
    """

    method: str
    psnr: float
    behind: float
    behind_worst: float
    n: int


def psnr(pictures: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """dB, `(pictures,)`, of pictures `(pictures, height, width, 3)` from 0 to 1."""
    error = ((pictures.astype(np.float64) - true) ** 2).mean(axis=(1, 2, 3))
    return np.asarray(-10 * np.log10(error.clip(min=1e-12)), dtype=np.float64)


def evaluate_inversions(
    pipe: Any,
    pictures: int = 50,
    *,
    methods: Sequence[Method] = METHODS,
    steps: int = 25,
    guidance: float = 5.0,
    batch: int = 10,
) -> list[InversionFigure]:
    """Inverts rendered pictures and paints them again, with guidance.

    Args:
        pipe: a Stable Diffusion pipeline with a `DDIMScheduler`.
        pictures: how many, from `FIRST_SEED` on.
        methods: of `invert`.
        steps, guidance: of the inverted runs.
        batch: pictures at once.

    Raises:
        UserError: if a number is not positive.
    """
    for option, value in (("pictures", pictures), ("batch", batch)):
        if value < 1:
            raise UserError(f"expected {option} of 1 or more, but came {value}")
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    found: dict[str, list[NDArray[np.float64]]] = {}
    with tqdm(total=pictures * len(methods), desc="inversions", disable=None) as bar:
        for start in range(0, pictures, batch):
            seeds = range(FIRST_SEED + start, FIRST_SEED + min(start + batch, pictures))
            scenes = [render_scene(seed, size=size, split="any") for seed in seeds]
            true = np.stack([np.asarray(scene.image) for scene in scenes]) / 255
            found.setdefault("autoencoder", []).append(psnr(_reconstructed(pipe, scenes), true))
            for method in methods:
                inversion = invert(
                    pipe,
                    [scene.image for scene in scenes],
                    [scene.prompt for scene in scenes],
                    method=method,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                )
                again = pipe(**inversion.arguments(), output_type="np").images
                found.setdefault(method, []).append(psnr(again, true))
                bar.update(len(scenes))
    own = np.concatenate(found["autoencoder"])
    figures = []
    for name, parts in found.items():
        each = np.concatenate(parts)
        behind = own - each
        figures.append(
            InversionFigure(
                name, float(each.mean()), float(behind.mean()), float(behind.max()), len(each)
            )
        )
    return figures


@torch.no_grad()
def _reconstructed(pipe: Any, scenes: Sequence[RenderedScene]) -> NDArray[Any]:
    pixels = pipe.image_processor.preprocess([scene.image for scene in scenes])
    decoded = pipe.vae.decode(encoded(pipe.vae, pixels)).sample
    result: NDArray[Any] = pipe.image_processor.postprocess(decoded, output_type="np")
    return result
