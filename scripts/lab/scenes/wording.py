"""Say a scene in words, as people write prompts, and remember what each word names."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.scenes.language import Language, language
from lab.scenes.layout import Scene, relation_between

WordKind = Literal[
    "colour", "shape", "size", "ground", "relation", "other",
    "thing", "count", "style", "place", "light",
]  # fmt: skip
"""What a word says; the last five are said of the world only."""


@dataclass(frozen=True)
class NamingWord:
    """One word of a prompt: its characters, its kind, and the objects (by index) it names."""

    text: str
    start: int
    stop: int
    kind: WordKind
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class Description:
    """A prompt for a scene, its naming words in order, and the relation that it states.

    ``relation`` is ``(first object, relation name, second object)``, or ``None``.
    """

    prompt: str
    words: tuple[NamingWord, ...]
    relation: tuple[int, str, int] | None = None


@dataclass(frozen=True)
class Piece:
    """A word, or a comma or full stop, on its way into a prompt."""

    text: str
    kind: WordKind = "other"
    objects: tuple[int, ...] = ()


class Chooser:
    """Random choices of words."""

    def __init__(self, rng: np.random.Generator, stray: float) -> None:
        self.rng, self.stray = rng, stray
        self.words: Language = language()
        self.full = bool(rng.random() < 0.75)  # full sentences; else short tags

    def pick(self, options: tuple[str, ...]) -> str:
        return str(options[self.rng.integers(len(options))])

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def stray_word(self) -> str:
        """A word that names nothing: a known adjective, or letters nobody has seen."""
        if self.chance(0.5):
            return self.pick(self.words.adjectives)
        letters = self.rng.choice(list(string.ascii_lowercase), size=self.rng.integers(3, 9))
        return "".join(str(letter) for letter in letters)


class _Writer(Chooser):
    """Chooses wordings for one scene."""

    def __init__(self, scene: Scene, rng: np.random.Generator, stray: float) -> None:
        super().__init__(rng, stray)
        self.scene = scene

    def thing(self, index: int, article: bool | None = None) -> list[Piece]:
        """The noun phrase of one object."""
        each = self.scene.objects[index]
        pieces = []
        sizes = self.words.size_names[each.size]
        if sizes and self.chance(0.7):
            pieces.append(Piece(self.pick(sizes), "size", (index,)))
        if self.chance(self.stray):
            pieces.insert(0, Piece(self.stray_word()))
        pieces.append(Piece(each.colour, "colour", (index,)))
        # The first name of a shape is the usual one.
        names = self.words.shapes[each.shape]
        name = names[0] if self.chance(0.85) else self.pick(names)
        pieces.append(Piece(name, "shape", (index,)))
        if self.full if article is None else article:
            vowel = pieces[0].text[0] in "aeiou"
            pieces.insert(0, Piece("an" if vowel else "a"))
        return pieces

    def phrase(self, text: str, objects: tuple[int, ...]) -> list[Piece]:
        return [Piece(word, "relation", objects) for word in text.split()]

    def pair(self, first: int, second: int, name: str) -> list[Piece]:
        """Two objects and where they stand."""
        relation = self.words.relations[name]
        inverse = self.words.relations[relation.inverse]
        both = (first, second)
        way = self.rng.random()
        if way < 0.72:
            between = self.phrase(self.pick(relation.between), both)
            return [*self.thing(first), *between, *self.thing(second)]
        if way < 0.84:  # "a blue square with a red circle on its left"
            behind = self.phrase(self.pick(relation.behind), both)
            return [*self.thing(second), Piece("with"), *self.thing(first), *behind]
        # "a red circle on the left, a blue square on the right"
        sides = {"left of": "on the left", "right of": "on the right"}
        sides |= {"above": "at the top", "below": "at the bottom"}
        here = self.phrase(sides[name], (first,))
        there = self.phrase(sides[relation.inverse], (second,))
        assert inverse.inverse == name
        joint = Piece(",") if self.chance(0.5) else Piece("and")
        return [*self.thing(first), *here, joint, *self.thing(second), *there]

    def listing(self, order: list[int]) -> list[Piece]:
        """Objects one after the other: "a, b and c"."""
        pieces = self.thing(order[0])
        for position, index in enumerate(order[1:], start=1):
            last = position == len(order) - 1
            pieces.append(Piece("and" if last and self.full else ","))
            pieces += self.thing(index)
        return pieces

    def ground(self, template: str) -> list[Piece]:
        name = self.pick(self.words.ground_names[self.scene.ground])
        return [Piece(name if w == "{}" else w, "ground") for w in template.split()]


def join_pieces(pieces: list[Piece]) -> tuple[str, tuple[NamingWord, ...]]:
    """The prompt, and its words with their places in it."""
    text, words = "", []
    for piece in pieces:
        if text and piece.text not in ",.":
            text += " "
        if piece.text not in ",.":
            words.append(
                NamingWord(
                    piece.text, len(text), len(text) + len(piece.text), piece.kind, piece.objects
                )
            )
        text += piece.text
    return text, tuple(words)


def describe(
    scene: Scene,
    seed: int | np.random.Generator,
    *,
    relation: bool | None = None,
    stray: float = 0.0,
) -> Description:
    """A prompt for a scene: one of many wordings, drawn from a seed.

    Args:
        scene: what to describe.
        seed: an integer, or a generator to draw from.
        relation: whether to say where the first two objects stand; ``None`` draws it (75 %
            where the pair has a clear direction). ``True`` without one says nothing of it.
        stray: chance, 0 to 1, of a word that names nothing before each colour. Training uses
            some, so that a word outside the language does not spoil the picture.
    """
    rng = np.random.default_rng(seed)
    writer = _Writer(scene, rng, stray)
    order = [int(index) for index in rng.permutation(len(scene.objects))]
    said: tuple[int, str, int] | None = None
    if len(order) > 1 and (writer.chance(0.75) if relation is None else relation):
        first, second = (scene.objects[index] for index in order[:2])
        name = relation_between((first.x, first.y), (second.x, second.y))
        said = (order[0], name, order[1]) if name else None
    if said:
        pieces = writer.pair(said[0], said[2], said[1])
        if len(order) == 3:
            pieces += [Piece(","), *([Piece("and")] if writer.full else [])]
            pieces += writer.thing(order[2])
    else:
        pieces = writer.listing(order)
    if writer.chance(0.55):
        tags = writer.words.ground_tags
        phrases = writer.words.ground_phrases
        if writer.full:
            pieces += writer.ground(writer.pick(phrases))
        elif writer.chance(0.3):
            pieces = [*writer.ground(writer.pick(tags)), Piece(","), *pieces]
        else:
            pieces += [Piece(","), *writer.ground(writer.pick(tags))]
    if writer.full and writer.chance(0.25):
        pieces = [*(Piece(word) for word in writer.pick(writer.words.openings).split()), *pieces]
    if writer.full and writer.chance(0.15):
        pieces.append(Piece("."))
    prompt, words = join_pieces(pieces)
    return Description(prompt, words, said)
