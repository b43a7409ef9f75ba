"""Scenes of the world, each a function of a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.scenes.layout import Split
from lab.scenes.world.composition import Group, place_orb, place_things
from lab.scenes.world.language import world_language
from lab.scenes.world.layout import WorldScene


class _Draw:
    """Random choices for one scene."""

    def __init__(self, rng: np.random.Generator, visits: bool) -> None:
        self.rng, self.words, self.visits = rng, world_language(), visits

    def pick(self, options: list[str] | tuple[str, ...], weights: list[float] | None = None) -> str:
        return str(options[int(self.rng.choice(len(options), p=weights))])

    def group(self, place: str, light: str, count: int, *, visits: bool = False) -> Group:
        """One group that can be in this place and light, or that visits the place."""
        words = self.words
        kinds = [
            name
            for name, each in words.things.items()
            if place in (each.visits if visits else each.places)
            and light in each.lights
            and (count == 1 or each.names[0][1])
        ]
        kind = words.things[name := self.pick(kinds)]
        colour = self.pick(kind.colours) if kind.colours and self.rng.random() < 0.75 else None
        style = self.pick(list(kind.styles)) if kind.styles and self.rng.random() < 0.5 else None
        size = self.pick(list(words.sizes), [0.25, 0.5, 0.25]) if count < 3 else "medium"
        return Group(name, colour, style, size, count)

    def content(self) -> tuple[str, str, str | None, list[Group]]:
        """Place, light, style of the place, and groups of things."""
        words, rng = self.words, self.rng
        counts = [[], [1], [1, 1], [2], [3], [2, 1]][
            int(rng.choice(6, p=[0.2, 0.4, 0.2, 0.1, 0.05, 0.05]))
        ]
        names = list(words.places)
        if self.visits:
            counts = counts or [1]
            place = self.pick(
                [
                    name
                    for name in names
                    if any(name in each.visits for each in words.things.values())
                ]
            )
        elif not counts:
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
        groups = [
            self.group(place, light, count, visits=self.visits and index == 0)
            for index, count in enumerate(counts)
        ]
        if counts == [1, 1] and groups[0].colour and rng.random() < 0.15:
            # Two of a kind, told apart by their colours alone.
            other = self.pick(words.things[groups[0].kind].colours)
            groups[1] = replace(groups[0], colour=other)
        return place, light, style, groups


def _told_apart(groups: list[Group]) -> bool:
    """Whether no two groups are alike: of one kind, they must differ in a colour that is said."""
    kinds: dict[str, str | None] = {}
    for each in groups:
        if each.kind in kinds and (not each.colour or not kinds[each.kind]):
            return False
        if kinds.get(each.kind, "") == each.colour:
            return False
        kinds[each.kind] = each.colour
    return True


def sample_world(
    seed: int | np.random.Generator, split: Split = "train", *, visits: bool = False
) -> WorldScene:
    """Draw a scene of the world from a seed.

    Args:
        seed: an integer, or a generator to draw from.
        split: ``"train"`` leaves out the held-out combinations of the language,
            ``"held_out"`` has at least one of them, ``"any"`` does not look.
        visits: whether things stand in a place that they visit, such as a house in a village.

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "held_out", "any"):
        raise ValueError(f"A split is 'train', 'held_out' or 'any', got {split!r}.")
    words = world_language()
    rng = np.random.default_rng(seed)
    draw = _Draw(rng, visits)
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
        things = place_things(groups, where.clear, floor, rng) if groups else ()
        scene = WorldScene(
            place=place,
            light=light,
            style=style,
            things=things,
            horizon=horizon,
            orb=place_orb(light, where.clear, horizon, things, rng),
            clouds=all(each.kind != "cloud" for each in things)
            and (light == "storm" or rng.random() < 0.7),
            water="water" in stands or ("ground" not in stands and rng.random() < 0.75),
            detail=int(rng.integers(2**31)),
        )
        if split == "any" or words.is_held_out(scene.combinations()) == (split == "held_out"):
            return scene
