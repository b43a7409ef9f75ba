"""A picture with the class of each of its pixels, whatever format it came in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2i_xattn.errors import UserError, shown, shown_path
from t2i_xattn.files import is_file

VOID = -1
"""The class of a pixel that counts nowhere."""


@dataclass(frozen=True)
class Labelled:
    """A picture of a test.

    Attributes:
        name: as the test calls it.
        image: RGB.
        labels: `(height, width)` of the picture: 0 the background, the numbers of classes, `VOID`.
        words: for each class that is there, what it is called in a prompt.
    """

    name: str
    image: Image.Image
    labels: NDArray[np.int64]
    words: Mapping[int, str]


@dataclass(frozen=True)
class Published:
    """A test: its classes, and its pictures one after the other.

    Attributes:
        classes: their names by number; 0 is the background.
        binary: whether each picture has one class, that is told from the background only
            (ImageNet-Segmentation).
        names: of the pictures.
        read: gives the picture of a number, from 0.
    """

    classes: tuple[str, ...]
    binary: bool
    names: Sequence[str]
    read: Callable[[int], Labelled]

    def pictures(self, limit: int | None = None) -> Iterator[Labelled]:
        """The first pictures, or all."""
        for number in range(len(self.names))[:limit]:
            yield self.read(number)


def labels_of_file(path: Path, size: tuple[int, int]) -> NDArray[np.int64]:
    """The values of a PNG with a palette, or of grey, as numbers of classes.

    Args:
        path: of the file.
        size: width and height of the picture that it belongs to.

    Raises:
        UserError: if there is no such file, or it is none of these, or of another size.
    """
    needed(path)
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            mode, values = picture.mode, np.asarray(picture)
    except Exception as error:  # what Pillow raises depends on what is damaged
        raise UserError(
            f"expected a PNG of labels at {shown_path(path)}, but it cannot be read; fetch the "
            "test's data again"
        ) from error
    if mode not in ("P", "L") or values.shape != size[::-1]:
        raise UserError(
            f"expected labels with a palette, of {size[0]} × {size[1]} pixels as their picture, at "
            f"{shown_path(path)}, but came mode {mode} and the shape {values.shape}; fetch the "
            "test's data again"
        )
    return values.astype(np.int64)


def needed(path: Path) -> Path:
    """Raises `UserError` unless there is such a file."""
    if not is_file(path):
        raise UserError(
            f"expected {shown_path(path)}, as the test is published, but there is no such file; "
            "give the folder that holds it as --data"
        )
    return path


def called(classes: Sequence[str], names: Mapping[str, str]) -> dict[int, str]:
    """What each class but the background is called in prompts: as in `names`, or by itself.

    Raises:
        UserError: if `names` has others than these classes, or two are called the same.
    """
    for name in names:
        if name not in classes[1:]:
            raise UserError(
                f"expected --names of classes of this test, but came {shown(name)}; they are "
                f"{', '.join(classes[1:8])} …"
            )
    found = {number: names.get(name, name) for number, name in enumerate(classes) if number}
    folded = [word.casefold() for word in found.values()]
    for word in found.values():
        if folded.count(word.casefold()) > 1:
            raise UserError(
                f"expected a word of its own for each class, but {shown(word)} stands for "
                f"{folded.count(word.casefold())}; change --names"
            )
    return found
