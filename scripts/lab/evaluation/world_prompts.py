"""The fixed prompts that models of the world are measured on.

The list is a file of the package, made by `make_world_prompts` and again, the same, by
`python scripts/make_prompts.py --scenes world`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from lab.judge.world_verdict import AskedThings, AskedWorld
from lab.scenes import Description
from lab.scenes.layout import Split
from lab.scenes.world import WorldScene, describe_world, sample_world, world_language

SEED = 40_000_000
FILE_NAME = "world_prompts.json"

Wanted = Callable[[WorldScene, AskedWorld], bool]


@dataclass(frozen=True)
class WorldPrompt:
    """One prompt of the list: the text, what it asks for, and the seed of the picture's noise."""

    prompt: str
    asked: AskedWorld
    seed: int


def asked_of(scene: WorldScene, said: Description) -> AskedWorld:
    """What a wording of a scene asks for: what the scene holds and the wording says."""
    # The place's own words name no things.
    told = {(word.kind, word.objects) for word in said.words}
    groups = scene.groups()
    things = []
    for group in groups:
        first = scene.things[group[0]]
        size = first.size if ("size", group) in told else None
        things.append(AskedThings(first.kind, len(group), first.colour, first.style, size))
    relation = None
    if said.relation is not None:
        one, name, other = said.relation
        first_group, second_group = (
            next(index for index, group in enumerate(groups) if thing in group)
            for thing in (one, other)
        )
        relation = (first_group, name, second_group)
    return AskedWorld(
        things=tuple(things),
        relation=relation,
        place=scene.place if ("place", ()) in told else None,
        light=scene.light if ("light", ()) in told else None,
        style=scene.style if ("style", ()) in told else None,
    )


@cache
def world_prompts() -> dict[str, tuple[WorldPrompt, ...]]:
    """The prompts by group, in a fixed order.

    `singles` (100) ask for one coloured thing, `pairs` (100) for two things and where they stand,
    `triples` (50) for three things, `light_and_place` (100) for a place in a light and nothing
    else, `styles` (50) for something old or futuristic. None of these holds a combination that
    was kept from training; each of `held_out` (100) says one that was.
    """
    raw = json.loads(files(__package__).joinpath(FILE_NAME).read_text("utf-8"))
    return {group: tuple(_read(each) for each in prompts) for group, prompts in raw.items()}


def _read(raw: dict[str, object]) -> WorldPrompt:
    asked = raw["asked"]
    assert isinstance(asked, dict)
    things = tuple(AskedThings(**each) for each in asked["things"])
    relation = asked["relation"] and tuple(asked["relation"])
    read = AskedWorld(**(asked | {"things": things, "relation": relation}))
    return WorldPrompt(str(raw["prompt"]), read, int(str(raw["seed"])))


def make_world_prompts(seed: int = SEED) -> dict[str, list[WorldPrompt]]:
    """The groups of `world_prompts`, made anew from a seed; no prompt comes twice."""
    rng = np.random.default_rng(seed)
    made: set[str] = set()

    def some(count: int, wanted: Wanted, split: Split = "train") -> list[WorldPrompt]:
        found: list[WorldPrompt] = []
        while len(found) < count:
            scene = sample_world(rng, split)
            said = describe_world(scene, rng)
            asked = asked_of(scene, said)
            if wanted(scene, asked) and said.prompt not in made:
                found.append(WorldPrompt(said.prompt, asked, 1000 + len(made)))
                made.add(said.prompt)
        return found

    return {
        "singles": some(100, _one_coloured_thing),
        "pairs": some(100, _two_things_that_stand),
        "triples": some(50, lambda scene, asked: len(scene.things) == 3),
        "light_and_place": some(100, _light_and_place),
        "styles": some(50, _styled),
        "held_out": some(100, _says_what_is_held_out, "held_out"),
    }


def _one_coloured_thing(scene: WorldScene, asked: AskedWorld) -> bool:
    return len(scene.things) == 1 and asked.things[0].colour is not None


def _two_things_that_stand(scene: WorldScene, asked: AskedWorld) -> bool:
    return len(scene.things) == 2 and asked.relation is not None


def _light_and_place(scene: WorldScene, asked: AskedWorld) -> bool:
    return not scene.things and asked.place is not None and asked.light is not None


def _styled(scene: WorldScene, asked: AskedWorld) -> bool:
    return asked.style is not None or any(each.style for each in asked.things)


def _says_what_is_held_out(scene: WorldScene, asked: AskedWorld) -> bool:
    """Both halves of a combination have to be said; a place may go unsaid."""
    told = [(each.kind, each.colour) for each in asked.things if each.colour]
    if asked.place is not None:
        told += [(each, asked.place) for each in (asked.light, asked.style) if each]
    return world_language().is_held_out(told)
