"""What a prompt is made of, before weights are multiplied and a step is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Letter:
    """A character that is text.

    Attributes:
        text: the character.
        place: where it stands in the prompt as typed.
        escaped: whether a backslash stands before it.
    """

    text: str
    place: int
    escaped: bool = False


@dataclass(frozen=True)
class Break:
    """What follows begins a chunk of its own."""


@dataclass(frozen=True)
class Group:
    """Nodes of one weight, on top of what they have inside."""

    children: Sequence[Node]
    weight: float


@dataclass(frozen=True)
class Timed:
    """Nodes up to a step of the run, and others from it on.

    Attributes:
        before, after: the nodes.
        start: whole steps, or a fraction of the run as a float.
    """

    before: Sequence[Node]
    after: Sequence[Node]
    start: float


Node = Letter | Break | Group | Timed
