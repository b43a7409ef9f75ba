"""What makes a model's folder a hostile one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_folders import UNET, change

CODE = "from pathlib import Path\nPath({marker!r}).write_text('run')\nclass Evil: pass\n"
EVIL = ["evil_module", "Evil"]
UNET_CONFIG, TEXT_CONFIG = "unet/config.json", "text_encoder/config.json"
INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"

Spoil = Callable[[Path], Any]


class Payload:
    """Unpickled, it writes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "run"))


def entries(file: str, **changes: Any) -> Spoil:
    return lambda folder: change(folder, file, **changes)


def text(file: str, content: str | bytes) -> Spoil:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(data)


def code(file: str, more: Spoil = lambda folder: None) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).write_text(CODE.format(marker=str(marker_of(folder))), "utf-8")
        more(folder)

    return spoil


def pickled(file: str, instead_of: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / instead_of).unlink()
        (folder / file).write_bytes(pickle.dumps(Payload(marker_of(folder))))

    return spoil


def header(file: str, change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Changes what the header of a safetensors file says, and leaves its tensors."""

    def spoil(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        told = json.loads(data[8 : 8 + length])
        change(told)
        new = json.dumps(told).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])

    return spoil


def length(told: int) -> Spoil:
    return lambda folder: (folder / UNET).write_bytes(
        struct.pack("<Q", told) + (folder / UNET).read_bytes()[8:]
    )


def first_of(told: dict[str, Any]) -> dict[str, Any]:
    return next(each for name, each in told.items() if name != "__metadata__")


def overlap(told: dict[str, Any]) -> None:
    tensors = [each for name, each in told.items() if name != "__metadata__"]
    same = [each for each in tensors if each["shape"] == tensors[0]["shape"]]
    same[1]["data_offsets"] = same[0]["data_offsets"]


def tensors_of_nothing(folder: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    told = json.dumps({str(number): empty for number in range(100_001)}).encode()
    (folder / UNET).write_bytes(struct.pack("<Q", len(told)) + told)


def shards(*names: str) -> Spoil:
    index = {"metadata": {}, "weight_map": {f"tensor.{n}": name for n, name in enumerate(names)}}
    return text("unet/diffusion_pytorch_model.safetensors.index.json", json.dumps(index))


def link(file: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return spoil


def fifo(file: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return spoil


def marker_of(folder: Path) -> Path:
    return folder.parent / "marker"
