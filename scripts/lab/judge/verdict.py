"""Whether a picture shows what a prompt asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from lab.judge.judgement import JudgedObject, Judgement
from lab.scenes.language import language


@dataclass(frozen=True)
class Verdict:
    """How a picture compares with what was asked for.

    Attributes:
        objects: for each object asked for, whether it is there in its colour and shape.
        shapes: for each object asked for, whether its shape is there, in whatever colour.
        relation: whether the two objects of the relation are there, in their colours, and stand
            as asked; None where no relation was asked for.
        extra: how many objects are there beyond those asked for. Reported, not held against it.
    """

    objects: tuple[bool, ...]
    shapes: tuple[bool, ...]
    relation: bool | None
    extra: int

    @property
    def all_objects(self) -> bool:
        """Whether every object asked for is there in its colour and shape."""
        return all(self.objects)


def stands(first: tuple[float, float], relation: str, second: tuple[float, float]) -> bool:
    """Whether `first` (x, y) stands in a relation to `second`, as people grant it.

    The offset must point the right way and lie within 45° of the axis. That is more tolerant than
    `relation_between`, which names relations up to 39°, so whatever a rendered scene says is true.

    Raises:
        KeyError: the relation is not one of the language.
    """
    if relation not in language().relations:
        raise KeyError(f"Expected one of {list(language().relations)}, got {relation!r}.")
    dx, dy = first[0] - second[0], first[1] - second[1]
    along, across = {
        "left of": (-dx, dy),
        "right of": (dx, dy),
        "above": (-dy, dx),
        "below": (dy, dx),
    }[relation]
    return along > 0 and along >= abs(across)


def verdict(
    judgement: Judgement,
    objects: Sequence[tuple[str, str]],
    relation: tuple[int, str, int] | None = None,
) -> Verdict:
    """Compare what a picture shows with what was asked for.

    Each object of the picture answers for one object asked for at most.

    Args:
        judgement: what the judge saw.
        objects: `(colour, shape)` of each object asked for.
        relation: `(first, name, second)`, with indices into `objects`, or None.
    """
    match = _match(objects, judgement.objects)
    here = tuple(
        each is not None and each.kind == tuple(asked)
        for asked, each in zip(objects, match, strict=True)
    )
    shapes = tuple(
        each is not None and each.shape == asked[1]
        for asked, each in zip(objects, match, strict=True)
    )
    told: bool | None = None
    if relation is not None:
        first, name, second = relation
        one, other = match[first], match[second]
        told = here[first] and here[second]
        if told and one is not None and other is not None:
            told = stands((one.x, one.y), name, (other.x, other.y))
    matched = sum(each is not None for each in match)
    return Verdict(here, shapes, told, len(judgement.objects) - matched)


def _match(
    objects: Sequence[tuple[str, str]], seen: Sequence[JudgedObject]
) -> list[JudgedObject | None]:
    """The seen object for each one asked for: most exact matches first, then shapes, then colours.

    Where several are as good, the larger ones.
    """
    whole = max((each.area for each in seen), default=1.0)
    rewards = np.array(
        [
            [
                (
                    100.0 * (each.kind == tuple(asked))
                    + 10.0 * (each.shape == asked[1])
                    + 1.0 * (each.colour == asked[0])
                )
                * (1 + 1e-3 * each.area / whole)
                for each in seen
            ]
            for asked in objects
        ]
    ).reshape(len(objects), len(seen))
    match: list[JudgedObject | None] = [None] * len(objects)
    for row, column in zip(*linear_sum_assignment(rewards, maximize=True), strict=True):
        if rewards[row, column] > 0:
            match[row] = seen[column]
    return match
