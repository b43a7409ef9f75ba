"""Say a scene of the world in words, and remember what each word names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lab.scenes.layout import relation_between
from lab.scenes.wording import Chooser, Description, Piece, WordKind, join_pieces
from lab.scenes.world.language import Light, Stand, world_language
from lab.scenes.world.layout import WorldScene

APART = 8.0
"""Pixels. Things whose middles are nearer than that are not said to stand left, right, above or
below each other."""

Pieces = list[Piece]


def _article(name: str) -> tuple[str, str]:
    """A name's article, which may be empty, and its noun."""
    article, _, noun = name.partition(" ")
    return (article, noun) if article in ("a", "the") else ("", name)


class _WorldWriter(Chooser):
    """Chooses wordings for one scene of the world."""

    def __init__(self, scene: WorldScene, rng: np.random.Generator, stray: float) -> None:
        super().__init__(rng, stray)
        self.scene, self.world = scene, world_language()
        self.groups = scene.groups()

    def said(self, text: str, kind: WordKind, objects: tuple[int, ...] = ()) -> Pieces:
        """A phrase: its fillers name nothing, its other words what the phrase does."""
        fillers = self.world.fillers
        return [
            Piece(word) if word in fillers else Piece(word, kind, objects) for word in text.split()
        ]

    def styled(
        self, styles: dict[str, tuple[str, ...]], style: str, objects: tuple[int, ...] = ()
    ) -> Pieces:
        """A word of a style. What is not drawn in it can still be told: "an old moon"."""
        return self.said(self.pick(styles.get(style, self.world.styles[style])), "style", objects)

    def with_article(self, article: str, phrase: Pieces) -> Pieces:
        """Articles are left out of tags, and ``a`` fits the word behind it."""
        if not article or not self.full:
            return phrase
        if article == "a" and phrase[0].text[0] in "aeiou":
            article = "an"
        return [Piece(article), *phrase]

    def thing(self, group: tuple[int, ...]) -> Pieces:
        """The noun phrase of a group: count, size, style, colour, name."""
        first = self.scene.things[group[0]]
        kind = self.world.things[first.kind]
        # The first name is the usual one.
        usual = self.chance(0.6)
        one, many = kind.names[0 if usual else int(self.rng.integers(len(kind.names)))]
        article, noun = _article(one if len(group) == 1 or many is None else many)
        phrase: Pieces = []
        sizes, _ = self.world.sizes[first.size]
        if sizes and self.chance(0.7):
            phrase += self.said(self.pick(sizes), "size", group)
        if first.style:
            phrase += self.styled(kind.styles, first.style, group)
        if self.chance(self.stray):
            phrase.insert(0, Piece(self.stray_word()))
        if first.colour:
            phrase += self.said(self.pick(self.world.colour_names[first.colour]), "colour", group)
        if phrase or article != "the":
            article = "a"  # "the sun", but "a large sun"
        phrase += self.said(noun, "thing", group)
        if len(group) > 1:
            return [*self.said(self.pick(self.world.counts[len(group)]), "count", group), *phrase]
        return self.with_article(article, phrase)

    def subject(self) -> tuple[Pieces, tuple[int, str, int] | None]:
        """All things, with the relation that is stated, if one is."""
        order = [self.groups[index] for index in self.rng.permutation(len(self.groups))]
        if len(order) == 2 and self.chance(0.8):
            centres = [
                np.mean([self.scene.things[index].centre for index in group], axis=0)
                for group in order
            ]
            (x0, y0), (x1, y1) = centres
            name = relation_between((x0, y0), (x1, y1))
            if name and np.hypot(x1 - x0, y1 - y0) >= APART:
                both = (*order[0], *order[1])
                between = self.pick(self.words.relations[name].between)
                words = [Piece(word, "relation", both) for word in between.split()]
                said = (order[0][0], name, order[1][0])
                return [*self.thing(order[0]), *words, *self.thing(order[1])], said
        pieces = self.thing(order[0])
        for group in order[1:]:
            pieces += [Piece("and" if self.full or self.chance(0.5) else ","), *self.thing(group)]
        return pieces, None

    def stand(self) -> Stand:
        """How the lowest of the things stand."""
        stands = [self.world.things[each.kind].stand for each in self.scene.things]
        return next((each for each in stands if each != "air"), "air")

    def place(self, *, lit: bool) -> Pieces:
        """The noun phrase of the place, with its style; ``lit`` with an adjective of the light."""
        where = self.world.places[self.scene.place]
        name = self.pick(where.names)
        article, noun = _article(name)
        phrase: Pieces = []
        if lit:
            phrase += self.said(self.pick(self.light.adjectives), "light")
        if self.scene.style:
            phrase += self.styled(where.styles, self.scene.style)
        return self.with_article(article, phrase + self.said(noun, "place"))

    def placed(self, place: Pieces) -> Pieces:
        """Where the things are: "in a meadow"."""
        holding = self.world.places[self.scene.place].holding
        before, _, behind = self.pick(holding[self.stand()]).partition("{}")
        return [*self.said(before, "other"), *place, *self.said(behind, "other")]

    @property
    def place_goes_unsaid(self) -> bool:
        """Whether the place may be left out, as it is where such things are anyway."""
        kinds = [self.world.things[each.kind] for each in self.scene.things]
        lowest = [each for each in kinds if each.stand != "air"] or kinds
        return (
            self.scene.style is None
            and bool(lowest)
            and all(each.places[0] == self.scene.place for each in lowest)
            and self.chance(0.4)
        )

    @property
    def light(self) -> Light:
        return self.world.lights[self.scene.light]

    def sentence(self) -> tuple[Pieces, tuple[int, str, int] | None]:
        """As people write: "a red boat on the sea at sunset"."""
        shown = self.scene.light != "day" or (self.scene.place != "reef" and self.chance(0.35))
        adjective = shown and bool(self.light.adjectives) and self.chance(0.25)
        behind = self.said(self.pick(self.light.phrases), "light") if shown else []
        if not self.scene.things:
            place = self.place(lit=adjective)
            if shown and not adjective and self.chance(0.2):
                noun = self.said(self.pick(self.light.nouns), "light")
                return [*noun, Piece("over"), *place], None
            return self.opened([*place, *([] if adjective else behind)]), None
        subject, relation = self.subject()
        if self.place_goes_unsaid:
            return self.opened([*subject, *behind]), relation
        place = self.place(lit=adjective)
        behind = [] if adjective else behind
        way = self.rng.random()
        if way < 0.15:
            return self.opened([*place, Piece("with"), *subject, *behind]), relation
        if way < 0.25 and behind:
            return [*behind, Piece(","), *subject, *self.placed(place)], relation
        if way < 0.33:
            return [*self.placed(place), Piece(","), *subject, *behind], relation
        return self.opened([*subject, *self.placed(place), *behind]), relation

    def opened(self, pieces: Pieces) -> Pieces:
        """Perhaps with an opening: "a drawing of …", "there is …"."""
        if self.chance(0.2):
            return [*self.said(self.pick(self.world.openings), "other"), *pieces]
        if self.chance(0.08) and self.scene.things:
            many = pieces[0].kind == "count"
            return [Piece("there"), Piece("are" if many else "is"), *pieces]
        return pieces

    def tags(self) -> tuple[Pieces, tuple[int, str, int] | None]:
        """Short: "city skyline, futuristic, sunset"."""
        relation = None
        parts: list[Pieces] = []
        if self.scene.things:
            subject, relation = self.subject()
            parts.append(subject)
        if not self.place_goes_unsaid:
            place = self.place(lit=False)
            style = [each for each in place if each.kind == "style"]
            if style and self.chance(0.5):
                parts += [[each for each in place if each.kind != "style"], style]
            else:
                parts.append(place)
        if self.scene.light != "day" or (self.scene.place != "reef" and self.chance(0.35)):
            noun = self.chance(0.7)
            options = self.light.nouns if noun else self.light.phrases
            parts.append(self.said(self.pick(options), "light"))
        if self.chance(0.25):
            parts = [parts[index] for index in self.rng.permutation(len(parts))]
        return [piece for part in parts for piece in (Piece(","), *part)][1:], relation


def describe_world(
    scene: WorldScene, seed: int | np.random.Generator, *, stray: float = 0.0
) -> Description:
    """A prompt for a scene: one of many wordings, drawn from a seed.

    What goes unsaid is what one would think of anyway: daylight, the place where such things
    are, a thing's own colour, a medium size, the plain style.

    Args:
        scene: what to describe.
        seed: an integer, or a generator to draw from.
        stray: chance, 0 to 1, of a word that names nothing in each phrase of a thing.
    """
    writer = _WorldWriter(scene, np.random.default_rng(seed), stray)
    tell: Callable[[], tuple[Pieces, tuple[int, str, int] | None]]
    tell = writer.sentence if writer.full else writer.tags
    pieces, relation = tell()
    if writer.full and writer.chance(0.15):
        pieces.append(Piece("."))
    prompt, words = join_pieces(pieces)
    return Description(prompt, words, relation)
