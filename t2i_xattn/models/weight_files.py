"""The weights of a model's part: safetensors whose headers say what lies in them, and no pickles.

Nothing but headers is read here.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from t2i_xattn.errors import UserError
from t2i_xattn.models.telling import clipped, reason

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".pb", ".dduf")


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


def count_tensors(folder: Path, part: str) -> int:
    """How many tensors the headers of a part's safetensors files name, all files together.

    Raises:
        UserError: it has no such file, or one is damaged.
    """
    files = sorted((folder / part).glob("*.safetensors"))
    if not files:
        others = [p.name for p in (folder / part).iterdir() if p.name.endswith(_PICKLES)]
        came = f"it holds {clipped(others[0])}, which is not read" if others else "there are none"
        raise UserError(
            f"expected the weights of {part} as safetensors, but {came}; save the model with "
            "save_pretrained where you trust it, or copy its safetensors files"
        )
    return sum(_tensors(file, f"{part}/{file.name}") for file in files)


def _tensors(file: Path, shown: str) -> int:
    try:
        # Lengths, offsets, overlaps and shapes are held against each other as it opens.
        with safe_open(file, framework="pt") as opened:
            return len(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"expected a whole safetensors file at {shown}, but it is damaged or cut short "
            f"({reason(error)}); copy it anew from where the model came from"
        ) from error
