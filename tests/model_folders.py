"""Copies of a tiny model's folder, and what changes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file

from conftest import make_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"

_saved = TemporaryDirectory()


@cache
def _original() -> Path:
    folder = Path(_saved.name) / "tiny"
    make_pipeline().save_pretrained(folder)
    return folder


def tiny_model(into: Path) -> Path:
    """A folder of its own, as `save_pretrained` wrote it."""
    return Path(shutil.copytree(_original(), into / "tiny"))


def change(folder: Path, file: str, **entries: Any) -> None:
    """Sets entries of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), "utf-8")


def change_tensors(folder: Path, file: str, do: Callable[[dict[str, Any]], object]) -> None:
    """Loads the tensors of a file, has them changed in place, and saves them."""
    tensors = load_file(folder / file)
    do(tensors)
    save_file(tensors, folder / file, {"format": "pt"})


def one_sentence(error: BaseException) -> str:
    """The message of a mistake, held against what a sentence of ours is."""
    told = str(error)
    assert told.startswith("expected "), told
    assert "; " in told, told
    assert told.isprintable(), told
    assert len(told) <= 300, (len(told), told)
    return told
