"""Long prompts of the world: one scene told in many wordings, in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.evaluation.world_prompts import asked_of
from lab.judge.world_verdict import AskedWorld
from lab.scenes import Description, NamingWord
from lab.scenes.world import WorldScene, describe_world, sample_world

FIRST_SEED = 43_000_000
"""Far from the seeds of training and of the other prompts."""

ROOM = 75
"""Tokens of a window, without its start and end token."""

ONE, EACH, FULL, RUNNING, SHORT = (
    "one prompt",
    "a wording a window",
    "full windows",
    "running text",
    "every wording a window",
)
LAYOUTS = (ONE, EACH, SHORT, FULL, RUNNING)
"""How the wordings are laid out: one of the whole scene; one of the place and of each thing, each
in a window of its own; 200 tokens and more of such wordings, each in a window of its own, those of
the place and of each thing in a window of theirs, or without BREAK, as a text comes."""


@dataclass(frozen=True)
class Told:
    """A noun of a long prompt.

    Attributes:
        start: its place in the prompt.
        part: which third of the prompt it belongs to, from 0; of `ONE`, always 0.
        kind: of the thing that it names.
    """

    start: int
    part: int
    kind: str


@dataclass(frozen=True)
class LongPrompt:
    """A scene told in a way: the prompt, its naming words, what it asks for, and a seed."""

    layout: str
    prompt: str
    words: tuple[Told, ...]
    asked: AskedWorld
    seed: int


def long_prompts(count: int, tokens: Callable[[str], int]) -> Iterator[list[LongPrompt]]:
    """For each of some scenes of two things, its prompt in each of `LAYOUTS`.

    Which of place, first and second thing comes first goes round from scene to scene.

    Args:
        count: scenes.
        tokens: how many tokens a text has, without start and end token.
    """
    rng = np.random.default_rng(FIRST_SEED)
    made = 0
    while made < count:
        scene = sample_world(rng, "train")
        whole = describe_world(scene, rng)
        asked = asked_of(scene, whole)
        kinds = {each.kind for each in scene.things}
        if len(scene.things) != 2 or len(kinds) != 2 or asked.relation is None:
            continue
        turn = [(each + made) % 3 for each in range(3)]
        parts = [_wordings(_part(scene, each), rng, tokens) for each in turn]
        yield [
            LongPrompt(layout, *_laid_out(layout, scene, turn, whole, parts), asked, made)
            for layout in LAYOUTS
        ]
        made += 1


def _part(scene: WorldScene, number: int) -> WorldScene:
    """The place alone, or with one of the things."""
    return replace(scene, things=() if number == 2 else (scene.things[number],))


def _wordings(
    scene: WorldScene, rng: np.random.Generator, tokens: Callable[[str], int]
) -> list[Description]:
    """Wordings of a scene, none twice, as many as a window holds with what stands between them."""
    found: list[Description] = []
    for _ in range(200):
        said = describe_world(scene, rng)
        texts = [each.prompt.rstrip(".") for each in (*found, said)]
        if len(set(texts)) == len(texts) and tokens(", ".join(texts)) <= ROOM:
            found.append(said)
    return found


def _nouns(words: Sequence[NamingWord]) -> list[NamingWord]:
    """The nouns of things: of a name of several words the last."""
    named = [each for each in words if each.kind == "thing"]
    starts = {each.start for each in named}
    return [each for each in named if each.stop + 1 not in starts]


def _laid_out(
    layout: str,
    scene: WorldScene,
    turn: Sequence[int],
    whole: Description,
    parts: Sequence[Sequence[Description]],
) -> tuple[str, tuple[Told, ...]]:
    kinds = [each.kind for each in scene.things]
    if layout == ONE:
        named = [(each.start, kinds[each.objects[0]]) for each in _nouns(whole.words)]
        return whole.prompt, tuple(Told(start, 0, kind) for start, kind in named)
    prompt, words = "", list[Told]()
    between = " BREAK " if layout in (EACH, SHORT) else ", "
    for number, (of, part) in enumerate(zip(turn, parts, strict=True)):
        for index, said in enumerate(part[:1] if layout == EACH else part):
            if prompt:
                prompt += between if index or layout != FULL else " BREAK "
            for each in _nouns(said.words):
                words.append(Told(len(prompt) + each.start, number, kinds[of]))
            prompt += said.prompt.rstrip(".")
    return prompt, tuple(words)
