"""The tests of the papers, for people who have their data: ImageNet-Segmentation, PASCAL VOC, COCO.

`opened` reads a folder in the format in which it is published, `evaluate_published` holds the maps
of a model against it, and `scores` has the figures as the papers define them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lab.evaluation.published.coco import open_coco
from lab.evaluation.published.imagenet_seg import open_imagenet_seg
from lab.evaluation.published.labelled import Labelled, Published
from lab.evaluation.published.voc import open_voc
from t2i_xattn.errors import UserError, nearest, shown

__all__ = ["FORMATS", "Labelled", "Published", "opened"]

FORMATS: Mapping[str, Callable[[Path, Mapping[str, str], str | None], Published]] = {
    "imagenet-seg": open_imagenet_seg,
    "voc": open_voc,
    "coco": open_coco,
}


def opened(kind: str, data: Path, names: Mapping[str, str], split: str | None = None) -> Published:
    """The pictures of a published test.

    Args:
        kind: one of `FORMATS`.
        data: its folder (of `imagenet-seg`, the `.mat` file or its folder).
        names: what classes are called in prompts, by the names or numbers that the test has for
            them; see `names.read_names`. Of `imagenet-seg` all are needed, of others those that
            are to be called differently.
        split: which of its lists; by default that of validation.

    Raises:
        UserError: if there is no such format, a file is missing or damaged, or a class has no name.
    """
    if kind not in FORMATS:
        raise UserError(
            f"expected a --format of {', '.join(FORMATS)}, but came {shown(kind)}"
            f"{nearest(kind, FORMATS)}"
        )
    return FORMATS[kind](data, names, split)
