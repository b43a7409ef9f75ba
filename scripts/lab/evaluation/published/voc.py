"""PASCAL VOC 2012, as it is published: `JPEGImages`, `SegmentationClass`, `ImageSets`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lab.evaluation.published.labelled import (
    VOID,
    Labelled,
    Published,
    called,
    labels_of_file,
    needed,
)
from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.pictures import read_picture

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

IN_PROMPTS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""Names that the test writes as one word."""

_VOID = 255
"""Borders of objects, and what is hard to tell."""


def open_voc(data: Path, names: Mapping[str, str], split: str | None) -> Published:
    """The pictures of `ImageSets/Segmentation/<split>.txt`, by default `val`.

    Args:
        data: the folder `VOC2012`, or one that holds it or `VOCdevkit`.
        names: what classes are called in prompts, where that is not their own name.
        split: the list's name.

    Raises:
        UserError: if a file is missing.
    """
    listed = Path("ImageSets") / "Segmentation" / f"{split or 'val'}.txt"
    folders = [data, data / "VOC2012", data / "VOCdevkit" / "VOC2012"]
    folder = next((each for each in folders if (each / listed).is_file()), data)
    text = needed(folder / listed).read_text("utf-8", "replace")
    pictures = [line.split()[0] for line in text.splitlines() if line.strip()]
    words = called(CLASSES, {**IN_PROMPTS, **names})

    def read(number: int) -> Labelled:
        name = pictures[number]
        image = read_picture(needed(folder / "JPEGImages" / f"{name}.jpg"))
        path = folder / "SegmentationClass" / f"{name}.png"
        labels = labels_of_file(path, image.size)
        labels[labels == _VOID] = VOID
        there = [int(each) for each in np.unique(labels) if each > 0]
        if there and there[-1] >= len(CLASSES):
            raise UserError(
                f"expected the classes 0 to {len(CLASSES) - 1} and 255 in {shown_path(path)}, but "
                f"came {there[-1]}; take SegmentationClass, whose values are classes"
            )
        return Labelled(name, image, labels, {each: words[each] for each in there})

    return Published(CLASSES, False, pictures, read)
