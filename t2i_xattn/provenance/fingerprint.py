"""Which model it is: a fingerprint of its folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 16
_BLOCKS = 64
"""Blocks of a large file that are read, spread evenly over it, the first and the last with them."""

_KINDS = (".safetensors", ".json", ".txt", ".model")


def fingerprint(pipe: Any) -> str | None:
    """Ten hexadecimal digits that tell a pipeline's model from others.

    The SHA-256 of its folder's files: their names, sizes and contents, of large ones 64 blocks of
    64 KiB, so that it takes no time with models of many gigabytes. It tells models apart that
    somebody has confused; it does not tell one that somebody has tampered with, and it knows
    nothing of adapters that are loaded beside it.

    Returns:
        None for a pipeline that was not loaded from a folder that is there.
    """
    name = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    folder = Path(str(name)) if name else None
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    return folder_fingerprint(folder)


def folder_fingerprint(folder: Path) -> str:
    """The same for a folder."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _KINDS and path.is_file():
            size = path.stat().st_size
            whole.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
            with path.open("rb") as file:
                _add(whole, file, size)
    return whole.hexdigest()[:10]


def _add(whole: Any, file: BinaryIO, size: int) -> None:
    if size <= _BLOCK * _BLOCKS:
        while block := file.read(_BLOCK):
            whole.update(block)
        return
    for number in range(_BLOCKS):
        file.seek((size - _BLOCK) * number // (_BLOCKS - 1), os.SEEK_SET)
        whole.update(file.read(_BLOCK))
