"""Where things stand in a picture, how large they are, and where its sun or moon is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.scenes.layout import SIDE
from lab.scenes.world.language import ThingKind, world_language
from lab.scenes.world.layout import WorldThing

MARGIN = 4.0
"""Least distance in pixels between two things, and from a thing to the border."""


@dataclass(frozen=True)
class Group:
    """``count`` like things."""

    kind: str
    colour: str | None
    style: str | None
    size: str
    count: int


@dataclass(frozen=True)
class _Spot:
    """Room for a thing: its middle, its foot, and the widest and tallest that fits."""

    x: float
    foot: float
    wide: float
    tall: float


def room(up: list[bool], high: bool, clear: float, *, stacked: bool = False) -> tuple[float, float]:
    """The widest and the tallest that fits a spot.

    ``up`` says which things are in the air, ``high`` whether this one is; ``stacked`` that two in
    the air hang one over the other.
    """
    total = len(up)
    if total == 1:
        return 104.0, clear - 6 if high else 84.0
    if any(up) and not all(up):
        return 104.0 if up.count(high) == 1 else 54.0, 40.0 if high else 54.0
    if stacked:
        return 104.0, 42.0
    return 54.0 if total == 2 else 37.0, clear - 12 if high else 72.0


def fitting(kind: ThingKind, total: int, wide: float, tall: float) -> tuple[float, float]:
    """How a kind of thing fits a spot among ``total`` things: a share of its height, and a power.

    A thing of a size is ``share · height · factor ** power`` high, ``factor`` being the size's.
    """
    words = world_language()
    # Sizes of several things differ less, or the small ones would be specks.
    power = 1.0 if total == 1 else 0.6
    largest = words.sizes["large"][1] ** power * 1.05
    # What would not fit at its largest is smaller at every size: sizes stay apart.
    share = min(1.0, tall / (kind.height * largest))
    return min(share, wide / (kind.height * kind.width * largest)), power


def _spots(up: list[bool], clear: float, floor: float, rng: np.random.Generator) -> list[_Spot]:
    """A spot for each thing; ``up`` says which are in the air.

    Composed as people would: one in the middle, those in the air over those on the ground, else
    side by side, or two in the air one over the other.
    """
    total, middle = len(up), SIDE / 2
    if total == 1:
        x = middle + rng.uniform(-9, 9)
        foot = clear + rng.uniform(-4, 2) if up[0] else floor
        return [_Spot(x, foot, *room(up, up[0], clear))]
    if any(up) and not all(up):
        spots: list[_Spot] = []
        for high in up:
            alone = up.count(high) == 1
            before = sum(each == high for each in up[: len(spots)])
            x = middle + rng.uniform(-6, 6) if alone else (33.0, 95.0)[before]
            spots.append(_Spot(x, 48 if high else floor, *room(up, high, clear)))
        return spots
    if total == 2 and all(up) and clear > 72 and rng.random() < 0.5:
        feet = rng.permutation([50.0, 102.0])
        size = room(up, True, clear, stacked=True)
        return [_Spot(middle + rng.uniform(-6, 6), float(foot), *size) for foot in feet]
    places = [33.0, 95.0] if total == 2 else [22.0, 64.0, 106.0]
    return [
        _Spot(float(x), clear + rng.uniform(-8, 2) if high else floor, *room(up, high, clear))
        for x, high in zip(rng.permutation(places), up, strict=True)
    ]


def place_things(
    groups: list[Group], clear: float, floor: float, rng: np.random.Generator
) -> tuple[WorldThing, ...]:
    """The things of these groups, each at its spot: far ones first."""
    words = world_language()
    each_group = [group for group in groups for _ in range(group.count)]
    up = [words.things[group.kind].stand == "air" for group in each_group]
    things = []
    for group, spot, high in zip(each_group, _spots(up, clear, floor, rng), up, strict=True):
        kind = words.things[group.kind]
        fit, power = fitting(kind, len(up), spot.wide, spot.tall)
        factor = words.sizes[group.size][1] ** power * rng.uniform(0.95, 1.05)
        height = float(kind.height * fit * factor)
        half = height * kind.width / 2
        x = float(np.clip(spot.x + rng.uniform(-3, 3), half + MARGIN, SIDE - half - MARGIN))
        # Smaller things in the air float higher.
        lift = (spot.tall - height) / 2 if high else 0.0
        foot = spot.foot - lift + rng.uniform(-2, 2)
        base = float(np.clip(foot, height + MARGIN, SIDE - MARGIN))
        things.append(
            WorldThing(
                kind=group.kind,
                colour=group.colour,
                size=group.size,
                style=group.style,
                x=x,
                base=base,
                height=height,
                flip=bool(rng.random() < 0.5),
            )
        )
    return tuple(sorted(things, key=lambda each: each.base))


def place_orb(
    light: str,
    clear: float,
    horizon: float,
    things: tuple[WorldThing, ...],
    rng: np.random.Generator,
) -> tuple[float, float, float] | None:
    """Where the sun or moon of the light stands."""
    side = rng.choice([rng.uniform(14, 34), rng.uniform(94, 114)])
    low = side if clear < 56 else rng.uniform(30, 98)
    if light == "storm" or any(each.kind in ("sun", "moon") for each in things):
        return None
    # High enough to be seen over what stands on the horizon.
    skyline = min(horizon, clear + 8)
    if light == "sunset":
        high = skyline - rng.uniform(4, 14)
        return float(low), float(high), float(rng.uniform(14, 18))
    if light == "dawn":
        high = skyline - rng.uniform(0, 6)
        return float(low), float(high), float(rng.uniform(10, 13))
    radius = rng.uniform(6, 8) if light == "night" else rng.uniform(8, 10)
    return float(side), float(rng.uniform(14, 24)), float(radius)
