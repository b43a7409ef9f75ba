"""Pictures that say how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.provenance.made import KEY, Made

if TYPE_CHECKING:
    from PIL import Image


def save_png(picture: Image.Image, path: Path, made: Made) -> None:
    """Saves a picture as PNG with `parameters` and the JSON in its texts.

    The texts are compressed where they are long, in UTF-8 where they have to be.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in (("parameters", made.parameters()), (KEY, made.as_json())):
        # Most programs look for plain texts; those are Latin-1.
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    picture.save(path, format="PNG", pnginfo=info)
