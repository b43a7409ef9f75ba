"""Painting or recall: how near the painted pictures come to those that a model was trained on.

A model that learned its training set by heart paints pictures that are in it. Distances alone say
little, as simple scenes resemble each other; so those of painted pictures are held against those of
drawn scenes that no training saw (compare Carlini et al. 2023, arXiv 2301.13188, whose copies are
pictures nearer to one training picture than is usual).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 32
"""Width and height at which pictures are compared."""

COPY = 0.01
"""The share of unseen drawn scenes that lie nearer to the training set than a copy may."""

Vectors = NDArray[np.float32]


def thumbnails(pictures: Iterable[Image.Image]) -> Vectors:
    """`(pictures, values)`, 0 to 1: small copies, whose values are red, green and blue."""
    small = [
        np.asarray(each.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
        for each in pictures
    ]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / np.float32(255)


def nearest(pictures: Vectors, others: Iterable[Vectors]) -> NDArray[np.float64]:
    """The root mean square difference of each picture to the nearest of all the others, 0 to 1.

    Args:
        pictures: `(pictures, values)`.
        others: parts of a set that may be too large to be held at once.
    """
    best = np.full(len(pictures), np.inf)
    own = np.square(pictures, dtype=np.float64).sum(axis=1)
    for part in others:
        theirs = np.square(part, dtype=np.float64).sum(axis=1)
        squares = own[:, None] + theirs[None] - 2 * (pictures @ part.T).astype(np.float64)
        best = np.minimum(best, squares.min(axis=1))
    return np.sqrt(best.clip(min=0) / pictures.shape[1])


@dataclass(frozen=True)
class Recall:
    """How near painted pictures and unseen drawn scenes come to the training set.

    Attributes:
        painted, unseen: the median distance to the nearest training picture, 0 to 1.
        threshold: what only 1 % of the unseen scenes fall below.
        near: how many painted pictures do.
        pictures: of how many.
        trained_on: how many training pictures were looked at.
    """

    painted: float
    unseen: float
    threshold: float
    near: int
    pictures: int
    trained_on: int


def recall(painted: Vectors, unseen: Vectors, training: Iterable[Vectors]) -> Recall:
    """Hold painted pictures and unseen scenes against the pictures of the training."""
    looked = 0

    def counted() -> Iterable[Vectors]:
        nonlocal looked
        for part in training:
            looked += len(part)
            yield part

    distances = nearest(np.concatenate([painted, unseen]), counted())
    of_painted, of_unseen = np.split(distances, [len(painted)])
    threshold = float(np.quantile(of_unseen, COPY))
    return Recall(
        painted=float(np.median(of_painted)),
        unseen=float(np.median(of_unseen)),
        threshold=threshold,
        near=int((of_painted < threshold).sum()),
        pictures=len(painted),
        trained_on=looked,
    )
