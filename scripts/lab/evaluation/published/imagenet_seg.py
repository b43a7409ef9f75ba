"""ImageNet-Segmentation (Guillaumin, Küttel and Ferrari 2014), as it is published: one MATLAB 7.3
file, `gtsegs_ijcv.mat`, which is HDF5.

`/value/img`, `/value/gt` and `/value/id` hold a reference a picture: to its pixels
`(colours, width, height)`, to a cell that refers to its mask `(width, height)` of 0 and 1, and to
its name in UTF-16, which begins with the number of its class in WordNet, such as `n01440764`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.evaluation.published.labelled import Labelled, Published, needed
from t2i_xattn.errors import UserError, shown, shown_path

FILE_NAME = "gtsegs_ijcv.mat"


def open_imagenet_seg(data: Path, names: Mapping[str, str], split: str | None) -> Published:
    """All pictures of the file; there is one list only.

    Args:
        data: the file, or its folder.
        names: for each WordNet number, what it is called in prompts; those that do not occur are
            not looked at.
        split: none.

    Raises:
        UserError: if the file is missing or of another kind, a class has no name, or h5py is not
            installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"expected h5py to read {FILE_NAME}, but it is not installed; pip install h5py"
        ) from error
    if split is not None:
        raise UserError("expected no --split of imagenet-seg, which has one list; leave it out")
    path = needed(data / FILE_NAME if data.is_dir() else data)
    try:
        file = h5py.File(path, "r")
        references = {key: file[f"/value/{key}"][:, 0] for key in ("img", "gt", "id")}
        pictures = [_text(file[each][()]) for each in references["id"]]
        if {len(each) for each in references.values()} != {len(pictures)}:
            raise ValueError("of several lengths")
    except Exception as error:  # what h5py raises depends on what is damaged
        raise _of_another_kind(path) from error
    if unnamed := sorted({_class_of(each) for each in pictures} - set(names)):
        raise UserError(
            f"expected --names with a word for each class of the test, but {shown(unnamed[0])} and "
            f"{len(unnamed) - 1} more have none; give ImageNet's list, whose lines are "
            "'n01440764 tench, …'"
        )

    def read(number: int) -> Labelled:
        try:
            pixels = np.asarray(file[references["img"][number]]).transpose(2, 1, 0)
            cell = file[references["gt"][number]]
            mask = np.asarray(file[cell[0, 0]]).T
            if pixels.dtype != np.uint8 or pixels.shape != (*mask.shape, 3):
                raise ValueError("of another shape")
        except Exception as error:
            raise _of_another_kind(path) from error
        words = {1: names[_class_of(pictures[number])]}
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return Labelled(pictures[number], image, (mask > 0).astype(np.int64), words)

    return Published(("background", "the picture's class"), True, pictures, read)


def _text(units: Any) -> str:
    """MATLAB's text: an array of UTF-16 units."""
    return np.asarray(units, dtype="<u2").tobytes().decode("utf-16-le").strip()


def _class_of(name: str) -> str:
    return name.split("_")[0]


def _of_another_kind(path: Path) -> UserError:
    return UserError(
        f"expected ImageNet-Segmentation at {shown_path(path)}, a MATLAB 7.3 file with /value/img, "
        f"/value/gt and /value/id, but it is of another kind or damaged; give {FILE_NAME}"
    )
