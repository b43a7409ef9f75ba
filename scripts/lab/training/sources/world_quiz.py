"""The questions of the world: what is there, how is it, where, in which place and light."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.judge.pixel_maps import STYLES
from lab.scenes import Description, Scene, language
from lab.scenes.layout import SIDE
from lab.scenes.world import WorldScene, world_language
from lab.training.sources.quiz import PLACES, SIDES, UNSAID, Answer, Labels, Quiz

OWN = "its own"
"""The colour of a thing whose colour is not said."""


@dataclass(frozen=True)
class _Told:
    """One phrase of a prompt, with the members that it names and their middle."""

    kind: str
    colour: str
    size: str
    style: str | None
    members: tuple[int, ...]
    centre: tuple[float, float]


def _kinds() -> list[str]:
    """Things of the world and shapes of the first language; a star is one of both."""
    return list(dict.fromkeys([*world_language().things, *language().shapes]))


def _colours() -> list[str]:
    return [OWN, *world_language().colours]


def _places() -> list[str]:
    """Places of the world and grounds of the first language, which differ in their form."""
    return [*world_language().places, *(f"{ground} ground" for ground in language().grounds)]


def world_quiz() -> Quiz:
    """By kind and by colour: is it there, of which colour or kind, size, style, how many, where?

    Then the scene's place, light and style, and what the prompt puts furthest out on each side:
    its kind and its colour.
    """
    kinds, colours = len(_kinds()), len(_colours())
    asked = "kind or colour"
    words = world_language()
    return Quiz(
        groups={asked: kinds + colours, "scene": 1, "side": len(SIDES)},
        answers={
            "present": Answer(asked, 1),
            "partner": Answer(asked, max(kinds, colours)),
            "size": Answer(asked, len(words.sizes)),
            "style": Answer(asked, len(STYLES)),
            "count": Answer(asked, max(words.counts)),
            "column": Answer(asked, PLACES),
            "row": Answer(asked, PLACES),
            "place": Answer("scene", len(_places())),
            "light": Answer("scene", len(words.lights)),
            "place style": Answer("scene", len(STYLES)),
            "outermost kind": Answer("side", kinds, weight=2.0),
            "outermost colour": Answer("side", colours, weight=2.0),
        },
    )


def _told(scene: Scene | WorldScene) -> Iterator[_Told]:
    """What the phrases of a prompt for this scene name."""
    if isinstance(scene, Scene):
        for index, one in enumerate(scene.objects):
            yield _Told(one.shape, one.colour, one.size, None, (index,), (one.x, one.y))
        return
    for group in scene.groups():
        x, y = np.mean([scene.things[index].centre for index in group], axis=0)
        each = scene.things[group[0]]
        colour = each.colour or OWN
        yield _Told(each.kind, colour, each.size, each.style, group, (float(x), float(y)))


def world_labels(scenes: Sequence[Scene | WorldScene], said: Sequence[Description]) -> Labels:
    """The right answers to :func:`world_quiz`."""
    quiz = world_quiz()
    kinds, colours, places = _kinds(), _colours(), _places()
    sizes, lights = list(world_language().sizes), list(world_language().lights)
    kept = world_language().kept_from_a_style()
    labels = {
        name: torch.full((len(scenes), quiz.groups[answer.group]), UNSAID)
        for name, answer in quiz.answers.items()
    }
    for index, (scene, description) in enumerate(zip(scenes, said, strict=True)):
        told = list(_told(scene))
        count = torch.zeros(quiz.groups["kind or colour"], dtype=torch.long)
        for each in told:
            kind, colour = kinds.index(each.kind), colours.index(each.colour)
            answers = {
                "size": sizes.index(each.size),
                "style": STYLES.index(each.style),
                "count": len(each.members) - 1,
                "column": int(each.centre[0] / SIDE * PLACES),
                "row": int(each.centre[1] / SIDE * PLACES),
            }
            for question, partner in ((kind, colour), (len(kinds) + colour, kind)):
                count[question] += 1
                for name, answer in ({"partner": partner} | answers).items():
                    # What several share says nothing of any one of them.
                    labels[name][index, question] = answer if count[question] == 1 else UNSAID
        labels["present"][index] = (count > 0).long()
        if isinstance(scene, Scene):
            labels["place"][index] = places.index(f"{scene.ground} ground")
        else:
            labels["place"][index] = places.index(scene.place)
            labels["light"][index] = lights.index(scene.light)
            # Of a place that is kept from some style it would be learned that it never has it.
            if scene.place not in kept:
                labels["place style"][index] = STYLES.index(scene.style)
        # Of three objects the third may lie further out.
        if description.relation is None or len(told) != 2:
            continue
        first, relation, second = description.relation
        inverse = language().relations[relation].inverse
        for side, chosen in ((relation, first), (inverse, second)):
            outer = next(each for each in told if chosen in each.members)
            at = (index, SIDES.index(side))
            labels["outermost kind"][at] = kinds.index(outer.kind)
            labels["outermost colour"][at] = colours.index(outer.colour)
    return labels
