"""Pictures that say how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.provenance.made import KEY, Made

if TYPE_CHECKING:
    from PIL import Image


def save_png(picture: Image.Image, path: Path, made: Made | None, number: int = 0) -> None:
    """Saves a picture as PNG with `parameters` and the JSON in its texts.

    Args:
        picture: it.
        path: where to.
        made: how the run made it; None: that is not known, and there are no texts.
        number: of the picture in its run, whose seed is that of the run and this.

    The texts are compressed where they are long, in UTF-8 where they have to be.
    """
    from PIL.PngImagePlugin import PngInfo

    if made is None:
        picture.save(path, format="PNG")
        return
    info = PngInfo()
    for name, text in (("parameters", made.parameters(number)), (KEY, made.as_json())):
        # Most programs look for plain texts; those are Latin-1.
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    picture.save(path, format="PNG", pnginfo=info)
