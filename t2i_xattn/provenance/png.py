"""Pictures that say how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.provenance.made import KEY, Made

if TYPE_CHECKING:
    from PIL import Image


def save_png(
    picture: Image.Image,
    path: Path,
    made: Made | None,
    number: int = 0,
    texts: Mapping[str, str] | None = None,
    dpi: int | None = None,
) -> None:
    """Saves a picture as PNG with `parameters` and the JSON in its texts.

    Args:
        picture: it.
        path: where to.
        made: how the run made it; None: that is not known, and there are no such texts.
        number: of the picture in its run, whose seed is that of the run and this.
        texts: others, by name.
        dpi: dots per inch, for which it was made; None: not said.

    The texts are compressed where they are long, in UTF-8 where they have to be.
    """
    from PIL.PngImagePlugin import PngInfo

    info, every = PngInfo(), dict(texts or {})
    if made is not None:
        every |= {"parameters": made.parameters(number), KEY: made.as_json()}
    for name, text in every.items():
        # Most programs look for plain texts; those are Latin-1.
        if text.isascii():
            info.add_text(name, text)
        else:
            info.add_itxt(name, text)
    more = {} if dpi is None else {"dpi": (dpi, dpi)}
    picture.save(path, format="PNG", pnginfo=info, **more)
