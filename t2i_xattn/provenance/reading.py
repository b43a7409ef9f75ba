"""What made a file: a picture, a trace, a table, a page, or a folder of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.provenance.made import KEY, Made

_LARGEST = 100_000_000
"""Bytes of a JSON file or a page that is read."""

_FILMS = (".gif", ".webp", ".mp4")
"""What films end in; they say how they were made for programs for Stable Diffusion, which is not
enough to make them again."""


def made_of(path: Path) -> Made:
    """How a file, or what lies in a folder, was made.

    Raises:
        UserError: if there is nothing, or it does not say so.
    """
    if not path.exists():
        raise UserError(f"expected a picture, a trace or a folder, but there is no {path}")
    if path.is_dir():
        return _of_folder(path)
    film = path.suffix in _FILMS
    found = _of_file(path.with_name("picture.png") if film else path)
    if film and found is None:
        raise UserError(
            f"expected picture.png beside {path.name}, which says how a film was made, but there "
            "is none that does; give the folder that t2i-xattn film wrote"
        )
    if found is None:
        raise UserError(
            f"expected a picture, trace, table or page of a command of t2i-xattn, but {path.name} "
            "does not say how it was made; it may have been saved anew by another program, made in "
            "Python, or show the runs of two commands"
        )
    return Made.read(found, path)


def _of_folder(folder: Path) -> Made:
    runs: dict[str, tuple[Made, Path]] = {}
    for pattern in ("trace.safetensors", "*.png", "*/words.json"):
        for path in sorted(folder.glob(pattern)):
            found = _of_file(path)
            if found is not None:
                made = Made.read(found, path)
                runs.setdefault(made.as_json(), (made, path))
    if not runs:
        raise UserError(
            f"expected a folder that a command of t2i-xattn wrote, but nothing in {folder} says "
            "how it was made"
        )
    if len(runs) > 1:
        some = list(runs.values())[:3]
        several = ", ".join(f"{path.name} ({made.command})" for made, path in some)
        raise UserError(
            f"expected the files of one run in {shown_path(folder)}, but there are those of "
            f"{len(runs)}: {several}; name one of these files"
        )
    ((made, _),) = runs.values()
    return made


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
