"""What is to be seen: a place in a light, and up to three things in it, sampled from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from t2i_xattn.scenes.layout import SIDE, Split
from t2i_xattn.scenes.world.language import world_language

MARGIN = 4.0
"""Least distance in pixels between two things, and from a thing to the border."""


@dataclass(frozen=True)
class WorldThing:
    """A thing: ``x`` is its middle, ``base`` its foot, in pixels of a 128 pixel picture."""

    kind: str
    colour: str | None
    size: str
    style: str | None
    x: float
    base: float
    height: float
    flip: bool

    @property
    def width(self) -> float:
        return self.height * world_language().things[self.kind].width

    @property
    def centre(self) -> tuple[float, float]:
        return self.x, self.base - self.height / 2


@dataclass(frozen=True)
class WorldScene:
    """A place, its light, its style, and things; far ones first.

    ``orb`` is the sun or moon of the light: x, y and radius; ``None`` where there is none, or
    where it is one of the things. ``detail`` is the seed of everything that no word names.
    """

    place: str
    light: str
    style: str | None
    things: tuple[WorldThing, ...]
    horizon: float
    orb: tuple[float, float, float] | None
    clouds: bool
    water: bool
    detail: int

    def groups(self) -> list[tuple[int, ...]]:
        """Things that one phrase names, by index: those of one kind, colour and style."""
        found: dict[tuple[str, str | None, str | None], list[int]] = {}
        for index, each in enumerate(self.things):
            found.setdefault((each.kind, each.colour, each.style), []).append(index)
        return [tuple(indices) for indices in found.values()]

    def combinations(self) -> list[tuple[str, str]]:
        """The (light, place), (style, place) and (thing, colour) that the scene holds."""
        found = [(self.light, self.place)]
        if self.style:
            found.append((self.style, self.place))
        return found + [(each.kind, each.colour) for each in self.things if each.colour]


@dataclass(frozen=True)
class _Group:
    """``count`` like things."""

    kind: str
    colour: str | None
    style: str | None
    size: str
    count: int


class _Draw:
    """Random choices for one scene."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.words = rng, world_language()

    def pick(self, options: list[str] | tuple[str, ...], weights: list[float] | None = None) -> str:
        return str(options[int(self.rng.choice(len(options), p=weights))])

    def group(self, place: str, light: str, count: int) -> _Group:
        """One group that can be in this place and light."""
        words = self.words
        kinds = [
            name
            for name, each in words.things.items()
            if place in each.places and light in each.lights and (count == 1 or each.names[0][1])
        ]
        kind = words.things[name := self.pick(kinds)]
        colour = self.pick(kind.colours) if kind.colours and self.rng.random() < 0.75 else None
        style = self.pick(list(kind.styles)) if kind.styles and self.rng.random() < 0.5 else None
        size = self.pick(list(words.sizes), [0.25, 0.5, 0.25]) if count < 3 else "medium"
        return _Group(name, colour, style, size, count)

    def content(self) -> tuple[str, str, str | None, list[_Group]]:
        """Place, light, style of the place, and groups of things."""
        words, rng = self.words, self.rng
        counts = [[], [1], [1, 1], [2], [3], [2, 1]][
            int(rng.choice(6, p=[0.2, 0.4, 0.2, 0.1, 0.05, 0.05]))
        ]
        names = list(words.places)
        if not counts:
            # With nothing in it, the place is the subject: those with a shape of their own lead.
            shaped = np.array([3.0 if words.places[name].styles else 1.0 for name in names])
            shaped[names.index("reef")] = 0.3
            place = self.pick(names, list(shaped / shaped.sum()))
        else:
            place = self.pick(names)
        light = self.pick(words.places[place].lights)
        style = None
        if words.places[place].styles and rng.random() < 0.66:
            style = self.pick(list(words.places[place].styles))
        groups = [self.group(place, light, count) for count in counts]
        if counts == [1, 1] and groups[0].colour and rng.random() < 0.15:
            # Two of a kind, told apart by their colours alone.
            other = self.pick(words.things[groups[0].kind].colours)
            groups[1] = replace(groups[0], colour=other)
        return place, light, style, groups


