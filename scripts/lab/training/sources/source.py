"""What training asks of the scenes that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab.scenes import Description
from lab.scenes.layout import SIDE, Split
from lab.scenes.wording import NamingWord
from lab.training.sources.quiz import Labels, Quiz

S = TypeVar("S")

NOTHING = 255
"""The label of a pixel of which there is nothing to tell."""


@dataclass(frozen=True)
class StyledNouns:
    """Nouns that take styles.

    Attributes:
        kept: those that are kept from some style.
        others: those that have them all.
        styles: words of the styles that all of them have.
        before: beginnings of prompts, after which a style and a noun can stand.
    """

    kept: tuple[str, ...]
    others: tuple[str, ...]
    styles: tuple[str, ...]
    before: tuple[str, ...]


class SceneSource(Protocol[S]):
    """Scenes, their pictures, their words: everything that depends on what is being drawn.

    Everything drawn is a function of the seed, or of the generator, that is given.
    """

    title: str
    """A line for the model card."""

    about: str
    """What a model of these scenes can be asked for, a paragraph of the card."""

    example: str
    """A prompt that shows it."""

    def held_out(self) -> str:
        """The combinations that training never shows, in words."""

    def vocabulary(self) -> list[str]:
        """Every word that a prompt can hold, sorted, each once."""

    def draw(self, rng: np.random.Generator, split: Split = "train") -> S:
        """The layout of one scene."""

    def picture(self, scene: S, size: int = SIDE) -> Image.Image:
        """The picture of a scene."""

    def describe(self, scene: S, rng: np.random.Generator, stray: float) -> Description:
        """One of its wordings, with a chance of words that name nothing."""

    def nouns(self, scene: S, said: Description, side: int) -> list[tuple[NamingWord, np.ndarray]]:
        """The nouns of a wording and the pixels of each: bool ``(side, side)``."""

    def pixel_values(self) -> tuple[int, ...]:
        """How many values each of `pixel_labels` has."""

    def pixel_labels(self, scene: S, side: int) -> np.ndarray:
        """What each pixel shows: uint8 ``(labels, side, side)``, ``NOTHING`` where none holds."""

    def quiz(self) -> Quiz:
        """What the text encoder is asked before it meets a denoiser."""

    def telling(
        self, rng: np.random.Generator, count: int, stray: float
    ) -> tuple[list[S], list[Description]]:
        """Scenes to be asked about, most of which state a relation, and their wordings."""

    def labels(self, scenes: Sequence[S], said: Sequence[Description]) -> Labels:
        """The right answers to the quiz."""

    def styled_nouns(self) -> StyledNouns | None:
        """Nouns that take styles, some of them not all; where there are such."""


def drawn_scenes(
    source: SceneSource[S], seed: list[int], count: int, split: Split = "train"
) -> tuple[list[S], np.random.Generator]:
    """``count`` scenes of a seed, and the generator that drew them."""
    rng = np.random.default_rng(seed)
    return [source.draw(rng, split) for _ in range(count)], rng


def pixels(source: SceneSource[S], scenes: Sequence[S], size: int = SIDE) -> NDArray[np.uint8]:
    """The pictures of scenes ``(scenes, 3, size, size)``."""
    drawn = np.stack([np.asarray(source.picture(scene, size)) for scene in scenes])
    return np.ascontiguousarray(drawn.transpose(0, 3, 1, 2))


def pictures(source: SceneSource[S], scenes: Sequence[S], size: int = SIDE) -> Tensor:
    """Float ``(scenes, 3, size, size)`` from -1 to 1."""
    return torch.from_numpy(pixels(source, scenes, size)).float() / 127.5 - 1


def descriptions(
    source: SceneSource[S], scenes: Sequence[S], rng: np.random.Generator, stray: float
) -> list[Description]:
    """A wording for each scene."""
    return [source.describe(scene, rng, stray) for scene in scenes]
