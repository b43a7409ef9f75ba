"""The form of a text encoder's first questions: what is asked, and what can be answered."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

UNSAID = -100
"""The label of an answer that the loss does not count."""

PLACES = 8
"""Parts into which questions divide the picture's width and height."""

SIDES = ("left of", "right of", "above", "below")

Labels = dict[str, Tensor]
"""For each answer its labels ``(scenes, questions)``: long, or ``UNSAID`` where none is right."""


@dataclass(frozen=True)
class Answer:
    """One thing that is answered for each question of a group.

    Attributes:
        group: the questions that it answers.
        options: how many answers there are to choose of; 1 asks for yes (1) or no (0).
        weight: of its mean cross-entropy in the loss.
    """

    group: str
    options: int
    weight: float = 1.0


@dataclass(frozen=True)
class Quiz:
    """Groups of questions, by name with their numbers, and the answers, by name."""

    groups: dict[str, int]
    answers: dict[str, Answer]
