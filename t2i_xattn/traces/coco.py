"""Regions as COCO has them: images, annotations with run lengths, and categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.asked import is_whole
from t2i_xattn.traces.regions import Mask

if TYPE_CHECKING:
    from t2i_xattn.traces.segmentation import Regions


def coco_of(
    found: Regions,
    image_id: int = 1,
    first_id: int = 1,
    file_name: str | None = None,
    smallest: float = 0.0,
) -> dict[str, Any]:
    """What `pycocotools.coco.COCO` reads: an annotation for each connected part of each word.

    Those of several pictures are put together by adding their `images` and `annotations`; the
    `categories` are the same where the words are.

    Args:
        found: the regions.
        image_id: the picture's number.
        first_id: of the first annotation; the next take the next.
        file_name: of the picture; by default its number and `.png`.
        smallest: parts of less than this share of the picture are left out.

    Returns:
        `images`, `annotations` and `categories`. An annotation has `segmentation` (compressed run
        lengths), `area` in pixels, `bbox` as left, top, width and height in pixels,
        `category_id`, which is the word's label, `iscrowd` 0, and `score`, the estimate of the
        word's quality. Undecided places are in none.

    Raises:
        UserError: if pycocotools is not installed, or a number is none.
    """
    for name, value in (("image_id", image_id), ("first_id", first_id)):
        if not is_whole(value) or not 0 <= value < 2**53:
            raise UserError(f"expected {name}= as a whole number from 0, but came {shown(value)}")
    if file_name is not None and not isinstance(file_name, str):
        raise UserError(
            f"expected file_name= as the picture's name, but came {shown(file_name)}; give one "
            "such as 'picture.png'"
        )
    height, width = found.labels.shape
    annotations: list[dict[str, Any]] = []
    for label, word in enumerate(found.words, start=1):
        for part in found.each_part(word, smallest):
            annotations.append(
                {
                    "id": int(first_id) + len(annotations),
                    "image_id": int(image_id),
                    "category_id": label,
                    "segmentation": run_lengths(part),
                    "area": int(part.sum()),
                    "bbox": _pixel_box(part),
                    "iscrowd": 0,
                    "score": found.quality(word).estimate,
                }
            )
    image = {"id": int(image_id), "width": width, "height": height}
    return {
        "images": [{**image, "file_name": file_name or f"{image_id}.png"}],
        "annotations": annotations,
        "categories": [
            {"id": label, "name": word} for label, word in enumerate(found.words, start=1)
        ],
    }


def run_lengths(mask: Mask) -> dict[str, Any]:
    """A mask `(height, width)` as COCO's compressed run lengths: `size` and `counts`.

    Raises:
        UserError: if pycocotools is not installed.
    """
    try:
        from pycocotools.mask import encode
    except ImportError as error:
        raise UserError(
            "expected pycocotools for COCO's run lengths, but it is not installed; "
            "pip install 't2i-xattn[regions]'"
        ) from error
    coded = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(each) for each in coded["size"]], "counts": coded["counts"].decode()}


def _pixel_box(mask: Mask) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
