"""What the studies look at: drawn scenes of the world, and the words whose pixels are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.fit import Mask
from lab.evaluation.one_pass import encoded_pictures, own_size
from lab.scenes import NamingWord
from lab.scenes.world import RenderedWorld, render_world
from t2i_xattn.traces.regions import iou, pointing_hit

FIRST_SEED = 60_000_000
"""Far from the seeds of training, of the judge, and of the scenes on which maps were chosen."""

KINDS = ("thing", "colour", "place", "light", "style")
"""Of the words that are looked at."""


@dataclass(frozen=True)
class NamedWord:
    """A word of a scene's prompt, and the pixels `(height, width)` that it names."""

    word: NamingWord
    mask: Mask

    @property
    def kind(self) -> str:
        return self.word.kind


def batches(
    pipe: Any, scenes: int, batch: int, first_seed: int = FIRST_SEED
) -> Iterator[tuple[int, list[RenderedWorld], Tensor]]:
    """The number of each batch's first scene, its scenes, and their pictures' latents."""
    for start in range(0, scenes, batch):
        part = [
            render_world(first_seed + index, size=own_size(pipe), split="any")
            for index in range(start, min(start + batch, scenes))
        ]
        yield start, part, encoded_pictures(pipe, [scene.image for scene in part])


def named_words(scene: RenderedWorld) -> list[NamedWord]:
    """The words of `KINDS` that name some pixels, but not all."""
    pairs = zip(scene.description.words, scene.masks, strict=True)
    return [
        NamedWord(word, mask)
        for word, mask in pairs
        if word.kind in KINDS and mask.any() and not mask.all()
    ]


def fit_at_area(array: NDArray[np.floating], mask: Mask) -> tuple[float, float]:
    """How a map fits a region: IoU of its highest places, as many as the region has, and 1 or 0 for
    its peak inside."""
    return iou(highest(array, int(mask.sum())), mask), float(pointing_hit(array, mask))


def highest(array: NDArray[np.floating], area: int) -> Mask:
    """The `area` highest places of a map."""
    chosen = np.zeros(array.size, dtype=bool)
    chosen[np.argpartition(array.ravel(), -area)[-area:]] = True
    return chosen.reshape(array.shape)


def uniform_fit(mask: Mask) -> tuple[float, float]:
    """What `fit_at_area` is to be expected to give of a map that knows nothing; for a region of
    share a, a / (2 − a) and a."""
    share = float(mask.mean())
    return share / (2 - share), share


def centre_map(size: int) -> NDArray[np.float32]:
    """A map that only knows that things stand in the middle: nearness to it."""
    axis = np.arange(size) - (size - 1) / 2
    return -np.hypot(axis[:, None], axis[None, :]).astype(np.float32)


def columns_of_words(words: Sequence[Any]) -> dict[int, tuple[int, ...]]:
    """The columns of the words of a trace, by where they start in the prompt."""
    return {word.start: word.columns for word in words if word.columns}
