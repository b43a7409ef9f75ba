"""What made a file: a picture, a trace, a table, a page, or a folder of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError
from t2i_xattn.provenance.made import KEY, Made

_LARGEST = 100_000_000
"""Bytes of a JSON file or a page that is read."""


def made_of(path: Path) -> Made:
    """How a file, or what lies in a folder, was made.

    Raises:
        UserError: if there is nothing, or it does not say so.
    """
    if not path.exists():
        raise UserError(f"expected a picture, a trace or a folder, but there is no {path}")
    if path.is_dir():
        return _of_folder(path)
    found = _of_file(path)
    if found is None:
        raise UserError(
            f"expected a picture, trace, table or page of a command of t2i-xattn, but {path.name} "
            "does not say how it was made; it may have been saved anew by another program, or made "
            "in Python"
        )
    return Made.read(found, path)


def _of_folder(folder: Path) -> Made:
    for pattern in ("trace.safetensors", "*.png", "*/words.json"):
        for path in sorted(folder.glob(pattern)):
            found = _of_file(path)
            if found is not None:
                return Made.read(found, path)
    raise UserError(
        f"expected a folder that a command of t2i-xattn wrote, but nothing in {folder} says how it "
        "was made"
    )


def _of_file(path: Path) -> Any:
    """What a file says of that; None if nothing."""
    if path.suffix == ".safetensors":
        from t2i_xattn.traces.trace import Trace

        return Trace.load(path).settings.get("made")
    if path.suffix == ".html":
        from t2i_xattn.provenance.page import made_in_page

        return made_in_page(path, _LARGEST)
    if path.suffix == ".json":
        try:
            table = json.loads(path.read_text("utf-8")) if path.stat().st_size < _LARGEST else None
        except (OSError, ValueError, RecursionError):
            return None
        return table.get("made") if isinstance(table, dict) else None
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
