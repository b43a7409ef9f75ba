"""What stands where: a scene is a ground and one to three objects, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.scenes.language import RGB, Language, language

SIDE = 128
"""Width and height, in pixels, in which layouts are expressed."""

MARGIN = 3.0
"""Least distance in pixels between two objects, and from an object to the border."""

JITTER = 6.0
"""Most pixels, in x and in y, by which an object stands off its place in the composition."""

Split = Literal["train", "held_out", "any"]


@dataclass(frozen=True)
class SceneObject:
    """One object: centre and radius of its bounding circle in pixels of a 128 pixel picture."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: RGB


@dataclass(frozen=True)
class Scene:
    """A ground and its objects, in no order that means anything."""

    ground: str
    ground_rgb: RGB
    objects: tuple[SceneObject, ...]

    def kinds(self) -> list[tuple[str, str]]:
        """``(colour, shape)`` of every object."""
        return [(each.colour, each.shape) for each in self.objects]


def relation_between(first: tuple[float, float], second: tuple[float, float]) -> str | None:
    """Where ``first`` (x, y) stands as seen from ``second``: the relation's name.

    ``None`` where the direction is too oblique (more than about 39° off the axis) for people
    to agree on one word.
    """
    dx, dy = first[0] - second[0], first[1] - second[1]
    if abs(dy) <= 0.8 * abs(dx) and dx != 0:
        return "left of" if dx < 0 else "right of"
    if abs(dx) <= 0.8 * abs(dy) and dy != 0:
        return "above" if dy < 0 else "below"
    return None


def _jitter(rgb: RGB, rng: np.random.Generator) -> RGB:
    red, green, blue = (int(np.clip(value + rng.integers(-6, 7), 0, 255)) for value in rgb)
    return red, green, blue


def _kinds(
    count: int, split: Split, words: Language, rng: np.random.Generator
) -> list[tuple[str, str]]:
    colours, shapes = list(words.colours), list(words.shapes)
    while True:
        kinds = [(str(rng.choice(colours)), str(rng.choice(shapes))) for _ in range(count)]
        if len(set(kinds)) < count:
            continue
        if split == "any" or words.is_held_out(kinds) == (split == "held_out"):
            return kinds


def _places(radii: list[float], rng: np.random.Generator) -> list[tuple[float, float]] | None:
    """Centres for circles of these radii, or ``None`` if this draw does not fit.

    Composed as people would: one in the middle, two side by side or one above the other, three
    at the corners of a triangle; each a little off its place. A small model learns shapes long
    before it learns to put them anywhere.
    """
    middle = SIDE / 2
    order = rng.permutation(len(radii))
    radii = [radii[index] for index in order]
    if len(radii) == 1:
        places = [(middle, middle)]
    elif len(radii) == 2:
        gap = rng.uniform(MARGIN, 14.0)
        start = middle - (2 * sum(radii) + gap) / 2
        along = [start + radii[0], start + 2 * radii[0] + gap + radii[1]]
        across = rng.random() < 0.5
        places = [(each, middle) if across else (middle, each) for each in along]
    else:
        near, far = SIDE * 0.27, SIDE * 0.73
        places = [(near, near), (far, near), (middle, far)]
        turned = rng.random() < 0.5
        places = [(x, SIDE - y) if turned else (x, y) for x, y in places]
    shifts = rng.uniform(-JITTER, JITTER, size=(len(radii), 2))
    moved = [
        (float(x + dx), float(y + dy)) for (x, y), (dx, dy) in zip(places, shifts, strict=True)
    ]
    for index, ((x, y), radius) in enumerate(zip(moved, radii, strict=True)):
        low, high = radius + MARGIN, SIDE - radius - MARGIN
        if not (low <= x <= high and low <= y <= high):
            return None
        for (other_x, other_y), other_radius in zip(moved, radii[:index], strict=False):
            if np.hypot(x - other_x, y - other_y) < radius + other_radius + MARGIN:
                return None
    return [moved[list(order).index(index)] for index in range(len(moved))]


def sample_scene(
    seed: int | np.random.Generator, objects: int | None = None, split: Split = "train"
) -> Scene:
    """Draw a scene's layout from a seed.

    Args:
        seed: an integer, or a generator to draw from.
        objects: how many, 1 to 3; ``None`` draws it (1: 40 %, 2: 52 %, 3: 8 %).
        split: ``"train"`` leaves out the held-out combinations of the language,
            ``"held_out"`` has at least one of them, ``"any"`` does not look.

    Raises:
        ValueError: ``objects`` is not 1, 2 or 3, or a single object is asked to hold a
            held-out combination that only pairs have.
    """
    if objects not in (None, 1, 2, 3):
        raise ValueError(f"A scene has 1, 2 or 3 objects, got {objects}.")
    words = language()
    rng = np.random.default_rng(seed)
    count = objects if objects is not None else int(rng.choice([1, 2, 3], p=[0.4, 0.52, 0.08]))
    kinds = _kinds(count, split, words, rng)
    names = list(words.radii)
    weights = [0.25, 0.5, 0.25] if count < 3 else [0.6, 0.4, 0.0]
    while True:
        sizes = [str(rng.choice(names, p=weights)) for _ in kinds]
        radii = [float(rng.uniform(*words.radii[size])) for size in sizes]
        places = _places(radii, rng)
        if places is not None:
            break
    ground = str(rng.choice(list(words.grounds)))
    return Scene(
        ground=ground,
        ground_rgb=_jitter(words.grounds[ground], rng),
        objects=tuple(
            SceneObject(shape, colour, size, x, y, radius, _jitter(words.colours[colour], rng))
            for (colour, shape), size, radius, (x, y) in zip(
                kinds, sizes, radii, places, strict=True
            )
        ),
    )
