"""COCO 2017, as it is published: `annotations/instances_val2017.json` and `val2017`.

The test has objects, not classes of pixels. Each object's pixels get its category; where objects
lie over each other, the smaller one is on top. Crowds are void where no object lies.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lab.evaluation.published.labelled import VOID, Labelled, Published, called, needed
from t2i_xattn.errors import UserError, shown_path
from t2i_xattn.pictures import read_picture


def open_coco(data: Path, names: Mapping[str, str], split: str | None) -> Published:
    """The pictures of `annotations/instances_<split>.json` that have an object, in the order of
    their numbers; by default those of `val2017`.

    Args:
        data: the folder that holds `annotations` and the pictures' folder.
        names: what categories are called in prompts, where that is not their own name.
        split: the list's name, and that of the pictures' folder.

    Raises:
        UserError: if a file is missing or damaged, or pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise UserError(
            "expected pycocotools to read COCO, but it is not installed; pip install pycocotools"
        ) from error
    split = split or "val2017"
    path = needed(data / "annotations" / f"instances_{split}.json")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells how long it took
            coco = COCO(str(path))
        categories = sorted(coco.getCatIds())
        classes = ("background", *(each["name"] for each in coco.loadCats(categories)))
        images = [each for each in sorted(coco.getImgIds()) if coco.getAnnIds([each])]
    except Exception as error:  # what it raises depends on what is damaged
        raise UserError(
            f"expected COCO's annotations in {shown_path(path)}, but they cannot be read; give "
            "instances_….json"
        ) from error
    words = called(classes, names)
    numbers = {category: number for number, category in enumerate(categories, start=1)}

    def read(number: int) -> Labelled:
        (told,) = coco.loadImgs(images[number])
        image = read_picture(needed(data / split / str(told["file_name"])))
        if image.size != (told["width"], told["height"]):
            raise UserError(
                f"expected {told['file_name']} of {told['width']} × {told['height']} pixels, but "
                f"came {image.size[0]} × {image.size[1]}; fetch the test's data again"
            )
        objects = coco.loadAnns(coco.getAnnIds([images[number]]))
        labels = np.zeros(image.size[::-1], dtype=np.int64)
        # Crowds first, and of the others the largest.
        for each in sorted(objects, key=lambda one: (not one["iscrowd"], -one["area"])):
            mask = coco.annToMask(each).astype(bool)
            labels[mask] = VOID if each["iscrowd"] else numbers[each["category_id"]]
        there = [int(each) for each in np.unique(labels) if each > 0]
        return Labelled(
            str(told["file_name"]), image, labels, {each: words[each] for each in there}
        )

    return Published(classes, False, [str(each) for each in images], read)
