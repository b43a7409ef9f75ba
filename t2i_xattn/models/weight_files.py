"""The weights of a model's part: safetensors whose headers say what lies in them, and no pickles.

Nothing but headers is read here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.telling import reason

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".pb", ".dduf")
_MOST = 100_000
"""Tensors; models have a few thousand."""


@dataclass(frozen=True)
class Held:
    """What the headers of a part's files say, all files together."""

    tensors: int
    largest: int
    """Numbers in the largest tensor."""
    numbers: int
    """In all tensors."""


def variants(folder: Path, stem: str) -> set[str | None]:
    """Which weights a part has: none for plain ones, and the names of others, such as `fp16`.

    Args:
        folder: of the part.
        stem: what its library calls its weights, `model` or `diffusion_pytorch_model`.
    """
    shapes = [
        rf"{stem}(?:\.(?P<name>\w+))?\.safetensors",
        rf"{stem}\.safetensors\.index(?:\.(?P<name>\w+))?\.json",
    ]
    found = [re.fullmatch(shape, path.name) for path in folder.iterdir() for shape in shapes]
    return {each["name"] for each in found if each}


def read_headers(folder: Path, part: str) -> Held:
    """What a part's safetensors files hold, by their headers.

    Raises:
        UserError: it has no such file, or one is damaged.
    """
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        others = [p.name for p in (folder / part).iterdir() if p.name.endswith(_PICKLES)]
        came = f"it holds {shown(others[0])}, which is not read" if others else "there are none"
        raise UserError(
            f"expected the weights of {part} as safetensors, but {came}; save the model with "
            "save_pretrained where you trust it, or copy its safetensors files"
        )
    sizes = [size for file in files for size in _sizes(file, f"{part}/{file.name}")]
    count = len(sizes)
    if count > _MOST:
        raise UserError(
            f"expected at most {_MOST:,} tensors in {part}, but its files have {count:,}; copy the "
            "part anew from where the model came from"
        )
    return Held(count, max(sizes, default=0), sum(sizes))


def _sizes(file: Path, shown: str) -> list[int]:
    try:
        # Lengths, offsets, overlaps and shapes are held against each other as it opens.
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return [math.prod(opened.get_slice(name).get_shape()) for name in names]
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"expected a whole safetensors file at {shown}, but it is damaged or cut short "
            f"({reason(error)}); copy it anew from where the model came from"
        ) from error
