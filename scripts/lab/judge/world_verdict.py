"""Whether a picture of the world shows what a prompt asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lab.judge.verdict import stands
from lab.judge.world import SeenThing, WorldJudgement


@dataclass(frozen=True)
class AskedThings:
    """What one phrase asks for: `count` things of a kind; None is what it leaves open."""

    kind: str
    count: int = 1
    colour: str | None = None
    style: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class AskedWorld:
    """What a prompt asks for; None is what it leaves open.

    `relation` is `(first, name, second)`, with indices into `things`. `style` is the place's.
    """

    things: tuple[AskedThings, ...] = ()
    relation: tuple[int, str, int] | None = None
    place: str | None = None
    light: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class WorldVerdict:
    """How a picture compares with what was asked for; None where nothing of the sort was asked.

    Attributes:
        things: for each phrase, whether so many things of its kind are there in its colour.
        kinds: for each phrase, whether so many are there, in whatever colour.
        counts: for each phrase, whether no more and no fewer of it are there.
        relation: whether the things of the relation are there, in their colours, and stand so.
        place, light: whether they are those asked for.
        style: whether the place and the things are in the styles asked for.
        size: whether the things are of the sizes asked for.
        extra: how many things are there beyond those asked for. Reported, not held against it.
    """

    things: tuple[bool, ...]
    kinds: tuple[bool, ...]
    counts: tuple[bool, ...]
    relation: bool | None
    place: bool | None
    light: bool | None
    style: bool | None
    size: bool | None
    extra: int

    @property
    def all_right(self) -> bool:
        """Whether the picture shows all that was asked for; sizes, which are vague, aside."""
        others = (self.relation, self.place, self.light, self.style)
        return all(self.things) and all(self.counts) and False not in others


def world_verdict(judgement: WorldJudgement, asked: AskedWorld) -> WorldVerdict:
    """Compare what a picture shows with what was asked for.

    Each thing of the picture answers for one thing asked for at most.
    """
    groups = _match(asked.things, judgement.things)
    pairs = list(zip(asked.things, groups, strict=True))
    things = tuple(len(found) == each.count and _coloured(each, found) for each, found in pairs)
    free = [each for each in judgement.things if not any(each is one for g in groups for one in g)]
    counts = tuple(
        len(found) == each.count and not any(_answers(each, other) for other in free)
        for each, found in pairs
    )
    styles = [_agree(each.style, [one.style for one in found]) for each, found in pairs]
    styles.append(_agree(asked.style, [judgement.style]))
    sizes = [_agree(each.size, [one.size for one in found]) for each, found in pairs]
    told: bool | None = None
    if asked.relation is not None:
        first, name, second = asked.relation
        told = things[first] and things[second]
        told = told and stands(_middle(groups[first]), name, _middle(groups[second]))
    return WorldVerdict(
        things=things,
        kinds=tuple(len(found) == each.count for each, found in pairs),
        counts=counts,
        relation=told,
        place=_agree(asked.place, [judgement.place]),
        light=_agree(asked.light, [judgement.light]),
        style=_all(styles),
        size=_all(sizes),
        extra=len(free),
    )


def _agree(asked: str | None, seen: list[str | None] | list[str]) -> bool | None:
    """Whether all that is seen is as asked; None where nothing was asked."""
    return None if asked is None else bool(seen) and all(each == asked for each in seen)


def _all(outcomes: list[bool | None]) -> bool | None:
    told = [each for each in outcomes if each is not None]
    return all(told) if told else None


def _answers(asked: AskedThings, seen: SeenThing) -> bool:
    """Whether one thing is of the kind and the colour asked for."""
    return seen.kind == asked.kind and asked.colour in (None, seen.colour)


def _coloured(asked: AskedThings, seen: list[SeenThing]) -> bool:
    return all(_answers(asked, each) for each in seen)


def _middle(things: list[SeenThing]) -> tuple[float, float]:
    x, y = np.mean([(each.x, each.y) for each in things], axis=0)
    return float(x), float(y)


def _match(asked: tuple[AskedThings, ...], seen: tuple[SeenThing, ...]) -> list[list[SeenThing]]:
    """The seen things of each phrase's kind: most in its colour first, then in its style."""
    wanted = [index for index, each in enumerate(asked) for _ in range(each.count)]
    rewards = np.array(
        [
            [
                float(one.kind == asked[index].kind)
                * (100.0 + 10.0 * _answers(asked[index], one) + (asked[index].style == one.style))
                for one in seen
            ]
            for index in wanted
        ]
    ).reshape(len(wanted), len(seen))
    groups: list[list[SeenThing]] = [[] for _ in asked]
    for row, column in zip(*linear_sum_assignment(rewards, maximize=True), strict=True):
        if rewards[row, column] > 0:
            groups[wanted[row]].append(seen[column])
    return groups
