"""Pictures in rows, each over its caption."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from t2i_xattn.showing.grid import INK, Cell, Measures, grid


def captioned_sheet(pictures: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """Pictures of one size in rows, each over its caption.

    Args:
        pictures: pictures and captions, in as many lines as they take.
        columns: pictures in a row.

    Returns:
        An RGB picture.
    """
    measures = Measures()
    cells = [
        Cell(picture.convert("RGB"), [(caption, measures.small_text, INK)] if caption else [])
        for picture, caption in pictures
    ]
    return grid(cells, measures, columns=columns, narrowest=1)
