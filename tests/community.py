"""The files in `pipelines/`, loaded the way diffusers' users load community pipelines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from conftest import make_pipeline
from tiny.picture_first import make_sd3
from tiny.text_first import make_flux
from tiny_pipelines import make_sdxl

FOLDER = Path(__file__).parents[1] / "pipelines"

NAMES = sorted(path.stem.removeprefix("stable_diffusion_") for path in FOLDER.glob("*.py"))

_saved = TemporaryDirectory(prefix="t2i-xattn-tests-")


FAMILIES: dict[str, tuple[Any, Any]] = {
    "xl_": (StableDiffusionXLPipeline, make_sdxl),
    "3_": (StableDiffusion3Pipeline, make_sd3),
    "flux_": (FluxPipeline, lambda: make_flux(FluxPipeline)),
    "": (StableDiffusionPipeline, make_pipeline),
}
"""By what their names begin with: the class that a pipeline is made from, and a tiny one."""


def family_of(name: str) -> str:
    return next(each for each in FAMILIES if name.startswith(each))


def is_joint(name: str) -> bool:
    """Whether its text and its picture look at each other."""
    return family_of(name) in ("3_", "flux_")


def stock_class(name: str) -> Any:
    """The class that a pipeline is made from."""
    return FAMILIES[family_of(name)][0]


def make_stock(name: str) -> Any:
    """The stock pipeline with the weights that `load` loads, and as it loads them.

    Weights that are read from a file may lie elsewhere between the processor's lines of memory than
    weights that were made, and on some processors the last bit of a product depends on that.
    """
    return small(stock_class(name).from_pretrained(_folder(family_of(name))))


def small(pipe: Any) -> Any:
    """Without progress bars; a transformer paints 16 × 16 latents by default."""
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "transformer"):
        pipe.default_sample_size = 16
    return pipe


def noise_of(name: str, pictures: int = 1, seed: int = 1) -> torch.Tensor:
    """What a stock pipeline starts from, as it takes it."""
    shape = {"3_": (4, 16, 16), "flux_": (1, 16, 16)}.get(family_of(name), (4, 8, 8))
    noise = torch.randn(pictures, *shape, generator=torch.Generator().manual_seed(seed))
    if family_of(name) != "flux_":
        return noise
    packed: torch.Tensor = FluxPipeline._pack_latents(noise, pictures, *shape)
    return packed


def encoded(name: str, pipe: Any, prompt: str) -> dict[str, Any]:
    """The arguments that stand for a prompt, as the pipeline encodes it."""
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    options: dict[str, Any] = {"device": "cpu", "num_images_per_prompt": 1}
    if family_of(name) == "flux_":
        names, options = ["prompt_embeds", "pooled_prompt_embeds"], options | {"prompt_2": None}
    elif family_of(name) == "3_":
        options |= {"prompt_2": None, "prompt_3": None}
    if family_of(name) != "flux_":
        options["do_classifier_free_guidance"] = True
    with torch.no_grad():
        found = pipe.encode_prompt(prompt, **options)
    return dict(zip(names, found, strict=False))


@cache
def _folder(family: str) -> Path:
    folder = Path(_saved.name) / (family or "sd")
    FAMILIES[family][1]().save_pretrained(folder)
    return folder


def load_from(folder: Path, name: str, **options: Any) -> Any:
    file = FOLDER / f"{'' if family_of(name) == 'flux_' else 'stable_diffusion_'}{name}.py"
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(file), trust_remote_code=True, **options
    )
    return small(pipe)


def load(name: str, **options: Any) -> Any:
    """A fresh pipeline by its file's name without `stable_diffusion_`."""
    return load_from(_folder(family_of(name)), name, **options)


def options(**changes: Any) -> dict[str, Any]:
    """Arguments of a short run with a fixed seed; to be asked for anew for each run."""
    generator = torch.Generator().manual_seed(1)
    return {"num_inference_steps": 5, "generator": generator, "output_type": "np"} | changes
