"""The files in `pipelines/`, loaded the way diffusers' users load community pipelines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from conftest import make_pipeline
from tiny_pipelines import make_sdxl

FOLDER = Path(__file__).parents[1] / "pipelines"

NAMES = sorted(path.stem.removeprefix("stable_diffusion_") for path in FOLDER.glob("*.py"))

_saved = TemporaryDirectory(prefix="t2i-xattn-tests-")


def is_xl(name: str) -> bool:
    return name.startswith("xl_")


def stock_class(name: str) -> Any:
    """The class that a pipeline is made from."""
    return StableDiffusionXLPipeline if is_xl(name) else StableDiffusionPipeline


def make_stock(name: str) -> Any:
    """The stock pipeline with the weights that `load` loads."""
    return make_sdxl() if is_xl(name) else make_pipeline()


@cache
def _folder(xl: bool) -> Path:
    folder = Path(_saved.name) / ("xl" if xl else "sd")
    make_stock("xl_" if xl else "").save_pretrained(folder)
    return folder


def load_from(folder: Path, name: str, **options: Any) -> Any:
    file = FOLDER / f"stable_diffusion_{name}.py"
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(file), trust_remote_code=True, **options
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(name: str, **options: Any) -> Any:
    """A fresh pipeline by its file's name without `stable_diffusion_`."""
    return load_from(_folder(is_xl(name)), name, **options)


def options(**changes: Any) -> dict[str, Any]:
    """Arguments of a short run with a fixed seed; to be asked for anew for each run."""
    generator = torch.Generator().manual_seed(1)
    return {"num_inference_steps": 5, "generator": generator, "output_type": "np"} | changes