def _told_apart(groups: list[_Group]) -> bool:
    """Whether no two groups are alike: of one kind, they must differ in a colour that is said."""
    kinds: dict[str, str | None] = {}
    for each in groups:
        if each.kind in kinds and (not each.colour or not kinds[each.kind]):
            return False
        if kinds.get(each.kind, "") == each.colour:
            return False
        kinds[each.kind] = each.colour
    return True


@dataclass(frozen=True)
class _Spot:
    """Room for a thing: its middle, its foot, and the widest and tallest that fits."""

    x: float
    foot: float
    wide: float
    tall: float


def _spots(up: list[bool], clear: float, floor: float, rng: np.random.Generator) -> list[_Spot]:
    """A spot for each thing; ``up`` says which are in the air.

    Composed as people would: one in the middle, those in the air over those on the ground, else
    side by side, or two in the air one over the other.
    """
    total, middle = len(up), SIDE / 2
    if total == 1:
        if up[0]:
            return [_Spot(middle + rng.uniform(-9, 9), clear + rng.uniform(-4, 2), 104, clear - 6)]
        return [_Spot(middle + rng.uniform(-9, 9), floor, 104, 84)]
    if any(up) and not all(up):
        spots: list[_Spot] = []
        for high in up:
            alone = up.count(high) == 1
            before = sum(each == high for each in up[: len(spots)])
            x = middle + rng.uniform(-6, 6) if alone else (33.0, 95.0)[before]
            wide = 104.0 if alone else 54.0
            spots.append(_Spot(x, 48, wide, 40) if high else _Spot(x, floor, wide, 54))
        return spots
    if total == 2 and all(up) and clear > 72 and rng.random() < 0.5:
        feet = rng.permutation([50.0, 102.0])
        return [_Spot(middle + rng.uniform(-6, 6), float(foot), 104, 42) for foot in feet]
    places, wide = ([33.0, 95.0], 54.0) if total == 2 else ([22.0, 64.0, 106.0], 37.0)
    return [
        _Spot(float(x), clear + rng.uniform(-8, 2), wide, clear - 12)
        if high
        else _Spot(float(x), floor, wide, 72)
        for x, high in zip(rng.permutation(places), up, strict=True)
    ]


def _things(
    groups: list[_Group], clear: float, floor: float, rng: np.random.Generator
) -> tuple[WorldThing, ...]:
    words = world_language()
    each_group = [group for group in groups for _ in range(group.count)]
    up = [words.things[group.kind].stand == "air" for group in each_group]
    # Sizes of several things differ less, or the small ones would be specks.
    power = 1.0 if len(up) == 1 else 0.6
    largest = words.sizes["large"][1] ** power * 1.05
    things = []
    for group, spot, high in zip(each_group, _spots(up, clear, floor, rng), up, strict=True):
        kind = words.things[group.kind]
        # What would not fit at its largest is smaller at every size: sizes stay apart.
        fit = min(1.0, spot.tall / (kind.height * largest))
        fit = min(fit, spot.wide / (kind.height * kind.width * largest))
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


def _orb(
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


def sample_world(seed: int | np.random.Generator, split: Split = "train") -> WorldScene:
    """Draw a scene of the world from a seed.

    Args:
        seed: an integer, or a generator to draw from.
        split: ``"train"`` leaves out the held-out combinations of the language,
            ``"held_out"`` has at least one of them, ``"any"`` does not look.

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "held_out", "any"):
        raise ValueError(f"A split is 'train', 'held_out' or 'any', got {split!r}.")
    words = world_language()
    rng = np.random.default_rng(seed)
    draw = _Draw(rng)
    while True:
        place, light, style, groups = draw.content()
        if not _told_apart(groups):
            continue
        stands = [words.things[each.kind].stand for each in groups]
        if {"ground", "water"} <= set(stands):
            continue
        where = words.places[place]
        horizon = float(rng.uniform(*where.horizon))
        floor = float(rng.uniform(*where.floor))
        things = _things(groups, where.clear, floor, rng) if groups else ()
        scene = WorldScene(
            place=place,
            light=light,
            style=style,
            things=things,
            horizon=horizon,
            orb=_orb(light, where.clear, horizon, things, rng),
            clouds=all(each.kind != "cloud" for each in things)
            and (light == "storm" or rng.random() < 0.7),
            water="water" in stands or ("ground" not in stands and rng.random() < 0.75),
            detail=int(rng.integers(2**31)),
        )
        if split == "any" or words.is_held_out(scene.combinations()) == (split == "held_out"):
            return scene
